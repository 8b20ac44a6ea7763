"""How long a command takes before it does anything: every command pays it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.speed.bookkeeping import run_of
from benchmarks.speed.clock import in_turns
from benchmarks.speed.figure import Figure
from benchmarks.speed.workload import Workload

RECORDS = 400


def part(workload: Workload, folder: Path) -> list[Figure]:
    """Wall time of whole processes."""
    run = run_of(RECORDS, folder / "small")
    commands = {
        "start_help": ["--help"],
        "start_evaluate_help": ["evaluate", "--help"],
        "start_ls_tasks": ["ls", "tasks"],
        "start_report": ["report", str(run)],
    }
    works = {name: lambda a=arguments: _call(a) for name, arguments in commands.items()}
    times = in_turns(works, repeats=workload.starts)
    shown = {name: " ".join([*arguments[:-1], "RUN"] if name == "start_report" else arguments)
             for name, arguments in commands.items()}  # fmt: skip
    return [
        Figure(
            name, time.median, "s", spread=time.spread, n=time.n,
            settings={"command": f"zsrobust {shown[name]}"} | ({"records": RECORDS} if "report" in name else {}),
        )
        for name, time in times.items()
    ]  # fmt: skip


def _call(arguments: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "zsrobust", *arguments], check=True, capture_output=True)
