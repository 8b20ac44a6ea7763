"""What a study's folder says about its cells: ``plan.json``, ``recipe.yaml`` and ``cells.json``."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from zsrobust.errors import RunError
from zsrobust.models import MODEL
from zsrobust.run_folder import write_atomically
from zsrobust.study.grid import Cell
from zsrobust.study.plan import Known, Plan
from zsrobust.study.results import read_cells
from zsrobust.study.store import Job

FORMAT = "zsrobust.study/1"


@dataclass(frozen=True)
class Failure:
    """A cell, or a run of tuning, without a result."""

    study: str
    what: str
    reason: str


def failures(plan: Plan, known: Known) -> list[Failure]:
    """Cells that were wanted and have no result."""
    found = []
    for cell in plan.wanted:
        if (reason := _error(plan, cell, known)) is not None:
            found.append(Failure(plan.recipe.name, cell.describe(), reason))
    return found


def _error(plan: Plan, cell: Cell, known: Known) -> str | None:
    resolved = plan.resolve(cell, known)
    if resolved is None:
        return None
    outcomes = [known(job) for job in resolved.jobs]
    if outcomes and outcomes[-1] is not None and outcomes[-1].failure is None:
        return None  # measured: how its model came to be no longer matters
    reasons = [outcome.failure for outcome in outcomes if outcome is not None and outcome.failure is not None]
    return resolved.error or next(iter(reasons), None)


def is_done(plan: Plan, cell: Cell, known: Known) -> bool:
    """Whether the cell was measured."""
    resolved = plan.resolve(cell, known)
    if resolved is None or not resolved.jobs:
        return False
    outcome = known(resolved.jobs[-1])
    return outcome is not None and outcome.failure is None


def seeds_before(folder: Path) -> list[int]:
    """The seeds in ``cells.json`` that its recipe did not have; none where it cannot be read."""
    try:
        listed = read_cells(folder)
        seeds = {cell["seed"] for cell in listed["cells"] if isinstance(cell["seed"], int)}
        return sorted(seeds - {*listed["recipe"].get("seeds", [0])})
    except (RunError, KeyError, TypeError, AttributeError):
        return []  # it will be written anew


def write_plan(plan: Plan, known: Known, count: int, threads: int) -> None:
    """``plan.json`` and ``recipe.yaml``."""
    cells = []
    for cell in plan.wanted:
        resolved = plan.resolve(cell, known)
        jobs = {job.kind: job.key for job in resolved.jobs} if resolved is not None else None
        cells.append({"cell": cell.describe(), "jobs": jobs, "there": is_done(plan, cell, known)})
    content = {"format": FORMAT, "workers": count, "threads": threads, "cells": cells}
    write_atomically(plan.folder / "plan.json", json.dumps(content, indent=1, ensure_ascii=False).encode())
    text = yaml.safe_dump(json.loads(json.dumps(plan.recipe.content)), sort_keys=False, allow_unicode=True)
    write_atomically(plan.folder / "recipe.yaml", text.encode())


def write_cells(plan: Plan, known: Known) -> None:
    """``cells.json``: every cell of the whole study that has ended, in the order of the plan, whoever computed it."""
    entries = [(cell, _entry(plan, cell, known)) for cell in plan.cells]
    content = {
        "format": FORMAT,
        "study": plan.recipe.name,
        "spec": plan.recipe.spec,
        "title": plan.recipe.title,
        "recipe": plan.recipe.content,
        "planned": sum(entry is not None or _planned(plan, cell) for cell, entry in entries),
        "adapted_on": plan.adapted_on,
        "tuning": plan.tuning(known),
        "cells": [entry for _, entry in entries if entry is not None],
    }
    text = json.dumps(content, indent=1, ensure_ascii=False).encode()
    path = plan.folder / "cells.json"
    if not path.exists() or path.read_bytes() != text:
        write_atomically(path, text)


def _planned(plan: Plan, cell: Cell) -> bool:
    """Whether the cell would be missed; one of an earlier call's seeds would not."""
    return cell.seed is None or cell.seed in plan.recipe.seeds


def _entry(plan: Plan, cell: Cell, known: Known) -> dict[str, Any] | None:
    resolved = plan.resolve(cell, known)
    if resolved is None:
        return None
    error = _error(plan, cell, known)
    if error is None and not is_done(plan, cell, known):
        return None
    seconds = {
        {"adapted": "adapt", "evaluated": "evaluate"}[job.kind]: outcome.seconds
        for job in resolved.jobs
        if (outcome := known(job)) is not None
    }
    adapted, evaluated = resolved.adapted, resolved.evaluated
    return {
        "levels": dict(cell.levels),
        "seed": cell.seed,
        "alpha": cell.alpha,
        "tuned": None if resolved.tuned is None else dict(resolved.tuned),
        "model": _path(plan, adapted, MODEL),
        "run": _path(plan, evaluated, "") if error is None else None,
        "seconds": seconds,
        "error": error,
        "adapt": None if adapted is None else dict(adapted.settings),
    }


def _path(plan: Plan, job: Job | None, inner: str) -> str | None:
    if job is None:
        return None
    return os.path.relpath(plan.store.folder(job.kind, job.key) / inner, plan.folder)
