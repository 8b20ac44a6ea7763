from __future__ import annotations

from pathlib import Path

import pytest
from tests.tasks.tiny_data import write_parquet

BIRDS = """
version = 3
description = "Birds."
follows_from = ["cifar10"]
classes = ["owl", "wren"]
templates = ["a {}", "the {}"]
[source]
local = ["birds-{split}.parquet", "birds"]
[geometry]
size = 8
[splits]
train = { from = "train", rows = "0:4", size = 6 }
validation = { from = "train", rows = "4:6", size = 6 }
test = 3
"""


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Tests see no ZSROBUST_DATA of the machine, unless they are marked to use it."""
    if request.node.get_closest_marker("data") is None:
        monkeypatch.delenv("ZSROBUST_DATA", raising=False)


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """A TOML and, elsewhere, its data."""
    file = tmp_path / "defs" / "birds.toml"
    file.parent.mkdir()
    file.write_text(BIRDS)
    write_parquet(tmp_path / "store" / "birds-train.parquet", [0, 1, 0, 1, 1, 0], names=["owl", "Wren"], first=10)
    write_parquet(tmp_path / "store" / "birds-test.parquet", [1, 0, 1], names=["owl", "wren"])
    return file
