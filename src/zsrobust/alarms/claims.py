"""Successes that the attack saw and the model's verdict does not confirm: the two look at different functions."""

from __future__ import annotations

from zsrobust.alarms import randomised
from zsrobust.alarms.base import Alarm
from zsrobust.alarms.subject import Subject
from zsrobust.alarms.white_box import white_box

_SHARE = 1e-3
# One refuted claim may be rounding at a margin of zero.
_FEWEST = 2
_DENIED = 0.05


def check(subject: Subject) -> list[Alarm]:
    """One alarm, or none; a random model may well answer otherwise the second time."""
    if subject.samples > 1 or randomised.check(subject):
        return []
    found = white_box(subject)
    refuted = found.claimed & (found.held > _SHARE * subject.spread[subject.right])
    if not bool(refuted.any()):
        return []
    text = (
        f"an attack saw another class on {int(found.claimed.sum())} images; the verdict refutes "
        f"{int(refuted.sum())} of them: what is attacked is not what is scored"
    )
    evidence = {"claimed": int(found.claimed.sum()), "refuted": int(refuted.sum())}
    return [Alarm("bypassed", "measured", text, evidence)]


def refuted(made: int, denied: int) -> Alarm | None:
    """The alarm of an evaluation in which verdicts do not confirm what attacks found.

    Args:
        made: Images that attacks claimed to have broken.
        denied: Of those, right again when they were judged.
    """
    if denied < _FEWEST or denied < _DENIED * made:
        return None
    text = (
        f"{denied} of {made} images that an attack had broken were right again when they were judged: "
        "the model answers the same image differently, so the robust accuracy is too high"
    )
    return Alarm("claims-refuted", "measured", text, {"refuted": denied, "claimed": made})
