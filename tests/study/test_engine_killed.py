"""A study that was killed, again and again, ends with the files of one that was not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-m", "tests.study.killed_study", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def results(folder: Path) -> dict[str, bytes]:
    kept = ("records.jsonl", "model.safetensors", "metrics.jsonl")
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.name in kept}
    return {name: path.read_bytes() if path.name != "metrics.jsonl" else scores(path) for name, path in found.items()}


def scores(path: Path) -> bytes:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return json.dumps(
        [{k: v for k, v in line.items() if k not in ("images_per_second", "waiting")} for line in lines]
    ).encode()


def cells(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "studies/small/cells.json").read_text())
    for entry in [*content["cells"], *content["tuning"]]:
        entry["seconds"] = None
    return content


@pytest.mark.parametrize("way", ["killed", "workers"])
def test_it_ends_with_the_same(folder: Path, way: str) -> None:
    whole = results(folder / "whole")
    assert len(whole) == 3 * 2 + 4
    assert results(folder / way) == whole
    assert cells(folder / way) == cells(folder / "whole")
    assert len(cells(folder / way)["cells"]) == 4
