"""A study's cells, read: for each cell and task who was right, clean and under each attack. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsrobust.errors import RunError
from zsrobust.report.count import Measured
from zsrobust.report.load import Run, Task, load_run
from zsrobust.report.measure import measure
from zsrobust.report.merge import Suite, merge
from zsrobust.report.results import Alarm
from zsrobust.report.words import TIERS, Threat, parse_threat

CLEAN, ROBUST = "clean", "robust"
ALL = "all"
EVERY_ATTACK = "every attack"
TIER_NAMES = (*TIERS, ALL)


@dataclass(frozen=True)
class Outcome:
    """One cell on one task under one threat; with several attack seeds each value is the mean over them.

    Attributes:
        ids: (n,) int64, ascending: rows of the source split.
        images: n cluster keys; equal keys, also of other tasks, are the same image.
        clean: (n,) in [0, 1], right when clean.
        robust: Attack (or suite) → (n,) in [0, 1], right when clean and under it; ``EVERY_ATTACK`` is under all.
        alarms: What the report says about the row.
    """

    ids: NDArray[np.int64]
    images: tuple[str, ...]
    clean: NDArray[np.float64]
    robust: Mapping[str, NDArray[np.float64]]
    alarms: tuple[Alarm, ...]


@dataclass(frozen=True)
class Cell:
    """One adapted (or interpolated, or the unadapted) model and what was measured of it.

    ``levels``, in the order of the axes, is empty for the unadapted model. ``outcomes`` is (task, threat) → outcome,
    empty with ``missing`` saying why. A time in ``seconds`` is None where it is not known.
    """

    levels: Mapping[str, str]
    seed: int | None
    alpha: float | None
    tuned: Mapping[str, Any]
    adapt: Mapping[str, Any]
    seconds: Mapping[str, float | None]
    run: Path | None = None
    outcomes: Mapping[tuple[str, str], Outcome] = field(default_factory=dict)
    missing: str | None = None

    @property
    def unadapted(self) -> bool:
        """Whether this is the model that the others come from."""
        return not self.levels

    @property
    def name(self) -> str:
        """``TeCoA, fine-tuning, α = 0.5``, without the seed."""
        words = name_of(self.levels)
        return words if self.alpha is None else f"{words}, α = {self.alpha:g}"

    @property
    def name_with_seed(self) -> str:
        """``TeCoA, fine-tuning, seed 1``."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"


@dataclass(frozen=True)
class StudyTask:
    """A task of a study; ``tier`` is the same for all its cells."""

    name: str
    tier: str
    n: int
    classes: int


@dataclass(frozen=True)
class Study:
    """All that a study measured.

    Attributes:
        spec: What ``zsrobust study`` takes to run it: a name, or the path of the recipe's file as it was given.
        axes: Axis → its levels, in the order of the recipe.
        tasks: By tier, the adapted first.
        threats: In the order of the runs.
        attacks: Threat → the names of its suites and lone attacks, in order.
        planned: How many cells there are to be.
        everywhere: Alarms that every row has in the same words; no outcome repeats them.
    """

    name: str
    spec: str
    title: str
    recipe: Mapping[str, Any]
    axes: Mapping[str, tuple[str, ...]]
    cells: tuple[Cell, ...]
    tasks: tuple[StudyTask, ...]
    threats: tuple[Threat, ...]
    attacks: Mapping[str, tuple[str, ...]]
    tuning: tuple[Mapping[str, Any], ...]
    planned: int
    everywhere: tuple[Alarm, ...] = ()

    @property
    def finished(self) -> tuple[Cell, ...]:
        """Cells with results."""
        return tuple(cell for cell in self.cells if cell.outcomes)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the adaptation, over all finished cells."""
        return tuple(sorted({cell.seed for cell in self.finished if cell.seed is not None}))

    @property
    def primary(self) -> Threat:
        """The first threat with ε > 0, else the first."""
        return next((t for t in self.threats if t.eps > 0), self.threats[0])

    def tasks_of(self, tier: str) -> tuple[StudyTask, ...]:
        """The tasks of a tier, of all of them, or the one of this name."""
        return tuple(task for task in self.tasks if tier in (ALL, task.tier, task.name))

    @property
    def tiers(self) -> tuple[str, ...]:
        """Those that have tasks."""
        return tuple(tier for tier in TIERS if self.tasks_of(tier))

    def groups(self) -> list[tuple[Cell, ...]]:
        """Finished cells that differ in nothing but the seed, in the order of the axes' levels and of α."""
        found: dict[tuple[Any, ...], list[Cell]] = {}
        for cell in sorted(self.finished, key=self._order):
            found.setdefault((*cell.levels.items(), cell.alpha), []).append(cell)
        return [tuple(cells) for cells in found.values()]

    def _order(self, cell: Cell) -> tuple[Any, ...]:
        ranks = [
            levels.index(cell.levels[axis]) if axis in cell.levels else len(levels)
            for axis, levels in self.axes.items()
        ]
        alpha = 1.0 if cell.alpha is None else cell.alpha
        return not cell.unadapted, *ranks, alpha, -1 if cell.seed is None else cell.seed


