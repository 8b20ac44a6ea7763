"""A step of training: in pieces, after memory ran out, with activations computed twice, in a lower precision."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes import Toy, task
from tests.toy_runs import same
from torch import Tensor, nn

from zsrobust import adaptation
from zsrobust.adaptation import adapt
from zsrobust.attacks.pgd import PGD
from zsrobust.encoders import Encoder
from zsrobust.encoders.huggingface import HuggingFaceEncoder
from zsrobust.errors import ConfigError, DivergedError, ModelError, RunError
from zsrobust.methods import METHODS
from zsrobust.methods.base import Batch, Method
from zsrobust.methods.dual import Dual
from zsrobust.threat import Threat
from zsrobust.training_step import Step
from zsrobust.tuning.prompts import PixelPrompt, TokenPrompt

NEAR: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
"""What sums in another order leave after a few steps; a piece that is forgotten or counted twice is off by 1e-2."""


def run(encoder: Any | None = None, **options: Any) -> nn.Module:
    """5 steps, the last of 2 images. L2: a sign would magnify rounding where a gradient is nearly 0."""
    given: dict[str, Any] = {
        "task": task(18), "attack": PGD(Threat("l2", 0.5), 2), "epochs": 1, "batch_size": 4, "lr": 0.1,
        "progress": False,
    }  # fmt: skip
    found: Any = adapt(encoder or Toy(), **(given | options))
    return found  # type: ignore[no-any-return]


def assert_near(one: nn.Module, other: nn.Module) -> None:
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], **NEAR)


def clip_run(clip: Encoder, **options: Any) -> nn.Module:
    return run(clip, task=task(6, size=32), **({"lr": 1e-3, "batch_size": 3} | options))


# In pieces


@pytest.mark.parametrize("method", ["tecoa", "trades", "standard", "fare", "mart", "sim-clip", "agft"])
def test_a_step_in_pieces_is_the_step(method: str) -> None:
    options: dict[str, Any] = {"method": method, "labels": "true"}
    assert_near(run(micro_batch=3, **options), run(**options))


def test_pieces_are_no_larger_than_asked_for() -> None:
    sizes: list[int] = []

    class Watched(Toy):
        def encode_pixels(self, pixels: Tensor) -> Tensor:
            sizes.append(len(pixels))
            return super().encode_pixels(pixels)

    run(Watched(), micro_batch=3, labels="soft", log_every=1)
    assert set(sizes) == {3, 1, 2}


@pytest.mark.parametrize("method", ["imgcoadv", Dual(relations=1.0), Dual(mixed=0.5)])
def test_what_compares_images_is_not_taken_in_pieces(method: str | Method) -> None:
    with pytest.raises(ConfigError, match="compares images of a batch: micro_batch must be null, not 2"):
        run(method=method, micro_batch=2)


def test_who_says_nothing_compares_if_it_needs_two_images() -> None:
    assert [name for name in METHODS if METHODS[name]().compares()] == ["imgcoadv"]
    assert [name for name in METHODS if METHODS[name]().gathers()] == ["dual", "imgcoadv"]


# Memory


def failing_above(rows: int, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    forward = nn.Module.__call__

    def limited(module: nn.Module, *given: Any, **named: Any) -> Any:
        if isinstance(module, nn.GELU) and len(given[0]) > rows:
            raise error
        return forward(module, *given, **named)

    monkeypatch.setattr(nn.Module, "__call__", limited)


OUT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to …"),
]


@pytest.mark.parametrize("error", OUT, ids=lambda error: type(error).__name__)
def test_a_step_that_runs_out_of_memory_begins_again_with_half(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(micro_batch=2)
    failing_above(2, monkeypatch, error)
    with pytest.warns(UserWarning, match="memory ran out with 4 images at once: from here on 2 at once") as caught:
        found = run()
    assert len(caught) == 1
    assert same(found, expected)


def test_what_was_drawn_before_memory_ran_out_is_drawn_again(
    clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = PixelPrompt(shape="random-patch")
    learn, first = Step.learn, itertools.count()

    def failing_once(step: Step, points: Tensor, batch: Batch) -> Tensor:
        if next(first) == 1:
            monkeypatch.setattr(Step, "_halve", lambda *_: None)
            raise MemoryError
        return learn(step, points, batch)

    expected = clip_run(clip, tuning=prompt)
    monkeypatch.setattr(Step, "learn", failing_once)
    assert same(clip_run(clip, tuning=prompt), expected)


def test_how_often_a_random_model_is_measured_changes_nothing(clip: HuggingFaceEncoder) -> None:
    often, seldom = (clip_run(clip, tuning=PixelPrompt(shape="random-patch"), log_every=n) for n in (1, 10))
    assert same(often, seldom)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "out of memory with 1 image at once; checkpoint_activations, a smaller micro_batch, precision bf16"),
        ({"method": "imgcoadv"}, "out of memory with 4 images at once; checkpoint_activations, a smaller batch_size"),
    ],
)
@pytest.mark.filterwarnings("ignore:memory ran out")
def test_without_memory_for_one_image_the_error_says_what_helps(
    options: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_above(0, monkeypatch, OUT[0])
    with pytest.raises(RunError, match=told):
        run(**options)


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    failing_above(0, monkeypatch, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot"):
        run()


# Activations


def saved_numbers(clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch, **options: Any) -> int:
    """Numbers that a training pass keeps for its way back, but for weights."""
    kept: list[int] = []
    forward = Step.learn

    def watched(step: Step, points: Tensor, batch: Batch) -> Tensor:
        weights = {p.data_ptr() for p in step.losses.parameters()}
        seen = set[int]()

        def keep(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in weights | seen:
                seen.add(tensor.data_ptr())
                kept.append(tensor.numel())
            return tensor

        losses = step.losses.forward
        with monkeypatch.context() as patch:

            def hooked(*given: Any) -> Any:
                with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                    return losses(*given)

            patch.setattr(step.losses, "forward", hooked)
            return forward(step, points, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "learn", watched)
        clip_run(clip, batch_size=6, **options)
    return sum(kept)


def test_activations_that_are_computed_twice_are_not_kept(
    clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert saved_numbers(clip, monkeypatch, checkpoint_activations=True) < 0.5 * saved_numbers(clip, monkeypatch)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "tga-zsr"},
        {"tuning": "last-blocks"},
        {"tuning": TokenPrompt(2, depth="deep")},
        {"micro_batch": 2},
    ],
    ids=str,
)
def test_activations_that_are_computed_twice_change_nothing(options: dict[str, Any], clip: HuggingFaceEncoder) -> None:
    assert_near(clip_run(clip, checkpoint_activations=True, **options), clip_run(clip, **options))
    assert all("forward" not in vars(block) for block in clip.model.vision_model.encoder.layers)


def test_a_tower_without_blocks_cannot_be_spared() -> None:
    with pytest.raises(ModelError, match="'toy' has none"):
        run(checkpoint_activations=True)


# Precision


@pytest.mark.parametrize("tuning", ["full", TokenPrompt(2), "lora"], ids=str)
def test_a_rough_adversary_follows_the_weights_and_leaves_the_learner_exact(
    tuning: Any, clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[bool] = []
    apart: list[float] = []
    adversary = Step.adversary

    def watched(step: Step, batch: Batch, keys: Any) -> Tensor:
        points = adversary(step, batch, keys)
        encoder: Any = step.learner.encoder
        with torch.no_grad(), encoder.lowered():
            rough = encoder.encode_pixels(points)
        exact = encoder.encode_pixels(points).detach()
        apart.append(float((rough - exact).norm() / exact.norm()))
        return points

    class Watched(METHODS["tecoa"]):  # type: ignore[misc]
        def inner(self, learner: Any, points: Tensor, batch: Batch) -> Tensor:
            base = getattr(learner.encoder, "base", learner.encoder)
            towers = list(base._inside.values())
            inside.append(len(towers) == 1)
            assert not any(p.requires_grad for tower in towers for p in tower.parameters())
            return super().inner(learner, points, batch)  # type: ignore[no-any-return]

        def outer(self, learner: Any, points: Tensor, batch: Batch) -> Tensor:
            assert not getattr(learner.encoder, "base", learner.encoder)._inside
            return METHODS["tecoa"]().outer(learner, points, batch)

    monkeypatch.setattr(Step, "adversary", watched)
    rough = clip_run(clip, method=Watched(), tuning=tuning, attack_precision="bfloat16", lr=0.05)
    assert inside == [True] * 4
    assert all(1e-5 < distance < 0.02 for distance in apart), apart
    monkeypatch.undo()
    assert not same(rough, clip_run(clip, tuning=tuning, lr=0.05))


def test_a_rough_adversary_takes_a_model_that_has_a_rough_tower() -> None:
    with pytest.raises(ConfigError, match="attack_precision bfloat16 takes a model with lowered"):
        run(attack_precision="bfloat16")


def test_fp16_is_for_a_gpu() -> None:
    with pytest.raises(ConfigError, match="precision 'fp16' takes a CUDA device, and the model is on cpu"):
        run(precision="fp16")


@pytest.fixture
def fp16_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its arithmetic and its scaling are the same on a CPU, only slow."""
    monkeypatch.setattr(adaptation, "_check_passes", lambda *_: None)


