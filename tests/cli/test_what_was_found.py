"""Every command that opens a model says what was found in a file and decided."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.cli.conftest import Zsrobust
from tests.encoders.foreign_files import bare

from zsrobust.encoders.huggingface import from_folder
from zsrobust.errors import RunError


@pytest.mark.parametrize(
    ("work", "words"),
    [
        ("zsrobust.export.export", "export TOWER --format hf --out out"),
        ("zsrobust.drift.drift", "drift BASE TOWER --tasks PETS --k 1"),
        ("zsrobust.latency.latency", "latency TOWER"),
        ("zsrobust.corruptions.corrupted_accuracy", "corruptions TOWER --tasks PETS"),
        ("zsrobust.retrieval.evaluate.evaluate_retrieval", "retrieval TOWER --captions world"),
    ],
)
def test_a_tower_in_a_file(
    work: str,
    words: str,
    zsrobust: Zsrobust,
    random_clip_folder: Path,
    pets: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model: Any = from_folder(random_clip_folder).model
    torch.save(bare(model), "tower.pt")

    def stop(*_: object, **__: object) -> None:
        raise RunError("far enough")

    captions = SimpleNamespace(take=lambda *_, **__: None)
    monkeypatch.setattr("zsrobust.retrieval.sources.open_captions", lambda *_, **__: captions)
    monkeypatch.setattr(work, stop)
    places = {"TOWER": f"tower.pt:base={random_clip_folder}", "BASE": random_clip_folder, "PETS": pets}
    result = zsrobust(*(places.get(word, word) for word in words.split()))
    assert (result.status, result.error) == (2, "zsrobust: error: far enough\n")
    assert result.out.splitlines()[0].startswith("Read   tower: visual tower alone (bare); text tower, tokenizer")
