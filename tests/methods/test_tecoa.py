"""TeCoA against a plain reference: its loss, its gradients, and the weights after one step."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.fakes import CLASSES, Toy, task
from torch import Tensor

from zsrobust.adaptation import adapt
from zsrobust.attacks.pgd import PGD
from zsrobust.encoders.huggingface import HuggingFaceEncoder
from zsrobust.errors import ConfigError
from zsrobust.methods import METHODS
from zsrobust.methods.base import Batch, Learner, Method
from zsrobust.methods.tecoa import TeCoA
from zsrobust.pixels import to_pixels
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat
from zsrobust.training_step import Step

TEMPLATES = ("a {}", "one {}")


def reference_loss(
    clip: HuggingFaceEncoder, points: Tensor, labels: Tensor, classes: tuple[str, ...], scale: float
) -> Tensor:
    """Section 3 of the paper, class by class and in the precision of the points."""
    rows = []
    for name in classes:
        units = [clip.encode_texts([t.replace("{}", name)])[0].to(points.dtype) for t in TEMPLATES]
        mean = torch.stack([u / u.norm() for u in units]).mean(0)
        rows.append(mean / mean.norm())
    features = clip.encode_pixels(points)
    cosine = (features / features.norm(dim=1, keepdim=True)) @ torch.stack(rows).T
    return -(scale * cosine).log_softmax(1)[torch.arange(len(labels)), labels].mean()


@pytest.mark.parametrize("scale", [None, 10.0])
def test_one_step_is_that_of_a_plain_reference(
    clip: HuggingFaceEncoder, scale: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = task(6, size=32)
    points = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(Step, "adversary", lambda *_: points)
    order: list[Tensor] = []
    learn = Step.learn

    def watched(step: Step, found: Tensor, batch: Batch) -> Tensor:
        order.append(batch.labels)
        loss = learn(step, found, batch)
        grads.extend(p.grad.clone() for p in step.parameters.values())
        losses.append(float(loss))
        return loss

    grads: list[Tensor] = []
    losses: list[float] = []
    monkeypatch.setattr(Step, "learn", watched)
    adapted = adapt(
        clip,
        task=examples,
        attack=PGD(Threat(), 2),
        method=TeCoA(scale=scale),
        epochs=1,
        batch_size=6,
        lr=0.5,
        warmup=0.0,
    )

    exact = copy.deepcopy(clip).double()
    weights = dict(sorted(exact.visual_parameters()))
    for weight in weights.values():
        weight.requires_grad_(True)
    loss = reference_loss(exact, points.double(), order[0], CLASSES, scale or clip.logit_scale)
    loss.backward()  # type: ignore[no-untyped-call]

    assert losses[0] == pytest.approx(float(loss.detach()), rel=1e-5)
    after = dict(adapted.visual_parameters())  # type: ignore[attr-defined]
    assert len(grads) == len(weights) == len(after) > 10
    for (name, weight), grad in zip(weights.items(), grads, strict=True):
        torch.testing.assert_close(grad.double(), weight.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(after[name].double(), weight.detach() - 0.5 * weight.grad, rtol=1e-4, atol=1e-6)
    assert any(float(grad.abs().max()) > 1e-3 for grad in grads)


def test_inner_and_outer_are_the_cross_entropy_over_all_classes_of_the_task(clip: HuggingFaceEncoder) -> None:
    classes = tuple(f"class {n}" for n in range(9))
    learner = Learner(clip, clip, TextHead.build(clip, classes, TEMPLATES))
    labels = torch.tensor([0, 0, 1])  # two classes in the batch, nine in the loss
    points = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batch, method = Batch(torch.zeros_like(points), labels), TeCoA(scale=5.0)
    inner, outer = method.inner(learner, points, batch), method.outer(learner, points, batch)
    assert inner.shape == (3,)
    assert torch.equal(inner, outer)
    expected = reference_loss(clip, points, labels, classes, 5.0)
    torch.testing.assert_close(inner.mean(), expected, rtol=1e-5, atol=1e-6)
    fewer = reference_loss(clip, points, labels, classes[:2], 5.0)
    assert abs(float(fewer) - float(expected)) > 0.1


def test_the_scale_is_the_checkpoints_own_unless_one_is_given() -> None:
    toy = Toy(scale=7.0)
    learner = Learner(toy, toy, TextHead.build(toy, CLASSES, TEMPLATES))
    examples = task(4)
    batch = Batch(to_pixels(examples.images(range(4))), torch.tensor([0, 1, 2, 3]))

    def loss(method: TeCoA) -> Tensor:
        return method.outer(learner, batch.pixels, batch)

    torch.testing.assert_close(loss(TeCoA()), loss(TeCoA(scale=7.0)), rtol=1e-5, atol=1e-6)
    assert float((loss(TeCoA()) - loss(TeCoA(scale=1.0))).abs().max()) > 0.1


def test_it_is_a_method_and_says_how_it_was_made() -> None:
    assert isinstance(METHODS["tecoa"](), Method)
    assert METHODS["tecoa"] is TeCoA
    assert TeCoA().describe() == {"name": "tecoa", "scale": None}
    assert TeCoA(scale=30.0).describe() == {"name": "tecoa", "scale": 30.0}


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_not_above_0_is_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        TeCoA(scale=scale)
