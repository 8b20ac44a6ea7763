"""``zsrobust report``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from zsrobust.cli.command import WHOLE, Command, also
from zsrobust.errors import ConfigError


@dataclass(kw_only=True)
class ReportOptions:
    """Make the report of a run again, or one report of several runs (other models, tasks, seeds)."""

    runs: list[str] = field(default_factory=list, metadata=also("run") | WHOLE)
    """Run folders, also written without --runs."""
    out: str | None = None
    """Folder for summary.json, report.md and report.html. null: the run's own; of several runs nothing is written."""


COMMAND = Command(
    name="report",
    options=ReportOptions,
    usage="RUN... [--out DIR]",
    positional="runs",
    examples=("zsrobust report runs/demo", "zsrobust report runs/a runs/b --out runs/both"),
)


def run(options: ReportOptions) -> None:
    """Prints the table and writes the report."""
    if not options.runs:
        raise ConfigError("no run given: zsrobust report RUN (a folder with run.json and records.jsonl)")
    from zsrobust.report import main_report

    main_report(options.runs, None if options.out is None else Path(options.out).expanduser())
