"""Records → tables, figures and one self-contained HTML file. Nothing here imports torch."""

from __future__ import annotations

from zsrobust.report.load import Run, load_run, load_runs
from zsrobust.report.results import AcrossSeeds, Alarm, Comparison, Mean, Row
from zsrobust.report.summary import Summary, summarise
from zsrobust.report.terminal import terminal
from zsrobust.report.write import main_report, write

__all__ = [
    "AcrossSeeds",
    "Alarm",
    "Comparison",
    "Mean",
    "Row",
    "Run",
    "Summary",
    "load_run",
    "load_runs",
    "main_report",
    "summarise",
    "terminal",
    "write",
]
