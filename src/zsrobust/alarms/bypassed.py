"""The attack is given another function than the one that is evaluated: a prompt or wrapper that it goes around."""

from __future__ import annotations

from zsrobust.alarms.base import Alarm
from zsrobust.alarms.differences import differences
from zsrobust.alarms.subject import Subject

# Attention has other kernels when a gradient is wanted; they differ in the sixth digit.
_SHARE = 1e-3
# The identity in place of rounding to 4 levels is 0.15 away; the unprompted model in place of a prompted one 0.4.
_APART = 0.3


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
    """A stand-in for rounding or compression gives nearly the same logits; one without the prompt does not."""
    stand_in, own = subject.look(subject.pixels, model=subject.surrogate), subject.verdict(subject.pixels)
    apart = float(((stand_in - own).abs().amax(1) / subject.spread.clamp_min(1e-30)).median())
    agree = float((stand_in.argmax(1) == own.argmax(1)).float().mean())
    if apart < _APART:
        return []
    text = (
        f"the logits of the declared surrogate are {apart:.0%} of their spread away from the model's, and {agree:.0%} "
        "of the images get the same class: it may be another model, and its gradient no use against this one"
    )
    evidence = {"typically_apart": apart, "agreement": agree, "images": len(own)}
    return [Alarm("bypassed", "suspected", text, evidence)]
