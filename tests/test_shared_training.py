"""Adaptation that several processes share is that of one process."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.shared_training import CLIP, RUNS, trained
from torch import Tensor

ROOT = Path(__file__).parents[1]
# Float32 sums over 5 rows and over 2 and 3 differ by some 1e-7 of them; 8 steps through a toy that magnifies what the
# steps before did leave about 1e-5. A gradient that is not averaged, or a batch that is cut otherwise, is off by 1e-2.
NEAR: dict[str, Any] = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, random_clip_folder: Path) -> Path:
    """Runs of two processes in ``two``; their beginning by one process, where that is what is tested."""
    two = tmp_path_factory.mktemp("shared") / "two"
    shutil.copytree(random_clip_folder, two / CLIP)
    trained(two, "begun by one", stop=True, **RUNS["tecoa"])
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.shared_training"]
    done = subprocess.run([sys.executable, *command, str(two)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("another number of processes (1, now 2)") == 1, "one note, by the first process"
    assert done.stderr.count("Warning: ") == 2, done.stderr  # the other is the batch size that was found
    return two


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, random_clip_folder: Path) -> Path:
    one = tmp_path_factory.mktemp("alone")
    shutil.copytree(random_clip_folder, one / CLIP)
    return one


def metrics(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "waiting")} for line in lines]


def compare(weights: dict[str, Tensor], run: Path, expected: dict[str, Tensor], whole: Path) -> None:
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected[name], **NEAR)
    for line, other in zip(metrics(run), metrics(whole), strict=True):
        assert line == pytest.approx(other, rel=1e-4, abs=1e-5)


@pytest.mark.filterwarnings("ignore:batch_size auto")
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_what_one_does(name: str, folder: Path, alone: Path) -> None:
    expected = trained(alone, name, **RUNS[name])
    one, other = (load_file(folder / f"{name} {rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items()), "both have the same model"
    compare(one, folder / name, expected, alone / name)
    start = trained(alone, f"{name} short", **{**RUNS[name], "epochs": 1, "lr": 1e-9})
    assert any(not torch.allclose(start[key], tensor, **NEAR) for key, tensor in expected.items()), "it moved"


def test_a_restart_in_the_middle_changes_nothing(folder: Path) -> None:
    whole, stopped = (load_file(folder / f"{name} 0.safetensors") for name in ("tecoa", "stopped"))
    assert all(torch.equal(tensor, stopped[key]) for key, tensor in whole.items())
    assert metrics(folder / "stopped") == metrics(folder / "tecoa")


def test_another_number_of_processes_goes_on(folder: Path, alone: Path) -> None:
    expected = trained(alone, "whole", **RUNS["tecoa"])
    compare(load_file(folder / "begun by one 0.safetensors"), folder / "begun by one", expected, alone / "whole")
    with pytest.warns(UserWarning, match=r"another number of processes \(2, now 1\).*up to rounding"):
        found = trained(folder, "stopped for one", **RUNS["tecoa"])
    compare(found, folder / "stopped for one", expected, alone / "whole")


def test_only_the_first_process_writes(folder: Path) -> None:
    state = json.loads((folder / "tecoa" / "checkpoints" / "step-00000008" / "state.json").read_text())
    assert state["configuration"]["processes"] == 2
    names = {path.name for path in (folder / "tecoa").iterdir()}
    assert names == {".adapt.lock", "checkpoints", "metrics.jsonl"}
    assert [line["step"] for line in metrics(folder / "tecoa")] == list(range(1, 9))


@pytest.mark.slow
def test_who_survives_names_the_checkpoint(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    first, second = (
        subprocess.Popen(
            [sys.executable, "-m", "tests.shared_training", str(tmp_path), "die"], cwd=ROOT, text=True,
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    )  # fmt: skip
    _, told = first.communicate(timeout=120)
    second.communicate(timeout=10)
    assert second.returncode == 9
    assert "stopped; the same command goes on from" in told.splitlines()[-1], told
    assert "step-00000004" in told.splitlines()[-1]
