"""A gradient that is right at one point and says nothing a fraction of a grey level away.

Balduzzi et al. 2017 (arXiv 1702.08591) for the word; Athalye et al. 2018b (arXiv 1802.00420) for what it hides.
"""

from __future__ import annotations

from zsrobust.alarms import zero_gradient
from zsrobust.alarms.base import Alarm
from zsrobust.alarms.differences import COARSE, LENGTHS, differences
from zsrobust.alarms.subject import Subject
from zsrobust.threat import Threat

# Honest towers keep 0.9 and more of the promised gain over a grey level, and random directions agree to 0.02; over four
# grey levels 0.3 and 0.2. Both have to fail: saturation alone keeps little along the gradient, but agrees across it.
_KEPT = 0.3
_DISAGREE = 0.4


def check(subject: Subject) -> list[Alarm]:
    """One alarm, or none; a declared surrogate need not be smooth here."""
    found = differences(subject)
    if subject.surrogate is not None or not found.connected or bool(found.dead.all()) or zero_gradient.check(subject):
        return []
    sure = [t for t in LENGTHS if found.sure(t)]
    if not sure or found.disagreement(sure[0]) > _DISAGREE:
        return []  # wrong from the start, or nothing to go by
    for t in sure[1:]:
        kept, apart = found.kept(t), found.disagreement(t)
        if kept < _KEPT and apart > _DISAGREE and _within(t, subject.threat):
            text = (
                f"the gradient holds only in a tiny neighbourhood: over {t * 255:g}/255 a step along it gains "
                f"{kept:.0%} of what it promises; attacks follow ripples"
            )
            return [Alarm("shattered-gradient", "measured", text, {"length": t, "kept": kept, "disagreement": apart})]
    return []


def _within(t: float, threat: Threat) -> bool:
    """Attacks in small balls never go as far as the longest step."""
    return t < COARSE or (threat.norm == "linf" and threat.eps >= COARSE)
