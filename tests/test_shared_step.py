"""What processes that share a step rely on: gradients of everything trained, spared memory, the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.fakes import task
from torch import Tensor, nn

from zsrobust import training_step
from zsrobust.adaptation import _learner, _optimizer
from zsrobust.attacks.pgd import PGD
from zsrobust.distributed import World
from zsrobust.encoders.huggingface import HuggingFaceEncoder
from zsrobust.errors import RunError
from zsrobust.methods import METHODS, targets
from zsrobust.methods.base import Learner, Method
from zsrobust.methods.gathering import Share
from zsrobust.methods.targets import prepare
from zsrobust.recipe import Recipe
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat
from zsrobust.training_data import Part
from zsrobust.training_step import Step
from zsrobust.tuning import TUNINGS


def one_step(clip: HuggingFaceEncoder, method: Method, tuning: str = "full", **options: Any) -> Step:
    how = Recipe(batch_size=4, **options)
    learner, parameters = _learner(clip, task(4, size=32), method, TUNINGS[tuning](), 0)
    optimizer = _optimizer(parameters, method, how)
    return Step(learner, method, PGD(Threat(), 1), parameters, optimizer, how, World(0, 1, 0))


def a_part(images: int = 4) -> Part:
    pixels = torch.rand(images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Part([("key", i) for i in range(images)], pixels, torch.arange(images), Share(0, images, images))


@pytest.mark.parametrize("tuning", list(TUNINGS))
def test_every_method_gives_every_trained_parameter_a_gradient(tuning: str, clip: HuggingFaceEncoder) -> None:
    # A wrapper that waits for a gradient which does not come would stop, or has to look for it in every step.
    for name in METHODS:
        step, part = one_step(clip, METHODS[name](), tuning), a_part()
        step.learn(part.pixels.flip(0), step.prepared(part))
        assert [key for key, p in step.parameters.items() if p.grad is None] == [], f"{name} × {tuning}"


class Wrapped(nn.Module):
    """In the place of torch's wrapper, which takes several processes."""

    def __init__(self, losses: nn.Module, **_: Any) -> None:
        super().__init__()
        self.losses = losses

    def forward(self, *given: Any) -> Any:
        return self.losses(*given)


def test_looking_for_gradients_spares_memory_as_a_step_does(
    clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_step, "DistributedDataParallel", Wrapped)
    kept = {}
    for spare in (False, True):
        seen: dict[int, int] = {}
        step, part = one_step(clip, METHODS["imgcoadv"](), checkpoint_activations=spare), a_part()
        weights = {p.data_ptr() for p in step.losses.parameters()}

        def keep(tensor: Tensor, seen: dict[int, int] = seen) -> Tensor:
            seen[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            step.distribute(part)
        assert isinstance(step.losses, Wrapped)
        kept[spare] = sum(numbers for place, numbers in seen.items() if place not in weights)
    assert kept[True] < 0.5 * kept[False]


def test_who_shares_a_step_cannot_begin_it_again(clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def ran_out(_: Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training_step, "DistributedDataParallel", Wrapped)
    monkeypatch.setattr(torch.autograd, "backward", ran_out)
    step, part = one_step(clip, METHODS["tecoa"]()), a_part()
    batch = step.prepared(part)
    with pytest.raises(torch.OutOfMemoryError):
        step.learn(part.pixels, batch)
    step.losses = Wrapped(step.losses)
    with pytest.raises(RunError, match="out of memory in the learner's pass; checkpoint_activations"):
        step.learn(part.pixels, batch)


def test_a_batch_that_is_shared_says_so(clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = Learner(clip, clip, TextHead.build(clip, ("a", "b"), ("{}",)))
    pixels, truth, share = torch.rand(2, 3, 32, 32), torch.tensor([0, 1]), Share(1, 2, 5)
    gathered: list[tuple[Tensor, Share]] = []

    def everyones(rows: Tensor, own: Share) -> Tensor:
        gathered.append((rows, own))
        return torch.full((own.of, rows.shape[1]), 7.0)

    monkeypatch.setattr(targets, "gathered", everyones)
    shared = prepare(learner, METHODS["imgcoadv"](), pixels, truth, "none", share)
    assert shared.share is share
    assert shared.anchors is not None
    assert shared.bank is not None
    torch.testing.assert_close(shared.anchors, clip.encode_pixels(pixels))
    assert shared.bank.tolist() == torch.full((5, shared.anchors.shape[1]), 7.0).tolist()
    ((rows, own),) = gathered
    assert rows is shared.anchors
    assert own is share
    for method, of in (("imgcoadv", None), ("fare", share)):  # alone, and without looking at the others' images
        batch = prepare(learner, METHODS[method](), pixels, truth, "none", of)
        assert batch.share is of
        assert batch.bank is None
        assert len(gathered) == 1
