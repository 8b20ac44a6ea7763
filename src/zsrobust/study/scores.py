"""Means over the tasks of a tier, and paired differences of them, for cells that were adapted with several seeds.

An image's outcomes under all seeds and tasks are resampled together (:mod:`zsrobust.statistics`), so the interval knows
that they are not independent. That covers the choice of images. With several seeds the luck of the training comes in:
the per-seed values scatter by s, and their mean by s/√k. The two variances add up, and the quantile is Student's t with
Satterthwaite's degrees of freedom, of which only the k − 1 of the seeds are scarce:

    half width = t_ν √(v + s²/k),   v = (half width of the images / 1.96)²,   ν = (v + s²/k)² / ((s²/k)² / (k − 1))

With one seed the interval covers the images only. Satterthwaite (1946), "An approximate distribution of estimates of
variance components", Biometrics Bulletin 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from zsrobust.errors import RunError
from zsrobust.report.results import Alarm
from zsrobust.statistics import Estimate, Interval, Outcomes, bootstrap_difference, bootstrap_mean, wilson
from zsrobust.study.results import CLEAN, EVERY_ATTACK, Cell, StudyTask

# More degrees of freedom than this are a normal distribution.
_MANY = 1000.0


@dataclass(frozen=True)
class Measure:
    """What is averaged: ``what`` is ``"clean"`` or ``"robust"``, the latter under ``attack`` with ``threat``."""

    what: str
    threat: str
    attack: str = EVERY_ATTACK


@dataclass(frozen=True)
class Score:
    """An accuracy, or a difference of two, as shares.

    Attributes:
        value: Mean over tasks, each weighing the same, and over seeds.
        interval: 95 %, of the images and, with several seeds, of the training.
        seeds: What was averaged; empty for the unadapted model.
        by_seed: The values of the seeds, in the same order; one value without seeds.
        n: Examples, over all tasks.
        tasks: Names.
        alarms: Those that put a robust accuracy in doubt; none where only clean accuracies are read.
    """

    value: float
    interval: Interval
    seeds: tuple[int, ...]
    by_seed: tuple[float, ...]
    n: int
    tasks: tuple[str, ...]
    alarms: tuple[Alarm, ...]

    @property
    def doubt(self) -> tuple[str, ...]:
        """Names of the alarms."""
        return tuple(dict.fromkeys(alarm.name or alarm.text for alarm in self.alarms))


Values = tuple[list[str], NDArray[np.float64]]
"""Cluster keys of the examples that all cells have, and (cells, examples) values."""


def score(cells: Sequence[Cell], tasks: Sequence[StudyTask], measure: Measure) -> Score | None:
    """The mean of cells that differ in their seed only; None where one of them lacks a task, or nothing is there."""
    per_task = _per_task([(cell, measure) for cell in cells], tasks)
    if per_task is None:
        return None
    seeds = tuple(cell.seed for cell in cells if cell.seed is not None)
    by_seed = np.mean([values.mean(axis=1) for _, values in per_task], axis=0)
    estimate = bootstrap_mean([Outcomes(images, values.mean(axis=0)) for images, values in per_task])
    return _scored(estimate, by_seed, seeds, per_task, tasks, _doubts([(cell, measure) for cell in cells], tasks), 0.0)


Pair = tuple[Cell, Cell]


def difference(
    pairs: Sequence[Pair], tasks: Sequence[StudyTask], measures: tuple[Measure, Measure]
) -> tuple[Score, Score, Score] | None:
    """First − second, on the same examples, with the means of the two.

    Args:
        pairs: Cells to compare; pairs of one seed are averaged first. Every seed must have equally many.
        tasks: To average over.
        measures: Of the first and of the second cell of each pair.

    Returns:
        (difference, first, second), or None where a cell lacks a task, or nothing is there.
    """
    sides = [[(pair[side], measures[side]) for pair in pairs] for side in (0, 1)]
    both = _per_task([*sides[0], *sides[1]], tasks)
    if both is None:
        return None
    k = len(pairs)
    seeds = [next((cell.seed for cell in pair if cell.seed is not None), None) for pair in pairs]
    named = tuple(sorted({seed for seed in seeds if seed is not None}))
    doubts = [_doubts(side, tasks) for side in sides]
    found = []
    for side in (0, 1):
        per_task = [(images, values[side * k : (side + 1) * k]) for images, values in both]
        estimate = bootstrap_mean([Outcomes(images, values.mean(axis=0)) for images, values in per_task])
        own = named if any(cell.seed is not None for cell, _ in sides[side]) else ()
        by_seed = _by_seed(np.mean([v.mean(axis=1) for _, v in per_task], axis=0), seeds if own else [None] * k)
        found.append(_scored(estimate, by_seed, own, per_task, tasks, doubts[side], 0.0))
    first, second = (
        [Outcomes(images, values[side * k : (side + 1) * k].mean(axis=0)) for images, values in both] for side in (0, 1)
    )
    change = bootstrap_difference(second, first)
    changes = np.mean([values[:k].mean(axis=1) - values[k:].mean(axis=1) for _, values in both], axis=0)
    alarms = tuple({alarm.name or alarm.text: alarm for side in doubts for alarm in side}.values())
    total = _scored(change, _by_seed(changes, seeds), named, both, tasks, alarms, -1.0)
    return total, found[0], found[1]


def share(right: float, n: int) -> Interval:
    """Wilson's interval of an accuracy on ``n`` images, for which only the share is known."""
    return wilson(right * n, n)


