"""Adaptation that was stopped or killed goes on as if nothing had been; another configuration is refused."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.fakes import Toy, task
from tests.toy_runs import metrics, run, same
from torch import Tensor

from zsrobust.attacks.pgd import PGD
from zsrobust.errors import RunError
from zsrobust.methods.tecoa import TeCoA
from zsrobust.metrics import MetricsFile
from zsrobust.recipe import LATER, Recipe
from zsrobust.threat import Threat
from zsrobust.training_step import Step

ROOT = Path(__file__).parents[1]


class Stop(BaseException):
    """As Ctrl-C."""


def stop_in_step(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    learn, count = Step.learn, itertools.count(1)

    def stopping(*args: Any) -> Tensor:
        if next(count) == step:
            raise Stop
        return learn(*args)

    monkeypatch.setattr(Step, "learn", stopping)


def stopped(tmp_path: Path, step: int = 4, **options: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_in_step(step, patch)
        with pytest.raises(Stop):
            run(run=tmp_path, checkpoint_every=2, log_every=1, **options)


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw", "weight_decay": 0.1}, {"precision": "bf16"}])
def test_a_run_that_stopped_ends_with_the_same_weights(options: dict[str, Any], tmp_path: Path) -> None:
    stopped(tmp_path / "stopped", **options)
    whole = run(run=tmp_path / "whole", log_every=1, **options)
    assert same(run(run=tmp_path / "stopped", log_every=1, **options), whole)
    keys = ("step", "loss", "lr", "clean_accuracy", "robust_accuracy")
    one, other = ([{k: line[k] for k in keys} for line in metrics(tmp_path / f)] for f in ("stopped", "whole"))
    assert one == other
    assert same(run(run=tmp_path / "stopped", **options), whole)  # finished: nothing is done again


def test_held_out_images_of_a_finished_run_are_scored_or_refused(tmp_path: Path) -> None:
    run(run=tmp_path / "without")
    for _ in range(2):
        with pytest.raises(RunError, match="is finished, and held-out images are scored after the last step only"):
            run(run=tmp_path / "without", held_out=task(8))
    whole = run(run=tmp_path / "with", held_out=task(8))
    before = metrics(tmp_path / "with")
    assert same(run(run=tmp_path / "with", held_out=task(8)), whole)
    assert metrics(tmp_path / "with") == before


def test_scores_of_another_number_of_held_out_images_are_not_taken_for_them(tmp_path: Path) -> None:
    run(run=tmp_path, held_out=task(8))
    assert metrics(tmp_path)[-1]["held_out_images"] == 8
    with pytest.raises(RunError, match="is finished, with scores of 8 held-out images, not of 12: ask for as many"):
        run(run=tmp_path, held_out=task(12))
    file = tmp_path / "metrics.jsonl"
    file.write_text(file.read_text().replace(', "held_out_images": 8', ""))  # earlier versions did not say it
    run(run=tmp_path, held_out=task(12))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_that_is_killed_at_any_moment_ends_with_the_same_weights(
    optimizer: str, killed: Path, request: pytest.FixtureRequest
) -> None:
    whole, resumed = killed / optimizer / "whole", killed / optimizer / "killed"
    one, other = (load_file(folder / "final.safetensors") for folder in (whole, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    lines = [[(line["step"], line["loss"]) for line in metrics(folder)] for folder in (whole, resumed)]
    assert lines[0] == lines[1]
    assert [step for step, _ in lines[1]] == [2, 4, 6, 8, 10, 12]
    names = [sorted(path.name for path in (folder / "checkpoints").iterdir()) for folder in (whole, resumed)]
    assert names[0] == names[1] == ["step-00000009", "step-00000012"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of both optimizers, whole, and killed seven times each: see tests/killed_runs.py."""
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed_runs", "adapt", str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("lr", {"lr": 0.2}),
        ("batch_size", {"batch_size": 5}),
        ("seed", {"seed": 1}),
        ("optimizer", {"optimizer": "adamw"}),
        ("base_fingerprint", {"encoder": Toy(seed=1)}),
        (r"method\.scale", {"method": TeCoA(scale=3.0)}),
        (r"attack\.name", {"attack": PGD(Threat("linf", "8/255"), 3)}),
        ("threat", {"attack": PGD(Threat("l2", "8/255"), 2)}),
        ("task_fingerprint", {"task": task(18, seed=1)}),
    ],
)
def test_another_configuration_is_refused_and_named(key: str, options: dict[str, Any], tmp_path: Path) -> None:
    stopped(tmp_path)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(RunError, match=rf"another configuration: {key} was"):
        run(run=tmp_path, **options)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_other_templates_are_another_configuration(tmp_path: Path) -> None:
    from dataclasses import replace

    stopped(tmp_path)
    with pytest.raises(RunError, match="templates was"):
        run(run=tmp_path, task=replace(task(18), templates=("the {}",)))


