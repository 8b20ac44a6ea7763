"""Transfer attacks: the source is climbed, the target judges."""

from __future__ import annotations

import json

import pytest
import torch
from tests.fakes import SHAPE, Bumpy, Linear, Toy, images, predicted, task
from torch import Tensor, nn

from zsrobust.attacks.apgd import APGD
from zsrobust.attacks.base import Model, Streaming
from zsrobust.attacks.binding import carry, expand
from zsrobust.attacks.checks import judge
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.transfer import Transfer
from zsrobust.attacks.views import Guided, Sampled
from zsrobust.defences import wrapped
from zsrobust.errors import ConfigError
from zsrobust.evaluation import classifier_for
from zsrobust.pixels import to_pixels
from zsrobust.threat import Threat

LINF = Threat("linf", "8/255")


class Masked(nn.Module):
    """A model whose answers are those of another on rounded pixels: no gradient gets through."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.inner((pixels * 255).round() / 255 + 0 * pixels)
        return logits


def test_a_transfer_breaks_what_hides_its_gradient() -> None:
    open_model, pixels = Linear.random(5, SHAPE, scale=0.5), images(20)
    hidden = Masked(open_model)
    labels = predicted(hidden, pixels)
    blind = predicted(hidden, PGD(LINF, 20)(hidden, pixels, labels)) != labels
    attack = Transfer("twin", LINF, 20).bound(open_model)
    found = attack.search(hidden, pixels, labels, seed=0, examples=range(20))
    assert found.claimed is not None
    assert torch.equal(found.claimed, predicted(hidden, found.pixels) != labels)
    assert int(found.claimed.sum()) >= 10 + int(blind.sum())


def test_from_a_defended_model_it_goes_through_what_the_defence_declares() -> None:
    blobs = task(16)
    target, source = Toy(scale=50.0), wrapped(Toy(scale=50.0), "jpeg")
    pixels = to_pixels(blobs.images(range(16)))
    model, guide = (classifier_for(encoder, blobs) for encoder in (target, source))
    labels = judge(model, pixels, torch.zeros(16, dtype=torch.int64)).predictions
    found = Transfer("defended", LINF, 10).bound(guide).search(model, pixels, labels, seed=0, examples=range(16))
    assert found.claimed is not None
    assert torch.equal(found.claimed, judge(model, found.pixels, labels).predictions != labels)
    assert 2 * int(found.claimed.sum()) > 16


def test_from_the_model_itself_it_is_apgd_on_the_margin_at_twice_the_forward_passes() -> None:
    model, pixels = Bumpy(SHAPE, 4), images(12)
    labels = predicted(model, pixels)
    threat = Threat("linf", 0.01)
    alone = APGD(threat, 10, loss="margin", restarts=2).search(model, pixels, labels, seed=3, examples=range(12))
    attack = Transfer("itself", threat, 10, restarts=2).bound(model)
    found = attack.search(model, pixels, labels, seed=3, examples=range(12))
    assert torch.equal(found.pixels, alone.pixels)
    assert torch.equal(found.backwards, alone.backwards)
    assert torch.equal(found.forwards, alone.forwards + alone.backwards)
    assert 0 < int(predicted(model, found.pixels).ne(labels).sum()) < 12
    assert isinstance(attack, Streaming)
    for index, part in attack.stream(model, pixels, labels, seed=3, examples=range(12)):
        assert torch.equal(part.pixels, alone.pixels[index])


def test_towards_a_target() -> None:
    model, pixels = Linear.random(4, SHAPE), images(8)
    labels = predicted(model, pixels)
    targets = (labels + 1) % 4
    attack = Transfer("itself", Threat("linf", 1.0)).bound(model)
    found = attack.search(model, pixels, labels, seed=0, examples=range(8), targets=targets)
    assert torch.equal(predicted(model, found.pixels), targets)


def test_both_models_stay_as_they_were() -> None:
    model, guide, pixels = Linear.random(3, SHAPE, seed=1), Linear.random(3, SHAPE, seed=2), images(4)
    Transfer("other", LINF, 3).bound(guide).search(model, pixels, predicted(model, pixels), seed=0, examples=range(4))
    for one in (model, guide):
        assert all(p.grad is None and p.requires_grad for p in one.parameters())
        assert one.training


def test_what_is_written_about_it() -> None:
    transfer = Transfer("owner/model", LINF, 50)
    described = transfer.describe()
    json.dumps(described)
    assert (described["transfer"], described["source"], described["gradient"]) == (True, "owner/model", False)
    assert described["name"] == transfer.name == transfer.bound(lambda x: x).name == "transfer:owner/model:steps=50"
    assert transfer.bound(lambda x: x).describe() == described
    with pytest.raises(ConfigError, match="needs a model"):
        Transfer("", LINF)


class Encoder:
    name = "mine"


def test_the_source_is_loaded_once_and_asked_for_its_classifier_on_each_task() -> None:
    loads: list[str] = []
    asked: list[object] = []
    encoder = Encoder()

    def load(name: str) -> Encoder:
        loads.append(name)
        return encoder

    def source(given: object) -> Model:
        asked.append(given)
        return Linear.random(3, SHAPE)

    mine = Transfer(encoder, LINF)
    pgd, a, b, c = carry([PGD(LINF), Transfer("a", LINF), Transfer("a", Threat("l2", 1.0)), mine], load)
    assert loads == ["a"]
    assert pgd == PGD(LINF)
    assert (a.name, b.name, c.name) == ("transfer:a", "transfer:a", "transfer:mine")
    assert a == Transfer("a", LINF)
    for attack in (a, c):
        (bound,) = expand(attack, 3, source)
        assert bound.name == attack.name
    expand(Transfer("by name", LINF), 3, source)
    assert asked == [encoder, encoder, "by name"]


def test_a_view_is_the_model_but_for_one_thing() -> None:
    model = Linear.random(3, SHAPE, seed=0)
    model.rows = 8
    view = Guided(Sampled(model, 7), model)
    assert (view.samples, view.rows, view.guide) == (7, 8, model)
    assert getattr(view, "surrogate", None) is None
    assert [id(p) for p in view.parameters()] == [id(p) for p in model.parameters()]
    assert torch.equal(view(images(2)), model(images(2)))
    assert not hasattr(model, "samples")
