"""From the records of one cell to its outcomes, and what has to be said about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zsrobust.records import Cell, Record
from zsrobust.report.load import Model, Task
from zsrobust.report.merge import Evidence
from zsrobust.report.words import Threat, percent, plural

if TYPE_CHECKING:
    from zsrobust.report.summary import Row

# Fewer attacked examples than this can all survive by luck; rises smaller than this come from random starts.
_FEW = 20
_RISE = 0.01


@dataclass(frozen=True)
class Counted:
    """The finished examples of a cell under a threat, in the order of evaluation.

    Attributes:
        ids: (n,) int64, rows of the source split.
        images: n cluster keys.
        clean: (n,) bool, right when clean.
        robust: (n,) bool, right when clean and under every attack.
    """

    ids: NDArray[np.int64]
    images: tuple[str, ...]
    clean: NDArray[np.bool_]
    robust: NDArray[np.bool_]


def count(clean: Mapping[int, Record], attacks: Mapping[str, Mapping[int, bool]]) -> Counted:
    """Outcomes of the examples that are finished.

    An example is finished when it is wrong when clean, or has a record of every attack. Examples that are
    wrong when clean are finished at once, those that are right only later, so of an evaluation that was
    stopped halfway the finished ones are no fair sample. Therefore counting stops at the first unfinished
    example, and at the last attacked one before it.
    """
    finished: list[Record] = []
    fair = 0
    for record in clean.values():
        if record.correct and any(record.example not in done for done in attacks.values()):
            finished = finished[:fair]
            break
        finished.append(record)
        fair = len(finished) if record.correct else fair
    survived = [r.correct and all(done[r.example] for done in attacks.values()) for r in finished]
    return Counted(
        ids=np.array([r.example for r in finished], dtype=np.int64),
        images=tuple(r.image for r in finished),
        clean=np.array([r.correct for r in finished], dtype=bool),
        robust=np.array(survived, dtype=bool),
    )


def tier_of(task: Task, adapted_on: frozenset[str]) -> str:
    """``adapted``, ``related`` or ``unrelated``."""
    if task.name in adapted_on:
        return "adapted"
    return "unrelated" if adapted_on.isdisjoint(task.follows_from) else "related"


def pick_pairs(models: Sequence[Model]) -> tuple[tuple[str, str], ...]:
    """(before, after) names: each adapted model with its unadapted source, else with the first unadapted."""
    unadapted = [model for model in models if not model.adapted_on]
    pairs = []
    for model in models:
        if model.adapted_on and unadapted:
            source = {model.provenance.get(key) for key in ("source", "base", "parent")} - {None}
            known = [m for m in unadapted if m.name in source or m.fingerprint in source]
            pairs.append(((known or unadapted)[0].name, model.name))
    return tuple(pairs)


def _breaks_elsewhere(evidence: Evidence, cell: Cell, threat: Threat) -> bool:
    """Whether the same attacks broke an image of this model on any task, so that they do reach its pixels."""
    return any(
        not survived
        for (other, text), attacks in evidence.attacked.items()
        if (other.model, other.seed, text) == (cell.model, cell.seed, threat.text)
        for verdicts in attacks.values()
        for survived in verdicts.values()
    )


def _seen(evidence: Evidence, model: str, task: Task) -> bool:
    """Whether a model was adapted on exactly the examples it is evaluated on."""
    stories = (one.provenance.get("adaptation") for one in evidence.models if one.name == model)
    return any(isinstance(s, Mapping) and s.get("task_fingerprint") == task.fingerprint for s in stories)


def flags_of(evidence: Evidence, cell: Cell, task: Task, threat: Threat, counted: Counted) -> tuple[str, ...]:
    """Plain sentences about one row."""
    flags = []
    n, clean, robust = len(counted.ids), int(counted.clean.sum()), int(counted.robust.sum())
    if n < task.n:
        flags.append(f"incomplete: {n} of {plural(task.n, 'example')}")
    if task.bad_images:
        flags.append(f"{plural(len(task.bad_images), 'image')} could not be read and were left out")
    precision = evidence.precision[cell]
    if precision != "float32":
        flags.append(f"computed in {precision}, not float32")
    if threat.eps > 0 and clean == robust and clean >= _FEW and not _breaks_elsewhere(evidence, cell, threat):
        flags.append(f"not one of {clean} attacked images was broken: check that the attack reaches the pixels")
    if _seen(evidence, cell.model, task):
        flags.append("the model was adapted on exactly these images")
    for flag in evidence.flags:
        wanted = (flag.model, flag.task, flag.threat, flag.seed)
        actual = (cell.model, cell.task, threat.text, cell.seed)
        if all(w is None or w == a for w, a in zip(wanted, actual, strict=True)):
            flags.append(flag.text)
    return tuple(flags)


def too_weak(rows: Sequence[Row]) -> list[str]:
    """Sentences about robust accuracies that rise with ε, which no perfect attack would let happen."""
    notes = []
    curves: dict[tuple[str, str, str, str, int, str, int], list[Row]] = {}
    for row in rows:
        key = (row.model, row.task, row.norm, row.space, row.seed, row.attack, row.n)
        curves.setdefault(key, []).append(row)
    for curve in curves.values():
        curve.sort(key=lambda row: row.eps)
        for lower, higher in pairwise(curve):
            if higher.robust > lower.robust + _RISE:
                low, high = (f"{percent(row.robust)} % at {row.threat}" for row in (lower, higher))
                who = f"{higher.model} on {higher.task}"
                notes.append(f"{who}: robust accuracy rises from {low} to {high}, so the attack is too weak.")
    return notes
