"""Means over the tasks of a tier, for one seed and for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np

from zsrobust.report.count import Measured
from zsrobust.report.results import ALL, WITHOUT_BINARY, AcrossSeeds, Mean
from zsrobust.report.words import NOT_ADAPTED, TIERS
from zsrobust.statistics import Estimate, Outcomes, bootstrap_mean

Group = Sequence[Measured]


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
        clean, robust = (bootstrap_mean(outcomes(group, what)) for what in ("clean", "robust"))
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
    """Means with several seeds, combined; the interval is over the examples that every seed has."""
    rows = {(m.row.model, m.row.threat, m.row.seed, m.row.task): m for m in measured}
    found = []
    for several in _by_seed(means):
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
                clean=clean[1].value,
                clean_range=(min(m.clean for m in several), max(m.clean for m in several)),
                robust=robust[1].value,
                robust_range=(min(m.robust for m in several), max(m.robust for m in several)),
                which=first.which,
                n=clean[0],
                clean_interval=clean[1].interval,
                robust_interval=robust[1].interval,
            )
        )
    return tuple(found)


def _by_seed(means: Sequence[Mean]) -> list[list[Mean]]:
    """Means that differ in nothing but the seed; those with one seed are left out."""
    found: dict[tuple[object, ...], list[Mean]] = {}
    for mean in means:
        found.setdefault((mean.model, mean.tier, mean.threat, mean.which, mean.tasks), []).append(mean)
    return [group for group in found.values() if len(group) > 1]


def _combined(tasks: Sequence[Group], what: str) -> tuple[int, Estimate] | None:
    """Examples and the mean over tasks of each image's mean over seeds; None if the seeds share no example."""
    averaged = []
    for seeds in tasks:
        common = reduce(np.intersect1d, [m.counted.ids for m in seeds])
        if not len(common):
            return None
        values = [dict(zip(m.counted.ids.tolist(), getattr(m.counted, what), strict=True)) for m in seeds]
        images = dict(zip(seeds[0].counted.ids.tolist(), seeds[0].counted.images, strict=True))
        ids = common.tolist()
        mean = np.array([np.mean([v[i] for v in values]) for i in ids])
        averaged.append(Outcomes([images[i] for i in ids], mean))
    return sum(len(task.values) for task in averaged), bootstrap_mean(averaged)
