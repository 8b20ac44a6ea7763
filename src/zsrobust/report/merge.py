"""Several runs as one: its models, tasks and records, or an error naming the two that disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zsrobust.errors import RunError
from zsrobust.records import CLEAN, Cell, Key, Record
from zsrobust.report.load import Flag, Model, Run, Task
from zsrobust.report.results import Row
from zsrobust.report.words import Threat, parse_threat


@dataclass(frozen=True)
class Suite:
    """Attacks that count as one: an example that one of them broke need not be given to the others.

    An attack by itself is a suite of one, under its own name.
    """

    name: str
    attacks: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """All that was measured.

    Attributes:
        models: Unadapted first.
        tasks: By name, in the order of the runs.
        threats: In the order of the runs.
        seeds: Ascending.
        adapted_on: Union over the models.
        clean: Cell → example → its clean record, in the order of evaluation.
        blocks: Cell → its examples in the blocks in which they were evaluated.
        attacked: (cell, threat) → attack → example → its record; holds every attack that was to be run, also those
            without a record yet.
        suites: (cell, threat) → the same attacks, as the suites they belong to.
        precision: Cell → for example ``"float32"``.
        settings: (attack name, threat, or None for any) → what ``run.json`` says about it.
        flags: From the runs.
        notes: What merging found worth saying.
    """

    models: tuple[Model, ...]
    tasks: Mapping[str, Task]
    threats: tuple[Threat, ...]
    seeds: tuple[int, ...]
    adapted_on: frozenset[str]
    clean: Mapping[Cell, Mapping[int, Record]]
    blocks: Mapping[Cell, Sequence[Sequence[int]]]
    attacked: Mapping[tuple[Cell, str], Mapping[str, Mapping[int, Record]]]
    suites: Mapping[tuple[Cell, str], Sequence[Suite]]
    precision: Mapping[Cell, str]
    settings: Mapping[tuple[str, str | None], Mapping[str, Any]]
    flags: tuple[Flag, ...]
    notes: tuple[str, ...]


def merge(runs: Sequence[Run]) -> Evidence:
    """Put runs together.

    A record that several runs hold is taken once if they agree on it. Models of different weights under one
    name are told apart by the folder of their run.

    Raises:
        RunError: a task is not the same data or has other prompts in two runs, or two runs disagree on a record; both
            are named.
    """
    runs = _told_apart(runs)
    tasks = _tasks(runs)
    records = _records(runs)
    clean: dict[Cell, dict[int, Record]] = {}
    attacked: dict[tuple[Cell, str], dict[str, dict[int, Record]]] = {}
    members: dict[tuple[Cell, str], dict[str, list[str]]] = {}
    for cell, threat, attack, suite in _asked(runs):
        if attack not in attacked.setdefault((cell, threat), {}):
            attacked[cell, threat][attack] = {}
            members.setdefault((cell, threat), {}).setdefault(suite, []).append(attack)
    for record in records:
        if record.attack == CLEAN:
            clean.setdefault(record.cell, {})[record.example] = record
        else:
            key = (record.cell, record.threat)
            if record.attack not in attacked.setdefault(key, {}):
                attacked[key][record.attack] = {}
                members.setdefault(key, {})[record.attack] = [record.attack]
            attacked[key][record.attack][record.example] = record
    models = {model.name: model for run in runs for model in run.models}
    settings, notes = _settings(runs)
    return Evidence(
        models=tuple(sorted(models.values(), key=lambda model: bool(model.adapted_on))),
        tasks=tasks,
        threats=tuple(parse_threat(text) for text in dict.fromkeys(t for run in runs for t in run.threats)),
        seeds=tuple(sorted({seed for run in runs for seed in run.seeds})),
        adapted_on=frozenset(name for model in models.values() for name in model.adapted_on),
        clean=clean,
        blocks=_blocks(runs),
        attacked=attacked,
        suites={key: [Suite(n, tuple(a)) for n, a in suites.items()] for key, suites in members.items()},
        precision=_precision(runs),
        settings=settings,
        flags=tuple(flag for run in runs for flag in run.flags),
        notes=notes,
    )


def _told_apart(runs: Sequence[Run]) -> list[Run]:
    """Runs whose model names each mean one set of weights."""
    weights: dict[str, set[str]] = {}
    for run in runs:
        for model in run.models:
            weights.setdefault(model.name, set()).add(model.fingerprint)
    clashing = {name for name, fingerprints in weights.items() if len(fingerprints) > 1}
    folders = [run.path.resolve().name for run in runs]
    if len(set(folders)) < len(folders):
        folders = [str(run.path) for run in runs]
    return [
        _renamed(run, {name: f"{name} @ {folder}" for name in clashing})
        for run, folder in zip(runs, folders, strict=True)
    ]


def _renamed(run: Run, names: Mapping[str, str]) -> Run:
    if not any(model.name in names for model in run.models):
        return run
    pictures = [
        replace(p, models=tuple(replace(m, model=names.get(m.model, m.model)) for m in p.models)) for p in run.pictures
    ]
    return replace(
        run,
        models=tuple(replace(m, name=names.get(m.name, m.name)) for m in run.models),
        records=tuple(replace(r, model=names.get(r.model, r.model)) for r in run.records),
        flags=tuple(replace(f, model=names.get(f.model, f.model) if f.model else None) for f in run.flags),
        pictures=tuple(pictures),
    )


def _tasks(runs: Sequence[Run]) -> dict[str, Task]:
    found: dict[str, tuple[Task, Run]] = {}
    for run in runs:
        for task in run.tasks:
            first, where = found.setdefault(task.name, (task, run))
            if first.fingerprint != task.fingerprint:
                raise RunError(
                    f"task '{task.name}' is not the same data in {where} ({first.n} examples, fingerprint "
                    f"{first.fingerprint[:12]}) and in {run} ({task.n} examples, fingerprint "
                    f"{task.fingerprint[:12]}): they cannot be reported together"
                )
            if first.templates and task.templates and first.templates != task.templates:
                raise RunError(
                    f"task '{task.name}' was asked with other prompts in {where} ({_listed(first.templates)}) than in "
                    f"{run} ({_listed(task.templates)}): they cannot be reported together"
                )
    return {name: task for name, (task, _) in found.items()}


def _listed(templates: Sequence[str]) -> str:
    more = f" and {len(templates) - 1} more" if len(templates) > 1 else ""
    return f"'{templates[0]}'{more}"


def _records(runs: Sequence[Run]) -> list[Record]:
    found: dict[Key, tuple[Record, Run]] = {}
    for run in runs:
        for record in run.records:
            first, where = found.setdefault(record.key, (record, run))
            # Margins of two machines differ in the last digits; what is counted must not.
            if (first.label, first.prediction) != (record.label, record.prediction):
                raise RunError(
                    f"{where} and {run} disagree: model '{record.model}', task '{record.task}', "
                    f"example {record.example}, attack '{record.attack}' has prediction {first.prediction} "
                    f"in one and {record.prediction} in the other; report one of them"
                )
    return [record for record, _ in found.values()]


def _blocks(runs: Sequence[Run]) -> dict[Cell, list[list[int]]]:
    """Cell → its blocks of examples: each is an unbroken stretch of clean records of that cell in a file.

    Verdicts of an attack are written as they come, and an image that breaks comes earlier than one that survives. So
    within a block the examples that are finished first are no fair sample of it; whole blocks are. A stretch without
    a right example is finished before any attack begins, so it stands and falls with the one before it.
    """
    blocks: dict[Cell, list[list[Record]]] = {}
    seen: set[tuple[Cell, int]] = set()
    for run in runs:
        growing: set[Cell] = set()
        for record in run.records:
            cell = record.cell
            if record.attack != CLEAN:
                growing.discard(cell)
            elif (cell, record.example) not in seen:
                seen.add((cell, record.example))
                if cell not in growing:
                    growing.add(cell)
                    blocks.setdefault(cell, []).append([])
                blocks[cell][-1].append(record)
    return {cell: _joined(stretches) for cell, stretches in blocks.items()}


def _joined(stretches: Sequence[Sequence[Record]]) -> list[list[int]]:
    blocks: list[list[int]] = []
    for stretch in stretches:
        examples = [record.example for record in stretch]
        if blocks and not any(record.correct for record in stretch):
            blocks[-1] += examples
        else:
            blocks.append(examples)
    return blocks


def _asked(runs: Sequence[Run]) -> list[tuple[Cell, str, str, str]]:
    """Every (cell, threat, attack, its suite) that ``run.json`` asks for."""
    return [
        (Cell(model.name, task.name, seed), threat, attack["name"], attack.get("suite") or attack["name"])
        for run in runs
        for model in run.models
        for task in run.tasks
        for seed in run.seeds
        for threat in run.threats
        for attack in run.attacks
        if attack.get("threat") in (None, threat) and task.name in attack.get("tasks", [task.name])
    ]


def _precision(runs: Sequence[Run]) -> dict[Cell, str]:
    found: dict[Cell, dict[str, None]] = {}
    for run in runs:
        for cell in {record.cell for record in run.records}:
            found.setdefault(cell, {})[run.precision] = None
    return {cell: "+".join(names) for cell, names in found.items()}


def _settings(
    runs: Sequence[Run],
) -> tuple[dict[tuple[str, str | None], Mapping[str, Any]], tuple[str, ...]]:
    found: dict[tuple[str, str | None], tuple[Mapping[str, Any], Run]] = {}
    notes: dict[str, None] = {}
    for run in runs:
        for attack in run.attacks:
            first, where = found.setdefault((attack["name"], attack.get("threat")), (attack, run))
            keys = (first.keys() | attack.keys()) - {"tasks"}
            changed = sorted(key for key in keys if first.get(key) != attack.get(key))
            if changed:
                notes[
                    f"Attack {attack['name']} was run with another {', '.join(changed)} in {where} "
                    f"than in {run}: compare their robust accuracies with care."
                ] = None
    return {key: attack for key, (attack, _) in found.items()}, tuple(notes)


def settings_of(
    settings: Mapping[tuple[str, str | None], Mapping[str, Any]], attack: str, threat: str
) -> Mapping[str, Any]:
    """What the runs say about an attack under a threat; empty if they say nothing."""
    return settings.get((attack, threat), settings.get((attack, None), {}))


def members_of(settings: Mapping[tuple[str, str | None], Mapping[str, Any]], name: str, threat: str) -> list[str]:
    """The attacks of a suite under a threat; of an attack by itself, that attack."""
    return [a for (a, t), s in settings.items() if t in (None, threat) and s.get("suite") == name] or [name]


def suites_of(settings: Mapping[tuple[str, str | None], Mapping[str, Any]], row: Row) -> tuple[str, ...]:
    """The suites and lone attacks that ``attack`` of a row joins: a ``+`` may be inside a name, as in ``tiny+ttc``."""
    names = [count.attack for count in row.by_attack]
    return tuple(dict.fromkeys(settings_of(settings, name, row.threat).get("suite") or name for name in names))
