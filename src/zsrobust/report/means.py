"""Means over the tasks of a tier, for one seed and for those that were attacked alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np

from zsrobust.report.count import Measured
from zsrobust.report.results import ALL, WITHOUT_BINARY, AcrossSeeds, Mean
from zsrobust.report.words import NOT_ADAPTED, TIERS, listed
from zsrobust.statistics import Estimate, Interval, Outcomes, bootstrap_mean, wilson

Group = Sequence[Measured]
Place = tuple[str, str, int, str]
"""Model, threat, seed, task."""
# By the number of classes a task has the one or the other: they are no two attacks.
_SUITE, _SUITE_FOR_FEW = "autoattack", "autoattack-few"


class Key(NamedTuple):
    """What a mean is over; ``not adapted`` is a tier here."""

    model: str
    threat: str
    seed: int
    tier: str
    which: str


def groups(measured: Iterable[Measured]) -> dict[Key, list[Measured]]:
    """The rows behind each mean; without binary tasks only where there are both kinds."""
    found: dict[Key, list[Measured]] = {}
    for tier in (*TIERS, NOT_ADAPTED):
        for m in measured:
            if m.row.tier == tier or (tier == NOT_ADAPTED and m.row.tier != "adapted"):
                found.setdefault(Key(m.row.model, m.row.threat, m.row.seed, tier, ALL), []).append(m)
    for key, group in list(found.items()):
        others = [m for m in group if m.row.classes > 2]
        if 0 < len(others) < len(group):
            found[key._replace(which=WITHOUT_BINARY)] = others
    return found


def outcomes(group: Iterable[Measured], what: str) -> list[Outcomes]:
    """``"clean"`` or ``"robust"`` outcomes, for each row."""
    return [Outcomes(m.counted.images, getattr(m.counted, what).astype(np.float64)) for m in group]


def means(measured: Sequence[Measured], models: Sequence[str]) -> tuple[Mean, ...]:
    """One for each model, threat, seed and tier."""
    found = []
    for key, group in groups(measured).items():
        clean, robust = (_mean(outcomes(group, what)) for what in ("clean", "robust"))
        found.append(
            Mean(
                model=key.model,
                tier=key.tier,
                threat=key.threat,
                seed=key.seed,
                tasks=tuple(m.row.task for m in group),
                clean=clean.value,
                clean_interval=clean.interval,
                robust=robust.value,
                robust_interval=robust.interval,
                which=key.which,
            )
        )
    return tuple(sorted(found, key=lambda mean: models.index(mean.model)))


def across_seeds(measured: Sequence[Measured], means: Sequence[Mean]) -> tuple[AcrossSeeds, ...]:
    """Means with several seeds under the same attacks, combined over the examples that every one of these has."""
    rows = _by_place(measured)
    found = []
    for several in _by_seed(means, rows):
        first = several[0]
        seeds = [[rows[mean.model, mean.threat, mean.seed, task] for mean in several] for task in first.tasks]
        clean, robust = _combined(seeds, "clean"), _combined(seeds, "robust")
        if clean is None or robust is None:
            continue
        found.append(
            AcrossSeeds(
                model=first.model,
                tier=first.tier,
                threat=first.threat,
                seeds=tuple(mean.seed for mean in several),
                tasks=first.tasks,
                clean=clean.mean.value,
                clean_range=clean.span,
                robust=robust.mean.value,
                robust_range=robust.span,
                which=first.which,
                n=clean.n,
                clean_interval=clean.mean.interval,
                robust_interval=robust.mean.interval,
            )
        )
    return tuple(found)


def attacked_differently(measured: Sequence[Measured], means: Sequence[Mean]) -> list[str]:
    """Sentences about means over tasks that were attacked differently, and about seeds that were, so have no mean."""
    attacks = {place: m.row.attack for place, m in _by_place(measured).items()}
    return [
        *_said("A mean is over tasks under different attacks", _tasks_apart(attacks, means)),
        *_said("Seeds under different attacks are not averaged", _seeds_apart(attacks)),
    ]


def _said(what: str, found: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A sentence for each answer, with all the places it is about, from (answer, place)."""
    places: dict[str, dict[str, None]] = {}
    for answer, place in found:
        places.setdefault(answer, {})[place] = None
    for answer, several in places.items():
        names = [*several]
        shown = names if len(names) < 5 else [*names[:3], f"{len(names) - 3} more"]
        yield f"{what}: {answer} ({listed(shown)})."


