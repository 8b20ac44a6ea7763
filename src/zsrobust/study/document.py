"""A study's results on disk, and all studies in one Markdown document.

``results.json`` holds all that is said about a study, computed from the records; tables, figures, the page and the
document are made from it and say nothing of their own.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import zsrobust
from zsrobust.errors import RunError
from zsrobust.run_folder import write_atomically
from zsrobust.study import charts, claims, drawing, figures, markdown, plots, tables
from zsrobust.study.results import ALL, Study, load, name_of, read_cells
from zsrobust.study.wording import INTERVALS, everywhere, figure_file, threat_title

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
    drawn = [(figure, plots.build(study, figure)) for figure in figures.check(study.recipe)]
    there = [chart for _, chart in drawn if chart is not None]
    missing = [f"figure '{figure.title}': nothing of it is measured" for figure, chart in drawn if chart is None]
    told = {"format": FORMAT, "of": digest, "folder": folder.resolve().name} | _results(study, there, missing)
    text = json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False)
    results: Results = json.loads(text)
    for chart, entry in zip(there, results["figures"], strict=True):
        write_atomically(folder / entry["svg"], drawing.svg(chart).encode())
        write_atomically(folder / entry["png"], drawing.png(chart))
    write_atomically(folder / "table.csv", tables.as_csv(results["lines"], list(study.axes)).encode())
    write_atomically(folder / "table.md", _table_md(results).encode())
    # Last: where it is there and fits cells.json, the rest is there too.
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
        if results["format"] == FORMAT and results["of"] == _digest(folder):
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


def _results(study: Study, drawn: Sequence[charts.Chart], missing: Sequence[str]) -> Results:
    return {
        "study": study.name,
        "title": study.title,
        "command": f"zsrobust study {shlex.quote(study.spec)}",
        "recipe": study.recipe,
        "seeds": study.seeds,
        "planned": study.planned,
        "finished": len(study.finished),
        "problems": [*(f"{cell.name_with_seed}: {cell.missing}" for cell in study.cells if cell.missing), *missing],
        "tasks": [asdict(task) for task in study.tasks],
        "threats": [threat.text for threat in study.threats],
        "primary": study.primary.text,
        "attacks": study.attacks,
        "seconds": _seconds(study),
        "everywhere": [{"name": a.name, "doubt": a.doubt, "text": a.text} for a in study.everywhere],
        "alarms": _alarms(study),
        "lines": tables.lines(study),
        "figures": [_figure(chart) for chart in drawn],
        "claims": _claims(study),
        "tuning": study.tuning,
    }


def _seconds(study: Study) -> Results:
    """Sums, and which of them lack a job that was interrupted: its time is not known."""
    # The cells of an interpolation share one adaptation, and a value that tuning chose is a cell's.
    adapting = {(name_of(cell.levels), cell.seed): cell.seconds for cell in study.cells}
    tried = [entry for entry in study.tuning if not entry.get("chosen") and not entry.get("from")]
    times = {
        "adapt": [seconds["adapt"] for seconds in adapting.values() if "adapt" in seconds],
        "tune": [entry["seconds"] for entry in tried if "seconds" in entry],
        "evaluate": [cell.seconds["evaluate"] for cell in study.cells if "evaluate" in cell.seconds],
    }
    sums = {kind: sum(time for time in of_kind if time is not None) for kind, of_kind in times.items()}
    return sums | {"at_least": [kind for kind, of_kind in times.items() if None in of_kind]}


def _alarms(study: Study) -> list[Results]:
    """Each alarm once, with the places it is about; those that put a number in doubt first."""
    found: dict[str, Results] = {}
    for cell in study.finished:
        for (task, threat), outcome in cell.outcomes.items():
            for alarm in outcome.alarms:
                told = {"name": alarm.name, "strength": alarm.strength, "text": alarm.text, "doubt": alarm.doubt}
                entry = found.setdefault(alarm.name or alarm.text, {**told, "places": []})
                entry["places"].append(f"{cell.name_with_seed} on {task} under {threat}")
    return sorted(found.values(), key=lambda entry: not entry["doubt"])


def _figure(chart: charts.Chart) -> Results:
    head, rows = charts.table(chart)
    return {
        "title": chart.title,
        "conditions": chart.subtitle,
        "svg": f"figures/{chart.name}.svg",
        "png": f"figures/{chart.name}.png",
        "doubt": list(dict.fromkeys(name for point in chart.points for name in point.doubt)),
        "table": {"head": head, "rows": rows},
    }


def _claims(study: Study) -> list[Results]:
    entries, corrected = claims.check(study.recipe), study.recipe.get("corrected", False)
    together = Counter(entry.claim for entry in entries)
    return [_claim(study, entry, together[entry.claim] if corrected else 1) for entry in entries]


def _claim(study: Study, entry: claims.Entry, comparisons: int) -> Results:
    corrected = f" (corrected for {comparisons} comparisons)" if comparisons > 1 else ""
    verdicts = claims.judge(study, entry, comparisons=comparisons)
    return {
        "claim": entry.claim,
        "asks": entry.asks + corrected,
        "margin": entry.margin,
        "reason": entry.reason,
        "tier": entry.tier,
        "higher": entry.higher.words(entry.lower),
        "lower": entry.lower.words(entry.higher),
        "threat": " / ".join(dict.fromkeys(side.threat or study.primary.text for side in (entry.higher, entry.lower))),
        "verdicts": [asdict(verdict) | {"sentence": verdict.sentence} for verdict in verdicts],
    }


def _table_md(results: Results) -> str:
    parts = [f"# {results['title']}\n", INTERVALS + "\n"]
    lines, tiers = results["lines"], tables.tiers_in(results["lines"])
    for threat in results["threats"]:
        parts += [f"## {threat_title(threat)}\n", everywhere(results), tables.main_table(lines, threat, tiers)]
        for tier in tiers:
            tasks = [tables.TASK + task["name"] for task in results["tasks"] if task["tier"] == tier]
            if tier != ALL and len(tasks) > 1:
                parts += [f"### {tier.capitalize()} tasks, one by one\n", everywhere(results)]
                parts += [tables.main_table(lines, threat, tasks)]
    return "\n".join(part for part in parts if part)
