"""Means over the tasks of a tier, and paired differences of them, for cells that were adapted with several seeds.

An image's outcomes under all seeds and tasks are resampled together (:mod:`zsrobust.statistics`), so the interval knows
that they are not independent. That covers the choice of images. With several seeds the luck of the training comes in:
the per-seed values scatter by s, and their mean by s/√k. The two variances add up, and the quantile is Student's t with
Satterthwaite's degrees of freedom, of which only the k − 1 of the seeds are scarce:

    half width = t_ν √(v + s²/k),   v = (half width of the images / 1.96)²,   ν = (v + s²/k)² / ((s²/k)² / (k − 1))

With one seed the interval covers the images only, and for one task it is Wilson's, as in a report. To a difference the
variance of one image more that was won and of one that was lost is added, 2/n²: where hardly any image changed, and all
in one direction, a bootstrap is too sure (with four of 200 won and none lost it would exclude 0, which an exact test
does not). Agresti & Min (2005), "Simple improved confidence intervals for comparing matched proportions", Statistics
in Medicine 24, add half as much to a symmetric interval. Satterthwaite (1946), "An approximate distribution of
estimates of variance components", Biometrics Bulletin 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from zsrobust.errors import RunError
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
        doubt: Names of alarms about it; none where only clean accuracies are read.
    """

    value: float
    interval: Interval
    seeds: tuple[int, ...]
    by_seed: tuple[float, ...]
    n: int
    tasks: tuple[str, ...]
    doubt: tuple[str, ...]


Asked = Sequence[tuple[Cell, Measure]]
Values = list[tuple[list[str], NDArray[np.float64]]]
"""For each task: cluster keys of the examples that all cells have, and (cells, examples) values."""


def score(cells: Sequence[Cell], tasks: Sequence[StudyTask], measure: Measure) -> Score | None:
    """The mean of cells that differ in their seed only; None where one of them lacks a task, or nothing is there."""
    asked = [(cell, measure) for cell in cells]
    values = _values(asked, tasks)
    return None if values is None else _accuracy(values, asked, tasks)


def difference(
    pairs: Sequence[tuple[Cell, Cell]],
    tasks: Sequence[StudyTask],
    measures: tuple[Measure, Measure],
    *,
    comparisons: int = 1,
) -> tuple[Score, Score, Score] | None:
    """First − second, on the same examples, with the means of the two.

    Args:
        pairs: Cells to compare, a pair for each seed; the unadapted model may be in all of them.
        tasks: To average over.
        measures: Of the first and of the second cell of each pair.
        comparisons: The difference is one of so many: its interval then is one of 1 − 0.05/comparisons (Bonferroni), so
            that all of them hold together with 95 %. The intervals of the means stay 95 %.

    Returns:
        (difference, first, second), or None where a cell lacks a task, or nothing is there.
    """
    sides = [[(pair[side], measures[side]) for pair in pairs] for side in (0, 1)]
    both = _values([*sides[0], *sides[1]], tasks)
    if both is None:
        return None
    k = len(pairs)
    halves: list[Values] = [[(images, v[:k]) for images, v in both], [(images, v[k:]) for images, v in both]]
    first, second = (_accuracy(half, side, tasks) for half, side in zip(halves, sides, strict=True))
    change = bootstrap_difference(_outcomes(halves[1]), _outcomes(halves[0]))
    change = replace(change, interval=blurred(change, _independent(both)))
    changes: Values = [(images, v[:k] - v[k:]) for images, v in both]
    doubt = tuple(dict.fromkeys((*first.doubt, *second.doubt)))
    seeds = first.seeds or second.seeds
    return _scored(change, changes, seeds, tasks, doubt, -1.0, 1 - 0.05 / comparisons), first, second


def blurred(change: Estimate, n: float) -> Interval:
    """The interval of a difference on ``n`` images, as if one more were won and one more lost; see the module."""
    more = NormalDist().inv_cdf(0.975) * math.sqrt(2) / n
    below, above = (math.hypot(end - change.value, more) for end in change.interval)
    return max(-1.0, change.value - below), min(1.0, change.value + above)


