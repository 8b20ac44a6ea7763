"""Test-time defences: what they compute, what an attack may differentiate, and what they are called."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fakes import Toy, images, task
from torch import Tensor, nn

import zsrobust.defences.ttc as ttc_module
from zsrobust.alarms.checkup import quick
from zsrobust.alarms.subject import Subject
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.defences import DEFENCES, wrapped
from zsrobust.defences.base import Defence
from zsrobust.defences.jpeg import JPEG
from zsrobust.defences.resizing import Resizing
from zsrobust.defences.ttc import TTC
from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError, ModelError
from zsrobust.evaluation import classifier_for
from zsrobust.passes import frozen
from zsrobust.report.load import Model
from zsrobust.report.quoting import same_model
from zsrobust.report.references import PublishedModel, published
from zsrobust.threat import Threat


class Matrix(Toy):
    """Features are W · pixels, so that a counterattack can be worked out by hand."""

    @property
    def weight(self) -> Tensor:
        last = self.visual[3]
        assert isinstance(last, nn.Linear)
        return last.weight

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1) @ self.weight[:, : pixels[0].numel()].T


@pytest.mark.parametrize("below", [0, 1, 3, 6])
def test_a_counterattack_is_the_papers(below: int) -> None:
    """``below`` of six images have a τ under the threshold: they counterattack, the others keep δ₀."""
    encoder, eps, step, beta = Matrix(size=12), 4 / 255, 1 / 255, 2 if below == 3 else 1.5  # a whole number too
    pixels = images(6, shape=(3, 4, 4))
    start = (2 * torch.rand(pixels.shape, generator=torch.Generator().manual_seed(1)) - 1) * eps
    weight = encoder.weight.detach().numpy()[:, :48].astype(np.float64)
    taus, kept, weighted = [], [], []
    for image, first in zip(pixels.flatten(1).double().numpy(), start.flatten(1).double().numpy(), strict=True):
        deltas = [np.clip(first, -image, 1 - image)]
        taus.append(np.linalg.norm(weight @ deltas[0]) / np.linalg.norm(weight @ image))
        for _ in range(3):
            moved = deltas[-1] + step * np.sign(weight.T @ weight @ deltas[-1])
            deltas.append(np.clip(np.clip(moved, -eps, eps), -image, 1 - image))
        shares = np.exp(beta * np.arange(4)) / np.exp(beta * np.arange(4)).sum()
        kept.append(deltas[0])
        weighted.append(shares @ np.array(deltas))
    borders = [0.0, *np.sort(taus), 1.0]
    threshold = (borders[below] + borders[below + 1]) / 2 if below else 0.0
    counterattacked = np.array(taus) < threshold
    assert counterattacked.sum() == below
    assert np.abs(np.array(weighted) - kept).max(1).min() > step / 2, "the two outcomes must differ in every image"
    expected = np.where(counterattacked[:, None], weighted, kept)
    defence = TTC(encoder, steps=3, eps=eps, step_size=step, beta=beta, threshold=threshold)
    with torch.no_grad():
        found = defence.counterattack(pixels, start)
        unrolled = defence.counterattack(pixels, start, unrolled=True)
    np.testing.assert_allclose(found.flatten(1).numpy(), expected, atol=1e-6)
    torch.testing.assert_close(unrolled, found)
    assert not found.requires_grad


def test_a_counterattack_has_the_papers_options_unless_told_otherwise() -> None:
    told = TTC(Toy()).describe()
    assert told.pop("samples") == ttc_module.DRAWS  # the paper draws once
    assert told == {"name": "ttc", "steps": 2, "eps": 4 / 255, "step_size": 1 / 255, "threshold": 0.2, "beta": 2.0}


def test_the_unrolled_gradient_is_the_slope_of_a_counterattack_with_a_smooth_sign(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ttc_module, "_sign", lambda slope: slope / (slope.abs() + 1e-3))
    encoder = Toy().double()
    defence = TTC(encoder, eps=40 / 255, step_size=10 / 255, threshold=10.0)
    pixels = images(2, shape=(3, 6, 6), inner=True).double()
    start = 0.05 * images(2, seed=3, shape=(3, 6, 6), inner=True).double()
    monkeypatch.setattr(defence, "_start", lambda pixels: start)
    direction = torch.randn(pixels.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def value(points: Tensor) -> Tensor:
        return defence.encode_differentiable(points)[:, 0].sum()

    points = pixels.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(value(points), points)
    difference = (value(pixels + 1e-5 * direction) - value(pixels - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close((slope * direction).sum(), difference, rtol=1e-5, atol=1e-8)
    (constant,) = torch.autograd.grad(defence.encode_pixels(points)[:, 0].sum(), points)
    assert (constant - slope).abs().max() > 1e-3 * slope.abs().max()  # the loop has a derivative of its own


def test_the_sign_keeps_its_value_and_lends_a_slope() -> None:
    slope = torch.tensor([[[[-3.0, 0.0, 1.0, 4.0]]]], requires_grad=True)
    found = ttc_module._sign(slope)
    assert found.tolist() == [[[[-1.0, 0.0, 1.0, 1.0]]]]
    (gradient,) = torch.autograd.grad(found.sum(), slope)
    torch.testing.assert_close(gradient, 2 / (slope.detach().abs() + 2) ** 2)
    assert torch.autograd.grad(ttc_module._sign(0 * slope).sum(), slope)[0].isfinite().all()


def test_jpeg_is_a_real_file_and_its_gradient_is_that_behind_it() -> None:
    encoder, pixels = Matrix(size=16), images(3, shape=(3, 8, 8))
    found = JPEG(encoder, quality=30).compressed(pixels)
    for image, read in zip(pixels, found, strict=True):
        file = io.BytesIO()
        levels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(levels).save(file, format="JPEG", quality=30, subsampling="4:2:0")
        assert np.array_equal(np.asarray(Image.open(file)), (read * 255).round().byte().permute(1, 2, 0).numpy())
    defence = JPEG(Toy(size=8), quality=30)
    points, behind = pixels.clone().requires_grad_(True), found.clone().requires_grad_(True)
    through = defence.encode_differentiable(points)
    torch.testing.assert_close(through, defence.encode_pixels(pixels))
    (slope,) = torch.autograd.grad(through.square().sum(), points)
    (expected,) = torch.autograd.grad(defence.base.encode_pixels(behind).square().sum(), behind)
    torch.testing.assert_close(slope, expected)


def test_a_defence_without_a_stand_in_of_its_own_cannot_stand_around_one() -> None:
    class Shift(Defence):
        title = "shift"

        def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.base.encode_pixels(pixels + 0.01)

    assert not hasattr(Shift(Toy()), "encode_differentiable")
    with pytest.raises(ModelError, match=r"'shift' cannot stand around 'toy\+jpeg'"):
        Shift(JPEG(Toy(size=8))).encode_differentiable(images(1, shape=(3, 8, 8)))


def test_resizing_draws_for_each_image_and_is_the_identity_without_a_range() -> None:
    pixels = images(1, shape=(3, 12, 12)).repeat(6, 1, 1, 1)
    torch.testing.assert_close(Resizing(Toy(), smallest=1, largest=1, noise=0).purified(pixels), pixels)
    noise = Resizing(Toy(), smallest=1, largest=1, noise=0.1).purified(pixels) - pixels
    assert 0.09 < float(noise.std()) < 0.11
    sizes = Resizing(Toy(), smallest=0.5, largest=1.5, noise=0).purified(pixels)
    assert len({tuple(image.flatten().tolist()) for image in sizes}) > 2
    smaller = nn.functional.interpolate(pixels[:1], size=(6, 6), mode="bilinear", antialias=True)
    expected = nn.functional.interpolate(smaller, size=(12, 12), mode="bilinear", antialias=True)
    halved = Resizing(Toy(), smallest=0.5, largest=0.5, noise=0).purified(pixels)
    torch.testing.assert_close(halved, expected.expand(6, -1, -1, -1))
    points = pixels.clone().requires_grad_(True)
    assert torch.autograd.grad(Resizing(Toy()).encode_pixels(points).sum(), points)[0].abs().min() > 0


def alarms(classifier: ZeroShotClassifier) -> set[str]:
    labels = torch.zeros(8, dtype=torch.int64)
    return {a.name for a in quick(Subject(classifier, images(8, shape=(3, 6, 6)), labels, Threat("linf", "4/255")))}


@pytest.mark.parametrize("text", ["ttc:samples=3", "jpeg", "resizing:samples=3"])
def test_a_defended_model_is_an_encoder_that_no_attack_changes(text: str) -> None:
    encoder, pixels = Toy(), images(5, shape=(3, 6, 6))
    before = encoder.fingerprint()
    defended = wrapped(encoder, text)
    assert isinstance(defended, Encoder)
    with torch.no_grad(), frozen(defended):
        assert not defended.encode_pixels(pixels).requires_grad
        assert not getattr(defended, "encode_differentiable", defended.encode_pixels)(pixels).requires_grad
    torch.testing.assert_close(defended.encode_texts(["a cat"]), encoder.encode_texts(["a cat"]))
    assert encoder.fingerprint() == before
    assert not any(p.requires_grad or p.grad is not None for p in encoder.parameters())
    assert alarms(classifier_for(defended, task(8), rows=8)) == set()


class Hidden(nn.Module):
    """A defended model that does not declare its stand-in."""

    def __init__(self, inner: TTC) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "encode_differentiable":
            raise AttributeError(name)
        return super().__getattr__(name) if name == "inner" else getattr(self.inner, name)


def test_a_loop_without_an_unrolled_stand_in_is_still_an_alarm() -> None:
    assert alarms(classifier_for(Hidden(TTC(Toy())), task(8), rows=8)) == {"optimises-inside"}


def test_another_text_tower_or_logit_scale_is_another_defended_model() -> None:
    class Unnamed(Toy):
        fingerprint = None

    class Warmer(Unnamed):
        logit_scale = torch.tensor(50.0)

    other = Unnamed()
    encode = other.encode_texts
    other.encode_texts = lambda texts: encode([text[::-1] for text in texts])  # type: ignore[method-assign]
    prints = [wrapped(encoder, "jpeg").fingerprint() for encoder in (Unnamed(), Unnamed(), other, Warmer())]  # type: ignore[attr-defined]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_what_a_defended_model_is_called_and_told_about() -> None:
    encoder = Toy()
    assert wrapped(encoder, "ttc").name == "toy+ttc"
    both = wrapped(wrapped(encoder, "jpeg:quality=75"), "ttc:eps=8/255:steps=3")
    assert both.name == "toy+jpeg+ttc:steps=3:eps=8/255"
    defences = both.provenance["defence"]
    assert [told["name"] for told in defences] == ["jpeg", "ttc"]  # type: ignore[attr-defined]
    assert defences[1]["eps"] == pytest.approx(8 / 255)  # type: ignore[index]
    json.dumps(both.provenance)
    assert "defence" not in encoder.provenance
    assert both.undefended is encoder  # type: ignore[attr-defined]
    prints = {wrapped(encoder, text).fingerprint() for text in ("ttc", "ttc:steps=3", "jpeg", "jpeg:quality=50")}  # type: ignore[attr-defined]
    assert len(prints | {encoder.fingerprint()}) == 5
    assert wrapped(wrapped(encoder, "resizing:samples=30"), "ttc").samples == 30  # type: ignore[attr-defined]
    assert not hasattr(wrapped(encoder, "resizing"), "encode_differentiable")
    assert hasattr(wrapped(wrapped(encoder, "jpeg"), "resizing"), "encode_differentiable")
    assert not hasattr(wrapped(encoder, "jpeg"), "text_fingerprint")


def test_a_published_number_of_the_undefended_model_is_not_quoted() -> None:
    other: PublishedModel = next(p.model for p in published() if p.model.bases and not p.model.method)
    told: dict[str, object] = {"source": (other.weights or other.bases)[0], "revision": None, "adapted_on": []}
    plain = Toy()
    plain.provenance = dict(told)
    known = wrapped(plain, "ttc").provenance
    assert same_model(_model(told), other)
    assert not same_model(_model(known), other)


def _model(provenance: Mapping[str, object]) -> Model:
    return Model(name="m", fingerprint="f", adapted_on=(), provenance=provenance)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tcc", "unknown defence 'tcc'; did you mean 'ttc'? (known: jpeg, resizing, ttc"),
        ("ttc:step=3", "unknown option of defence 'ttc' 'step'; did you mean 'steps'?"),
        ("ttc:3", "defence 'ttc:3': '3' is not option=value, as in ttc:steps=2"),
        ("ttc:steps=", "'steps=' is not option=value"),
        ("ttc:steps=2:steps=3", "has the option 'steps' twice"),
        ("ttc:steps=two", "steps of defence 'ttc' must be a whole number, not 'two'"),
        ("ttc:steps=0", "steps of defence 'ttc' must be a whole number from 1 up, not 0"),
        ("ttc:eps=4", "eps of defence 'ttc' = 4 is ambiguous: did you mean 4/255?"),
        ("ttc:eps=0", "eps of defence 'ttc' must be above 0"),
        ("ttc:beta=nan", "beta of defence 'ttc' must be a number of at least 0"),
        ("ttc:samples=1", "samples of defence 'ttc' must be a whole number from 2 up"),
        ("jpeg:quality=100", "quality of defence 'jpeg' must be a whole number from 1 to 95"),
        ("resizing:largest=0.5", "largest of defence 'resizing' must be from smallest (0.75) to 4"),
        ("resizing:noise=big", "noise of defence 'resizing' = 'big' is not a number"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        wrapped(Toy(), text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_defence_has_a_class_that_says_its_name() -> None:
    assert {DEFENCES[name].title for name in DEFENCES} == set(DEFENCES)
