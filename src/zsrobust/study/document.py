"""A study's results on disk, and all studies in one Markdown document.

``results.json`` holds all that is said about a study, computed from the records; tables, figures, the page and the
document are made from it and say nothing of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import zsrobust
from zsrobust.errors import RunError
from zsrobust.run_folder import write_atomically
from zsrobust.study import charts, claims, drawing, figures, markdown, plots, tables
from zsrobust.study.results import ALL, Cell, Study, load, name_of, read_cells
from zsrobust.study.scores import Score
from zsrobust.study.wording import INTERVALS, figure_file, threat_title

FORMAT = "zsrobust.study-results/1"
Results = dict[str, Any]


def write(folder: str | Path) -> Results:
    """Compute a study's results and write ``results.json``, ``table.md``, ``table.csv`` and ``figures/``.

    Returns:
        What ``results.json`` holds.

    Raises:
        ZSRobustError: no study, runs that are broken or cannot be compared, a figure or claim that cannot be computed.
    """
    folder = Path(folder)
    digest = _digest(folder)
    study = load(folder)
    if not study.finished:
        raise RunError(f"{folder}: no cell of this study is finished, so it has no results yet")
    lines = tables.lines(study)
    drawn, missing = _drawn(study)
    results = {"format": FORMAT, "of": digest, "folder": folder.resolve().name} | _results(study, lines, drawn, missing)
    for chart, entry in drawn:
        write_atomically(folder / entry["svg"], drawing.svg(chart).encode())
        write_atomically(folder / entry["png"], drawing.png(chart))
    write_atomically(folder / "table.csv", tables.as_csv(lines, list(study.axes)).encode())
    write_atomically(folder / "table.md", _table_md(results).encode())
    # Last: where it is there and fits cells.json, the rest is there too.
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / "results.json", (text + "\n").encode())
    return results


def read(folder: str | Path) -> Results:
    """What :func:`write` wrote, computed again if ``cells.json`` or the package changed since.

    Raises:
        ZSRobustError: as :func:`write`.
    """
    folder = Path(folder)
    try:
        results = json.loads((folder / "results.json").read_text("utf-8"))
        if results["format"] == FORMAT and results["of"] == _digest(folder) and _complete(folder, results):
            return dict(results)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return write(folder)


def read_all(studies: str | Path) -> list[Results]:
    """The results of every study with a finished cell in a folder, the largest first.

    Raises:
        ZSRobustError: as :func:`write`, or there is none.
    """
    folder = Path(studies)
    found = sorted(path.parent for path in folder.glob("*/cells.json"))
    results = [read(path) for path in found if _started(path)]
    if not results:
        raise RunError(f"{folder} has no study with a finished cell")
    return sorted(results, key=lambda one: (-one["finished"], one["study"]))


def study_md(studies: str | Path, out: str | Path) -> str:
    """Write all studies of a folder as one Markdown document; its figures go into ``figures/`` beside it.

    Returns:
        The text.

    Raises:
        ZSRobustError: as :func:`write`.
    """
    studies, out = Path(studies), Path(out)
    every = read_all(studies)
    for results in every:
        for entry in results["figures"]:
            source = studies / results["folder"] / entry["svg"]
            write_atomically(out.parent / "figures" / figure_file(results, entry), source.read_bytes())
    text = markdown.document(every)
    write_atomically(out, text.encode())
    return text


def _started(folder: Path) -> bool:
    """Whether any cell of a study was evaluated."""
    return any(
        cell.get("run") and (folder / cell["run"] / "run.json").is_file() for cell in read_cells(folder)["cells"]
    )


def _digest(folder: Path) -> str:
    try:
        content = (folder / "cells.json").read_bytes()
    except OSError as error:
        raise RunError(f"{folder} is not a study: cannot read cells.json ({error.strerror})") from None
    return hashlib.sha256(content + zsrobust.__version__.encode()).hexdigest()


def _complete(folder: Path, results: Results) -> bool:
    files = ["table.csv", "table.md", *(entry[kind] for entry in results["figures"] for kind in ("svg", "png"))]
    return all((folder / name).is_file() for name in files)


def _drawn(study: Study) -> tuple[list[tuple[charts.Chart, Results]], list[str]]:
    """The charts with their entries, and the titles of figures of which nothing was measured."""
    found, missing = [], []
    for figure in figures.check(study.recipe):
        chart = plots.build(study, figure)
        if chart is None:
            missing.append(figure.title)
            continue
        head, rows = charts.table(chart)
        entry = {
            "title": chart.title,
            "conditions": chart.subtitle,
            "svg": f"figures/{chart.name}.svg",
            "png": f"figures/{chart.name}.png",
            "notes": list(chart.notes),
            "doubt": list(charts.doubts(chart)),
            "table": {"head": head, "rows": rows},
        }
        found.append((chart, entry))
    return found, missing


def _results(
    study: Study,
    lines: Sequence[tables.Line],
    drawn: Sequence[tuple[charts.Chart, Results]],
    missing: Sequence[str],
) -> Results:
    # The cells of an interpolation share one adaptation.
    adapting = {(name_of(cell.levels, None), cell.seed): cell for cell in study.cells}
    return {
        "study": study.name,
        "title": study.title,
        "command": f"zsrobust study {study.name}",
        "recipe": study.recipe,
        "seeds": list(study.seeds),
        "planned": max(study.planned, len(study.cells)),
        "finished": len(study.finished),
        "problems": [*study.problems, *(f"figure '{title}': nothing of it is measured" for title in missing)],
        "tasks": [{"name": t.name, "tier": t.tier, "n": t.n, "classes": t.classes} for t in study.tasks],
        "threats": [threat.text for threat in study.threats],
        "primary": study.primary.text,
        "attacks": {threat: list(names) for threat, names in study.attacks.items()},
        "seconds": {"adapt": _total(adapting.values(), "adapt"), "evaluate": _total(study.cells, "evaluate")},
        "alarms": _alarms(study),
        "lines": list(lines),
        "figures": [entry for _, entry in drawn],
        "claims": [_claim(study, entry) for entry in claims.check(study.recipe)],
        "tuning": [dict(entry) for entry in study.tuning],
    }


def _total(cells: Iterable[Cell], kind: str) -> float:
    return sum(float(cell.seconds.get(kind) or 0) for cell in cells)


def _alarms(study: Study) -> list[Results]:
    """Each alarm once, with the places it is about; those that put a number in doubt first."""
    found: dict[tuple[str | None, str], Results] = {}
    for cell in study.finished:
        for (task, threat), outcome in cell.outcomes.items():
            for alarm in outcome.alarms:
                entry = found.setdefault(
                    (alarm.name, "" if alarm.name else alarm.text),
                    {
                        "name": alarm.name,
                        "strength": alarm.strength,
                        "text": alarm.text,
                        "doubt": alarm.doubt,
                        "places": [],
                    },
                )
                seed = "" if cell.seed is None else f", seed {cell.seed}"
                entry["places"].append(f"{cell.name}{seed} on {task} under {threat}")
    return sorted(found.values(), key=lambda entry: not entry["doubt"])


def _claim(study: Study, entry: claims.Entry) -> Results:
    verdicts = []
    for verdict in claims.judge(study, entry):
        one: Results = {
            "tier": verdict.tier,
            "verdict": verdict.kind,
            "sentence": verdict.sentence,
            "note": verdict.why,
        }
        for name in ("change", "higher", "lower"):
            one[name] = _score(getattr(verdict, name))
        verdicts.append(one)
    asked = {
        "claim": entry.claim,
        "asks": entry.asks,
        "margin": entry.margin,
        "reason": entry.reason,
        "tier": entry.tier,
    }
    return asked | {
        "higher": entry.higher.words(entry.lower),
        "lower": entry.lower.words(entry.higher),
        "threat": " / ".join(dict.fromkeys(side.threat or study.primary.text for side in (entry.higher, entry.lower))),
        "verdicts": verdicts,
    }


def _score(score: Score | None) -> Results | None:
    if score is None:
        return None
    return {
        "value": score.value,
        "interval": list(score.interval),
        "seeds": list(score.seeds),
        "by_seed": list(score.by_seed),
        "n": score.n,
        "tasks": list(score.tasks),
        "doubt": list(score.doubt),
    }


def _table_md(results: Results) -> str:
    parts = [f"# {results['title']}\n", INTERVALS + "\n"]
    for threat in tables.threats_in(results["lines"]):
        parts.append(f"## {threat_title(threat)}\n")
        parts += [
            tables.markdown_table(*tables.main_table(results["lines"], threat, tables.tiers_in(results["lines"])))
        ]
        for tier in tables.tiers_in(results["lines"]):
            tasks = [f"task {task['name']}" for task in results["tasks"] if task["tier"] == tier]
            if tier != ALL and len(tasks) > 1:
                parts += [f"### {tier.capitalize()} tasks, one by one\n"]
                parts += [tables.markdown_table(*tables.main_table(results["lines"], threat, tasks))]
    return "\n".join(parts)
