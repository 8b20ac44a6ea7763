"""``python -m benchmarks.speed [--part …] [--quick]``: measure, print, and write the JSON; ``--table``: print it."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from benchmarks.speed.figure import RATIOS, Figure
from benchmarks.speed.machine import machine
from benchmarks.speed.table import markdown, number
from benchmarks.speed.workload import FULL, QUICK, Workload

from zsrobust.run_folder import versions

OUT = Path(__file__).parents[1] / "results" / "speed.json"
PARTS = ("floor", "attack", "adapt", "autoattack", "growth", "start")


def measure(part: str, workload: Workload, folder: Path) -> list[Figure]:
    """The figures of one part; imported late, a part may need what another does not."""
    from benchmarks.speed import adapt, attack, floor, growth, start

    if part == "autoattack":
        from benchmarks.speed import autoattack

        return autoattack.part(workload, folder)
    plain: dict[str, Callable[[], list[Figure]]] = {
        "floor": lambda: floor.part(workload),
        "attack": lambda: attack.part(workload),
        "adapt": lambda: adapt.part(workload, folder),
        "growth": lambda: growth.part(workload, folder),
        "start": lambda: start.part(workload, folder),
    }
    return plain[part]()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what was asked for; parts that were measured before and are not asked for now stay in the file."""
    given = _parsed(arguments)
    if given.table:
        print(markdown(json.loads(given.out.read_text())))
        return
    torch.set_num_threads(given.threads)
    workload = replace(QUICK if given.quick else FULL, device=given.device, adapted=given.adapted, folder=given.folder)
    if given.examples is not None:
        workload = replace(workload, examples=given.examples)
    result: dict[str, Any] = {
        "machine": machine(given.device),
        "versions": versions() | {"pyautoattack": version("pyautoattack")},
        "command": shlex.join(
            ["python", "-m", "benchmarks.speed", *(sys.argv[1:] if arguments is None else arguments)]
        ),
        "workload": workload.name,
        "ratios": "speeds, ours over the other's: higher is better",
        "figures": [],
        "seconds": {},
    }
    # Heads and pixels that an earlier run left in the user's cache would be found, not made.
    with (
        tempfile.TemporaryDirectory(prefix="speed-") as temporary,
        patch.dict(os.environ, ZSROBUST_CACHE=str(Path(temporary) / "cache")),
    ):
        _measure_all(given.part, workload, workload.folder or Path(temporary), result, given.out)


def _measure_all(parts: Sequence[str], workload: Workload, folder: Path, result: dict[str, Any], out: Path) -> None:
    """Part by part, written after each: a run that is stopped keeps what it measured."""
    for part in parts:
        start = time.monotonic()
        found = measure(part, workload, folder)
        result["seconds"][part] = round(time.monotonic() - start, 1)
        result["figures"] += [{**figure.to_json(), "part": part} for figure in found]
        for figure in found:
            print(line(figure), flush=True)
        write(result, out)


def line(figure: Figure) -> str:
    """A figure for the terminal."""
    ratios = [
        f"{name.removeprefix('ratio_to_')} × {figure.ratios[name]:.2f}" for name in RATIOS if name in figure.ratios
    ]
    notes = []
    if figure.spread is not None:
        notes.append(f"spread {figure.spread:.0%} of {figure.n}")
    if "why" in figure.settings:
        notes.append(str(figure.settings["why"]))
    if figure.points:
        notes.append(f"its work {figure.settings['exponent_of_the_work']}")
        if figure.settings["faster_than_its_work"]:
            notes.append("GROWS FASTER THAN ITS WORK")
    return f"{figure.name}: {number(figure.value) or 'not run'} {figure.unit}  {'; '.join([*ratios, *notes])}".rstrip()


def write(result: dict[str, Any], path: Path) -> None:
    """The JSON; figures of parts that are not in it are taken over from the file, if it is of the same workload."""
    done = set(result["seconds"])
    before = json.loads(path.read_text()) if path.exists() else {}
    merged = dict(result)
    if all(before.get(key) == result[key] for key in ("workload", "versions")) and (
        before["machine"] | {"load_before": None} == result["machine"] | {"load_before": None}
    ):
        old = [row for row in before["figures"] if row["part"] not in done]
        order = {part: i for i, part in enumerate(PARTS)}
        merged["figures"] = sorted([*old, *result["figures"]], key=lambda row: order[row["part"]])
        merged["seconds"] = {**before["seconds"], **result["seconds"]}
        if old:
            merged["command"] = "python -m benchmarks.speed" + (" --quick" if result["workload"] == "quick" else "")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(merged, indent=1, ensure_ascii=False) + "\n")


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="two minutes, smaller in everything; no figure to quote")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--adapted", type=Path, help="folder of an adapted embedded model; default: adapt it now")
    parser.add_argument("--examples", type=int, help="of the ensemble; default: 8")
    parser.add_argument("--folder", type=Path, help="keep the adapted model and other files here")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true", help="print the file as Markdown, measure nothing")
    given = parser.parse_args(arguments)
    if given.quick and not given.table and given.out == OUT:
        parser.error(f"--quick has no figure to quote, so it does not write {OUT.name}: name a file with --out")
    return given


if __name__ == "__main__":
    main()
