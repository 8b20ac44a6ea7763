"""Runs → rows, means and differences: everything a report says, as numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsrobust.errors import RunError
from zsrobust.records import Cell
from zsrobust.report.count import Counted, count, flags_of, pick_pairs, tier_of, too_weak
from zsrobust.report.load import Model, Picture, Run, Task
from zsrobust.report.merge import Evidence, merge, settings_of
from zsrobust.report.words import NOT_ADAPTED, TIERS, Threat
from zsrobust.statistics import Interval, Outcomes, bootstrap_difference, bootstrap_mean, wilson

SUMMARY_FORMAT = "zsrobust.summary/1"


@dataclass(frozen=True)
class Row:
    """A model on a task under a threat with a seed; accuracies and ends of intervals in [0, 1]."""

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
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Mean:
    """Mean over the tasks of a tier, each weighing the same, with intervals that resample images."""

    model: str
    tier: str
    threat: str
    seed: int
    tasks: tuple[str, ...]
    clean: float
    clean_interval: Interval
    robust: float
    robust_interval: Interval


@dataclass(frozen=True)
class Comparison:
    """After − before on the examples both have; ``task`` is None for the mean over the tasks of a tier."""

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


@dataclass(frozen=True)
class AcrossSeeds:
    """A mean over seeds, its least and largest; no interval, since the images are the same."""

    model: str
    tier: str
    threat: str
    seeds: tuple[int, ...]
    clean: float
    clean_range: Interval
    robust: float
    robust_range: Interval


@dataclass(frozen=True)
class Summary:
    """Everything a report says. ``to_json`` gives what ``summary.json`` holds; the rest is for the eye."""

    rows: tuple[Row, ...]
    means: tuple[Mean, ...]
    comparisons: tuple[Comparison, ...]
    across_seeds: tuple[AcrossSeeds, ...]
    models: tuple[Model, ...]
    tasks: Mapping[str, Task]
    threats: tuple[Threat, ...]
    seeds: tuple[int, ...]
    pairs: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    settings: Mapping[tuple[str, str | None], Mapping[str, Any]]
    runs: tuple[Run, ...]

    def __str__(self) -> str:
        """The tables as plain text, at most 80 columns wide."""
        from zsrobust.report.terminal import plain  # terminal prints summaries, so it imports this module

        return plain(self)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary, see ``docs/results-format.md``."""
        lists = ("rows", "means", "comparisons", "across_seeds")
        return {"format": SUMMARY_FORMAT} | {name: [asdict(x) for x in getattr(self, name)] for name in lists}

    @property
    def adapted(self) -> bool:
        """Whether any model was adapted on any task that was named; without that the tiers mean nothing."""
        return any(model.adapted_on for model in self.models)


@dataclass(frozen=True)
class _Measured:
    """A row and the outcomes behind it."""

    row: Row
    counted: Counted


def summarise(runs: Sequence[Run]) -> Summary:
    """Rows, means by tier, and after − before, of one run or of several merged.

    Raises:
        RunError: no run, runs that cannot be merged, or not one finished example.
    """
    if not runs:
        raise RunError("no run given: name at least one run folder")
    evidence = merge(runs)
    measured, notes = _measure(evidence)
    if not measured:
        where = ", ".join(map(str, runs))
        raise RunError(f"no example of {where} was evaluated to the end; run the evaluation again to go on")
    names = [m.name for m in evidence.models]
    pairs = pick_pairs(evidence.models)
    comparisons = [c for pair in pairs for c in _compare(measured, pair)]
    notes += _unpaired(measured, pairs, comparisons)
    means = _means(measured, names)
    return Summary(
        rows=tuple(m.row for m in measured),
        means=means,
        comparisons=tuple(comparisons),
        across_seeds=_across_seeds(means),
        models=evidence.models,
        tasks=evidence.tasks,
        threats=evidence.threats,
        seeds=evidence.seeds,
        pairs=pairs,
        notes=(*evidence.notes, *notes),
        pictures=tuple(p for run in runs for p in run.pictures),
        settings=evidence.settings,
        runs=tuple(runs),
    )


def _measure(evidence: Evidence) -> tuple[list[_Measured], list[str]]:
    """All rows: by model, then tier, then task, threat, seed; and sentences about what is missing."""
    order = sorted(evidence.tasks.values(), key=lambda task: TIERS.index(tier_of(task, evidence.adapted_on)))
    measured, notes = [], []
    for model in evidence.models:
        for task in order:
            for threat in evidence.threats:
                for seed in evidence.seeds:
                    cell = Cell(model.name, task.name, seed)
                    if (cell, threat.text) not in evidence.attacked:
                        continue
                    attacks = evidence.attacked[cell, threat.text]
                    counted = count(evidence.clean.get(cell, {}), attacks)
                    if len(counted.ids):
                        measured.append(_Measured(_row(evidence, cell, task, threat, counted, attacks), counted))
                    else:
                        where = f"{model.name} on {task.name} under {threat.text}, seed {seed}"
                        notes.append(f"{where}: no example is finished, so there is no row.")
    return measured, notes + too_weak([m.row for m in measured])