@pytest.mark.usefixtures("fp16_anywhere")
def test_fp16_scales_the_loss_and_keeps_the_weights_in_float32(tmp_path: Path) -> None:
    exact, half = run(), run(precision="fp16", run=tmp_path, checkpoint_every=2)
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert not same(half, exact)
    for name, tensor in exact.state_dict().items():
        torch.testing.assert_close(half.state_dict()[name], tensor, rtol=0.02, atol=0.02)
    state = json.loads((tmp_path / "checkpoints" / "step-00000005" / "state.json").read_text())
    assert state["scaler"]["scale"] == 1024.0
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000005")
    assert same(run(precision="fp16", run=tmp_path), half)


@pytest.mark.usefixtures("fp16_anywhere")
def test_fp16_lowers_its_scale_until_gradients_fit_and_gives_up_in_the_end(tmp_path: Path) -> None:
    class Steep(METHODS["tecoa"]):  # type: ignore[misc]
        factor = 1e4

        def outer(self, learner: Any, points: Tensor, batch: Batch) -> Tensor:
            loss: Tensor = super().outer(learner, points, batch)
            return loss.detach() + (loss - loss.detach()) * self.factor

    # The scaled gradients overflow in the first steps, which are left out; the scale of 2^10 is halved each time.
    assert not same(run(method=Steep(), precision="fp16", run=tmp_path, epochs=4, lr=1e-6), Toy())
    state = json.loads((tmp_path / "checkpoints" / "step-00000020" / "state.json").read_text())
    assert 0 < state["scaler"]["scale"] < 1024.0
    monstrous = Steep()
    object.__setattr__(monstrous, "factor", 1e30)
    with pytest.raises(DivergedError, match="is nan"):
        run(method=monstrous, precision="fp16", epochs=12)
