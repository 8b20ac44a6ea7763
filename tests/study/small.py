"""A study of a few seconds: a random CLIP and twelve images in each split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from tests.cli.conftest import draw_folder
from tests.encoders.small import save_clip


def images(folder: Path) -> Path:
    """A task with three splits."""
    for seed, split in enumerate(("train", "validation", "test")):
        draw_folder(folder / "images" / split, seed)
    toml = folder / "pets.toml"
    toml.write_text('templates = ["a {}"]\n[source]\npath = "images"\n[geometry]\nsize = 16\n')
    return toml


def content(model: Path, task: Path) -> dict[str, Any]:
    """Two losses, two seeds, a search for the learning rate and one α: 5 adaptations, 9 evaluations."""
    return {
        "title": "Small",
        "seeds": [0, 1],
        "adapt": {
            "model": str(model), "task": str(task), "epochs": 1, "batch_size": 4, "threat": "linf:4/255",
            "checkpoint_every": 1, "log_every": 1,
        },
        "evaluate": {"tasks": [str(task)], "attacks": ["pgd:2"], "threat": ["linf:4/255"]},
        "axes": {"loss": {"TeCoA": {"method": "tecoa"}, "clean": {"method": "clean"}}},
        "tune": {"option": "lr", "seed": 0, "images": 6, "values": {"loss": {"TeCoA": [1e-3, 1e-2], "clean": [1e-3]}}},
        "interpolate": [0.5],
    }  # fmt: skip


def write(folder: Path, **other: Any) -> Path:
    """The recipe as a file, with its model and task beside it; ``other`` replaces keys."""
    recipe = folder / "small.yaml"
    whole = content(save_clip(folder / "clip"), images(folder)) | other
    recipe.write_text(yaml.safe_dump(whole, sort_keys=False))
    return recipe