def widened(estimate: Estimate, by_seed: Sequence[float] | NDArray[np.float64], lowest: float) -> Interval:
    """The interval of the images, widened by the scatter of the seeds; see the module."""
    k = len(by_seed)
    low, high = estimate.interval
    scatter = float(np.var(by_seed, ddof=1)) / k if k > 1 else 0.0
    if scatter == 0:
        return low, high
    normal = NormalDist().inv_cdf(0.975)
    of_images = (((high - low) / 2) / normal) ** 2
    quantile = student(((of_images + scatter) / scatter) ** 2 * (k - 1))
    below, above = (
        quantile * math.sqrt((abs(end - estimate.value) / normal) ** 2 + scatter) for end in estimate.interval
    )
    return max(lowest, estimate.value - below), min(1.0, estimate.value + above)


def student(degrees: float) -> float:
    """The 97.5 % quantile of Student's t with ``degrees`` of freedom, at least 1.

    With T = √ν tan θ the density of θ is proportional to cos^(ν − 1) θ on (−π/2, π/2).
    """
    if degrees >= _MANY:
        return NormalDist().inv_cdf(0.975)
    theta = np.linspace(0, math.pi / 2, 20_001)
    density = np.cos(theta) ** (degrees - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(degrees) * math.tan(float(np.interp(0.95 * below[-1], below, theta)))


def _by_seed(values: NDArray[np.float64], seeds: Sequence[int | None]) -> NDArray[np.float64]:
    """The mean of each seed over its pairs, seeds ascending."""
    groups: dict[int, list[float]] = {}
    for value, seed in zip(values.tolist(), seeds, strict=True):
        groups.setdefault(-1 if seed is None else seed, []).append(value)
    return np.array([np.mean(groups[seed]) for seed in sorted(groups)])


def _scored(
    estimate: Estimate,
    by_seed: NDArray[np.float64],
    seeds: tuple[int, ...],
    per_task: Sequence[Values],
    tasks: Sequence[StudyTask],
    alarms: tuple[Alarm, ...],
    lowest: float,
) -> Score:
    return Score(
        value=estimate.value,
        interval=widened(estimate, by_seed, lowest),
        seeds=seeds,
        by_seed=tuple(float(value) for value in by_seed),
        n=sum(len(images) for images, _ in per_task),
        tasks=tuple(task.name for task in tasks),
        alarms=alarms,
    )


def _per_task(asked: Sequence[tuple[Cell, Measure]], tasks: Sequence[StudyTask]) -> list[Values] | None:
    if not asked or not tasks:
        return None
    found = []
    for task in tasks:
        values = _of_task(asked, task.name)
        if values is None:
            return None
        found.append(values)
    return found


def _of_task(asked: Sequence[tuple[Cell, Measure]], task: str) -> Values | None:
    outcomes = [cell.outcomes.get((task, measure.threat)) for cell, measure in asked]
    there = [outcome for outcome in outcomes if outcome is not None]
    if len(there) < len(outcomes):
        return None
    ids = reduce(np.intersect1d, [outcome.ids for outcome in there])
    if not len(ids):
        return None
    rows = []
    for outcome, (cell, measure) in zip(there, asked, strict=True):
        if measure.what != CLEAN and measure.attack not in outcome.robust:
            raise RunError(
                f"{cell.name} was not attacked by '{measure.attack}' on {task} under {measure.threat}, "
                f"only by {', '.join(name for name in outcome.robust if name != EVERY_ATTACK)}"
            )
        values = outcome.clean if measure.what == CLEAN else outcome.robust[measure.attack]
        rows.append(values[np.isin(outcome.ids, ids)])
    first = there[0]
    images = [first.images[i] for i in np.flatnonzero(np.isin(first.ids, ids)).tolist()]
    return images, np.stack(rows)


def _doubts(asked: Sequence[tuple[Cell, Measure]], tasks: Sequence[StudyTask]) -> tuple[Alarm, ...]:
    """Alarms that put a robust accuracy in doubt, equal names once."""
    found: dict[str, Alarm] = {}
    for cell, measure in asked:
        for task in tasks if measure.what != CLEAN else ():
            outcome = cell.outcomes.get((task.name, measure.threat))
            for alarm in outcome.alarms if outcome is not None else ():
                if alarm.doubt:
                    found.setdefault(alarm.name or alarm.text, alarm)
    return tuple(found.values())
