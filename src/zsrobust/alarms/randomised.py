"""The same image, another answer: noise at inference, random resizing, models taking turns."""

from __future__ import annotations

import torch

from zsrobust.alarms.base import Alarm
from zsrobust.alarms.subject import Subject

# Of the distance from the highest to the lowest logit; kernels that add up in varying order stay below 1e-5.
_SHARE = 1e-4
_ROUNDINGS = 4


def check(subject: Subject) -> list[Alarm]:
    """One alarm, or none; a model that declares ``samples`` has said so, and is attacked as what it is."""
    if subject.samples > 1:
        return []
    looks = torch.stack([subject.logits, *subject.repeats])
    apart = (looks - looks[0]).abs().amax((0, 2))
    random = apart > _SHARE * subject.spread + _ROUNDINGS * subject.rounding
    if not bool(random.any()):
        return []
    share = float((apart / subject.spread.clamp_min(1e-30)).max())
    flips = int((looks.argmax(2) != looks[0].argmax(1)).any(0).sum())
    text = (
        f"the model is random: {int(random.sum())} of {len(random)} images get other logits when asked "
        f"{len(looks)} times, {flips} another class; attacks chase noise, and a lucky draw passes for robustness. "
        "An encoder can declare samples, and is then attacked on average"
    )
    evidence = {"images": len(random), "varying": int(random.sum()), "changing_class": flips, "largest_share": share}
    return [Alarm("randomised", "proved", text, evidence)]
