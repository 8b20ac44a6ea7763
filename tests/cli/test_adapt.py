"""Where a run of adapt or evaluate goes when nobody says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Zsrobust

from zsrobust import jobs
from zsrobust.cli import evaluate
from zsrobust.cli.adapt import AdaptOptions, run
from zsrobust.errors import ConfigError


def folder_of(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Path:
    seen: list[Path] = []
    monkeypatch.setattr(jobs, "adapt_job", lambda **given: seen.append(given["run"]))
    run(AdaptOptions(**options))
    return seen[0]


def test_a_command_finds_the_run_that_it_began_before_there_were_more_options(monkeypatch: pytest.MonkeyPatch) -> None:
    # The name that the first version gave; whoever changes it leaves interrupted runs behind.
    assert folder_of(monkeypatch) == Path("runs/tiny-tecoa-world-compositions-307db0")
    given: list[dict[str, Any]] = [
        {"micro_batch": 4},
        {"checkpoint_activations": True},
        {"attack_precision": "bfloat16"},
        {"ema": 0.9},
        {"soup": 2},
    ]
    assert len({folder_of(monkeypatch, **options) for options in [{}, *given]}) == 6


@pytest.mark.parametrize(("option", "value"), [("ema", 0.9), ("soup", 2)])
def test_averages_of_weights_can_be_asked_for(
    zsrobust: Zsrobust, adapt_command: list[object], option: str, value: float
) -> None:
    assert zsrobust(*adapt_command, f"--{option}", value).error == ""
    told = json.loads(Path("adapted/model/zsrobust.json").read_text())["adaptation"]
    assert {name: told[name] for name in ("ema", "soup") if name in told} == {option: value}


def test_an_average_that_cannot_be_is_refused(refused: Callable[..., str], adapt_command: list[object]) -> None:
    assert refused(*adapt_command, "--ema", "1.5").startswith("ema must be between 0 and 1")
    assert refused(*adapt_command, "--soup", "2.5") == "option --soup must be a whole number or null, not '2.5'"


@pytest.mark.parametrize(("options", "ending"), [({}, ""), ({"data": "my data"}, " --data 'my data'")])
def test_what_to_do_next_looks_for_data_in_the_same_folder(
    options: dict[str, Any], ending: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(monkeypatch, **options)
    told = f"Next   zsrobust evaluate tiny {folder} --tasks world-compositions --threat linf:1/255:native{ending}\n"
    assert capsys.readouterr().out == told


def test_so_does_evaluate(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []

    def job(*, run: Path, **_: object) -> None:
        seen.append(run)
        raise ConfigError("enough")

    monkeypatch.setattr(jobs, "evaluate_job", job)
    given: list[dict[str, Any]] = [{}, {"compile": True}]
    for options in given:
        with pytest.raises(ConfigError, match="enough"):
            evaluate.run(evaluate.EvaluateOptions(models=["tiny"], tasks=["digits"], **options))
    assert seen[0] == Path("runs/evaluate-tiny-digits-e29736")
    assert seen[1] != seen[0]
