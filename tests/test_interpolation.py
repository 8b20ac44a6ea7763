"""Weight interpolation: the ends are the ends, the middle is the middle, and what has no line between is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.encoders.small import edit_json, save_clip, save_siglip
from tests.fakes import Toy, task
from torch import Tensor

import zsrobust as zr
from zsrobust.adaptation import adapt
from zsrobust.attacks.pgd import PGD
from zsrobust.encoders.huggingface import HuggingFaceEncoder, from_folder
from zsrobust.encoders.prompted import PromptedEncoder
from zsrobust.encoders.saving import summary
from zsrobust.encoders.visual_prompts import AddedPixels, AddedTokens, PixelLayout, TokenLayout
from zsrobust.errors import ConfigError, ModelError
from zsrobust.interpolation import _between, interpolate
from zsrobust.threat import Threat


@pytest.fixture
def robust(clip: HuggingFaceEncoder) -> Any:
    """Adapted for two steps, with text tower and logit scale as they were."""
    return adapt(
        clip, task=task(8), attack=PGD(Threat("linf", "8/255"), 1), epochs=1, batch_size=4, lr=0.1, progress=False
    )


def tower(encoder: Any) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in encoder.visual_parameters()}


def prompted(
    base: HuggingFaceEncoder, *, frame: int | None = 3, tokens: int | None = None, seed: int = 0, **layout: Any
) -> PromptedEncoder:
    pixel = None if frame is None else AddedPixels(PixelLayout(width=frame, **layout), base.input_size)
    added = None if tokens is None else AddedTokens(TokenLayout(tokens), 2, 16)
    encoder = PromptedEncoder(base.copy(), pixel, added, name=f"prompted-{seed}")
    for _, parameter in encoder.prompt_parameters():
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
    return encoder


PIXELS = torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(3))


def test_the_ends_are_bit_equal_and_the_middle_is_the_equation(clip: HuggingFaceEncoder, robust: Any) -> None:
    before = clip.fingerprint(), robust.fingerprint()
    for alpha, end in ((0, clip), (1.0, robust)):
        mixed: Any = interpolate(clip, robust, alpha)
        assert mixed.fingerprint() == end.fingerprint()
        assert torch.equal(mixed.encode_pixels(PIXELS), end.encode_pixels(PIXELS))
    mixed = zr.interpolate(clip, robust, 0.3)
    first, second, found = tower(clip), tower(robust), tower(mixed)
    assert any(float((second[name] - first[name]).abs().max()) > 1e-3 for name in first)
    for name, weight in found.items():
        exact = first[name].double() * 0.7 + second[name].double() * 0.3
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight.double(), exact, rtol=1e-7, atol=1e-12)
    assert mixed.text_fingerprint() == clip.text_fingerprint()
    assert mixed.logit_scale == clip.logit_scale
    assert not mixed.training
    assert not any(parameter.requires_grad for parameter in mixed.parameters())
    assert (clip.fingerprint(), robust.fingerprint()) == before


@settings(max_examples=200)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_a_weight_that_both_have_stays_as_it_is(weight: float, alpha: float) -> None:
    both = torch.tensor([weight])
    mixed = _between(both, both, alpha).float()
    assert struct.pack("f", float(mixed)) == struct.pack("f", weight)  # also a negative zero


def test_provenance_says_what_was_mixed_and_comes_back(clip: HuggingFaceEncoder, robust: Any, tmp_path: Path) -> None:
    clip.provenance = {**clip.provenance, "license": "mit"}
    robust.provenance = {**robust.provenance, "license": "apache-2.0"}
    mixed: Any = interpolate(clip, robust, 0.25)
    assert mixed.name == f"{robust.name}@0.25"
    story = mixed.provenance["interpolation"]
    assert (story["alpha"], story["original"]["name"], story["adapted"]["name"]) == (0.25, clip.name, robust.name)
    assert story["original"]["fingerprint"] == clip.fingerprint()
    assert story["adapted"]["fingerprint"] == robust.fingerprint()
    assert mixed.provenance["adapted_on"] == ["blobs"]
    assert mixed.provenance["adaptation"] == robust.provenance["adaptation"]
    assert "license" not in mixed.provenance
    again = zr.load(mixed.save_pretrained(tmp_path / "mixed"))
    assert json.loads(json.dumps(story)) == again.provenance["interpolation"]
    assert again.fingerprint() == mixed.fingerprint()  # type: ignore[attr-defined]
    assert interpolate(clip, robust, 0).provenance["adapted_on"] == []
    assert "adaptation" not in interpolate(clip, robust, 0).provenance
    twice = interpolate(mixed, robust, 0.5).provenance
    assert twice["adapted_on"] == ["blobs"]
    assert twice["interpolation"]["original"]["interpolation"]["alpha"] == 0.25  # type: ignore[index]


def test_what_is_adapted_from_a_mixture_is_none(clip: HuggingFaceEncoder, robust: Any) -> None:
    half = interpolate(clip, robust, 0.5)
    found = adapt(half, task=task(8), attack=PGD(Threat("linf", "8/255"), 1), epochs=1, batch_size=4, progress=False)
    assert "interpolation" not in found.provenance
    assert found.provenance["base_interpolation"] == half.provenance["interpolation"]
    assert found.provenance["adapted_on"] == ["blobs"]
    assert "mixture" not in summary(found.provenance, "random-clip")
    assert "mixture" in summary(half.provenance, "random-clip")
    again = adapt(found, task=task(8), attack=PGD(Threat("linf", "1/255"), 1), epochs=1, batch_size=8, progress=False)
    assert again.provenance["base_adaptation"] == found.provenance["adaptation"]  # or nobody would know of it


def test_an_encoder_of_another_package_is_mixed_as_well() -> None:
    first, second = Toy(), Toy()
    second.visual.load_state_dict(Toy(seed=1).visual.state_dict())
    mixed: Any = interpolate(first, second, 0.5)
    torch.testing.assert_close(mixed.visual[0].weight, (first.visual[0].weight + second.visual[0].weight) / 2)
    with pytest.raises(ModelError, match=r"textual\.bias, which is not mixed, is not the same in both"):
        interpolate(first, Toy(seed=1), 0.5)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), float("inf"), True, "0.5", None])
def test_alpha_outside_its_range_is_refused(alpha: Any) -> None:
    with pytest.raises(ConfigError, match=r"alpha must be a number in 0\.\.1 .*, not "):
        interpolate(Toy(), Toy(), alpha)


def test_other_bases_are_refused_at_every_alpha(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    def refused(other: Any) -> str:
        with pytest.raises(ModelError) as error:
            interpolate(clip, other, 1)
        assert "\n" not in str(error.value)
        return str(error.value)

    start = "'random-clip' and 'other' are not of the same base and cannot be mixed: "
    assert "a HuggingFaceEncoder and a Toy" in refused(Toy())
    assert refused(from_folder(save_siglip(tmp_path / "other"))).startswith(
        start + "input_size is (32, 32) and (24, 24)"
    )
    assert "input_size" in refused(from_folder(save_clip(tmp_path / "large", image_size=40)))
    changed: Any = clip.copy()
    changed.name = "other"
    changed.model.logit_scale.data += 0.1
    assert refused(changed) == start + "model.logit_scale, which is not mixed, is not the same in both"
    changed = clip.copy()
    changed.mean += 0.1
    assert "mean, which is not mixed" in refused(changed)
    changed = clip.copy()
    changed.model.text_model.final_layer_norm.bias.data[0] += 1e-6
    assert "text_model.final_layer_norm.bias, which is not mixed" in refused(changed)
    changed = clip.copy()
    changed.model.visual_projection.weight = torch.nn.Parameter(torch.zeros(12, 20))
    assert "visual_projection.weight is (12, 16) and (12, 20)" in refused(changed)
    changed = clip.copy()
    del changed.model.vision_model.encoder.layers[1]
    assert "vision_model.encoder.layers.1.layer_norm1.bias is in 'random-clip' and not in" in refused(changed)


def test_weights_alike_but_another_function_is_refused(random_clip_folder: Path, tmp_path: Path) -> None:
    """QuickGELU against GELU: names, shapes and even numbers agree, and the line between them means nothing."""
    clip = from_folder(random_clip_folder)
    for part, why in (("vision_config", "hidden_act is quick_gelu and gelu"), ("text_config", "read the same text")):
        folder = clip.save_pretrained(tmp_path / part)
        config = json.loads((folder / "config.json").read_text())
        edit_json(folder / "config.json", **{part: {**config[part], "hidden_act": "gelu"}})
        edit_json(folder / "zsrobust.json", golden=None)
        with pytest.raises(ModelError, match=why):
            interpolate(clip, from_folder(folder), 0.5)


@pytest.mark.parametrize("where", ["after", "before"])
def test_a_pixel_prompt_is_scaled_against_its_bare_model(clip: HuggingFaceEncoder, where: str) -> None:
    full = prompted(clip, where=where)
    for alpha in (0.0, 0.25, 1.0):
        forth: Any = interpolate(clip, full, alpha)
        back: Any = interpolate(full, clip, 1 - alpha)
        assert forth.fingerprint() == back.fingerprint()
        if 0 < alpha < 1:
            assert torch.equal(forth.pixel.top, full.pixel.top * alpha)  # type: ignore[union-attr]
    assert type(interpolate(clip, full, 0)) is HuggingFaceEncoder
    assert torch.equal(interpolate(clip, full, 0).encode_pixels(PIXELS), clip.encode_pixels(PIXELS))
    assert torch.equal(interpolate(clip, full, 1).encode_pixels(PIXELS), full.encode_pixels(PIXELS))
    near = interpolate(clip, full, 1e-4).encode_pixels(PIXELS)
    torch.testing.assert_close(near, clip.encode_pixels(PIXELS), rtol=1e-2, atol=1e-2)


def test_two_prompted_models_are_mixed_linearly_and_come_back(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    first, second = (prompted(clip, tokens=2, seed=seed) for seed in (0, 1))
    mixed: Any = interpolate(first, second, 0.25)
    ends = [dict(end.prompt_parameters()) for end in (first, second)]
    for name, found in mixed.prompt_parameters():
        torch.testing.assert_close(found, 0.75 * ends[0][name] + 0.25 * ends[1][name])
    assert mixed.base.fingerprint() == clip.fingerprint()
    again = zr.load(mixed.save_pretrained(tmp_path / "mixed"))
    assert torch.equal(again.encode_pixels(PIXELS), mixed.encode_pixels(PIXELS))
    assert again.provenance["interpolation"]["adapted"]["prompt"] == second.describe_prompt()  # type: ignore[index]
    lone = interpolate(prompted(clip, frame=None, tokens=2), second, 0.5)
    assert torch.equal(lone.pixel.left, second.pixel.left / 2)  # type: ignore[attr-defined,union-attr]


def test_prompts_without_a_line_between_them(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    tokens = prompted(clip, frame=None, tokens=2)
    for ends in ((clip, tokens), (tokens, clip), (prompted(clip), prompted(clip, tokens=2, seed=1))):
        with pytest.raises(ModelError, match="no tokens is not a point on the line"):
            interpolate(*ends, 0.5)
    for other in (prompted(clip, frame=4), prompted(clip, where="before")):
        with pytest.raises(ModelError, match="pixel prompts of different shape"):
            interpolate(prompted(clip), other, 0.5)
    with pytest.raises(ModelError, match="tokens prompts of different shape"):
        interpolate(tokens, prompted(clip, frame=None, tokens=3), 0.5)
    stranger = from_folder(save_clip(tmp_path / "stranger", seed=5))
    with pytest.raises(ModelError, match="are not of the same base"):
        interpolate(clip, prompted(stranger), 0.5)
