"""The tables of a study: every group of cells over every tier and task, under every threat and attack."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from zsrobust.report.words import TIERS, percent, span
from zsrobust.study.results import ALL, CLEAN, EVERY_ATTACK, ROBUST, Cell, Study, name_of
from zsrobust.study.scores import Measure, Score, score

Line = dict[str, Any]
_CSV_HEAD = ("seeds", "over", "tasks", "threat", "attack", "n", "measure", "value", "low", "high", "in_doubt")


def lines(study: Study) -> list[Line]:
    """One for each group of cells, tier or task, threat and attack, as plain values; shares, not percent."""
    found = []
    for (levels, alpha), cells in study.groups().items():
        for threat in study.threats:
            names = study.attacks.get(threat.text, ())
            attacks = (EVERY_ATTACK, *(names if len(names) > 1 else ()))
            for over, tasks in places(study).items():
                clean = score(cells, tasks, Measure(CLEAN, threat.text))
                for attack in attacks if clean is not None else ():
                    if (line := _line(cells, clean, over, tasks, threat.text, attack)) is not None:
                        found.append({"levels": dict(levels), "alpha": alpha, "name": _name(study, cells[0])} | line)
    return found


def places(study: Study) -> dict[str, tuple[Any, ...]]:
    """Tiers that have tasks, all tasks, and each task → the tasks that are averaged."""
    tiers = {tier: study.tasks_of(tier) for tier in (*TIERS, ALL) if study.tasks_of(tier)}
    return tiers | {f"task {task.name}": (task,) for task in study.tasks}


def score_fields(name: str, one: Score) -> Line:
    """A score as plain values, under ``name`` and names that start with it."""
    return {name: one.value, f"{name}_interval": list(one.interval), f"{name}_by_seed": list(one.by_seed)}


def _line(
    cells: Sequence[Cell], clean: Score | None, over: str, tasks: Sequence[Any], threat: str, attack: str
) -> Line | None:
    if attack != EVERY_ATTACK and any(attack not in cells[0].outcomes[task.name, threat].robust for task in tasks):
        return None  # an attack that only some tasks had
    robust = score(cells, tasks, Measure(ROBUST, threat, attack))
    if clean is None or robust is None:
        return None
    return {
        "seeds": list(clean.seeds),
        "over": over,
        "tasks": list(clean.tasks),
        "threat": threat,
        "attack": attack,
        "n": clean.n,
        "doubt": list(robust.doubt),
        **score_fields(CLEAN, clean),
        **score_fields(ROBUST, robust),
    }


def _name(study: Study, cell: Cell) -> str:
    return name_of({axis: cell.levels[axis] for axis in study.axes if axis in cell.levels}, cell.alpha)


def as_csv(study_lines: Sequence[Line], axes: Sequence[str]) -> str:
    """Long form: one line for each clean or robust accuracy, ends of its 95 % interval beside it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*axes, "alpha", *_CSV_HEAD])
    for line in study_lines:
        levels = [line["levels"].get(axis, "") for axis in axes]
        place = [" ".join(map(str, line["seeds"])), line["over"], " ".join(line["tasks"]), line["threat"]]
        for measure in (CLEAN, ROBUST):
            if measure == CLEAN and line["attack"] != EVERY_ATTACK:
                continue  # said once
            attack = line["attack"] if measure == ROBUST else "none"
            low, high = line[f"{measure}_interval"]
            numbers = [line["n"], measure, *(f"{value:.6f}" for value in (line[measure], low, high))]
            doubt = " ".join(line["doubt"]) if measure == ROBUST else ""
            writer.writerow([*levels, "" if line["alpha"] is None else line["alpha"], *place, attack, *numbers, doubt])
    return out.getvalue()


def main_table(study_lines: Sequence[Line], threat: str, over: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: a row for each group of cells, clean and robust for each tier or task in ``over``."""
    head = ["", "seeds", *(f"{_short(place)}, {what}" for place in over for what in (CLEAN, ROBUST))]
    rows = by_name(study_lines, threat)
    body = []
    for name, by_place in rows.items():
        seeds = next(iter(by_place.values()))["seeds"]
        cells = [cell_text(by_place.get(place), what) for place in over for what in (CLEAN, ROBUST)]
        body.append([name, str(len(seeds)) if seeds else "–", *cells])
    return head, body


def by_name(study_lines: Sequence[Line], threat: str) -> dict[str, dict[str, Line]]:
    """Group of cells → tier or task → its line, under all attacks."""
    rows: dict[str, dict[str, Line]] = {}
    for line in study_lines:
        if line["threat"] == threat and line["attack"] == EVERY_ATTACK:
            rows.setdefault(line["name"], {})[line["over"]] = line
    return rows


def cell_text(line: Mapping[str, Any] | None, what: str) -> str:
    """``41.0 (38.2–43.9)``, with ! where a robust accuracy is in doubt, or – where nothing is."""
    return "–" if line is None else f"{value_text(line, what)} ({interval_text(line, what)})"


def value_text(line: Mapping[str, Any], what: str) -> str:
    """``41.0``, with ! where a robust accuracy is in doubt."""
    return percent(line[what]) + ("!" if what == ROBUST and line["doubt"] else "")


def interval_text(line: Mapping[str, Any], what: str) -> str:
    """``38.2–43.9``."""
    return span(tuple(line[f"{what}_interval"]))


def task_places(names: Sequence[str]) -> list[str]:
    """Tasks as tables name them."""
    return [f"task {name}" for name in names]


def tiers_in(study_lines: Sequence[Line]) -> list[str]:
    """The tiers that occur, the headline first."""
    there = {line["over"] for line in study_lines}
    return [tier for tier in ("unrelated", "related", "adapted", ALL) if tier in there]


def tasks_in(study_lines: Sequence[Line]) -> list[str]:
    """The single tasks that occur, as ``task NAME``."""
    return list(dict.fromkeys(line["over"] for line in study_lines if line["over"].startswith("task ")))


def threats_in(study_lines: Sequence[Line]) -> list[str]:
    """The threats that occur."""
    return list(dict.fromkeys(line["threat"] for line in study_lines))


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    grid = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in grid) + "\n"


def _short(place: str) -> str:
    return place.removeprefix("task ")
