"""What a report says, as numbers: alarms, rows, means, comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zsrobust.statistics import Interval

ALL = "all"
WITHOUT_BINARY = "without binary"
# These say how much was measured, not that the number may be wrong.
_NO_DOUBT = ("incomplete", "unreadable-images")


@dataclass(frozen=True)
class Alarm:
    """Why a number may be wrong.

    Attributes:
        name: For machines, for example ``"black-box-stronger"``; None in runs of older versions.
        strength: ``"proved"``, ``"measured"`` or ``"suspected"``; None in runs of older versions.
        text: A plain sentence.
        evidence: Numbers and words it rests on.
    """

    name: str | None
    strength: str | None
    text: str
    evidence: Mapping[str, Any]

    @property
    def doubt(self) -> bool:
        """Whether the number itself is in doubt, and not only smaller in its sample than was asked for."""
        return self.name not in _NO_DOUBT


@dataclass(frozen=True)
class AttackCount:
    """What one attack did to a row: how many examples it was given, and how many of these it broke."""

    attack: str
    attacked: int
    broken: int


@dataclass(frozen=True)
class Defended:
    """The two numbers of a model with a test-time defence, each in [0, 1] with its 95 % interval.

    ``oblivious``: robust accuracy under the attacks on the model without its defence; ``adaptive``: under the attacks
    on the model as it is, transfers from other models not among them; None if there was none.
    """

    oblivious: float
    oblivious_interval: Interval
    adaptive: float | None
    adaptive_interval: Interval | None


@dataclass(frozen=True)
class Row:
    """A model on a task under a threat with a seed; accuracies and ends of intervals in [0, 1].

    ``forwards`` and ``backwards`` are passes for an example on average, clean and all attacks together. Balanced
    accuracies and AUROC are None unless the task has two classes and both occur. ``defended`` is None unless an attack
    ignored a test-time defence.
    """

    model: str
    task: str
    adapted_on: bool
    tier: str
    n: int
    clean: float
    clean_interval: Interval
    robust: float
    robust_interval: Interval
    attack: str
    threat: str
    norm: str
    eps: float
    space: str
    seed: int
    precision: str
    steps: int | None
    split: str
    flags: tuple[Alarm, ...]
    classes: int
    clean_balanced_accuracy: float | None
    robust_balanced_accuracy: float | None
    clean_auroc: float | None
    robust_auroc: float | None
    forwards: float
    backwards: float
    by_attack: tuple[AttackCount, ...]
    defended: Defended | None


@dataclass(frozen=True)
class Mean:
    """Mean over the tasks of a tier, each weighing the same.

    The intervals resample images; where there is one task, they are those of its row.
    ``which`` is ``"all"``, or ``"without binary"``: then the tasks with two classes are left out.
    """

    model: str
    tier: str
    threat: str
    seed: int
    tasks: tuple[str, ...]
    clean: float
    clean_interval: Interval
    robust: float
    robust_interval: Interval
    which: str


@dataclass(frozen=True)
class Comparison:
    """After − before on the examples both have; ``task`` is None for the mean over the tasks of a tier.

    ``gained`` and ``lost`` count the examples that only the one or the other model gets right. ``p`` is two-sided:
    McNemar's exact test for a task, the bootstrap over images for a mean over several; ``p_holm`` is corrected for
    the ``family`` comparisons made at once: all tasks of this pair, or this mean for all pairs.
    """

    before: str
    after: str
    task: str | None
    tier: str
    threat: str
    seed: int
    tasks: tuple[str, ...]
    n: int
    clean_before: float
    clean_after: float
    clean_change: float
    clean_change_interval: Interval
    robust_before: float
    robust_after: float
    robust_change: float
    robust_change_interval: Interval
    which: str
    clean_gained: int
    clean_lost: int
    clean_p: float
    clean_p_holm: float
    robust_gained: int
    robust_lost: int
    robust_p: float
    robust_p_holm: float
    family: int


@dataclass(frozen=True)
class AcrossSeeds:
    """All seeds together: the mean of the seeds, its least and largest, and an interval that resamples images.

    The seeds see the same ``n`` images of ``tasks`` under the same attacks, so an image's outcomes under all seeds are
    drawn together. The range says how much the attack's luck matters, the interval how much the choice of images does.
    On one task where the seeds agree on every image, the interval is Wilson's, as in a row.
    """

    model: str
    tier: str
    threat: str
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    clean: float
    clean_range: Interval
    robust: float
    robust_range: Interval
    which: str
    n: int
    clean_interval: Interval
    robust_interval: Interval
