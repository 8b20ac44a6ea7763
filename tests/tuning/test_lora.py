"""Low-rank adapters against a step written by hand, and what is left of them after the merge: nothing."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tests.fakes import CLASSES, task
from tests.methods.test_tecoa import reference_loss
from torch import Tensor, nn

from zsrobust.adaptation import adapt
from zsrobust.attacks.pgd import PGD
from zsrobust.divergence import DivergenceGuard
from zsrobust.encoders.huggingface import HuggingFaceEncoder, from_folder
from zsrobust.errors import ConfigError, ModelError, UnknownName
from zsrobust.methods.gathering import Share
from zsrobust.randomness import generator
from zsrobust.threat import Threat
from zsrobust.training_data import Feed, Part
from zsrobust.training_step import Step
from zsrobust.tuning.lora import TARGETS, LoRA, LowRank


def points(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def filled(clip: HuggingFaceEncoder, way: LoRA) -> tuple[HuggingFaceEncoder, dict[str, nn.Parameter]]:
    """As after some steps: B is no longer zero."""
    encoder, chosen = way.prepare(clip, seed=0)
    for name, factor in chosen.items():
        factor.data = torch.randn(factor.shape, generator=generator(name)) / 4
    assert isinstance(encoder, HuggingFaceEncoder)
    return encoder, chosen


def test_one_step_is_that_of_a_hand_written_reference(
    clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, lr, rank, scale = points(), 0.5, 3, 2.0
    monkeypatch.setattr(Step, "adversary", lambda *_: found)
    part = Part([("key",)] * 6, found, torch.tensor([0, 1, 2, 3, 0, 1]), Share(0, 6, 6))
    monkeypatch.setattr(Feed, "__iter__", lambda _: iter([part]))
    adapted = adapt(
        clip, task=task(6, size=32), attack=PGD(Threat(), 1), tuning=LoRA(rank, alpha=scale * rank, targets="fc1,v"),
        epochs=1, batch_size=6, lr=lr, warmup=0.0, seed=7,
    )  # fmt: skip
    exact = copy.deepcopy(clip).double().requires_grad_(True)
    loss = reference_loss(exact, found.double(), torch.tensor([0, 1, 2, 3, 0, 1]), CLASSES, clip.logit_scale)
    loss.backward()  # type: ignore[no-untyped-call]
    after = dict(adapted.visual_parameters())  # type: ignore[attr-defined]
    for index in (0, 1):
        for target in ("fc1", "v"):
            name = f"vision_model.encoder.layers.{index}.{TARGETS[target]}.weight"
            weight = exact.model.get_parameter(name)
            width = weight.shape[1]
            a = torch.randn(rank, width, generator=generator(7, "lora", index, target)).double() / width**0.5
            b = -lr * scale * weight.grad @ a.T  # A stays: its gradient is zero as long as B is
            expected = weight.detach() + scale * b @ a
            torch.testing.assert_close(after[name].double(), expected, rtol=1e-4, atol=1e-6)
            assert float((expected - weight.detach()).abs().max()) > 1e-3


def test_a_layer_and_its_gradients_are_the_equation() -> None:
    linear = nn.Linear(5, 4)
    layer = LowRank(linear, 2, 1.5, ("key",)).double()
    x, weights = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))  # B is zero
    nn.init.normal_(layer.lora_b)
    a, b = layer.lora_a.detach(), layer.lora_b.detach()
    torch.testing.assert_close(layer(x), x @ (layer.weight + 1.5 * b @ a).T + layer.bias)
    (layer(x) * weights).sum().backward()
    slope = weights.T @ x  # of W
    torch.testing.assert_close(layer.lora_a.grad, 1.5 * b.T @ slope)
    torch.testing.assert_close(layer.lora_b.grad, 1.5 * slope @ a.T)


@pytest.mark.parametrize("save", ["clip", "siglip"])
def test_it_starts_at_the_model_and_ends_as_an_ordinary_one(save: str, tmp_path: Path) -> None:
    from tests.encoders import small

    base = from_folder(getattr(small, f"save_{save}")(tmp_path / save))
    pixels = points(3)
    start, chosen = LoRA(2, targets=tuple(TARGETS)).prepare(base, seed=0)
    assert torch.equal(start.encode_pixels(pixels), base.encode_pixels(pixels))
    assert len(chosen) == 2 * len(TARGETS) * 2
    trained, _ = filled(base, LoRA(2, targets=tuple(TARGETS)))
    merged = LoRA(2, targets=tuple(TARGETS)).finish(trained)
    assert isinstance(merged, HuggingFaceEncoder)
    assert list(merged.state_dict()) == list(base.state_dict())
    features = merged.encode_pixels(pixels)
    torch.testing.assert_close(features, trained.encode_pixels(pixels), rtol=1e-4, atol=1e-5)
    assert float((features - base.encode_pixels(pixels)).detach().abs().max()) > 0.1
    again = from_folder(merged.save_pretrained(tmp_path / "saved"))
    assert again.fingerprint() == merged.fingerprint()
    assert torch.equal(again.encode_pixels(pixels), features)


def test_the_bfloat16_copy_follows_the_factors_and_the_merge(clip: HuggingFaceEncoder) -> None:
    encoder, chosen = filled(clip, LoRA(2))
    pixels = points(3)

    def lowered(of: HuggingFaceEncoder) -> Tensor:
        with torch.no_grad(), of.lowered():
            return of.encode_pixels(pixels)

    before = lowered(encoder)
    with torch.no_grad():
        chosen["vision_model.encoder.layers.0.self_attn.v_proj.lora_b"].add_(1.0)
        exact = encoder.encode_pixels(pixels)
    now = lowered(encoder)
    assert float((now - exact).abs().max()) < 0.1 < float((now - before).abs().max())
    merged = LoRA(2).finish(encoder)
    assert isinstance(merged, HuggingFaceEncoder)
    assert float((lowered(merged) - exact).abs().max()) < 0.1


def test_a_run_that_was_killed_ends_with_the_same_weights(
    clip: HuggingFaceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: str) -> str:
        adapted = adapt(
            clip, task=task(8), attack=PGD(Threat("linf", "8/255"), 1), tuning=LoRA(2, 6), run=tmp_path / folder,
            epochs=2, batch_size=4, lr=0.5, optimizer="adamw", checkpoint_every=1, progress=False,
        )  # fmt: skip
        assert isinstance(adapted, HuggingFaceEncoder)
        return adapted.fingerprint()

    def killed(self: DivergenceGuard, loss: float, step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DivergenceGuard, "check", killed)
        with pytest.raises(KeyboardInterrupt):
            run("killed")
    assert run("killed") == run("whole") != clip.fingerprint()


def test_the_start_depends_on_the_seed_and_not_on_other_targets(clip: HuggingFaceEncoder) -> None:
    name = "vision_model.encoder.layers.1.self_attn.q_proj.lora_a"
    starts = [
        way.prepare(clip, seed=seed)[1][name] for way, seed in ((LoRA(4), 0), (LoRA(4, targets="q"), 0), (LoRA(4), 1))
    ]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_what_is_refused(clip: HuggingFaceEncoder) -> None:
    for rank in (0, True, 2.0, "8"):
        with pytest.raises(ConfigError, match="rank must be a whole number of at least 1, not"):
            LoRA(rank)  # type: ignore[arg-type]
    for alpha in (0, -1.0, float("nan"), float("inf"), True, "4"):
        with pytest.raises(ConfigError, match="alpha must be a number above 0, not"):
            LoRA(alpha=alpha)  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="unknown lora target 'fc3'; did you mean 'fc"):
        LoRA(targets="q,fc3")
    for targets in ((), ("q", "q")):
        with pytest.raises(ConfigError, match="some of q, k, v, out, fc1, fc2, each once"):
            LoRA(targets=targets)
    with pytest.raises(ConfigError, match=r"rank 17 is too large for self_attn.q_proj \(16 × 16\)"):
        LoRA(17).prepare(clip, seed=0)
    with pytest.raises(ModelError, match="is a LowRank, not a Linear"):
        LoRA().prepare(LoRA().prepare(clip, seed=0)[0], seed=0)


def test_it_says_what_it_is() -> None:
    assert LoRA().describe() == {"name": "lora", "rank": 8, "alpha": 8.0, "targets": ["q", "v"]}
    assert LoRA(4, 2, "v, q") == LoRA(4, 2.0, ["q", "v"])
    assert LoRA(4, 2, "v, q").describe() == {"name": "lora", "rank": 4, "alpha": 2.0, "targets": ["q", "v"]}
