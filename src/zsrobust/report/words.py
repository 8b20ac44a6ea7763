"""Numbers and threats, in words that a reader outside the field understands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zsrobust.errors import RunError
from zsrobust.report.results import Comparison
from zsrobust.statistics import Interval

TIERS = ("adapted", "related", "unrelated", "unknown")
NOT_ADAPTED = "not adapted"

TIER_WORDS = {
    "adapted": ("Adapted", "the task of the adaptation itself"),
    "related": ("Related", "tasks whose label follows from the adaptation's label"),
    "unrelated": ("Unrelated", "tasks the adaptation says nothing about; the headline"),
    "unknown": (
        "Unknown",
        "nobody said what a model here was adapted on: these may be its training task; adapted_on= says it",
    ),
    NOT_ADAPTED: ("Not adapted", "all tasks but the adapted one"),
}

UPPER_BOUND = (
    "A robust accuracy is an upper bound: a stronger attack can only lower it. "
    "The 95 % interval covers the sampling of images only, not the weakness of the attack."
)

# Below this p-value, corrected, two models are told apart.
LEVEL = 0.05

TOLD_APART = (
    "A change marked * is told apart from none: p below 0.05, for a task by McNemar's exact test with Holm's "
    "correction over the tasks, for a mean by resampling images."
)

TWO_NUMBERS = (
    "Oblivious: attacked as the papers of test-time defences do, with images made for the model without its defence; "
    "adaptive: attacked through the defence. Only the second can say what the defence is worth, and the robust "
    "accuracy of the table counts an image only if it survives both."
)

IN_DOUBT = "A robust accuracy marked ! is in doubt: an alarm says why."

_AXES = {
    "linf": "largest change of a pixel",
    "l2": "Euclidean length of the change",
    "patch": "largest share of the area that changes",
}
_SPACES = {"native": "at the task's own resolution", "model": "at the model's input resolution"}


@dataclass(frozen=True)
class Threat:
    """What an adversary may do, as the runs name it."""

    text: str
    norm: str
    eps_text: str
    eps: float
    space: str

    @property
    def words(self) -> str:
        """A plain sentence without its full stop."""
        where = _SPACES.get(self.space, f"in the space '{self.space}'")
        if self.eps == 0:
            return "nothing may change: robust accuracy is clean accuracy"
        if self.norm == "linf":
            return f"every pixel may change by at most {self.eps_text}, {where}"
        if self.norm == "l2":
            return f"the change of the whole image has Euclidean length at most {self.eps_text}, {where}"
        if self.norm == "patch":
            area = f"{100 * self.eps:.3g} % of the image's area"
            return f"every pixel inside one square of at most {area} may change at will, {where}"
        return f"the change has {self.norm} norm at most {self.eps_text}, {where}"

    @property
    def short(self) -> str:
        """For axes and headings: ``ε = 4/255``."""
        return f"ε = {self.eps_text}"


def axis_words(norm: str) -> str:
    """What an axis of ε of this norm shows."""
    return f"ε, {_AXES.get(norm, f'{norm} norm of the change')}"


def parse_threat(text: str) -> Threat:
    """``"linf:4/255:native"`` taken apart.

    Raises:
        RunError: not of the form norm:eps:space.
    """
    try:
        norm, eps_text, space = text.split(":")
        numerator, _, denominator = eps_text.partition("/")
        eps = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        raise RunError(f"threat '{text}' is not of the form norm:eps:space, for example linf:4/255:native") from None
    return Threat(text, norm, eps_text, eps, space)


def percent(share: float) -> str:
    """0.6104 → ``61.0``."""
    return f"{100 * share:.1f}"


def whole_percent(share: float) -> str:
    """0.61 → ``61``, and never 0 for what is not."""
    return "<1" if 0 < share < 0.005 else f"{100 * share:.0f}"


def points(change: float) -> str:
    """0.293 → ``+29.3``, with a real minus sign."""
    text = f"{100 * change:+.1f}"
    return "±0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def span(interval: Interval, digits: int = 1) -> str:
    """(0.54, 0.675) → ``54.0–67.5``."""
    return "–".join(f"{100 * end:.{digits}f}" for end in interval)


def signed_span(interval: Interval) -> str:
    """(−0.01, 0.03) → ``−1.0 to +3.0``."""
    return " to ".join(points(end) for end in interval)


def p_words(p: float) -> str:
    """0.0312 → ``p = 0.031``; 0.00004 → ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def told_apart_words(change: Comparison, what: str) -> str:
    """``better (p = 0.012, Holm over 8 tasks)``, ``worse (…)`` or ``not told apart (…)``; clean or robust."""
    p, difference = getattr(change, f"{what}_p_holm"), getattr(change, f"{what}_change")
    verdict = "not told apart" if p >= LEVEL or difference == 0 else "better" if difference > 0 else "worse"
    kind = "pairs of models" if change.task is None else "tasks"
    return f"{verdict} ({p_words(p)}" + (f", Holm over {change.family} {kind})" if change.family > 1 else ")")


def mark(p: float) -> str:
    """``*`` where a change is told apart from none."""
    return "*" if p < LEVEL else ""


def pixels(size: float) -> str:
    """A size in [0, 1] in steps of 1/255: 0.0157 → ``4.0/255``."""
    return f"{255 * size:.1f}/255"


def plural(n: int, noun: str) -> str:
    """``1 task``, ``3 tasks``."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
