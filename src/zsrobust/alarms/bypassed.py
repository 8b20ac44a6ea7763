"""The attack is given another function than the one that is evaluated: a prompt or wrapper that it goes around."""

from __future__ import annotations

from zsrobust.alarms.base import Alarm
from zsrobust.alarms.differences import differences
from zsrobust.alarms.subject import Subject

# Attention has other kernels when a gradient is wanted; they differ in the sixth digit.
_SHARE = 1e-3
_AGREE = 0.5
_FEW = 8


def check(subject: Subject) -> list[Alarm]:
    """One alarm, or none."""
    return _another_value(subject) if subject.surrogate is None else _another_model(subject)


def _another_value(subject: Subject) -> list[Alarm]:
    found = differences(subject)
    spread = found.logits.amax(1) - found.logits.amin(1)
    rounding = 1e-5 * found.logits.abs().amax(1)
    apart = (found.graded - found.logits).abs().amax(1)
    unsteady = (found.again - found.logits).abs().max()
    other = apart > _SHARE * spread + rounding + 5 * unsteady
    if not bool(other.any()):
        return []
    flips = int((found.graded.argmax(1) != found.logits.argmax(1)).sum())
    share = float((apart / spread.clamp_min(1e-30)).max())
    text = (
        f"the model gives {int(other.sum())} of {len(other)} images other logits when a gradient is wanted than when "
        "it is evaluated: what is attacked is not what is scored"
    )
    evidence = {"images": len(other), "differing": int(other.sum()), "changing_class": flips, "largest_share": share}
    return [Alarm("bypassed", "proved", text, evidence)]


def _another_model(subject: Subject) -> list[Alarm]:
    if len(subject.pixels) < _FEW:
        return []
    stand_in = subject.look(subject.pixels, model=subject.surrogate)
    agree = float((stand_in.argmax(1) == subject.verdict(subject.pixels).argmax(1)).float().mean())
    if agree >= _AGREE:
        return []
    text = (
        f"the declared surrogate agrees with the model on {agree:.0%} of the images: it may be another model, and its "
        "gradient no use against this one"
    )
    return [Alarm("bypassed", "suspected", text, {"agreement": agree, "images": len(subject.pixels)})]
