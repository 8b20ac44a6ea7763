"""Alarms that attack the model: a climb of many steps, huge ε, Square and transfer; and what adapting does."""

from __future__ import annotations

import pytest
import torch
from tests import planted
from tests.alarms.test_checkup import SIZE, classifier, images, names, subject
from tests.fakes import Linear, Toy

from zsrobust.alarms import black_box, claims, growing, steps
from zsrobust.alarms.checkup import WITH_ATTACKS, full
from zsrobust.alarms.subject import Subject
from zsrobust.alarms.white_box import white_box
from zsrobust.attacks.checks import enforce, judge
from zsrobust.attacks.pgd import PGD
from zsrobust.losses import margin_loss
from zsrobust.threat import Threat


def trial(kind: type[planted.Wrapped]) -> Subject:
    return subject(classifier(kind(Toy(size=SIZE))), images())


def test_a_wrong_gradient_is_seen_in_every_attack() -> None:
    target = trial(planted.BorrowedGradient)
    for check, name in ((steps, "loss-does-not-rise"), (growing, "does-not-fall"), (black_box, "black-box-stronger")):
        assert names(check.check(target)) == {name}


def test_climbing_on_a_shattered_gradient_does_not_pay() -> None:
    assert names(steps.check(trial(planted.Shattered))) == {"loss-does-not-rise"}


def test_claims_on_another_function_are_refuted() -> None:
    assert names(claims.check(trial(planted.Bypassed))) == {"bypassed"}


def test_a_declared_quantisation_is_attacked_without_alarm() -> None:
    target = trial(planted.DeclaredQuantised)
    assert [alarm for check in WITH_ATTACKS.values() for alarm in check(target)] == []
    assert bool(white_box(target).broken.any())


def test_a_model_without_a_gradient_needs_no_attack_to_be_found_out() -> None:
    assert names(full(trial(planted.Detached))) == {"zero-gradient"}


def test_a_transfer_attack_that_is_stronger_gives_the_gradient_away() -> None:
    hidden, source = trial(planted.BorrowedGradient), classifier(Toy(size=SIZE))
    target = Subject(hidden.classifier, hidden.pixels, hidden.labels, hidden.threat, others=[source])
    (alarm,) = black_box.check(target)
    assert alarm.evidence["attack"] == "transfer from model 1"


def test_a_model_of_one_answer_is_not_blamed_for_standing() -> None:
    weight = Linear.random(3, (3, SIZE, SIZE), scale=1e-3).weight.detach()
    target = subject(Linear(weight, torch.tensor([9.0, 0.0, 0.0])), images())
    assert bool(target.right.all())
    assert growing.check(target) == []


def test_nothing_is_attacked_at_eps_0_or_where_nothing_is_right() -> None:
    model, pixels = classifier(Toy(size=SIZE)), images()
    assert full(subject(model, pixels, threat="linf:0")) == []
    wrong = (model(pixels).argmax(1) + 1) % 4
    assert full(Subject(model, pixels, wrong, Threat("linf", "4/255"))) == []


# Averages over noise or shifts do not protect a toy in the first place; benchmarks/alarm_table.py has them all.
FALLING = (planted.Quantised, planted.Compressed, planted.Detached, planted.Shattered, planted.BorrowedGradient)


@pytest.mark.parametrize("kind", FALLING, ids=lambda kind: kind.__name__)
def test_a_planted_defence_falls_to_who_adapts(kind: type[planted.Wrapped]) -> None:
    pixels, threat = images(24), Threat("linf", "6/255")
    surviving = []
    for encoder in (kind, planted.ADAPTIVE[kind][0]):
        model = classifier(encoder(Toy(size=SIZE)))
        labels = judge(model, pixels, torch.zeros(24, dtype=torch.int64)).predictions
        if encoder is planted.Detached:
            surviving.append(24)  # an attack with a gradient cannot even run
            continue
        found = PGD(threat, 10, loss=margin_loss).search(model, pixels, labels, seed=0, examples=range(24))
        allowed, _ = enforce(threat, found.pixels, pixels)
        surviving.append(int((judge(model, allowed, labels).predictions == labels).sum()))
    assert surviving[1] <= surviving[0] - 4
