"""The tables of a study: every group of cells over every tier and task, under every threat and attack."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from zsrobust.report.words import percent, span
from zsrobust.study.results import ALL, CLEAN, EVERY_ATTACK, ROBUST, Study
from zsrobust.study.scores import Measure, Score, score

Line = dict[str, Any]
TASK = "task "
"""Before the name of a single task, where else a tier stands."""
_CSV_HEAD = ("seeds", "over", "tasks", "threat", "attack", "n", "measure", "value", "low", "high", "in_doubt")


def lines(study: Study) -> list[Line]:
    """One for each group of cells, tier or task, threat and attack, as plain values; shares, not percent."""
    places = {tier: study.tasks_of(tier) for tier in (*study.tiers, ALL)}
    places |= {TASK + task.name: (task,) for task in study.tasks}
    found = []
    for cells in study.groups():
        group = {"levels": dict(cells[0].levels), "alpha": cells[0].alpha, "name": cells[0].name}
        for threat in (one.text for one in study.threats):
            names = study.attacks[threat]
            for over, tasks in places.items():
                clean = score(cells, tasks, Measure(CLEAN, threat))
                for attack in (EVERY_ATTACK, *(names if len(names) > 1 else ())) if clean is not None else ():
                    if all(attack in cells[0].outcomes[task.name, threat].robust for task in tasks):
                        robust = score(cells, tasks, Measure(ROBUST, threat, attack))
                        place = {"over": over, "threat": threat, "attack": attack}
                        found.append(group | place | _fields(CLEAN, clean) | _fields(ROBUST, robust))
    return found


def _fields(what: str, one: Score | None) -> Line:
    assert one is not None
    common = {"seeds": one.seeds, "tasks": one.tasks, "n": one.n, "doubt": one.doubt}
    return common | {what: one.value, f"{what}_interval": one.interval, f"{what}_by_seed": one.by_seed}


def as_csv(study_lines: Sequence[Line], axes: Sequence[str]) -> str:
    """Long form: one line for each clean or robust accuracy, ends of its 95 % interval beside it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*axes, "alpha", *_CSV_HEAD])
    for line in study_lines:
        group = [*(line["levels"].get(axis, "") for axis in axes), "" if line["alpha"] is None else line["alpha"]]
        place = [" ".join(map(str, line["seeds"])), line["over"], " ".join(line["tasks"]), line["threat"]]
        # The clean accuracy is the same under all attacks, and said once.
        for what in (CLEAN, ROBUST) if line["attack"] == EVERY_ATTACK else (ROBUST,):
            attack, doubt = (line["attack"], " ".join(line["doubt"])) if what == ROBUST else ("none", "")
            numbers = [f"{value:.6f}" for value in (line[what], *line[f"{what}_interval"])]
            writer.writerow([*group, *place, attack, line["n"], what, *numbers, doubt])
    return out.getvalue()


def main_table(study_lines: Sequence[Line], threat: str, over: Sequence[str]) -> str:
    """In Markdown: a row for each group of cells, clean and robust for each tier or task in ``over``."""
    columns = [(place, what) for place in over for what in (CLEAN, ROBUST)]
    body = []
    for name, by_place in by_name(study_lines, threat).items():
        seeds = len(next(iter(by_place.values()))["seeds"])
        cells = [
            f"{value_text(by_place[place], what)} ({interval_text(by_place[place], what)})"
            if place in by_place
            else "–"
            for place, what in columns
        ]
        body.append([name, str(seeds or "–"), *cells])
    return markdown_table(["", "seeds", *(f"{place.removeprefix(TASK)}, {what}" for place, what in columns)], body)


def by_name(study_lines: Sequence[Line], threat: str) -> dict[str, dict[str, Line]]:
    """Group of cells → tier or task → its line, under all attacks."""
    rows: dict[str, dict[str, Line]] = {}
    for line in study_lines:
        if line["threat"] == threat and line["attack"] == EVERY_ATTACK:
            rows.setdefault(line["name"], {})[line["over"]] = line
    return rows


def value_text(line: Mapping[str, Any], what: str) -> str:
    """``41.0``, with ! where a robust accuracy is in doubt."""
    return percent(line[what]) + ("!" if what == ROBUST and line["doubt"] else "")


def interval_text(line: Mapping[str, Any], what: str) -> str:
    """``38.2–43.9``."""
    return span(tuple(line[f"{what}_interval"]))


def tiers_in(study_lines: Sequence[Line]) -> list[str]:
    """The tiers that occur, the headline first."""
    there = {line["over"] for line in study_lines}
    return [tier for tier in ("unrelated", "unknown", "related", "adapted", ALL) if tier in there]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    grid = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in grid) + "\n"
