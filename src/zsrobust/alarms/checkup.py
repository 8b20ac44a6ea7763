"""The check-up: quick before every measurement, full where one wants to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from zsrobust.alarms import (
    black_box,
    budget,
    bypassed,
    claims,
    growing,
    half_precision,
    inner_loop,
    inputs,
    preprocessing,
    randomised,
    saturated,
    shattered_gradient,
    steps,
    training_mode,
    wrong_gradient,
    zero_gradient,
)
from zsrobust.alarms.base import Alarm
from zsrobust.alarms.differences import differences
from zsrobust.alarms.subject import Subject

Check = Callable[[Subject], list[Alarm]]
Progress = Callable[[str], None]

QUICK: dict[str, Check] = {
    "inputs": inputs.check,
    "budget": budget.check,
    "preprocessing": preprocessing.check,
    "training mode": training_mode.check,
    "precision": half_precision.check,
    "loops inside": inner_loop.check,
    "randomness": randomised.check,
    "bypasses": bypassed.check,
    "zero gradients": zero_gradient.check,
    "wrong gradients": wrong_gradient.check,
    "shattered gradients": shattered_gradient.check,
    "saturation": saturated.check,
}

WITH_ATTACKS: dict[str, Check] = {
    "steps of an ascent": steps.check,
    "claims": claims.check,
    "growing ε": growing.check,
    "black-box attacks": black_box.check,
}


def quick(subject: Subject) -> list[Alarm]:
    """A few dozen passes; the same subject gives the same alarms."""
    return _run(QUICK, subject, None)


def full(subject: Subject, progress: Progress | None = None) -> list[Alarm]:
    """The quick checks, and attacks: a climb of 50 steps, huge ε, Square and transfer; minutes.

    Args:
        subject: The classifier on trial.
        progress: Called with what is about to be looked at.
    """
    found = _run(QUICK, subject, progress)
    if not differences(subject).connected:
        return found  # already proved: no attack with a gradient can run
    return found + _run(WITH_ATTACKS, subject, progress)


def _run(checks: Mapping[str, Check], subject: Subject, progress: Progress | None) -> list[Alarm]:
    found: list[Alarm] = []
    for name, check in checks.items():
        if progress is not None:
            progress(name)
        found += check(subject)
    return found
