"""What only lists, explains or reports starts without the libraries that models and data need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.report.fake_run import make_run

from zsrobust.cli.ls import KINDS

HEAVY = "{'torch', 'transformers', 'datasets', 'pyarrow', 'sklearn', 'scipy', 'matplotlib', 'PIL', 'safetensors'}"
CODE = """
import sys
from zsrobust.cli import main
for argv in {lines!r}:
    assert main(argv) == 0, argv
    assert not ({heavy} & sys.modules.keys()), (argv, {heavy} & sys.modules.keys())
"""


def light(*lines: list[str]) -> str:
    """Output of these command lines in one fresh process that has to stay without the heavy libraries."""
    code = CODE.format(lines=list(lines), heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_list() -> None:
    assert "tecoa" in light(*(["ls", kind] for kind in KINDS))


def test_help_needs_not_even_numpy() -> None:
    code = "import sys; from zsrobust.cli import main; main(['--help']); print({'numpy', 'yaml'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("set()\n"), done.stderr


@pytest.mark.parametrize("runs", [1, 2])
def test_a_report_of_runs(tmp_path: Path, runs: int) -> None:
    folders = [str(make_run(tmp_path / f"run-{number}")) for number in range(runs)]
    assert light(["report", *folders, "--out", str(tmp_path / "both")])
    assert (tmp_path / "both" / "report.html").exists()
