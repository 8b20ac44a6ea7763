"""After − before, on the same examples: how much, and whether chance explains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsrobust.report.count import Measured
from zsrobust.report.means import Group, groups, outcomes
from zsrobust.report.results import ALL, Comparison
from zsrobust.statistics import Outcomes, bootstrap_difference, holm, mcnemar


def compare(measured: Sequence[Measured], pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
    """For each pair of models: each task and each tier, where both were attacked in the same way."""
    return _corrected([comparison for pair in pairs for comparison in _of_pair(measured, pair)])


def unpaired(
    measured: Sequence[Measured], pairs: Sequence[tuple[str, str]], comparisons: Sequence[Comparison]
) -> list[str]:
    """Sentences about rows that have nothing before adaptation to be compared with."""
    done = {(c.after, c.task, c.threat, c.seed) for c in comparisons if c.task is not None}
    before = {after: before for before, after in pairs}
    return [
        f"{row.model} on {row.task} under {row.threat}, seed {row.seed} (attack {row.attack}) has no row of "
        f"{before[row.model]} with the same attack and examples, so no change is given."
        for row in (m.row for m in measured)
        if row.model in before and (row.model, row.task, row.threat, row.seed) not in done
    ]


def _of_pair(measured: Sequence[Measured], pair: tuple[str, str]) -> list[Comparison]:
    sides = [
        {(m.row.threat, m.row.seed, m.row.task, m.row.attack): m for m in measured if m.row.model == model}
        for model in pair
    ]
    common = [(sides[0][key], sides[1][key]) for key in sides[1] if key in sides[0]]
    common = [(b, a) for b, a in common if np.isin(b.counted.ids, a.counted.ids).any()]
    found = [_comparison(pair, [both], task=both[1].row.task, tier=both[1].row.tier, which=ALL) for both in common]
    before = {id(a): b for b, a in common}
    for key, group in groups([a for _, a in common]).items():
        both = [(before[id(a)], a) for a in group]
        found.append(_comparison(pair, both, task=None, tier=key.tier, which=key.which))
    return found


def _comparison(
    pair: tuple[str, str], both: Sequence[tuple[Measured, Measured]], *, task: str | None, tier: str, which: str
) -> Comparison:
    keep_before = {b.row.task: np.isin(b.counted.ids, a.counted.ids) for b, a in both}
    keep_after = {a.row.task: np.isin(a.counted.ids, b.counted.ids) for b, a in both}
    values: dict[str, Any] = {}
    for what in ("clean", "robust"):
        before = _by_example([b for b, _ in both], what, keep_before)
        after = _by_example([a for _, a in both], what, keep_after)
        values |= {f"{what}_{name}": value for name, value in _change(before, after).items()}
    row = both[0][1].row
    return Comparison(
        before=pair[0],
        after=pair[1],
        task=task,
        tier=tier,
        threat=row.threat,
        seed=row.seed,
        tasks=tuple(a.row.task for _, a in both),
        n=sum(int(keep.sum()) for keep in keep_after.values()),
        which=which,
        family=1,
        **values,
    )


def _change(before: Sequence[Outcomes], after: Sequence[Outcomes]) -> dict[str, Any]:
    """The numbers of one kind of accuracy; the mean over one task is that task, so it has its exact test."""
    change = bootstrap_difference(before, after)
    gained = sum(int((a.values > b.values).sum()) for b, a in zip(before, after, strict=True))
    lost = sum(int((a.values < b.values).sum()) for b, a in zip(before, after, strict=True))
    p = mcnemar(lost, gained) if len(before) == 1 else change.p
    return {
        "before": _mean_accuracy(before),
        "after": _mean_accuracy(after),
        "change": change.value,
        "change_interval": change.interval,
        "gained": gained,
        "lost": lost,
        "p": p,
        "p_holm": p,
    }


def _corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """With Holm's correction: over all tasks of a pair, and for a mean over all pairs."""
    families: dict[tuple[object, ...], list[int]] = {}
    for i, c in enumerate(comparisons):
        key = (c.tier, c.which) if c.task is None else (c.before, c.after)
        families.setdefault((c.task is None, c.threat, c.seed, *key), []).append(i)
    corrected = list(comparisons)
    for members in families.values():
        clean = holm([comparisons[i].clean_p for i in members])
        robust = holm([comparisons[i].robust_p for i in members])
        for i, clean_p, robust_p in zip(members, clean, robust, strict=True):
            corrected[i] = replace(corrected[i], clean_p_holm=clean_p, robust_p_holm=robust_p, family=len(members))
    return corrected


def _mean_accuracy(tasks: Sequence[Outcomes]) -> float:
    return float(np.mean([task.values.mean() for task in tasks]))


def _by_example(group: Group, what: str, keep: Mapping[str, NDArray[np.bool_]]) -> list[Outcomes]:
    """Outcomes ordered by example id, so that runs that evaluated in another order can be paired."""
    found = []
    for m, all_of_it in zip(group, outcomes(group, what), strict=True):
        kept = np.flatnonzero(keep[m.row.task])
        order = kept[np.argsort(m.counted.ids[kept], kind="stable")]
        found.append(Outcomes([all_of_it.images[i] for i in order], all_of_it.values[order]))
    return found
