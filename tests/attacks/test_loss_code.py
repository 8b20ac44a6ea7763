"""Losses of one's own: two of one name that compute different things are two attacks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zsrobust.attacks.patch import Patch
from zsrobust.attacks.pgd import PGD
from zsrobust.losses import cross_entropy, margin_loss
from zsrobust.threat import Threat

CELL = "def my_loss(logits, labels, power={power}):\n    return helper(logits, labels) * {factor} + SHIFT\n"
HELPER = "SHIFT = {shift}\ndef helper(logits, labels):\n    return logits.sum(1) ** {exponent}\n"


def cell(*, factor: int = 2, power: int = 1, shift: int = 0, exponent: int = 1) -> Callable[..., Tensor]:
    """A notebook's cell, run with these numbers in it."""
    names: dict[str, Any] = {"__name__": "notebook"}
    exec(HELPER.format(shift=shift, exponent=exponent) + CELL.format(factor=factor, power=power), names)
    found: Callable[..., Tensor] = names["my_loss"]
    return found


class Weighted(nn.Module):
    weight: Tensor

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor(weight))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels) * self.weight


class Scaled:
    def __init__(self, scale: float) -> None:
        self.scale, self.me = scale, self

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels) * self.scale


def closed(scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda logits, labels: cross_entropy(logits, labels) * scale


@wraps(cross_entropy)
def dressed(logits: Tensor, labels: Tensor) -> Tensor:
    return -cross_entropy(logits, labels)


def code(loss: Any) -> object:
    return PGD(Threat(), 2, loss=loss).describe().get("loss_code")


def test_a_changed_loss_of_the_same_name_is_another_one() -> None:
    changed = [cell(), cell(factor=3), cell(power=2), cell(shift=1), cell(exponent=2)]
    assert {PGD(Threat(), 2, loss=loss).name for loss in changed} == {"pgd:2:loss=my_loss"}
    assert len({code(loss) for loss in changed}) == len(changed)
    assert code(cell()) == code(cell())
    assert code(lambda logits, labels: logits[:, 0]) != code(lambda logits, labels: logits[:, 1])


@pytest.mark.parametrize("make", [Weighted, Scaled, closed, lambda scale: partial(closed(1.0), torch.tensor(scale))])
def test_the_state_of_a_loss_counts(make: Callable[[float], Any]) -> None:
    assert code(make(1.0)) == code(make(1.0)) != code(make(2.0))
    assert " at 0x" not in str(PGD(Threat(), 2, loss=make(1.0)).describe())


def test_methods_and_other_losses_in_one_module_differ() -> None:
    assert code(Scaled(1.0).__call__) != code(Scaled(2.0).__call__)
    assert code(Weighted(1.0)) != code(Scaled(1.0))


def test_our_losses_are_told_by_their_names() -> None:
    for loss in (cross_entropy, margin_loss):
        assert code(loss) is None
        assert "loss_code" not in Patch(Threat("patch", "0.1"), loss=loss).describe()
    assert code(dressed) is not None
    assert "loss_code" in Patch(Threat("patch", "0.1"), loss=dressed).describe()


def test_another_process_gives_the_same_code() -> None:
    text = "def mine(logits, labels, words={'a', 'b', 'c'}):\n    return logits[0] if labels in {'x', 'y', 'z'} else 1"
    names: dict[str, Any] = {"__name__": "notebook"}
    exec(text, names)
    program = (
        "from zsrobust.attacks.loss_code import described\n"
        f"names = {{'__name__': 'notebook'}}\nexec({text!r}, names)\n"
        "print(described(names['mine'])['loss_code'])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.strip() == code(names["mine"])
