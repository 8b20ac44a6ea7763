"""A loss that does not rise with the steps of an ascent, or an ascent that a single large step beats.

Both are signs of Carlini et al. 2019 (arXiv 1902.06705, section 4.2) that a gradient leads nowhere.
"""

from __future__ import annotations

from torch import Tensor

from zsrobust.alarms.base import Alarm
from zsrobust.alarms.subject import Subject
from zsrobust.alarms.white_box import STEPS, WhiteBox, white_box

_FEW = 5
# Of an honest model's images, nearly all come closer to the border.
_CLOSER = 0.6
_LOST = 0.1
_SIGMAS = 3.0


def check(subject: Subject) -> list[Alarm]:
    """One alarm, or none."""
    found = white_box(subject)
    if len(found.labels) < _FEW or subject.threat.eps == 0:
        return []
    last = found.margins[STEPS[-1]]
    rounding = (subject.rounding + 1e-5 * subject.spread)[subject.right]
    closer = float((last < found.start - rounding).float().mean())
    evidence = {
        "images": len(last),
        "closer_to_another_class": closer,
        "margin_at_start": float(found.start.mean()),
        "margin_after_one_large_step": float(found.single.mean()),
        **{f"margin_after_{k}": float(values.mean()) for k, values in found.margins.items()},
    }
    if closer < _CLOSER:
        text = (
            f"{STEPS[-1]} steps uphill bring {closer:.0%} of the images closer to another class: the loss does not rise"
        )
        return [Alarm("loss-does-not-rise", "measured", text, evidence)]
    for what, earlier in (("one large step", found.single), *((f"{k} steps", found.margins[k]) for k in STEPS[:-1])):
        if _worse(last, earlier, found):
            text = (
                f"{STEPS[-1]} steps uphill leave a margin of {float(last.mean()):.3g}, {what} one of "
                f"{float(earlier.mean()):.3g}: climbing on makes it worse"
            )
            return [Alarm("loss-does-not-rise", "measured", text, evidence)]
    return []


def _worse(last: Tensor, earlier: Tensor, found: WhiteBox) -> bool:
    """Whether the margin grew since, by more than chance and by a good part of what was ever gained."""
    grown = last - earlier
    error = float(grown.std()) / len(grown) ** 0.5
    gained = float((found.start - earlier).mean())
    return bool(float(grown.mean()) > max(_SIGMAS * error, _LOST * gained, 1e-6))
