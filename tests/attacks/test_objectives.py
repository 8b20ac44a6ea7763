"""What the ascents climb: values by hand, and what each objective pushes towards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from zsrobust.attacks.objectives import away, away_dlr, targeted_dlr, towards_rival, towards_rival_dlr
from zsrobust.attacks.probe import Lanes, Objective
from zsrobust.errors import ConfigError
from zsrobust.losses import cross_entropy, dlr, margin, margin_loss


def lanes(labels: list[int], *, aims: list[int] | None = None, rivals: list[int] | None = None) -> Lanes:
    width = len(labels)
    made = Lanes(torch.zeros(width, 3, 1, 1), torch.tensor(labels), torch.tensor(aims or [-1] * width))
    made.rivals = torch.tensor(rivals or [-1] * width)
    return made


LOGITS = torch.tensor([[5.0, 1.0, 3.0, -2.0, 0.0], [1.0, 5.0, 3.0, -2.0, 0.0], [-1.0, 4.0, 0.0, 3.0, 2.0]])


def test_dlr_by_hand() -> None:
    # predicted: −(5 − 3)/(5 − 1); second from below: −(1 − 5)/(5 − 1); last: −(−1 − 4)/(4 − 2)
    assert dlr(LOGITS, torch.tensor([0, 0, 0])).tolist() == pytest.approx([-0.5, 1.0, 2.5])


def test_targeted_dlr_by_hand() -> None:
    # (1 − 5)/(5 − (1 + 0)/2), (3 − 1)/(5 − 1/2), (2 − −1)/(4 − (2 + 0)/2)
    found = targeted_dlr(LOGITS, torch.tensor([0, 0, 0]), torch.tensor([1, 2, 4]))
    assert found.tolist() == pytest.approx([-4 / 4.5, 2 / 4.5, 1.0])


@pytest.mark.parametrize("loss", [dlr, lambda logits, labels: targeted_dlr(logits, labels, (labels + 1) % 6)])
def test_a_ratio_of_logits_does_not_see_their_scale_or_shift(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(40, 6, generator=draw), torch.arange(40) % 6
    torch.testing.assert_close(loss(100 * logits + 7, labels), loss(logits, labels), rtol=1e-4, atol=1e-4)
    assert loss(logits.bfloat16(), labels).dtype == torch.float32


def test_dlr_is_positive_exactly_where_the_label_is_not_predicted() -> None:
    draw = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(200, 4, generator=draw), torch.randint(4, (200,), generator=draw)
    found = dlr(logits, labels)
    assert torch.equal(found > 0, logits.argmax(1) != labels)
    assert float(found.min()) >= -1


@pytest.mark.parametrize("objective", [away_dlr, towards_rival_dlr])
def test_equal_logits_give_finite_values_and_gradients(objective: Objective) -> None:
    # The rows of idle lanes are all zero, and so may be a broken model's.
    logits = torch.zeros(2, 5, requires_grad=True)
    values = objective(logits, lanes([0, 3], rivals=[1, 2]))
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert torch.equal(values, torch.zeros(2))
    assert bool(gradient.isfinite().all())


def test_away_climbs_the_loss_of_the_label_or_descends_that_of_the_aim() -> None:
    for loss in (cross_entropy, margin_loss):
        assert torch.equal(away(loss)(LOGITS, lanes([0, 1, 2])), loss(LOGITS, torch.tensor([0, 1, 2])))
        aimed = away(loss)(LOGITS, lanes([0, 1, 2], aims=[3, 4, 0]))
        assert torch.equal(aimed, -loss(LOGITS, torch.tensor([3, 4, 0])))


def test_dlr_of_the_label_becomes_the_targeted_one_with_aims() -> None:
    labels, aims = torch.tensor([0, 1, 2]), torch.tensor([3, 4, 0])
    assert torch.equal(away_dlr(LOGITS, lanes([0, 1, 2])), dlr(LOGITS, labels))
    aimed = away_dlr(LOGITS, lanes([0, 1, 2], aims=[3, 4, 0]))
    assert torch.equal(aimed, targeted_dlr(LOGITS, labels, aims))


@pytest.mark.parametrize("classes", [2, 3])
def test_dlr_with_aims_is_the_aims_margin_where_there_are_too_few_classes_for_the_ratio(classes: int) -> None:
    logits, aims = LOGITS[:, :classes], torch.tensor([1, 0, 1])
    assert torch.equal(away_dlr(logits, lanes([0, 1, 0], aims=[1, 0, 1])), margin(logits, aims))


def test_towards_rival_climbs_the_rival_above_the_label() -> None:
    state = lanes([0, 1, 2], rivals=[3, 4, 0])
    assert towards_rival(LOGITS, state).tolist() == [-7.0, -5.0, -1.0]
    expected = targeted_dlr(LOGITS, torch.tensor([0, 1, 2]), torch.tensor([3, 4, 0]))
    assert torch.equal(towards_rival_dlr(LOGITS, state), expected)


def test_an_aim_must_rise_above_every_other_class() -> None:
    aimed = lanes([0, 1, 2], aims=[2, 2, 3], rivals=[2, 2, 3])
    assert towards_rival(LOGITS, aimed).tolist() == [-2.0, -2.0, -1.0]  # in the last row class 1 is in the way


@pytest.mark.parametrize(
    ("objective", "classes", "message"),
    [
        (away_dlr, 2, r"^the DLR loss needs at least 3 classes, not 2: use apgd:margin "),
        (towards_rival_dlr, 3, r"^the targeted DLR loss needs at least 4 classes, not 3: use apgd:margin-t "),
    ],
)
def test_too_few_classes_are_refused_and_the_error_says_what_works(
    objective: Objective, classes: int, message: str
) -> None:
    state = lanes([0, 1], rivals=[1, 0])
    with pytest.raises(ConfigError, match=message):
        objective(torch.randn(2, classes), state)
    assert objective(torch.randn(2, classes + 1), state).shape == (2,)
