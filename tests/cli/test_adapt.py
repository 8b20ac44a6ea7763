"""Where a run of adapt or evaluate goes when nobody says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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
    ]
    assert len({folder_of(monkeypatch, **options) for options in [{}, *given]}) == 4


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