def _tasks_apart(attacks: Mapping[Place, str], means: Iterable[Mean]) -> Iterator[tuple[str, str]]:
    for mean in means:
        tasks: dict[str, list[str]] = {}
        for task in mean.tasks:
            tasks.setdefault(attacks[mean.model, mean.threat, mean.seed, task], []).append(task)
        if mean.which == ALL and len({attack.replace(_SUITE_FOR_FEW, _SUITE) for attack in tasks}) > 1:
            answer = ", ".join(f"{attack} on {listed(those)}" for attack, those in tasks.items())
            yield answer, f"{mean.model} under {mean.threat}"


def _seeds_apart(attacks: Mapping[Place, str]) -> Iterator[tuple[str, str]]:
    for model, threat in dict.fromkeys(place[:2] for place in attacks):
        of_task: dict[str, set[str]] = {}
        of_seed: dict[int, dict[str, None]] = {}
        for (*where, seed, task), attack in attacks.items():
            if where == [model, threat]:
                of_task.setdefault(task, set()).add(attack)
                of_seed.setdefault(seed, {})[attack] = None
        if any(len(names) > 1 for names in of_task.values()):
            answer = ", ".join(f"seed {seed} {listed((*names,))}" for seed, names in of_seed.items())
            yield answer, f"{model} under {threat}"


def _by_place(measured: Sequence[Measured]) -> dict[Place, Measured]:
    return {(m.row.model, m.row.threat, m.row.seed, m.row.task): m for m in measured}


def _by_seed(means: Sequence[Mean], rows: Mapping[Place, Measured]) -> list[list[Mean]]:
    """Means that differ in nothing but the seed; those with one seed are left out."""
    found: dict[tuple[object, ...], list[Mean]] = {}
    for mean in means:
        attacks = tuple(rows[mean.model, mean.threat, mean.seed, task].row.attack for task in mean.tasks)
        found.setdefault((mean.model, mean.tier, mean.threat, mean.which, mean.tasks, attacks), []).append(mean)
    return [group for group in found.values() if len(group) > 1]


class _Combined(NamedTuple):
    """``n`` examples, the mean over seeds, and the least and the largest seed."""

    n: int
    mean: Estimate
    span: Interval


def _combined(tasks: Sequence[Group], what: str) -> _Combined | None:
    """The mean over tasks of each image's mean over seeds; None if the seeds share no example."""
    averaged, of_seeds = [], []
    for seeds in tasks:
        common = reduce(np.intersect1d, [m.counted.ids for m in seeds])
        if not len(common):
            return None
        values = [dict(zip(m.counted.ids.tolist(), getattr(m.counted, what), strict=True)) for m in seeds]
        images = dict(zip(seeds[0].counted.ids.tolist(), seeds[0].counted.images, strict=True))
        ids = common.tolist()
        right = np.array([[v[i] for i in ids] for v in values], dtype=np.float64)
        averaged.append(Outcomes([images[i] for i in ids], right.mean(axis=0)))
        of_seeds.append(right.mean(axis=1))
    each = [float(np.array(seed).mean()) for seed in zip(*of_seeds, strict=True)]
    return _Combined(sum(len(task.values) for task in averaged), _mean(averaged), (min(each), max(each)))


def _mean(tasks: Sequence[Outcomes]) -> Estimate:
    """Over one task with images that are right or wrong, Wilson's interval, as in its row; else resampled images."""
    values = tasks[0].values
    if len(tasks) == 1 and set(values.tolist()) <= {0.0, 1.0}:
        return Estimate(float(values.mean()), wilson(float(values.sum()), len(values)))
    return bootstrap_mean(tasks)
