"""Intervals and tests: for one accuracy, for a mean over tasks, and for two models on the same examples.

Wilson's interval for one accuracy, a bootstrap over images for a mean; McNemar's exact test for two models on one
task, the same bootstrap for a mean, Holm's correction for many of them; balanced accuracy and AUROC for two classes.

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


@dataclass(frozen=True)
class Change(Estimate):
    """A difference with its interval, and the two-sided p-value of "there is none"."""

    p: float


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

    Where all outcomes of each task agree (all right, all broken) resampling knows nothing and would give an
    interval of no width. Then the interval is the Wilson interval at the effective number of images.

    Args:
        tasks: One element for each task, at least one.
        level: Coverage, in (0, 1).
        resamples: Draws.
        seed: Of the draws; the same input always gives the same interval.

    Raises:
        ValueError: no task.
    """
    return _estimate(tasks, _draws(tasks, resamples, seed), 0.0, level)


def bootstrap_difference(
    before: Sequence[Outcomes],
    after: Sequence[Outcomes],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Change:
    """Mean over tasks of after − before, paired: both are read off the same resampled images.

    The p-value counts the draws that lie at least as far from the observed mean as that lies from 0; with R draws it
    is never below 1/(R + 1). Where within each task all outcomes changed in the same way it is that of a sign
    test at the effective number of images that changed, with the same floor.

    Efron & Tibshirani (1993), "An introduction to the bootstrap", section 16.4.

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
    draws = _draws(changes, resamples, seed)
    estimate = _estimate(changes, draws, -1.0, level)
    return Change(estimate.value, estimate.interval, _p_value(changes, draws, estimate.value, resamples))


def mcnemar(lost: int, gained: int) -> float:
    """Two-sided exact p-value of "neither model is better" on the examples of one task.

    Only the examples that the two models tell apart count; without a difference each is as likely won as lost.

    Args:
        lost: Examples that only the first model gets right.
        gained: Examples that only the second model gets right.

    Raises:
        ValueError: a negative number.

    McNemar (1947), "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12; exact, as a sign test on the binomial distribution.
    """
    if min(lost, gained) < 0:
        raise ValueError(f"{lost} lost and {gained} gained: numbers of examples are not negative")
    n, ways, total = lost + gained, 1, 0
    for i in range(min(lost, gained) + 1):
        total += ways
        ways = ways * (n - i) // (i + 1)  # the next binomial coefficient, exact
    return min(1.0, 2 * total / (1 << n))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for being several: comparing each with α keeps the chance of any false one below α.

    Args:
        p_values: One for each comparison of the family, in [0, 1].

    Returns:
        The corrected ones, in the same order, in [0, 1], never below the given ones.

    Raises:
        ValueError: a p-value outside [0, 1].

    Holm (1979), "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6.
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values {list(p_values)} are not all between 0 and 1")
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def at_least(successes: int, n: int, share: float) -> float:
    """Probability of ``successes`` or more in ``n`` trials that succeed with probability ``share`` in (0, 1)."""
    logs = (
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(share)
        + (n - k) * math.log1p(-share)
        for k in range(max(0, successes), n + 1)
    )
    return min(1.0, math.fsum(map(math.exp, logs)))


def balanced_accuracy(right: NDArray[np.bool_], labels: NDArray[np.int64]) -> float:
    """Mean over the classes that occur of the share that is right.

    Args:
        right: (n,) whether each prediction is right.
        labels: (n,) class indices.

    Raises:
        ValueError: no example.
    """
    if len(labels) == 0:
        raise ValueError("no outcomes: there is nothing to average")
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def auroc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the chance that a positive example scores higher than a negative one, ties half.

    Args:
        scores: (n,) higher means more likely positive.
        positive: (n,) which examples are.

    Raises:
        ValueError: only one of the two classes occurs.

    Mann & Whitney (1947), "On a test of whether one of two random variables is stochastically larger than the other",
    Annals of Mathematical Statistics 18: the rank sum of the positive examples, with mid-ranks for ties.
    """
    ones = int(positive.sum())
    zeros = len(positive) - ones
    if ones == 0 or zeros == 0:
        raise ValueError("only one class occurs: there is no ROC curve")
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return float((ranks[which.ravel()][positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def _draws(tasks: Sequence[Outcomes], resamples: int, seed: int) -> NDArray[np.float64] | None:
    """(resamples,) means over resampled images; None where all outcomes of each task agree: it would know nothing."""
    if not tasks:
        raise ValueError("no tasks: there is nothing to average")
    if all((task.values == task.values[0]).all() for task in tasks):
        return None
    rows, sums = _by_image(tasks)
    draws = _resample(rows, sums, _accuracies(tasks), resamples, np.random.default_rng(seed))
    means: NDArray[np.float64] = draws.mean(axis=1)
    return means


def _accuracies(tasks: Sequence[Outcomes]) -> NDArray[np.float64]:
    return np.array([task.values.mean() for task in tasks])


def _estimate(tasks: Sequence[Outcomes], draws: NDArray[np.float64] | None, lowest: float, level: float) -> Estimate:
    """Mean over tasks of values between ``lowest`` and 1."""
    mean = float(_accuracies(tasks).mean())
    if draws is None:
        width = wilson(0, _independent_images(tasks), level)[1]
        return Estimate(mean, (max(lowest, mean - width), min(1.0, mean + width)))
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(mean, (min(float(low), mean), max(float(high), mean)))


def _p_value(tasks: Sequence[Outcomes], draws: NDArray[np.float64] | None, mean: float, resamples: int) -> float:
    if draws is None:
        return max(_sign_test(tasks) if mean else 1.0, 1 / (resamples + 1))
    # Means of a few outcomes tie often, and float sums in another order differ in their last digit.
    extreme = int((np.abs(draws - mean) >= abs(mean) - 1e-12).sum())
    return (1 + extreme) / (resamples + 1)


def _sign_test(tasks: Sequence[Outcomes]) -> float:
    """Two-sided p-value of "no change" where every task is changed on all its images, in one way, or on none."""
    won, lost = (
        _independent_images(changed) if (changed := [t for t in tasks if sign * t.values[0] > 0]) else 0
        for sign in (1, -1)
    )
    return mcnemar(int(won), int(lost))


def _quantile(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _independent_images(tasks: Sequence[Outcomes]) -> float:
    """The number of images of one task that would know the mean as well as these tasks do."""
    distinct = len({image for task in tasks for image in task.images})
    return min(distinct, len(tasks) ** 2 / sum(1 / len(set(task.images)) for task in tasks))


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
