"""Carlini and Wagner's L2 attack against closed forms and against a plain loop with torch's own Adam."""

from __future__ import annotations

import math

import pytest
import torch
from tests.fakes import CLASSES, SHAPE, Bumpy, Linear, Toy, images, predicted
from torch import Tensor, nn

from zsrobust.attacks.carlini_wagner import CarliniWagner
from zsrobust.attacks.checks import enforce, judge
from zsrobust.attacks.lanes import gather, stream
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.errors import ConfigError
from zsrobust.losses import margin
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat

# Closed forms


@pytest.mark.parametrize(("scale", "aimed"), [(0.1, False), (20.0, True)])
def test_on_a_binary_linear_model_it_finds_the_least_distance_to_2_percent(scale: float, aimed: bool) -> None:
    model, pixels, distance = Linear.random(2, SHAPE, scale=scale), images(8, inner=True), 0.3
    labels = predicted(model, pixels)
    slope = (model.weight[labels] - model.weight[1 - labels]).detach()
    length = slope.norm(dim=1)
    # Every image is moved across the boundary's normal until it is ``distance`` away: one radius is right for all.
    shift = (distance - margin(model(pixels), labels).detach() / length) / length
    pixels = pixels + (shift[:, None] * slope).view_as(pixels)
    targets = 1 - labels if aimed else None
    for factor, expected in [(1.02, True), (0.999, False)]:
        attack = CarliniWagner(Threat("l2", factor * distance), 150)
        outcome = attack.search(model, pixels, labels, seed=0, examples=range(8), targets=targets)
        assert outcome.claimed.tolist() == [expected] * 8
        assert torch.equal(predicted(model, outcome.pixels) != labels, outcome.claimed)
        torch.testing.assert_close(enforce(attack.threat, outcome.pixels, pixels)[0], outcome.pixels, atol=1e-6, rtol=0)


def test_pixels_at_the_ends_of_the_range_can_move() -> None:
    # There tanh's inverse is infinite and its derivative 0.
    model, pixels = Linear.random(2, SHAPE, scale=0.3), (images(4) > 0.5).float()
    labels = predicted(model, pixels)
    found = CarliniWagner(Threat("l2", 8.0))(model, pixels, labels)
    assert not bool((predicted(model, found) == labels).any())
    assert bool(((found >= 0) & (found <= 1)).all())


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_a_target_is_reached_with_few_classes_too(classes: int) -> None:
    model, pixels = Linear.random(classes, SHAPE), images(8, inner=True)
    labels = predicted(model, pixels)
    targets = (labels + 1 + torch.arange(8) % (classes - 1)) % classes
    attack = CarliniWagner(Threat("l2", 4.0), 100)
    assert torch.equal(predicted(model, attack(model, pixels, labels, targets=targets)), targets)


# A plain loop


def plain(attack: CarliniWagner, model: nn.Module, image: Tensor, label: Tensor) -> tuple[int, int]:
    """One example by autograd and torch.optim.Adam: evaluations until the first success within ε (or of all), and how
    many values of c succeeded at any distance on the way."""
    made, successes, c, lower, upper = 0, 0, 1e-3, 0.0, math.inf
    for _ in range(attack.binary_steps):
        w = torch.atanh((2 * image - 1) * 0.999999).requires_grad_()
        adam, before, crossed = torch.optim.Adam([w], lr=0.01), math.inf, False
        for step in range(attack.steps):
            point = (w.tanh() + 1) / 2
            delta, gap = point - image, margin(model(point), label)
            objective = delta.square().sum() + c * gap.clamp_min(0).sum()
            distance, lacking, value = (float(number.detach()) for number in (delta.norm(), gap, objective))
            made += 1
            if lacking < 0 and distance <= attack.threat.eps:
                return made, successes
            crossed |= lacking < 0
            if step % 2 == 0:
                if value > 0.9999 * before:
                    break
                before = value
            adam.zero_grad()
            objective.backward()
            adam.step()
        if crossed:
            successes, upper = successes + 1, min(upper, c)
        else:
            lower = max(lower, c)
        c = c * 10 if math.isinf(upper) else (lower + upper) / 2
    return made, successes


