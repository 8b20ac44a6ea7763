from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for fake_run, whatever the import mode

from fake_run import make_run


@pytest.fixture
def run(tmp_path):
    """A small run of both models on four tasks, one of each tier at least."""
    tasks = ("world-compositions", "world-shapes", "world-textures", "cifar10")
    return make_run(tmp_path / "run", tasks=tasks, n=40, eps=("1/255", "4/255"), pictures=True)


@pytest.fixture
def edit():
    """Change ``run.json`` (or another JSON file) of a folder in place."""

    def change(folder, function, name="run.json"):
        values = json.loads((folder / name).read_text())
        function(values)
        (folder / name).write_text(json.dumps(values))

    return change
