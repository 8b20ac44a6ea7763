"""Compiled passes: only those that may round otherwise, few kinds of them, and none where it does not work."""

from __future__ import annotations

import copy
import pickle
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from zsrobust.encoders import compiling, switches
from zsrobust.encoders.compiling import CompiledTower
from zsrobust.encoders.dense import dense
from zsrobust.encoders.huggingface import HuggingFaceEncoder, from_folder
from zsrobust.encoders.prompted import PromptedEncoder
from zsrobust.encoders.visual_prompts import AddedTokens, TokenLayout
from zsrobust.errors import ConfigError, UnknownName
from zsrobust.passes import frozen


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    torch.compiler.reset()


def compiled(encoder: HuggingFaceEncoder, passes: str, backend: str = "aot_eager") -> HuggingFaceEncoder:
    """aot_eager traces forward and backward as the real compiler does, and needs no C++."""
    encoder._tower = CompiledTower(passes, backend)
    return encoder


def gradient(encoder: HuggingFaceEncoder | PromptedEncoder, pixels: Tensor) -> Tensor:
    points = pixels.clone().requires_grad_(True)
    with frozen(encoder):
        return torch.autograd.grad(encoder.encode_pixels(points).square().sum(), points)[0]


def noise(rows: int = 3) -> Tensor:
    return torch.rand(rows, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("arithmetic", ["autocast", "lowered"])
def test_a_compiled_gradient_towards_frozen_pixels_is_the_uncompiled_one(
    clip: HuggingFaceEncoder, arithmetic: str
) -> None:
    def measured() -> Tensor:
        autocast = torch.autocast("cpu", torch.bfloat16)
        with clip.lowered() if arithmetic == "lowered" else autocast:
            return gradient(clip, noise())

    expected = measured()
    found = compiled(clip, "gradients")
    got = measured()
    assert len(found._tower.kinds) == 1
    assert not found._tower.failed
    torch.testing.assert_close(got, expected, rtol=0, atol=0.1 * float(expected.abs().max()))


def test_weights_get_the_gradients_of_an_uncompiled_pass(clip: HuggingFaceEncoder) -> None:
    def gradients() -> dict[str, Tensor]:
        weights = dict(clip.visual_parameters())
        for weight in weights.values():
            weight.requires_grad_(True)
        clip.zero_grad()
        clip.encode_pixels(noise()).square().sum().backward()
        return {name: weight.grad.clone() for name, weight in weights.items() if weight.grad is not None}

    expected = gradients()
    compiled(clip, "gradients")
    got = gradients()
    assert expected.keys() == got.keys()
    for name, slope in expected.items():
        torch.testing.assert_close(got[name], slope, rtol=1e-4, atol=1e-6)
    frozen_tower = HuggingFaceEncoder.copy(clip)
    frozen_tower.set_compiled("none")
    torch.testing.assert_close(gradient(clip, noise()), gradient(frozen_tower, noise()), rtol=1e-4, atol=1e-7)
    assert len(clip._tower.kinds) == 2  # with weights frozen it is another kind


def test_what_decides_a_verdict_is_never_compiled(clip: HuggingFaceEncoder) -> None:
    compiled(clip, "lowered", "eager")
    gradient(clip, noise())
    with torch.no_grad():
        clip.encode_pixels(noise())
    assert not clip._tower.kinds
    with torch.no_grad(), clip.lowered():
        clip.encode_pixels(noise())
    assert len(clip._tower.kinds) == 1
    compiled(clip, "gradients", "eager")
    with torch.no_grad():
        clip.encode_pixels(noise())
    assert not clip._tower.kinds


def test_prompts_are_in_what_is_compiled(clip: HuggingFaceEncoder) -> None:
    tokens = AddedTokens(TokenLayout(2), 2, 16)
    with torch.no_grad():
        tokens.tokens.normal_(generator=torch.Generator().manual_seed(1))
    prompted = PromptedEncoder(clip, tokens=tokens)
    expected = gradient(prompted, noise())
    compiled(clip, "gradients")
    torch.testing.assert_close(gradient(prompted, noise()), expected, rtol=1e-4, atol=1e-7)
    assert len(clip._tower.kinds) == 1
    assert switches.inside(prompted) is clip


def test_a_tower_that_is_watched_runs_uncompiled(clip: HuggingFaceEncoder) -> None:
    expected = dense(clip, noise())[1]
    compiled(clip, "gradients", "eager")
    gradient(clip, noise())
    kinds = len(clip._tower.kinds)
    assert torch.equal(dense(clip, noise())[1], expected)
    clip.requires_grad_(True)
    assert torch.equal(dense(clip, noise())[1], expected)
    assert len(clip._tower.kinds) == kinds == 1


def test_only_so_many_kinds_are_compiled(clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "MOST", 2)
    compiled(clip, "gradients", backend="eager")
    with torch.no_grad():
        expected = clip.encode_pixels(noise(5))
    for rows in (1, 2, 5):
        points = noise(rows).requires_grad_(True)
        found = clip.encode_pixels(points).detach()
    assert len(clip._tower.kinds) == 2
    torch.testing.assert_close(found, expected)


def test_copies_and_files_know_nothing_of_the_compiler(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    names = list(clip.state_dict())
    compiled(clip, "gradients", "eager")
    expected = gradient(clip, noise())
    assert list(clip.state_dict()) == names
    for other in (clip.copy(), copy.deepcopy(clip), pickle.loads(pickle.dumps(clip))):
        assert other.compiled == "gradients"
        assert not other._tower.kinds
    torch.testing.assert_close(gradient(other, noise()), expected)
    clip.save_pretrained(tmp_path / "saved")
    assert from_folder(tmp_path / "saved").fingerprint() == clip.fingerprint()


def test_without_a_compiler_one_warning_and_the_same_numbers(clip: HuggingFaceEncoder) -> None:
    expected = gradient(clip, noise())

    def broken(*_: object) -> object:
        raise RuntimeError("no compiler\nanywhere")

    clip._tower = CompiledTower("gradients")
    clip._tower._function = broken  # type: ignore[assignment]
    with pytest.warns(UserWarning, match="torch.compile failed, passes run uncompiled: .*no compiler anywhere"):
        assert torch.equal(gradient(clip, noise()), expected)
    assert clip.compiled == "none"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(gradient(clip, noise()), expected)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_the_real_compiler(clip: HuggingFaceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    expected = gradient(clip, noise())
    clip.set_compiled("gradients")
    torch.testing.assert_close(gradient(clip, noise()), expected, rtol=1e-4, atol=float(expected.abs().max()) * 1e-5)
    assert clip.compiled == "gradients"


def test_switches_reach_through_wrappers_and_come_back(clip: HuggingFaceEncoder) -> None:
    prompted = PromptedEncoder(clip, tokens=AddedTokens(TokenLayout(1), 2, 16))
    with switches.as_before([prompted]):
        switches.set_compiled(prompted, "lowered")
        clip.set_attention("eager")
        assert (switches.attention_of([prompted]), switches.compiled([prompted])) == ("eager", True)
        assert clip.compiled == "lowered"
    assert (switches.attention_of([prompted]), switches.compiled([prompted])) == ("sdpa", False)
    with pytest.raises(UnknownName, match="lowered"):
        clip.set_compiled("lowerd")


def test_a_defence_and_a_foreign_encoder_refuse(clip: HuggingFaceEncoder) -> None:
    from zsrobust.defences import wrapped

    defended = wrapped(clip, "ttc")
    with pytest.raises(ConfigError, match="test-time defence"):
        switches.set_compiled(defended, "lowered")
    assert switches.attention_of([defended]) == "sdpa"
