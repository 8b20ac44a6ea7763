"""Images outside [0, 1], or squeezed into a corner of it: ε then means something else."""

from __future__ import annotations

from zsrobust.alarms.base import Alarm
from zsrobust.alarms.subject import Subject

_SLACK = 1e-6
_DARK = 2 / 255


def check(subject: Subject) -> list[Alarm]:
    """One alarm, or none."""
    pixels = subject.pixels
    low, high = float(pixels.min()), float(pixels.max())
    evidence = {"least": low, "largest": high}
    if not bool(pixels.isfinite().all()) or low < -_SLACK or high > 1 + _SLACK:
        text = f"the pixels lie in [{low:.4g}, {high:.4g}], not in [0, 1]: ε and the box mean something else"
        return [Alarm("inputs-out-of-range", "proved", text, evidence)]
    if high <= _DARK:
        text = f"no pixel is above {high:.3g}: perhaps divided by 255 twice, and ε is then far too large"
        return [Alarm("inputs-out-of-range", "suspected", text, evidence)]
    return []