def level_name(value: Any) -> str:
    """A level as it is written: YAML reads ``true``, ``null`` and ``200`` as something else than words."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return str(value)


def name_of(levels: Mapping[str, str]) -> str:
    """``TeCoA, fine-tuning``, or ``unadapted``; a level that is a number has its axis before it."""
    return ", ".join(level_words(axis, level) for axis, level in levels.items()) or "unadapted"


def level_words(axis: str, level: str) -> str:
    """A level that is a number says nothing without its axis: ``images 200``."""
    return f"{axis} {level}" if level[:1].isdigit() else level


def load(folder: str | Path) -> Study:
    """Read a study folder: ``cells.json`` and the evaluation runs that it names.

    Raises:
        RunError: no study, a run that is broken, or runs that cannot be compared: a task is other data, or was asked
            with other prompts or attacked otherwise, in two of them.
    """
    folder = Path(folder)
    listed = read_cells(folder)
    recipe = listed.get("recipe") or {}
    plain = [_plain_cell(values, folder) for values in listed["cells"]]
    axes = axes_of(recipe, [cell.levels for cell in plain])
    # Known from the plan too: a task's tier does not wait for the first adapted cell.
    planned_on = [str(name) for name in listed.get("adapted_on") or ()]
    runs = [cell.run for cell in plain if cell.run is not None]
    adapted_on = frozenset([*planned_on, *(name for run in runs for name in _adapted_on(run))])
    alike = _Alike()
    cells = [_measured(cell, adapted_on, alike) for cell in plain]
    cells = [replace(cell, levels={a: cell.levels[a] for a in axes if a in cell.levels}) for cell in cells]
    cells, everywhere = _told_once(cells)
    tasks = [
        StudyTask(t.name, alike.tiers[t.name], t.n, len(t.class_names)) for t in alike.tasks if t.name in alike.tiers
    ]
    return Study(
        name=str(listed.get("study") or folder.name),
        spec=str(listed.get("spec") or listed.get("study") or folder.name),
        title=str(listed.get("title") or listed.get("study") or folder.name),
        recipe=recipe,
        axes=axes,
        cells=tuple(cells),
        tasks=tuple(sorted(tasks, key=lambda task: TIERS.index(task.tier))),
        threats=tuple(parse_threat(text) for text in alike.attacks),
        attacks={threat: tuple(names) for threat, names in alike.attacks.items()},
        tuning=tuple(listed.get("tuning") or ()),
        planned=max(int(listed.get("planned") or 0), len(cells)),
        everywhere=everywhere,
    )


def read_cells(folder: Path) -> dict[str, Any]:
    """``cells.json`` of a study folder.

    Raises:
        RunError: there is none, or it is not what a study writes.
    """
    path = folder / "cells.json"
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RunError(f"{folder} is not a study: cannot read cells.json ({error.strerror})") from None
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict) or not isinstance(values.get("cells"), list):
        raise RunError(f"{path} has no list of cells")
    return values


def axes_of(recipe: Mapping[str, Any], used: Sequence[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """Axis → levels: those of the recipe in their order, then those that only single cells have."""
    axes = {str(axis): [level_name(level) for level in levels] for axis, levels in (recipe.get("axes") or {}).items()}
    for levels in used:
        for axis, level in levels.items():
            known = axes.setdefault(axis, [])
            if level not in known:
                known.append(level)
    return {axis: tuple(levels) for axis, levels in axes.items()}


def _plain_cell(values: Mapping[str, Any], folder: Path) -> Cell:
    """A cell without outcomes, with its run folder if that is there."""
    try:
        run = folder / values["run"] if values.get("run") else None
        there = run is not None and (run / "run.json").is_file()
        return Cell(
            levels={str(axis): level_name(level) for axis, level in values["levels"].items()},
            seed=values["seed"],
            alpha=values.get("alpha"),
            tuned=values.get("tuned") or {},
            adapt=values.get("adapt") or {},
            seconds=values.get("seconds") or {},
            run=run if there and not values.get("error") else None,
            missing=str(values["error"]) if values.get("error") else None if there else "not evaluated yet",
        )
    except (KeyError, AttributeError, TypeError) as problem:
        raise RunError(f"{folder / 'cells.json'}: a cell is not as a study writes it ({problem})") from None


def _adapted_on(run: Path) -> list[str]:
    try:
        models = json.loads((run / "run.json").read_text("utf-8"))["models"]
        return [str(name) for model in models for name in model["adapted_on"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # load_run says what is wrong with it


class _Alike:
    """What all runs of a study must have in common, collected from them one by one."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.tiers: dict[str, str] = {}
        self.attacks: dict[str, dict[str, None]] = {}
        self._known: dict[tuple[str, ...], tuple[Any, Run]] = {}

    def add(self, run: Run, measured: Sequence[Measured]) -> None:
        for task in run.tasks:
            if ("data", task.name) not in self._known:
                self.tasks.append(task)
            self._same(run, task.name, ("data", task.name), task.fingerprint)
            self._same(run, task.name, ("prompts", task.name), task.templates)
        for threat in run.threats:
            self.attacks.setdefault(threat, {})
        for m in measured:
            self.tiers[m.row.task] = m.row.tier
            self.attacks[m.row.threat].update(dict.fromkeys(suite.name for suite in m.suites))
            self._same(run, m.row.task, (f"attacks ({m.row.threat})", m.row.task), m.row.attack)

    def _same(self, run: Run, task: str, key: tuple[str, ...], value: Any) -> None:
        first, where = self._known.setdefault(key, (value, run))
        if first != value:
            raise RunError(f"task '{task}' has other {key[0]} in {where} than in {run}: these cells cannot be compared")