def test_how_often_is_logged_and_saved_may_change(tmp_path: Path) -> None:
    stopped(tmp_path)
    assert same(run(run=tmp_path, checkpoint_every=1, log_every=2), run())


@pytest.mark.parametrize("name", ["threads", "processes"])
def test_threads_and_processes_may_change_and_that_is_said(name: str, tmp_path: Path) -> None:
    stopped(tmp_path)
    changed_in_checkpoints(tmp_path, lambda told: told | {name: 7})
    with pytest.warns(
        UserWarning, match=rf"another number of {name} \(7, now 1\): .*up to rounding, not bit for bit"
    ) as caught:
        found = run(run=tmp_path)
    assert len(caught) == 1
    assert same(found, run())


def changed_in_checkpoints(folder: Path, change: Any) -> None:
    for path in folder.glob("checkpoints/*/state.json"):
        state = json.loads(path.read_text())
        state["configuration"] = change(state["configuration"])
        path.write_text(json.dumps(state))


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    # What a checkpoint of a run with default options holds has not changed.
    stopped(tmp_path)
    state = json.loads((tmp_path / "checkpoints" / "step-00000002" / "state.json").read_text())
    assert state.keys() == {"format", "step", "losses", "configuration"}
    assert state["configuration"].keys() == {
        *("base", "base_fingerprint", "method", "tuning", "task", "task_fingerprint", "templates", "images", "threat"),
        *("attack", "threads", "epochs", "batch_size", "lr", "optimizer", "weight_decay", "warmup", "precision"),
        *("labels", "seed"),
    }


def test_options_that_came_later_change_no_key_while_they_are_off() -> None:
    # Cells of studies and run folders are found again by the hash of this.
    assert Recipe().deciding() == {
        "epochs": 10, "batch_size": 256, "lr": 1e-5, "optimizer": "sgd", "weight_decay": 0.0, "warmup": 0.02,
        "precision": "float32", "labels": "true", "seed": 0,
    }  # fmt: skip
    on: dict[str, Any] = {"micro_batch": 4, "checkpoint_activations": True, "attack_precision": "bfloat16"}
    assert on.items() <= Recipe(**on).deciding().items()
    assert set(on) == set(LATER)


# Metrics


def test_metrics_after_the_last_checkpoint_are_written_anew(tmp_path: Path) -> None:
    with MetricsFile(tmp_path, resume_at=0) as file:
        for step in (2, 4, 6):
            file.write(step, {"loss": 1.0 * step})
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 8, "lo')
    with MetricsFile(tmp_path, resume_at=4) as file:
        file.write(6, {"loss": -6.0})
    assert metrics(tmp_path) == [{"step": 2, "loss": 2.0}, {"step": 4, "loss": 4.0}, {"step": 6, "loss": -6.0}]


def test_broken_metrics_are_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n')
    with pytest.raises(RunError, match="'nonsense'; remove it"):
        MetricsFile(tmp_path, resume_at=1)
