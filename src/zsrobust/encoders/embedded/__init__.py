"""Checkpoints that ship inside the package."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path


def tiny_folder() -> Path:
    """The folder of the tiny CLIP: an ordinary Hugging Face checkpoint; its ``README.md`` says what it is."""
    with as_file(files(__name__) / "tiny") as folder:
        return folder
