"""The command line under torchrun: one process speaks, the others keep a log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Result

from zsrobust.cli import main
from zsrobust.cli.processes import aloud, logs_in, one_voice

ROOT = Path(__file__).parents[2]
OF_TWO = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
EVALUATE = ["evaluate", "tiny", "--tasks", "digits", "--limit", "10", "--attacks", "pgd:2", "--threat", "linf:4/255"]


@pytest.fixture
def as_process(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path):  # type: ignore[no-untyped-def]
    """Runs a command as process RANK of two that never meet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("warnings.formatwarning", lambda *_: "")

    def run(rank: int, *argv: str, **variables: str) -> Result:
        for name, value in (OF_TWO | {"RANK": str(rank), "LOCAL_RANK": str(rank)} | variables).items():
            monkeypatch.setenv(name, value)
        capfd.readouterr()
        status = main(list(argv))
        printed = capfd.readouterr()
        return Result(status, printed.out, printed.err)

    return run


@pytest.mark.parametrize("argv", [["ls", "tasks"], ["report", "x"], ["adpt"]])
def test_other_commands_refuse_once(as_process, argv: list[str]) -> None:  # type: ignore[no-untyped-def]
    first, second = as_process(0, *argv), as_process(1, *argv)
    assert (first.status, second.status) == (2, 2)
    assert first.error.count("\n") == 1
    assert (second.out, second.error) == ("", "")
    if argv[0] != "adpt":
        assert f"'{argv[0]}' runs in one process: start it without torchrun, which is for adapt and" in first.error


def test_a_cluster_without_torchrun_is_an_error_only_where_it_matters(as_process) -> None:  # type: ignore[no-untyped-def]
    half = {"MASTER_ADDR": ""}
    assert as_process(0, "ls", "methods", **half).status == 0
    found = as_process(0, *EVALUATE, **half)
    assert (found.status, found.error.count("\n")) == (2, 1)
    assert "no MASTER_ADDR: start with torchrun" in found.error


def test_what_the_others_print_is_in_a_log_of_the_run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, value in (OF_TWO | {"RANK": "1", "LOCAL_RANK": "1"}).items():
        monkeypatch.setenv(name, value)
    for attempt in ("first", "second"):
        with one_voice():
            print(f"{attempt} before")
            logs_in(tmp_path / "run")
            os.write(2, f"{attempt} after\n".encode())
            aloud(f"{attempt} for people")
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "first for people\nsecond for people\n")
    written = (tmp_path / "run" / "logs" / "process-1.log").read_text().splitlines()
    assert [line for line in written if not line.startswith("---")] == [
        "first before", "first after", "second before", "second after"
    ]  # fmt: skip
    assert written[0].startswith("--- ")
    assert "process 1 of 2" in written[0]


def test_a_job_that_is_ended_does_not_go_without_a_word() -> None:
    code = "import os, signal, time\nfrom zsrobust.cli.processes import one_voice\nwith one_voice():\n"
    code += "    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(30)"
    first = os.environ | OF_TWO | {"RANK": "0", "LOCAL_RANK": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=first, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGTERM
    assert done.stderr.startswith("zsrobust: the job was ended from outside")
    assert done.stderr.count("\n") == 1


def torchrun(folder: Path, *argv: object) -> subprocess.CompletedProcess[str]:
    # -- keeps torchrun from reading --run as its own --run-path
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--", "zsrobust"]
    return subprocess.run(
        [sys.executable, *words, *map(str, argv)], cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )


def test_evaluate_by_two_processes_is_evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("warnings.formatwarning", lambda *_: "")
    done = torchrun(tmp_path, *EVALUATE, "--rows", "4", "--run", "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Summary  two/summary.json") == 1
    assert "Logs   two/logs (of process 1)" in done.stdout
    assert "process 1 of 2" in (tmp_path / "two" / "logs" / "process-1.log").read_text()
    assert main([*EVALUATE, "--rows", "4", "--run", "one"]) == 0
    one, two = (sorted((tmp_path / run / "records.jsonl").read_text().splitlines()) for run in ("one", "two"))
    assert one == two
    headers = [json.loads((tmp_path / run / "run.json").read_text()) for run in ("one", "two")]
    assert headers[0] | {"created": ""} == headers[1] | {"created": ""}


@pytest.mark.slow
def test_an_error_is_told_once_or_with_its_process(tmp_path: Path, photos: Path) -> None:
    unknown = torchrun(tmp_path, "evaluate", "tiny", "--tasks", "nowhere", "--run", "a")
    assert unknown.returncode != 0
    assert unknown.stderr.count("zsrobust: error:") == 1
    images = sorted(photos.rglob("*.png"))
    images[-1].write_bytes(images[-1].read_bytes()[:60])
    command = ["evaluate", "tiny", "--tasks", photos, "--rows", "2", "--run", "b"]
    broken = torchrun(tmp_path, *command, "--attacks", "pgd:1")
    assert broken.returncode != 0
    told = [line for line in broken.stderr.splitlines() if line.startswith("zsrobust: error:")]
    assert any(images[-1].name in line for line in told), broken.stderr
    assert "c10d" not in "\n".join(told)
