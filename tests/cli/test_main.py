from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Refused, Zsrobust
from tests.report.fake_run import make_run

import zsrobust as package
from zsrobust.cli import COMMANDS

NAMES = {
    "demo", "adapt", "interpolate", "evaluate", "study", "corruptions", "retrieval", "drift", "latency", "sanity",
    "export", "report", "attack", "data", "ls", "doctor",
}  # fmt: skip

LIGHT = """
import sys
from zsrobust.cli import main
try:
    status = main({argv!r})
finally:
    loaded = {{"torch", "transformers", "datasets"}} & sys.modules.keys()
assert not loaded, loaded
sys.exit(status)
"""


@pytest.mark.parametrize("argv", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=lambda argv: argv[0])
def test_help_needs_no_torch(argv: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT.format(argv=argv)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: zsrobust {argv[0] if argv[0] in COMMANDS else ''}".rstrip())


@pytest.mark.parametrize("argv", [["ls", "tasks"], ["ls", "methods"], ["report", "nowhere"], ["adapt", "--lr", "x"]])
def test_what_needs_no_model_needs_no_torch(argv: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT.format(argv=argv)], capture_output=True, text=True, timeout=60)
    assert done.returncode == (0 if argv[0] == "ls" else 2), done.stderr
    assert "Traceback" not in done.stderr


def test_the_commands_are_these_and_each_is_in_the_help(zsrobust: Zsrobust) -> None:
    assert set(COMMANDS) == NAMES
    lines = [line.split(maxsplit=1) for line in zsrobust("--help").out.splitlines() if line.startswith("  ")]
    assert lines == [[name, summary] for name, summary in COMMANDS.items()]
    assert zsrobust().out == zsrobust("help").out == zsrobust("--help").out


def test_every_command_is_a_module_of_its_name() -> None:
    from importlib import import_module

    for name in COMMANDS:
        module = import_module(f"zsrobust.cli.{name}")
        assert module.COMMAND.name == name
        assert callable(module.run)


def test_help_fits_80_columns(zsrobust: Zsrobust, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in COMMANDS:
        lines = zsrobust(name, "--help").out.split("examples:")[0].splitlines()
        assert max(map(len, lines)) <= 80, name


def test_version(zsrobust: Zsrobust) -> None:
    assert zsrobust("--version").out == f"zsrobust {package.__version__}\n"


def test_every_option_is_explained(zsrobust: Zsrobust) -> None:
    from importlib import import_module

    from zsrobust.cli.command import options_of

    for name in COMMANDS:
        text = " ".join(zsrobust(name, "--help").out.split())
        for option in options_of(import_module(f"zsrobust.cli.{name}").COMMAND.options).values():
            if "." in option.name:
                continue
            start = text.index(f" --{option.name} ")
            words = text[start + 3 + len(option.name) :].split(" --")[0]
            assert len(words.split()) >= 3, (name, option.name, words)


def test_unknown_command(refused) -> None:  # type: ignore[no-untyped-def]
    assert refused("evalute").startswith("unknown command 'evalute'; did you mean 'evaluate'?")


def test_bug_is_a_traceback_and_says_so(zsrobust: Zsrobust, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsrobust.report.main_report", lambda *_: 1 / 0)
    result = zsrobust("report", "x")
    assert result.status == 1
    assert "ZeroDivisionError" in result.error
    assert result.error.endswith("this is a bug; please report it with the lines above\n")


def test_system_error_is_one_line(refused, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("zsrobust.report.main_report", full)
    assert refused("report", "x") == "somewhere: No space left on device"


def test_interrupt(zsrobust: Zsrobust, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zsrobust.report.main_report", interrupted)
    result = zsrobust("report", "x")
    assert result.status == 130
    assert result.error == "\nzsrobust: interrupted; nothing is left half-written\n"


@pytest.mark.parametrize("words", [["ls", "tasks"], ["report", "run"]], ids=lambda words: str(words[0]))
def test_reader_that_goes_away_is_no_error(words: list[str], tmp_path: Path) -> None:
    make_run(tmp_path / "run", tasks=["digits"], n=10)
    command = [sys.executable, "-m", "zsrobust", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == ""


def test_what_the_encoding_has_not_is_replaced(tmp_path: Path) -> None:
    make_run(tmp_path / "run", tasks=["digits"], n=10)
    command = [sys.executable, "-m", "zsrobust", "report", "run"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Report: run" in done.stdout


def test_help_of_a_command(zsrobust: Zsrobust, refused: Refused) -> None:
    assert zsrobust("help", "evaluate").out == zsrobust("evaluate", "--help").out
    assert refused("help", "evalute").startswith("unknown command 'evalute'; did you mean 'evaluate'?")


def test_ls(zsrobust: Zsrobust) -> None:
    from zsrobust.attacks import ATTACKS
    from zsrobust.methods import METHODS
    from zsrobust.tasks import names

    for kind, expected in (("tasks", names()), ("methods", METHODS), ("attacks", ATTACKS), ("models", ["tiny"])):
        lines = zsrobust("ls", kind).out.splitlines()
        for name in expected:
            assert any(line.split()[:1] == [name] for line in lines), (kind, name)
    assert "demo" in zsrobust("ls", "recipes").out


def test_ls_of_something_else(refused) -> None:  # type: ignore[no-untyped-def]
    assert "did you mean 'tasks'?" in refused("ls", "taks")
    assert refused("ls", "tasks", "models").startswith("one word too many: 'models'")


def test_python_dash_m(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "zsrobust"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "zsrobust demo" in done.stdout
