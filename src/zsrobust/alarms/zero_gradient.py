"""No gradient, or next to none, where the function does move: quantised inputs, detours through numpy.

Athalye et al. 2018b (arXiv 1802.00420, section 3) call it the first kind of obfuscated gradients.
"""

from __future__ import annotations

from torch import Tensor

from zsrobust.alarms.base import Alarm
from zsrobust.alarms.differences import COARSE, LENGTHS, Differences, differences
from zsrobust.alarms.subject import Subject

_SHARE = 0.1
# A linear function moves at most √D times as far along its gradient as at random, and never less far.
_FAINT = 0.5
_ABOVE_NOISE = 20


def check(subject: Subject) -> list[Alarm]:
    """One alarm, or none."""
    found = differences(subject)
    n, dead = len(found.base), int(found.dead.sum())
    if not found.connected:
        text = "autograd does not reach the pixels: attacks that use a gradient are blind"
        return [Alarm("zero-gradient", "proved", text, {"images": n, "without_gradient": n})]
    if dead >= max(1, _SHARE * n) and _moves(subject, found):
        text = (
            f"the gradient is exactly zero on {dead} of {n} images, though the logits change with the pixels: "
            "attacks that use it stand still"
        )
        return [Alarm("zero-gradient", "proved", text, {"images": n, "without_gradient": dead})]
    if subject.surrogate is not None or dead == n:
        return []
    return _faint(found)


def _moves(subject: Subject, found: Differences) -> bool:
    """Whether the function is no constant: near the images without a gradient, or between images."""
    near = max(_largest(found.across[t] * t) for t in LENGTHS)
    between = _largest((subject.logits[1:] - subject.logits[:1]).abs())
    return max(near, between) > _ABOVE_NOISE * float(found.noise.max())


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def _faint(found: Differences) -> list[Alarm]:
    """The best that the gradient promises is less than what a random direction does."""
    alive = ~found.dead
    at_random = found.across[COARSE].square().mean(1).sqrt()[alive]
    heard = bool((2 * COARSE * at_random > _ABOVE_NOISE * found.noise[alive]).float().mean() > 0.5)
    share = float((found.steepest[alive] / at_random.clamp_min(1e-30)).median())
    if share >= _FAINT or not heard:
        return []
    text = (
        f"the gradient is nearly zero: the best step it promises is {share:.2g} times what a random step of the same "
        "size does, where it should be larger; it says nothing of the function, and may underflow on the way"
    )
    return [Alarm("zero-gradient", "measured", text, {"promised_over_random": share})]
