"""A summary on the disk, and the whole way from run folders to a report."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from zsrobust.errors import RunError
from zsrobust.report.html import html
from zsrobust.report.load import load_runs
from zsrobust.report.markdown import markdown
from zsrobust.report.summary import Summary, summarise
from zsrobust.report.terminal import terminal


def write(summary: Summary, folder: str | Path) -> None:
    """Write ``summary.json``, ``report.md`` and ``report.html`` into ``folder``, each whole or not at all.

    Raises:
        RunError: the folder cannot be written.
    """
    folder = Path(folder)
    texts = {
        "summary.json": json.dumps(summary.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": markdown(summary),
        "report.html": html(summary),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            _replace(folder / name, text)
    except OSError as error:
        raise RunError(f"cannot write the report into {folder}: {error.strerror}") from None


def main_report(
    run_paths: Sequence[str | Path], out: str | Path | None = None, console: Console | None = None
) -> Summary:
    """Load, merge, write and print: what ``zsrobust report RUN…`` does.

    Args:
        run_paths: Run folders, at least one.
        out: Where to write. None: into the run, if it is one; of several nothing is written, because the
            merged report belongs to none of them.
        console: Where to print; standard output by default.

    Raises:
        RunError: a folder is no run, the runs do not fit together, or the report cannot be written.
    """
    console = console or Console()
    runs = load_runs(run_paths)
    summary = summarise(runs)
    folder = Path(out) if out is not None else (runs[0].path if len(runs) == 1 else None)
    if folder is not None:
        write(summary, folder)
    terminal(summary, console)
    where = "nothing written: name a folder for the report" if folder is None else folder / "report.html"
    console.print(f"Report: {where}", highlight=False, markup=False, soft_wrap=True)
    return summary


def _replace(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(text, "utf-8")
        scratch.replace(path)
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()
