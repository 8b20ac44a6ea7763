"""Numbers that an attack is given: whole ones, ones of numpy, and what is none."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from zsrobust.attacks.apgd import APGD
from zsrobust.attacks.carlini_wagner import CarliniWagner
from zsrobust.attacks.fab import FAB
from zsrobust.attacks.patch import Patch
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.square import Square
from zsrobust.attacks.transfer import Transfer
from zsrobust.errors import ConfigError
from zsrobust.threat import Threat

BALL = Threat("linf", "4/255")


def transfer(threat: Threat, **options: Any) -> Transfer:
    return Transfer("tiny", threat, **options)


WHOLE: list[tuple[Any, Threat, list[str]]] = [
    (PGD, BALL, ["steps", "restarts"]),
    (APGD, BALL, ["steps", "restarts"]),
    (FAB, BALL, ["steps", "targets", "restarts"]),
    (Square, BALL, ["queries", "restarts", "horizon"]),
    (CarliniWagner, Threat("l2", "0.5"), ["steps", "binary_steps"]),
    (Patch, Threat("patch", "0.1"), ["steps", "places", "restarts"]),
    (transfer, BALL, ["steps", "restarts"]),
]


@pytest.mark.parametrize(("build", "threat", "names"), WHOLE)
def test_a_number_of_steps_that_is_not_whole_is_refused(build: Any, threat: Threat, names: list[str]) -> None:
    for name in names:
        for value in (2.5, 2.0, "2", True):
            with pytest.raises(ConfigError, match=f"s {name} must be a whole number, not {value!r}"):
                build(threat, **{name: value})


@pytest.mark.parametrize(("build", "threat", "names"), WHOLE)
def test_numpys_whole_numbers_are_as_good_as_pythons(build: Any, threat: Threat, names: list[str]) -> None:
    given = build(threat, **{name: np.int64(2) for name in names})
    assert given == build(threat, **dict.fromkeys(names, 2))
    assert all(type(getattr(given, name)) is int for name in names)
    json.dumps(given.describe() if build is not transfer else given.climb.describe())


def test_lengths_and_shares_are_plain_numbers() -> None:
    size = np.float32(0.01)
    attacks: list[Any] = [PGD(BALL, 2, step_size=size), FAB(BALL, beta=size, alpha_max=size), Square(BALL, p_init=size)]  # type: ignore[arg-type]
    for attack in attacks:
        json.dumps(attack.describe())
    assert attacks[0].name == f"pgd:2:step_size={float(size)!r}"
    assert FAB(BALL, beta=1).name == "fab:beta=1"
    for wrong in ("1/255", True, [0.1]):
        with pytest.raises(ConfigError, match="PGD's step_size must be a number, not"):
            PGD(BALL, 2, step_size=wrong)  # type: ignore[arg-type]
