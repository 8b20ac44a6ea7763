"""A gradient that is not that of the function: part of the path is detached, or another path is differentiated."""

from __future__ import annotations

from zsrobust.alarms import zero_gradient
from zsrobust.alarms.base import Alarm
from zsrobust.alarms.differences import LENGTHS, Differences, differences
from zsrobust.alarms.subject import Subject

# Honest towers are below 0.01 at their best length, 16 bit ones below 0.1; half of the pixels hidden gives 0.5.
_DISAGREE = 0.25
# A useless direction leads 0 times as far as a random one, a straight-through gradient 5 times and more.
_LEAD = 2.0


def check(subject: Subject) -> list[Alarm]:
    """One alarm, or none."""
    found = differences(subject)
    if not found.connected or bool(found.dead.all()) or zero_gradient.check(subject):
        return []
    return _disagrees(found) if subject.surrogate is None else _leads_nowhere(found)


def _disagrees(found: Differences) -> list[Alarm]:
    lengths = [t for t in LENGTHS if found.sure(t)]
    if not lengths:
        return []
    best = min(found.disagreement(t) for t in lengths)
    if best < _DISAGREE:
        return []
    text = (
        "the gradient is not the slope of the function that is evaluated: over no length do differences agree with it "
        f"(they are {best:.0%} apart at best); attacks climb something else"
    )
    return [Alarm("wrong-gradient", "measured", text, {"disagreement": best, "images": len(found.base)})]


def _leads_nowhere(found: Differences) -> list[Alarm]:
    """A surrogate need not agree, but a step along its gradient must move the model itself."""
    best = max(found.lead(t) for t in LENGTHS)
    if best >= _LEAD:
        return []
    text = (
        "the declared surrogate is of no use: a step along its gradient moves the model "
        f"{best:.2g} times as far as a random step; attacks that use it are blind"
    )
    return [Alarm("wrong-gradient", "measured", text, {"lead": best, "images": len(found.base)})]
