"""A budget that is probably in another unit than the pixels, which are in [0, 1]."""

from __future__ import annotations

from zsrobust.alarms.base import Alarm
from zsrobust.alarms.subject import Subject
from zsrobust.threat import format_eps

# Per channel of a pixel. From 0.5 on every image can be made plain grey; a tenth of a grey level moves no image file.
_HUGE = 0.5
_TINY = 0.1 / 255
# An L2 budget is spent unevenly, so the same mean change per pixel is a stronger attack.
_TINY_L2 = 0.03 / 255
_HUGE_L2 = 0.25


def check(subject: Subject) -> list[Alarm]:
    """One alarm, or none."""
    threat, dimensions = subject.threat, subject.pixels[0].numel()
    if threat.norm == "patch":  # a part of the area has no unit to be mistaken in
        return []
    root = 1.0 if threat.norm == "linf" else dimensions**0.5
    tiny, huge = (_TINY, _HUGE) if threat.norm == "linf" else (_TINY_L2, _HUGE_L2)
    per_pixel = threat.eps / root
    evidence = {"eps": threat.eps, "norm": threat.norm, "mean_change_in_grey_levels": 255 * per_pixel}
    if per_pixel >= huge:
        text = (
            f"ε = {format_eps(threat.eps)} is a change of {255 * per_pixel:.3g} grey levels in every pixel: "
            "perhaps given in grey levels, where pixels are in [0, 1]"
        )
        return [Alarm("budget-unit", "suspected", text, evidence)]
    if 0 < per_pixel < tiny:
        text = (
            f"ε = {format_eps(threat.eps)} is a change of {255 * per_pixel:.2g} grey levels in every pixel: "
            "perhaps divided by 255 twice"
        )
        return [Alarm("budget-unit", "suspected", text, evidence)]
    return []