def _measured(cell: Cell, adapted_on: frozenset[str], alike: _Alike) -> Cell:
    """The cell with its outcomes."""
    if cell.run is None:
        return cell
    run = load_run(cell.run)
    if len(run.models) != 1:
        raise RunError(f"{run} evaluates {len(run.models)} models; a cell of a study has one")
    measured, notes = measure(replace(merge([run]), adapted_on=adapted_on))
    alike.add(run, measured)
    places: dict[tuple[str, str], list[Measured]] = {}
    for m in measured:
        places.setdefault((m.row.task, m.row.threat), []).append(m)
    outcomes = {place: _outcome(several) for place, several in places.items()}
    return replace(cell, outcomes=outcomes, missing=None if outcomes else "; ".join(notes))


def _outcome(several: Sequence[Measured]) -> Outcome:
    """The attack's seeds as one, on the examples that all of them have, ascending."""
    ids = reduce(np.intersect1d, [m.counted.ids for m in several[1:]], np.unique(several[0].counted.ids))
    images = dict(zip(several[0].counted.ids.tolist(), several[0].counted.images, strict=True))
    clean: list[NDArray[np.bool_]] = []
    robust: dict[str, list[NDArray[np.bool_]]] = {}
    for m in several:
        order = np.argsort(m.counted.ids, kind="stable")
        kept = order[np.isin(m.counted.ids[order], ids)]
        clean.append(m.counted.clean[kept])
        robust.setdefault(EVERY_ATTACK, []).append(m.counted.robust[kept])
        for suite in m.suites:
            robust.setdefault(suite.name, []).append(_survives(m, suite)[kept])
    return Outcome(
        ids=ids,
        images=tuple(images[i] for i in ids.tolist()),
        clean=np.mean(clean, axis=0, dtype=np.float64),
        robust={name: np.mean(values, axis=0, dtype=np.float64) for name, values in robust.items()},
        alarms=tuple(alarm for m in several for alarm in m.row.flags),
    )


def _survives(m: Measured, suite: Suite) -> NDArray[np.bool_]:
    """(n,) right when clean and under one suite, or under one attack that stands alone."""
    members = [m.attacks[name] for name in suite.attacks if name in m.attacks]
    broken = {example for done in members for example, record in done.items() if not record.correct}
    return m.counted.clean & ~np.isin(m.counted.ids, list(broken))


def _told_once(cells: Sequence[Cell]) -> tuple[list[Cell], tuple[Alarm, ...]]:
    """Cells without the alarms that every row of theirs has, so that the others can be seen; and those alarms."""
    rows = [outcome.alarms for cell in cells for outcome in cell.outcomes.values()]
    common = tuple(a for a in rows[0] if all(a in alarms for alarms in rows)) if len(rows) > 1 else ()

    def less(outcome: Outcome) -> Outcome:
        return replace(outcome, alarms=tuple(alarm for alarm in outcome.alarms if alarm not in common))

    return [replace(c, outcomes={place: less(o) for place, o in c.outcomes.items()}) for c in cells], common