def _independent(values: Values) -> float:
    """How many images of one task would know the mean as well as those of these tasks do."""
    distinct = len({image for images, _ in values for image in images})
    return min(distinct, len(values) ** 2 / sum(1 / len(images) for images, _ in values))


def widened(estimate: Estimate, by_seed: Sequence[float], lowest: float, confidence: float = 0.95) -> Interval:
    """The 95 % interval of the images, widened by the scatter of the seeds, at another confidence; see the module."""
    k = len(by_seed)
    low, high = estimate.interval
    scatter = float(np.var(by_seed, ddof=1)) / k if k > 1 else 0.0
    if scatter == 0 and confidence == 0.95:
        return low, high
    normal = NormalDist().inv_cdf(0.975)
    of_images = (((high - low) / 2) / normal) ** 2
    degrees = ((of_images + scatter) / scatter) ** 2 * (k - 1) if scatter else math.inf
    quantile = student(degrees, confidence)
    below, above = (
        quantile * math.sqrt((abs(end - estimate.value) / normal) ** 2 + scatter) for end in estimate.interval
    )
    return max(lowest, estimate.value - below), min(1.0, estimate.value + above)


def student(degrees: float, confidence: float = 0.95) -> float:
    """What |t| of Student's t with ``degrees`` of freedom, at least 1, stays below with this ``confidence``.

    With T = √ν tan θ the density of θ is proportional to cos^(ν − 1) θ on (−π/2, π/2).
    """
    if degrees >= _MANY:
        return NormalDist().inv_cdf((1 + confidence) / 2)
    theta = np.linspace(0, math.pi / 2, 20_001)
    density = np.cos(theta) ** (degrees - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(degrees) * math.tan(float(np.interp(confidence * below[-1], below, theta)))


def _accuracy(values: Values, asked: Asked, tasks: Sequence[StudyTask]) -> Score:
    seeds = tuple(cell.seed for cell, _ in asked if cell.seed is not None)
    estimate = bootstrap_mean(_outcomes(values))
    right = values[0][1][0]
    if len(values) == 1 and len(seeds) < 2 and set(right.tolist()) <= {0.0, 1.0}:
        estimate = replace(estimate, interval=wilson(right.sum(), len(right)))
    return _scored(estimate, values, seeds, tasks, _doubt(asked, tasks), 0.0)


def _outcomes(values: Values) -> list[Outcomes]:
    return [Outcomes(images, of_cells.mean(axis=0)) for images, of_cells in values]


def _scored(
    estimate: Estimate,
    values: Values,
    seeds: tuple[int, ...],
    tasks: Sequence[StudyTask],
    doubt: tuple[str, ...],
    lowest: float,
    confidence: float = 0.95,
) -> Score:
    by_seed = np.mean([of_cells.mean(axis=1) for _, of_cells in values], axis=0).tolist()
    by_seed = by_seed if seeds else by_seed[:1]  # the unadapted model, once for each seed of the other one
    return Score(
        value=estimate.value,
        interval=widened(estimate, by_seed, lowest, confidence),
        seeds=seeds,
        by_seed=tuple(by_seed),
        n=sum(len(images) for images, _ in values),
        tasks=tuple(task.name for task in tasks),
        doubt=doubt,
    )


def _values(asked: Asked, tasks: Sequence[StudyTask]) -> Values | None:
    found = [_of_task(asked, task.name) for task in tasks] if asked else []
    there = [one for one in found if one is not None]
    return there if there and len(there) == len(found) else None


def _of_task(asked: Asked, task: str) -> tuple[list[str], NDArray[np.float64]] | None:
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


def _doubt(asked: Asked, tasks: Sequence[StudyTask]) -> tuple[str, ...]:
    """Names of the alarms that put a robust accuracy in doubt."""
    there = [(cell.outcomes[task.name, m.threat], m) for cell, m in asked for task in tasks]
    alarms = [alarm for outcome, m in there if m.what != CLEAN for alarm in outcome.alarms if alarm.doubt]
    return tuple(dict.fromkeys(alarm.name or alarm.text for alarm in alarms))
