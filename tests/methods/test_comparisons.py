"""The losses that TeCoA is compared with, against plain references in float64, and what they may read."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes import CLASSES, Toy, task
from tests.methods.references import climbed, nll, reference
from torch import Tensor, nn
from torch.nn.functional import normalize

from zsrobust.adaptation import adapt
from zsrobust.attacks.pgd import PGD
from zsrobust.encoders.huggingface import HuggingFaceEncoder
from zsrobust.errors import ConfigError
from zsrobust.methods import METHODS, targets
from zsrobust.methods.base import Batch, Learner, Method
from zsrobust.randomness import generator
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat
from zsrobust.training_step import Step

TEMPLATES = ("a {}", "one {}")
NAMES = sorted(METHODS)


def exact(learner: Learner) -> Learner:
    """The same in float64."""
    encoder, extra = copy.deepcopy(learner.encoder), copy.deepcopy(learner.extra)
    assert isinstance(encoder, nn.Module)
    head = learner.head
    double = TextHead(head.class_names, head.templates, head.embeddings.double())
    original = copy.deepcopy(learner.original)
    assert isinstance(original, nn.Module)
    return Learner(encoder.double(), original.double(), double, extra.double() if extra is not None else None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_steps_of_training_are_those_of_a_plain_reference(
    name: str, clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two steps: before the first one the model still is the original, and what holds it there says nothing.
    points = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(Step, "adversary", lambda *_: points)
    learn, seen = Step.learn, []

    def watched(step: Step, found: Tensor, batch: Batch) -> Tensor:
        before = exact(step.learner)
        loss = learn(step, found, batch)
        seen.append((before, batch, float(loss), {key: p.grad.clone() for key, p in step.parameters.items()}))
        return loss

    monkeypatch.setattr(Step, "learn", watched)
    examples = task(6, size=32)
    labels = "true" if METHODS[name].labelled else "none"
    options: dict[str, Any] = {"epochs": 2, "batch_size": 6, "lr": 0.1, "warmup": 0.0, "labels": labels}
    adapt(clip, task=examples, attack=PGD(Threat(), 2), method=name, **options)

    assert len(seen) == 2
    for epoch, (before, batch, loss, grads) in enumerate(seen):
        truth = torch.from_numpy(examples.labels)[torch.randperm(6, generator=generator(0, "order", epoch))]
        weights = dict(before.encoder.visual_parameters())  # type: ignore[attr-defined]
        if before.extra is not None:
            weights |= {f"method.{key}": p for key, p in before.extra.named_parameters()}
        for weight in weights.values():
            weight.requires_grad_(True)
        expected = reference(name, before, points.double(), batch.pixels.double(), truth).mean()
        expected.backward()  # type: ignore[no-untyped-call]
        assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
        assert weights.keys() == grads.keys()
        after = dict(seen[1][0].encoder.visual_parameters()) if epoch == 0 else {}  # type: ignore[attr-defined]
        for key, weight in weights.items():
            torch.testing.assert_close(grads[key].double(), weight.grad, rtol=1e-4, atol=1e-6)
            if key in after:
                stepped = weight.detach() - 0.1 * weight.grad
                torch.testing.assert_close(after[key].detach(), stepped, rtol=1e-4, atol=1e-6)
        assert max(float(grad.abs().max()) for grad in grads.values()) > 1e-3


@pytest.mark.parametrize("name", ["agft", "coadv", "fare", "standard", "tecoa"])
def test_adversary_and_learner_agree(name: str, clip: HuggingFaceEncoder) -> None:
    learner, batch, points = prepared(name, clip)
    method: Method = METHODS[name]()
    torch.testing.assert_close(method.inner(learner, points, batch), method.outer(learner, points, batch))


@pytest.mark.parametrize("name", ["clean", "dual", "mart", "pmg-aft", "sim-clip", "tga-zsr", "trades"])
def test_the_adversary_climbs_what_its_equation_says(name: str, clip: HuggingFaceEncoder) -> None:
    # The model is not the original any more: which of them a method compares with makes a difference.
    method: Method = METHODS[name]()
    adapted, draw = clip.copy(), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in (p for _, p in adapted.visual_parameters()):
            weight.add_(0.02 * torch.randn(weight.shape, generator=draw))
    head = TextHead.build(clip, tuple(f"class {n}" for n in range(9)), TEMPLATES)
    learner, truth = Learner(adapted, clip, head), torch.tensor([8, 0, 0, 1])
    pixels, points = torch.rand(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batch = targets.prepare(learner, method, pixels, truth, "true" if method.labelled else "none")

    points.requires_grad_(True)
    found = method.inner(learner, points, batch)
    (slope,) = torch.autograd.grad(found.sum(), points)
    exactly = points.detach().double().requires_grad_(True)
    expected = climbed(name, exact(learner), exactly, pixels.double(), truth)
    (expected_slope,) = torch.autograd.grad(expected.sum(), exactly)
    torch.testing.assert_close(found.detach().double(), expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(slope.double(), expected_slope, rtol=1e-3, atol=1e-4 * float(expected_slope.abs().max()))
    assert float(expected_slope.abs().max()) > 1e-4


def prepared(name: str, clip: HuggingFaceEncoder, labels: targets.Labels = "true") -> tuple[Learner, Batch, Tensor]:
    head = TextHead.build(clip, tuple(f"class {n}" for n in range(9)), TEMPLATES)
    method: Method = METHODS[name]()
    learner = Learner(clip, clip, head, method.extra(head.embeddings.shape[1], 9, seed=3))
    pixels, points = torch.rand(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return learner, targets.prepare(learner, method, pixels, torch.tensor([8, 0, 0, 1]), labels), points


def test_the_image_adversary_sees_constant_clean_features_and_the_learner_moves_both(clip: HuggingFaceEncoder) -> None:
    learner, batch, points = prepared("imgcoadv", clip)
    method: Method = METHODS["imgcoadv"]()
    assert batch.labels is None
    assert batch.anchors is not None
    assert not batch.anchors.requires_grad
    torch.testing.assert_close(method.inner(learner, points, batch), method.outer(learner, points, batch))
    clip.model.vision_model.requires_grad_(True)
    weight = clip.model.vision_model.embeddings.patch_embedding.weight
    inner, outer = (
        torch.autograd.grad(loss(learner, points, batch).sum(), weight)[0] for loss in (method.inner, method.outer)
    )
    assert not torch.allclose(inner, outer)


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_pseudo_labels_are_the_unadapted_models_predictions(labels: targets.Labels, clip: HuggingFaceEncoder) -> None:
    learner, batch, points = prepared("tecoa", clip, labels)
    units = normalize(clip.encode_pixels(batch.pixels), dim=1)
    probabilities = (clip.logit_scale * units @ learner.head.embeddings.T).softmax(1)
    expected = -(learner.logits(points).log_softmax(1) * probabilities).sum(1)
    if labels == "hard":
        assert batch.targets is None
        assert batch.labels is not None
        assert torch.equal(batch.labels, probabilities.argmax(1))
        expected = nll(learner.logits(points), probabilities.argmax(1))
    torch.testing.assert_close(METHODS["tecoa"]().outer(learner, points, batch), expected)


def test_a_run_without_labels_cannot_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[Batch] = []
    learn = Step.learn

    def watched(step: Step, found: Tensor, batch: Batch) -> Tensor:
        kinds.append(batch)
        return learn(step, found, batch)

    monkeypatch.setattr(Step, "learn", watched)
    attack = PGD(Threat("linf", "8/255"), 2)
    one, other = task(12), task(12)
    object.__setattr__(other, "labels", one.labels[::-1].copy())
    common: dict[str, Any] = {"attack": attack, "method": "imgcoadv", "labels": "none", "epochs": 1, "batch_size": 4}
    found = [adapt(Toy(), task=examples, lr=0.1, **common).state_dict() for examples in (one, other)]  # type: ignore[attr-defined]
    assert all(batch.labels is None and batch.targets is None for batch in kinds)
    assert all(torch.equal(tensor, found[1][key]) for key, tensor in found[0].items())


@pytest.mark.parametrize(
    ("method", "labels", "told"),
    [
        ("tecoa", "none", "needs labels"),
        ("imgcoadv", "soft", "reads no labels"),
        ("tecoa", "hrad", "did you mean"),
        ("mart", "soft", "needs one label for each image"),
        ("tga-zsr", "soft", "needs one label for each image"),
    ],
)
def test_labels_that_do_not_fit_are_refused(method: str, labels: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        adapt(Toy(), task=task(6), attack=PGD(Threat(), 2), method=method, labels=labels)


@pytest.mark.parametrize(
    "name", ["clean", "coadv", "dual", "imgcoadv", "mart", "pmg-aft", "tecoa", "tga-zsr", "trades"]
)
def test_a_scale_must_be_above_0(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}'s scale must be above 0, not -1"):
        METHODS[name](scale=-1)


def test_without_an_adversary_the_points_are_the_clean_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PGD, "perturb", lambda *_, **__: pytest.fail("there is no adversary"))
    adapt(Toy(), task=task(8), attack=PGD(Threat(), 2), method="clean", epochs=1, batch_size=4, lr=0.1)


def test_held_out_images_are_scored_by_the_methods_own_classifier(tmp_path: Path) -> None:
    import json

    options: dict[str, Any] = {"attack": PGD(Threat(), 2), "epochs": 2, "batch_size": 6, "lr": 0.1}
    scores = []
    for method in ("standard", "tecoa"):
        run = tmp_path / method
        adapt(Toy(), task=task(18), held_out=task(12), method=method, run=run, **options)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        scored = [line for line in lines if "held_out_robust_accuracy" in line]
        assert [line["step"] for line in scored] == [6]
        assert 0 <= scored[0]["held_out_robust_accuracy"] <= scored[0]["held_out_clean_accuracy"] <= 1
        scores.append(scored[0])
    assert scores[0] != scores[1]
    with pytest.raises(ConfigError, match="other classes"):
        adapt(Toy(), task=task(18), held_out=task(8, classes=CLASSES[:2]), **options)


@pytest.mark.parametrize(("head_lr", "expected"), [(None, 5.0), (0.02, 0.02)])
def test_a_head_learns_at_its_own_rate(head_lr: float | None, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[list[float]] = []
    learn = Step.learn

    def watched(step: Step, found: Tensor, batch: Batch) -> Tensor:
        rates.append([group["lr"] for group in step.optimizer.param_groups])
        return learn(step, found, batch)

    monkeypatch.setattr(Step, "learn", watched)
    method = METHODS["standard"](head_lr=head_lr)
    adapt(Toy(), task=task(8), attack=PGD(Threat(), 1), method=method, epochs=1, batch_size=4, lr=0.5, warmup=0.0)
    assert rates[0] == pytest.approx([0.5, expected])
    assert rates[1] == pytest.approx([0.25, expected / 2])
    with pytest.raises(ConfigError, match="head_lr must be above 0, not 0"):
        METHODS["standard"](head_lr=0)
