"""Intervals: Wilson for one accuracy, a bootstrap over images for a mean over tasks.

All intervals cover sampling of the images only. A robust accuracy is an upper bound on the truth, because a
stronger attack may exist, and nothing here says how far below it the truth lies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]

RESAMPLES = 2000
# A stratum of g images loses 1/g of its variance in a bootstrap; below this size strata of shared images are
# pooled.
SMALLEST_STRATUM = 20


@dataclass(frozen=True)
class Outcomes:
    """What happened on one task.

    Attributes:
        images: (n,) cluster keys; equal keys, within a task or between tasks, are the same image.
        values: (n,) numbers to average: 0/1 for an accuracy, −1/0/1 for a paired change.

    Raises:
        ValueError: no outcome, or the lengths differ.
    """

    images: Sequence[str]
    values: NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.values):
            raise ValueError(f"{len(self.images)} images but {len(self.values)} values")
        if len(self.values) == 0:
            raise ValueError("no outcomes: there is nothing to average")


@dataclass(frozen=True)
class Estimate:
    """A value with its interval."""

    value: float
    interval: Interval


def wilson(successes: float, n: float, level: float = 0.95) -> Interval:
    """Wilson score interval of a proportion, in [0, 1].

    Args:
        successes: Between 0 and ``n``.
        n: Number of trials, more than 0.
        level: Coverage, in (0, 1).

    Raises:
        ValueError: ``n`` is 0, or ``successes`` is not in [0, n].

    Wilson (1927), "Probable inference, the law of succession, and statistical inference", JASA 22.
    """
    if n <= 0:
        raise ValueError("no trials: a proportion of nothing has no interval")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    z2 = _quantile(level) ** 2
    share = successes / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # At the ends the formula is exact in the reals and off by an ulp in floats: the estimate must lie inside.
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def bootstrap_mean(
    tasks: Sequence[Outcomes], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Mean over tasks of their accuracies, every task weighing the same, with a percentile interval.

    Images are resampled, not rows: when an image is drawn, its outcomes on *all* tasks that show it come
    along, so tasks that share renders are not taken for independent. Images are drawn within strata, the sets
    of tasks that show them, so each task keeps its size; strata of shared images with fewer than 20 images
    are pooled, since a bootstrap within tiny strata is too narrow, and there a task's size varies a little
    (its accuracy in a draw is right answers / rows of that draw; a task without any row in a draw keeps its
    observed accuracy).

    Where all outcomes agree (all right, all broken) resampling knows nothing and would give an interval of no
    width. Then the interval is the Wilson interval at the effective number of images.

    Args:
        tasks: One element for each task, at least one.
        level: Coverage, in (0, 1).
        resamples: Draws.
        seed: Of the draws; the same input always gives the same interval.

    Raises:
        ValueError: no task.
    """
    return _bootstrap(tasks, 0.0, level=level, resamples=resamples, seed=seed)


def bootstrap_difference(
    before: Sequence[Outcomes],
    after: Sequence[Outcomes],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Mean over tasks of after − before, paired: both are read off the same resampled images.

    Args:
        before: One element for each task.
        after: The same tasks in the same order, each with the same images in the same order.
        level: Coverage, in (0, 1).
        resamples: Draws.
        seed: Of the draws.

    Raises:
        ValueError: no task, or the images of before and after differ.
    """
    if [list(task.images) for task in before] != [list(task.images) for task in after]:
        raise ValueError("before and after are not on the same images")
    changes = [Outcomes(b.images, a.values - b.values) for b, a in zip(before, after, strict=True)]
    return _bootstrap(changes, -1.0, level=level, resamples=resamples, seed=seed)


def _bootstrap(tasks: Sequence[Outcomes], lowest: float, *, level: float, resamples: int, seed: int) -> Estimate:
    """Mean over tasks of values between ``lowest`` and 1."""
    if not tasks:
        raise ValueError("no tasks: there is nothing to average")
    observed = np.array([task.values.mean() for task in tasks])
    mean = float(observed.mean())
    constant = tasks[0].values[0]
    if all((task.values == constant).all() for task in tasks):
        return Estimate(mean, _constant_interval(tasks, mean, lowest, level))
    rows, sums = _by_image(tasks)
    draws = _resample(rows, sums, observed, resamples, np.random.default_rng(seed))
    low, high = np.quantile(draws.mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Estimate(mean, (min(float(low), mean), max(float(high), mean)))


def _quantile(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _constant_interval(tasks: Sequence[Outcomes], mean: float, lowest: float, level: float) -> Interval:
    """The range of a mean whose outcomes all agree: as wide as Wilson at the effective number of images."""
    distinct = len({image for task in tasks for image in task.images})
    independent = len(tasks) ** 2 / sum(1 / len(set(task.images)) for task in tasks)
    width = wilson(0, min(distinct, independent), level)[1]
    return max(lowest, mean - width), min(1.0, mean + width)


def _by_image(tasks: Sequence[Outcomes]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(images, tasks) numbers of rows, and (images, tasks) sums of values."""
    index: dict[str, int] = {}
    for task in tasks:
        for image in task.images:
            index.setdefault(image, len(index))
    rows = np.zeros((len(index), len(tasks)))
    sums = np.zeros_like(rows)
    for column, task in enumerate(tasks):
        where = np.array([index[image] for image in task.images])
        np.add.at(rows[:, column], where, 1)
        np.add.at(sums[:, column], where, task.values)
    return rows, sums


def _strata(rows: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Indices of images, grouped by the set of tasks that show them; small shared groups become one."""
    patterns, group = np.unique(rows > 0, axis=0, return_inverse=True)
    members = [np.flatnonzero(group.ravel() == g) for g in range(len(patterns))]
    pooled = [patterns[g].sum() > 1 and len(members[g]) < SMALLEST_STRATUM for g in range(len(patterns))]
    strata = [m for m, small in zip(members, pooled, strict=True) if not small]
    if any(pooled):
        strata.append(np.concatenate([m for m, small in zip(members, pooled, strict=True) if small]))
    return strata


def _resample(
    rows: NDArray[np.float64],
    sums: NDArray[np.float64],
    observed: NDArray[np.float64],
    resamples: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """(resamples, tasks) accuracies.

    Images of a stratum with equal rows and sums are interchangeable, so a draw is a multinomial over the
    distinct ones: the same distribution as drawing images, at a fraction of the price.
    """
    total_rows = np.zeros((resamples, rows.shape[1]))
    total_sums = np.zeros_like(total_rows)
    for members in _strata(rows):
        kinds, counts = np.unique(np.hstack([rows[members], sums[members]]), axis=0, return_counts=True)
        draws = rng.multinomial(len(members), counts / len(members), size=resamples).astype(np.float64)
        total_rows += draws @ kinds[:, : rows.shape[1]]
        total_sums += draws @ kinds[:, rows.shape[1] :]
    present = total_rows > 0
    return np.where(present, total_sums / np.where(present, total_rows, 1), observed)
