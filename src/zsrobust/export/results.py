"""What runs of ``zsrobust evaluate`` say about the exported model, and about no other one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zsrobust.errors import RunError
from zsrobust.report import Row, Run, load_runs, summarise
from zsrobust.report.words import percent, span

TASK = "zero-shot-image-classification"


@dataclass(frozen=True)
class Evaluated:
    """Measured numbers of one model.

    Attributes:
        rows: One for each task, threat and seed, as in the report of the runs.
        notes: What merging the runs found worth saying.
        datasets: Task → id on the hub, of tasks whose images come from there.
        date: Of the latest run, ``2026-11-22``.
    """

    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    datasets: Mapping[str, str] = field(default_factory=dict)
    date: str | None = None


def read(paths: Sequence[str | Path], *, name: str, fingerprint: str) -> Evaluated:
    """The rows of the model with this ``fingerprint``; runs may hold other models beside it.

    Raises:
        RunError: Not a run, or a run in which this model was not evaluated.
    """
    if not paths:
        return Evaluated()
    runs = load_runs(paths)
    for run in runs:
        if not any(model.fingerprint == fingerprint for model in run.models):
            raise _of_another(run, name, fingerprint)
    summary = summarise(runs)
    # Of the summary: merging gives a model another name where two runs mean different weights by it.
    names = {model.name for model in summary.models if model.fingerprint == fingerprint}
    rows = tuple(row for row in summary.rows if row.model in names)
    if not rows:
        raise RunError(f"the runs hold no finished example of '{name}'; run the evaluation again to go on")
    return Evaluated(rows, summary.notes, _datasets(runs), max(run.created for run in runs)[:10])


def _of_another(run: Run, name: str, fingerprint: str) -> RunError:
    there = ", ".join(f"'{model.name}' ({model.fingerprint[:12]})" for model in run.models)
    return RunError(
        f"{run} has no results of this model: its weights are {fingerprint[:12]} ('{name}'), the run is about {there}; "
        "evaluate the model that is exported"
    )


def _datasets(runs: Sequence[Run]) -> dict[str, str]:
    found = {}
    for run in runs:
        for task in json.loads((run.path / "run.json").read_text("utf-8"))["tasks"]:
            source = task.get("source") or {}
            if source.get("kind") == "hub":
                found[task["name"]] = str(source.get("where")).removeprefix("hub:")
    return found


def model_index(found: Evaluated) -> list[Any]:
    """As ``EvalResult`` of huggingface_hub: a clean accuracy for each task and seed, a robust one for each row.

    Values are percent; what they were measured with is in ``metric_args``.
    """
    entries: dict[tuple[object, ...], Any] = {}
    for row in found.rows:
        entries.setdefault((row.task, row.split, row.seed, row.space, row.n), _entry(found, row, "clean"))
        entries[(row.task, row.split, row.seed, row.threat, row.attack)] = _entry(found, row, "robust")
    return list(entries.values())


def _entry(found: Evaluated, row: Row, what: str) -> Any:
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type=TASK,
        task_name="Zero-shot image classification",
        dataset_type=found.datasets.get(row.task, row.task),
        dataset_name=row.task,
        dataset_split=row.split,
        metric_type="accuracy",
        metric_name="Clean accuracy (%)" if what == "clean" else f"Robust accuracy (%), {row.threat}, {row.attack}",
        metric_value=_percent(getattr(row, what)),
        metric_args=_measured(row, what),
    )


def _measured(row: Row, what: str) -> dict[str, Any]:
    interval = getattr(row, f"{what}_interval")
    told: dict[str, Any] = {"n": row.n, "interval_95": [_percent(end) for end in interval], "seed": row.seed}
    if what == "robust":
        told |= {"norm": row.norm, "eps": row.eps, "threat": row.threat, "attack": row.attack}
        told["alarms"] = [alarm.name or alarm.text for alarm in row.flags]
    return told | {"space": row.space, "precision": row.precision, "adapted_on_this_task": row.adapted_on}


def hub_entries(found: Evaluated) -> dict[str, list[Any]]:
    """File name → content of ``.eval_results/``, of the tasks whose images are a data set of the hub.

    ``task_id`` is ``default``: the hub knows only the benchmarks that it lists, and which id theirs are is not known
    here.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    files: dict[str, list[Any]] = {}
    for row in found.rows:
        if row.task not in found.datasets:
            continue
        robust = f"{row.task}-{row.threat}-{row.attack}-seed{row.seed}"
        for what, file in (("clean", f"{row.task}-clean-{row.space}-seed{row.seed}"), ("robust", robust)):
            notes = (
                f"{what} zero-shot accuracy in %, n = {row.n}, 95% interval {span(getattr(row, f'{what}_interval'))}"
            )
            if what == "robust":
                notes += f", threat {row.threat}, attack {row.attack}; an upper bound"
                notes += f"; alarms: {_alarms(row)}" if row.flags else ""
            entry = EvalResultEntry(
                dataset_id=found.datasets[row.task], task_id="default", value=_percent(getattr(row, what)),
                date=found.date, notes=notes,
            )  # fmt: skip
            safe = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in file)
            files[f"{safe}.yaml"] = eval_result_entries_to_yaml([entry])
    return files


def table(found: Evaluated) -> list[list[str]]:
    """Head and rows of the card's table, as text."""
    head = ["task", "n", "clean, %", "robust, %", "norm", "ε", "space", "attack", "seed", "alarms"]
    return [head, *(_cells(row) for row in found.rows)]


def _cells(row: Row) -> list[str]:
    doubt = "!" if any(alarm.doubt for alarm in row.flags) else ""
    return [
        row.task + (" (adapted on it)" if row.adapted_on else ""),
        f"{row.n:,}",
        f"{percent(row.clean)} ({span(row.clean_interval)})",
        f"{percent(row.robust)}{doubt} ({span(row.robust_interval)})",
        row.norm,
        row.threat.split(":")[1],
        row.space,
        row.attack,
        str(row.seed),
        _alarms(row) or "none",
    ]


def _alarms(row: Row) -> str:
    return ", ".join(dict.fromkeys(alarm.name or alarm.text for alarm in row.flags))


def _percent(share: float) -> float:
    return round(100 * share, 2)