def test_lanes_at_different_steps_do_what_a_plain_loop_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsrobust.attacks.carlini_wagner._PATIENCE", 2)  # 20 steps must be enough to give up in
    model, pixels = Linear.random(4, SHAPE), images(14)
    model.rows = 4
    labels = predicted(model, pixels)
    attack = CarliniWagner(Threat("l2", 0.05), 20, binary_steps=6)
    outcome = attack.search(model, pixels, labels, seed=0, examples=range(14))
    expected = [plain(attack, model, pixels[i : i + 1], labels[i : i + 1]) for i in range(14)]
    assert outcome.forwards.tolist() == outcome.backwards.tolist() == [made for made, _ in expected]
    assert len(set(outcome.forwards.tolist())) > 5
    assert max(successes for _, successes in expected) > 1, "the interval must have been halved"
    assert 0 < int(outcome.claimed.sum()) < 14
    assert bool((outcome.forwards < 6 * 20).any()), "some c must have been given up"


# As the evaluation uses it


def test_leaving_early_changes_no_verdict_and_costs_less() -> None:
    model, pixels = Bumpy(SHAPE, 4), images(24)
    labels, attack = predicted(model, pixels), CarliniWagner(Threat("l2", 0.08), 20, binary_steps=5)
    early, late = (
        gather(stream(attack, model, pixels, labels, seed=1, examples=range(24), leave=leave), pixels)
        for leave in (True, False)
    )
    assert torch.equal(early.claimed, late.claimed)
    assert torch.equal(early.claimed, predicted(model, early.pixels) != labels)
    torch.testing.assert_close(early.pixels, late.pixels, atol=1e-5, rtol=0)
    assert 0 < int(early.claimed.sum()) < 24
    assert bool((early.forwards <= late.forwards).all())
    assert int(early.forwards.sum()) < int(late.forwards.sum())


def test_batch_size_order_and_company_change_nothing() -> None:
    encoder, pixels = Toy(size=9, scale=200.0), images(16, shape=(3, 12, 12))
    model = ZeroShotClassifier(encoder, TextHead.build(encoder, CLASSES, ["a {}"]), rows=8)
    labels = judge(model, pixels, torch.zeros(16, dtype=torch.int64)).predictions
    attack = CarliniWagner(Threat("l2", 0.25), 12, binary_steps=5)
    whole = attack.search(model, pixels, labels, seed=5, examples=range(16))
    assert 0 < int(whole.claimed.sum()) < 16
    shuffled = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    for batch_size in (1, 7, 64):
        for chosen in shuffled.split(batch_size)[:3]:
            part = attack.search(model, pixels[chosen], labels[chosen], seed=5, examples=chosen.tolist())
            assert torch.equal(part.pixels, whole.pixels[chosen])
            assert torch.equal(part.forwards, whole.forwards[chosen])
            assert torch.equal(part.backwards, whole.backwards[chosen])


def test_at_eps_0_nothing_happens() -> None:
    model, pixels = Bumpy(SHAPE, 4), images(4)
    assert torch.equal(CarliniWagner(Threat("l2", 0), 5)(model, pixels, predicted(model, pixels)), pixels)


def test_the_model_is_left_as_it_was() -> None:
    model, pixels = Linear.random(3, SHAPE), images(6)
    labels, before = predicted(model, pixels), pixels.clone()
    model.train()
    found = CarliniWagner(Threat("l2", 1.0), 50, binary_steps=5)(model, pixels, labels)
    assert bool((predicted(model, found) != labels).any())
    assert model.training
    assert model.weight.requires_grad
    assert model.weight.grad is None
    assert torch.equal(pixels, before)
    assert not found.requires_grad


# Names and options


def test_names_say_what_is_not_the_default() -> None:
    threat = Threat("l2", 0.5)
    assert CarliniWagner(threat).name == "cw-l2"
    assert CarliniWagner(threat, 100, binary_steps=5).name == "cw-l2:steps=100:binary_steps=5"
    assert CarliniWagner(threat).describe() == {
        "name": "cw-l2", "steps": 1000, "binary_steps": 9, "step_size": 0.01, "precision": "float32", "gradient": True,
    }  # fmt: skip


def test_another_norm_is_refused_and_the_other_cw_named() -> None:
    with pytest.raises(ConfigError, match="cannot search linf:4/255:native; 'cw', which is PGD with the margin loss"):
        CarliniWagner(Threat("linf", "4/255"))


@pytest.mark.parametrize(
    ("options", "message"), [({"steps": 0}, "at least 1 step"), ({"binary_steps": 0}, "binary_steps ≥ 1")]
)
def test_options_that_make_no_search_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CarliniWagner(Threat("l2", 0.5), **options)  # type: ignore[arg-type]