def _row(
    evidence: Evidence,
    cell: Cell,
    task: Task,
    threat: Threat,
    counted: Counted,
    attacks: Mapping[str, Mapping[int, bool]],
) -> Row:
    n = len(counted.ids)
    tier = tier_of(task, evidence.adapted_on)
    clean, robust = int(counted.clean.sum()), int(counted.robust.sum())
    settings = [settings_of(evidence.settings, name, threat.text) for name in attacks]
    steps = [s["steps"] for s in settings if isinstance(s.get("steps"), int)]
    return Row(
        model=cell.model,
        task=task.name,
        adapted_on=tier == "adapted",
        tier=tier,
        n=n,
        clean=clean / n,
        clean_interval=wilson(clean, n),
        robust=robust / n,
        robust_interval=wilson(robust, n),
        attack="+".join(attacks),
        threat=threat.text,
        norm=threat.norm,
        eps=threat.eps,
        space=threat.space,
        seed=cell.seed,
        precision=evidence.precision[cell],
        steps=max(steps, default=None),
        split=task.split,
        flags=flags_of(evidence, cell, task, threat, counted),
    )


def _groups(measured: Iterable[_Measured]) -> dict[tuple[str, str, int, str], list[_Measured]]:
    """(model, threat, seed, tier) → its rows; ``not adapted`` is a tier here."""
    groups: dict[tuple[str, str, int, str], list[_Measured]] = {}
    for tier in (*TIERS, NOT_ADAPTED):
        for m in measured:
            if m.row.tier == tier or (tier == NOT_ADAPTED and m.row.tier != "adapted"):
                groups.setdefault((m.row.model, m.row.threat, m.row.seed, tier), []).append(m)
    return groups


def _means(measured: Sequence[_Measured], models: Sequence[str]) -> tuple[Mean, ...]:
    means = []
    for (model, threat, seed, tier), group in _groups(measured).items():
        clean, robust = (bootstrap_mean(_outcomes(group, what)) for what in ("clean", "robust"))
        tasks = tuple(m.row.task for m in group)
        means.append(Mean(model, tier, threat, seed, tasks, clean.value, clean.interval, robust.value, robust.interval))
    return tuple(sorted(means, key=lambda mean: models.index(mean.model)))


def _outcomes(
    group: Iterable[_Measured], what: str, only: Mapping[str, NDArray[np.bool_]] | None = None
) -> list[Outcomes]:
    """The outcomes of rows; ``only`` says for each task which examples to keep."""
    found = []
    for m in group:
        keep = np.ones(len(m.counted.ids), dtype=bool) if only is None else only[m.row.task]
        values = getattr(m.counted, what)[keep].astype(np.float64)
        found.append(Outcomes([i for i, k in zip(m.counted.images, keep, strict=True) if k], values))
    return found


def _compare(measured: Sequence[_Measured], pair: tuple[str, str]) -> list[Comparison]:
    """After − before for each task and each tier, where both were attacked in the same way."""
    sides = [
        {(m.row.threat, m.row.seed, m.row.task, m.row.attack): m for m in measured if m.row.model == model}
        for model in pair
    ]
    common = [(sides[0][key], sides[1][key]) for key in sides[1] if key in sides[0]]
    common = [(b, a) for b, a in common if np.isin(b.counted.ids, a.counted.ids).any()]
    comparisons = [_comparison(pair, [both], task=both[1].row.task, tier=both[1].row.tier) for both in common]
    before = {id(a): b for b, a in common}
    for (_, _, _, tier), group in _groups([a for _, a in common]).items():
        comparisons.append(_comparison(pair, [(before[id(a)], a) for a in group], task=None, tier=tier))
    return comparisons


def _comparison(
    pair: tuple[str, str], both: Sequence[tuple[_Measured, _Measured]], *, task: str | None, tier: str
) -> Comparison:
    keep_before = {b.row.task: np.isin(b.counted.ids, a.counted.ids) for b, a in both}
    keep_after = {a.row.task: np.isin(a.counted.ids, b.counted.ids) for b, a in both}
    values: dict[str, Any] = {}
    for what in ("clean", "robust"):
        before = _by_example([b for b, _ in both], what, keep_before)
        after = _by_example([a for _, a in both], what, keep_after)
        change = bootstrap_difference(before, after)
        values[f"{what}_before"] = _mean_accuracy(before)
        values[f"{what}_after"] = _mean_accuracy(after)
        values[f"{what}_change"], values[f"{what}_change_interval"] = change.value, change.interval
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
        **values,
    )


def _mean_accuracy(tasks: Sequence[Outcomes]) -> float:
    return float(np.mean([task.values.mean() for task in tasks]))


def _by_example(group: Sequence[_Measured], what: str, keep: Mapping[str, NDArray[np.bool_]]) -> list[Outcomes]:
    """Outcomes ordered by example id, so that runs that evaluated in another order can be paired."""
    sorted_outcomes = []
    for m, outcomes in zip(group, _outcomes(group, what, keep), strict=True):
        order = np.argsort(m.counted.ids[keep[m.row.task]], kind="stable")
        sorted_outcomes.append(Outcomes([outcomes.images[i] for i in order], outcomes.values[order]))
    return sorted_outcomes


def _unpaired(
    measured: Sequence[_Measured], pairs: Sequence[tuple[str, str]], comparisons: Sequence[Comparison]
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


def _across_seeds(means: Sequence[Mean]) -> tuple[AcrossSeeds, ...]:
    groups: dict[tuple[str, str, str, tuple[str, ...]], list[Mean]] = {}
    for mean in means:
        groups.setdefault((mean.model, mean.tier, mean.threat, mean.tasks), []).append(mean)
    found = []
    for (model, tier, threat, _), group in groups.items():
        clean, robust = [m.clean for m in group], [m.robust for m in group]
        if len(group) > 1:
            found.append(
                AcrossSeeds(
                    *(model, tier, threat, tuple(m.seed for m in group)),
                    *(float(np.mean(clean)), (min(clean), max(clean))),
                    *(float(np.mean(robust)), (min(robust), max(robust))),
                )
            )
    return tuple(found)
