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
from zsrobust.report.merge import merge
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

    ``levels`` is empty for the unadapted model. ``outcomes`` is (task, threat) → outcome; empty with ``missing``
    saying why.
    """

    levels: Mapping[str, str]
    seed: int | None
    alpha: float | None
    tuned: Mapping[str, Any]
    adapt: Mapping[str, Any]
    seconds: Mapping[str, float]
    outcomes: Mapping[tuple[str, str], Outcome] = field(default_factory=dict)
    missing: str | None = None

    @property
    def unadapted(self) -> bool:
        """Whether this is the model that the others come from."""
        return not self.levels

    @property
    def name(self) -> str:
        """``TeCoA, fine-tuning, α = 0.5``, without the seed."""
        return name_of(self.levels, self.alpha)


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
        axes: Axis → its levels, in the order of the recipe.
        tasks: By tier, the adapted first.
        threats: In the order of the runs.
        attacks: Threat → the names of its suites and lone attacks, in order.
        planned: How many cells there are to be.
        problems: Sentences about what is missing.
    """

    name: str
    title: str
    recipe: Mapping[str, Any]
    axes: Mapping[str, tuple[str, ...]]
    cells: tuple[Cell, ...]
    tasks: tuple[StudyTask, ...]
    threats: tuple[Threat, ...]
    attacks: Mapping[str, tuple[str, ...]]
    tuning: tuple[Mapping[str, Any], ...]
    planned: int
    problems: tuple[str, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the adaptation, over all finished cells."""
        return tuple(sorted({cell.seed for cell in self.finished if cell.seed is not None}))

    @property
    def finished(self) -> tuple[Cell, ...]:
        """Cells with results."""
        return tuple(cell for cell in self.cells if cell.outcomes)

    @property
    def primary(self) -> Threat:
        """The first threat with ε > 0, else the first."""
        return next((t for t in self.threats if t.eps > 0), self.threats[0])

    def tasks_of(self, tier: str) -> tuple[StudyTask, ...]:
        """The tasks of a tier, or of all of them."""
        return tuple(task for task in self.tasks if tier in (ALL, task.tier))

    def groups(self) -> dict[tuple[tuple[tuple[str, str], ...], float | None], list[Cell]]:
        """Finished cells that differ in nothing but the seed, in the order of the axes' levels and of α."""
        found: dict[tuple[tuple[tuple[str, str], ...], float | None], list[Cell]] = {}
        for cell in sorted(self.finished, key=self._order):
            found.setdefault((tuple(sorted(cell.levels.items())), cell.alpha), []).append(cell)
        return found

    def _order(self, cell: Cell) -> tuple[Any, ...]:
        ranks = [
            self.axes[axis].index(cell.levels[axis])
            if cell.levels.get(axis) in self.axes[axis]
            else len(self.axes[axis])
            for axis in self.axes
        ]
        return (
            not cell.unadapted,
            *ranks,
            cell.alpha is None,
            cell.alpha or 0.0,
            -1 if cell.seed is None else cell.seed,
        )


def level_name(value: Any) -> str:
    """A level as it is written: YAML reads ``true``, ``null`` and ``200`` as something else than words."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return str(value)


def name_of(levels: Mapping[str, str], alpha: float | None) -> str:
    """``TeCoA, fine-tuning, α = 0.5``, or ``unadapted``; a level that is a number has its axis before it."""
    words = ", ".join(level_words(axis, level) for axis, level in levels.items()) or "unadapted"
    return words if alpha is None else f"{words}, α = {alpha:g}"


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
    entries = [_plain_cell(values, folder) for values in listed["cells"]]
    paths = [(cell, path) for cell, path in entries if path is not None]
    adapted_on = frozenset(name for _, path in paths for name in _adapted_on(path))
    known: dict[str, tuple[Task, Path]] = {}
    tiers: dict[str, str] = {}
    attacks: dict[tuple[str, str], tuple[str, Path]] = {}
    threats: dict[str, Threat] = {}
    cells = []
    for cell, path in entries:
        if path is not None:
            run = load_run(path)
            measured, notes = measure(replace(merge([_one_model(run)]), adapted_on=adapted_on))
            _compare_tasks(run, known)
            _compare_attacks(measured, path, attacks)
            tiers |= {m.row.task: m.row.tier for m in measured}
            threats |= {text: parse_threat(text) for text in run.threats}
            outcomes = _outcomes(measured)
            cell = replace(cell, outcomes=outcomes, missing=None if outcomes else "; ".join(notes))
        cells.append(cell)
    tasks = [StudyTask(n, tiers[n], t.n, len(t.class_names)) for n, (t, _) in known.items() if n in tiers]
    return Study(
        name=str(listed.get("study") or folder.name),
        title=str(listed.get("title") or listed.get("study") or folder.name),
        recipe=recipe,
        axes=axes_of(recipe, [cell.levels for cell in cells]),
        cells=tuple(cells),
        tasks=tuple(sorted(tasks, key=lambda task: TIERS.index(task.tier))),
        threats=tuple(threats.values()),
        attacks=_attack_names(attacks),
        tuning=tuple(listed.get("tuning") or ()),
        planned=int(listed.get("planned") or len(cells)),
        problems=tuple(f"{_with_seed(cell)}: {cell.missing}" for cell in cells if cell.missing),
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


def _plain_cell(values: Mapping[str, Any], folder: Path) -> tuple[Cell, Path | None]:
    """A cell without outcomes, and its run folder if that is there."""
    try:
        levels = {str(axis): level_name(level) for axis, level in values["levels"].items()}
        cell = Cell(
            levels=levels,
            seed=values["seed"],
            alpha=values.get("alpha"),
            tuned=values.get("tuned") or {},
            adapt=values.get("adapt") or {},
            seconds=values.get("seconds") or {},
        )
        run, error = values.get("run"), values.get("error")
    except (KeyError, AttributeError, TypeError) as problem:
        raise RunError(f"{folder / 'cells.json'}: a cell is not as a study writes it ({problem})") from None
    if error:
        return replace(cell, missing=str(error)), None
    if not run or not (folder / run / "run.json").is_file():
        return replace(cell, missing="not evaluated yet"), None
    return cell, folder / run


def _adapted_on(run: Path) -> list[str]:
    try:
        models = json.loads((run / "run.json").read_text("utf-8"))["models"]
        return [str(name) for model in models for name in model["adapted_on"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # load_run says what is wrong with it


def _one_model(run: Run) -> Run:
    if len(run.models) != 1:
        raise RunError(f"{run} evaluates {len(run.models)} models; a cell of a study has one")
    return run


def _compare_tasks(run: Run, known: dict[str, tuple[Task, Path]]) -> None:
    """A task is the same data under the same prompts in all cells."""
    for task in run.tasks:
        first, where = known.setdefault(task.name, (task, run.path))
        for what in ("fingerprint", "templates"):
            if getattr(first, what) != getattr(task, what):
                raise RunError(
                    f"task '{task.name}' has other {'data' if what == 'fingerprint' else 'prompts'} in {where} than in "
                    f"{run}: these cells cannot be compared"
                )


def _compare_attacks(measured: Sequence[Measured], path: Path, known: dict[tuple[str, str], tuple[str, Path]]) -> None:
    for m in measured:
        first, where = known.setdefault((m.row.task, m.row.threat), (m.row.attack, path))
        if first != m.row.attack:
            raise RunError(
                f"task '{m.row.task}' is attacked by {first} in {where} and by {m.row.attack} in {path}: "
                "these cells cannot be compared"
            )


def _attack_names(attacks: Mapping[tuple[str, str], tuple[str, Path]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for (_, threat), (joined, _path) in attacks.items():
        found.setdefault(threat, {}).update(dict.fromkeys(joined.split("+")))
    return {threat: tuple(names) for threat, names in found.items()}


def _outcomes(measured: Sequence[Measured]) -> dict[tuple[str, str], Outcome]:
    by_place: dict[tuple[str, str], list[Measured]] = {}
    for m in measured:
        by_place.setdefault((m.row.task, m.row.threat), []).append(m)
    return {place: _outcome(several) for place, several in by_place.items()}


def _outcome(several: Sequence[Measured]) -> Outcome:
    """The attack's seeds as one, on the examples that all of them have."""
    ids = reduce(np.intersect1d, [m.counted.ids for m in several])
    first = several[0]
    images = dict(zip(first.counted.ids.tolist(), first.counted.images, strict=True))
    robust: dict[str, list[NDArray[np.bool_]]] = {}
    clean = []
    for m in several:
        order = np.argsort(m.counted.ids, kind="stable")
        kept = order[np.isin(m.counted.ids[order], ids)]
        clean.append(m.counted.clean[kept])
        robust.setdefault(EVERY_ATTACK, []).append(m.counted.robust[kept])
        for name in m.row.attack.split("+"):
            robust.setdefault(name, []).append(_survives(m, name)[kept])
    return Outcome(
        ids=ids,
        images=tuple(images[i] for i in ids.tolist()),
        clean=np.mean(clean, axis=0, dtype=np.float64),
        robust={name: np.mean(values, axis=0, dtype=np.float64) for name, values in robust.items()},
        alarms=tuple(alarm for m in several for alarm in m.row.flags),
    )


def _survives(m: Measured, suite: str) -> NDArray[np.bool_]:
    """(n,) right when clean and under one suite, or under one attack that stands alone."""
    members = [done for name, done in m.attacks.items() if name == suite or name.startswith(f"{suite}/")]
    broken = {example for done in members for example, record in done.items() if not record.correct}
    return m.counted.clean & ~np.isin(m.counted.ids, list(broken))


def _with_seed(cell: Cell) -> str:
    return cell.name if cell.seed is None else f"{cell.name}, seed {cell.seed}"
