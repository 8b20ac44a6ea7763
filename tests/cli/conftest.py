from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsrobust.cli import main

CLASSES = ("cat", "dog", "fox")
PER_CLASS = 4


@dataclass
class Result:
    status: int
    out: str
    error: str


Zsrobust = Callable[..., Result]
Refused = Callable[..., str]
Command = list[object]


@pytest.fixture
def zsrobust(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Zsrobust:
    """Runs a command in a fresh working directory, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("warnings.formatwarning", lambda *_: "")  # main sets it; put back afterwards

    def run(*argv: object) -> Result:
        capsys.readouterr()
        status = main([str(word) for word in argv])
        printed = capsys.readouterr()
        return Result(status, printed.out, printed.err)

    return run


@pytest.fixture
def refused(zsrobust: Zsrobust) -> Refused:
    """Runs a command that must end with one line on standard error and status 2; gives the line."""

    def run(*argv: object) -> str:
        result = zsrobust(*argv)
        assert result.status == 2, result
        assert result.error.startswith("zsrobust: error: ")
        assert result.error.count("\n") == 1
        return result.error.removeprefix("zsrobust: error: ").rstrip()

    return run


def draw_folder(root: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for i in range(PER_CLASS):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(root / name / f"{i}.png")


@pytest.fixture(scope="session")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of 12 + 12 random images; its prompts are short enough for the random CLIP's 24 tokens."""
    folder = tmp_path_factory.mktemp("pets")
    draw_folder(folder / "images" / "train", 0)
    draw_folder(folder / "images" / "test", 1)
    (folder / "pets.toml").write_text('templates = ["a {}"]\n[source]\npath = "images"\n[geometry]\nsize = 16\n')
    return folder / "pets.toml"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A private folder of class folders, to be damaged."""
    draw_folder(tmp_path / "photos", 2)
    return tmp_path / "photos"


@pytest.fixture
def adapt_command(random_clip_folder: Path, pets: Path) -> Command:
    """Six steps."""
    return [
        "adapt", "--model", random_clip_folder, "--task", pets, "--epochs", 2, "--batch-size", 4, "--lr", "1e-3",
        "--threat", "linf:4/255", "--checkpoint-every", 2, "--log_every", 1, "--run", "adapted",
    ]  # fmt: skip


@pytest.fixture
def evaluate_command(random_clip_folder: Path, pets: Path) -> Command:
    return ["evaluate", random_clip_folder, "--tasks", pets, "--attacks", "pgd:2", "--threat", "linf:4/255"]
