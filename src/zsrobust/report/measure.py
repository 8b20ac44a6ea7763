"""Evidence → rows, each with what has to be said about it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zsrobust.records import Cell
from zsrobust.report.alarms import alarms_of, curve_alarms
from zsrobust.report.count import Attacks, Counted, Measured, count, of_examples, tier_of, two_class_scores, two_numbers
from zsrobust.report.load import Flag, Task
from zsrobust.report.merge import Evidence, settings_of
from zsrobust.report.results import AttackCount, Row
from zsrobust.report.words import TIERS, Threat, listed
from zsrobust.statistics import wilson


def measure(evidence: Evidence) -> tuple[list[Measured], list[str]]:
    """All rows: by model, then tier, then task, threat, seed; and sentences about what is missing."""
    order = sorted(evidence.tasks.values(), key=lambda task: TIERS.index(tier_of(task, evidence.adapted_on)))
    measured: list[Measured] = []
    notes: list[str] = []
    for model in evidence.models:
        for task in order:
            for threat in evidence.threats:
                for seed in evidence.seeds:
                    cell = Cell(model.name, task.name, seed)
                    if (cell, threat.text) not in evidence.attacked:
                        continue
                    if (one := _measure(evidence, cell, task, threat)) is not None:
                        measured.append(one)
                    else:
                        where = f"{model.name} on {task.name} under {threat.text}, seed {seed}"
                        notes.append(f"{where} {_unfinished(evidence, cell, threat)}.")
    measured = [
        replace(m, row=replace(m.row, flags=(*m.row.flags, *alarms)))
        for m, alarms in zip(measured, curve_alarms(measured), strict=True)
    ]
    cells = [(Cell(m.row.model, m.row.task, m.row.seed), m.row.threat) for m in measured]
    lost = [flag for flag in evidence.flags if not any(flag.fits(*where) for where in cells)]
    return measured, notes + [_without_row(flag) for flag in lost]


def _measure(evidence: Evidence, cell: Cell, task: Task, threat: Threat) -> Measured | None:
    attacks = evidence.attacked[cell, threat.text]
    suites = evidence.suites[cell, threat.text]
    counted = count(evidence.clean.get(cell, {}), evidence.blocks.get(cell, ()), attacks, suites)
    if not len(counted.ids):
        return None
    attacks = of_examples(attacks, counted)
    n = len(counted.ids)
    tier = tier_of(task, evidence.adapted_on)
    clean, robust = int(counted.clean.sum()), int(counted.robust.sum())
    settings = {name: settings_of(evidence.settings, name, threat.text) for name in attacks}
    steps = [s["steps"] for s in settings.values() if isinstance(s.get("steps"), int)]
    row = Row(
        model=cell.model,
        task=task.name,
        adapted_on=tier == "adapted",
        tier=tier,
        n=n,
        clean=clean / n,
        clean_interval=wilson(clean, n),
        robust=robust / n,
        robust_interval=wilson(robust, n),
        attack="+".join(suite.name for suite in suites),
        threat=threat.text,
        norm=threat.norm,
        eps=threat.eps,
        space=threat.space,
        seed=cell.seed,
        precision=evidence.precision[cell],
        steps=max(steps, default=None),
        split=task.split,
        flags=tuple(alarms_of(evidence, task, threat, cell, counted, attacks)),
        classes=len(task.class_names),
        **two_class_scores(counted, len(task.class_names)),
        **_price(evidence, cell, counted, attacks),
        by_attack=tuple(
            AttackCount(name, len(done), sum(not record.correct for record in done.values()))
            for name, done in attacks.items()
        ),
        defended=two_numbers(counted, attacks, settings),
    )
    return Measured(row, counted, attacks, suites)


def _unfinished(evidence: Evidence, cell: Cell, threat: Threat) -> str:
    """Why there is no row, in words that follow what it would be about."""
    if cell not in evidence.clean:
        return "was not evaluated, so there is no row"
    attacks = evidence.attacked[cell, threat.text]
    suites = evidence.suites[cell, threat.text]
    missing = [suite.name for suite in suites if not any(attacks[name] for name in suite.attacks)]
    if not missing:
        return "has no block of examples that met every attack yet, so there is no row; the same command goes on"
    are = "is" if len(missing) == 1 else "are"
    return (
        f"has not met every attack of this run ({listed(missing)} {are} missing), so there is no row; evaluate it with "
        "the same --run"
    )


def _price(evidence: Evidence, cell: Cell, counted: Counted, attacks: Attacks) -> dict[str, Any]:
    """Mean passes for an example, as fields of a row."""
    records = [evidence.clean[cell][example] for example in counted.ids.tolist()]
    records += [record for done in attacks.values() for record in done.values()]
    return {what: sum(getattr(r, what) for r in records) / len(counted.ids) for what in ("forwards", "backwards")}


def _without_row(flag: Flag) -> str:
    """An alarm about something that has no row yet is said all the same."""
    where = [str(part) for part in (flag.model, flag.task, flag.threat) if part is not None]
    return f"{', '.join(where)} (no row yet): {flag.text}"
