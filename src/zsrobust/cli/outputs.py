"""Files that a command writes at its end: whether it can is known before it begins."""

from __future__ import annotations

import os
from pathlib import Path

from zsrobust.errors import ConfigError


def file_to_write(option: str, given: str) -> Path:
    """The path that an option names, ``~`` expanded; its folder need not exist.

    Args:
        option: As typed, ``--out``.
        given: Its value.

    Raises:
        ConfigError: it is a folder, lies below something that is none, or may not be written.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        raise ConfigError(f"{option} {given} is a folder; name a file in it")
    below = next(folder for folder in path.absolute().parents if folder.exists())
    if not below.is_dir():
        raise ConfigError(f"{option} {given} cannot be written: {below} is a file, not a folder")
    if not os.access(path if path.exists() else below, os.W_OK):
        raise ConfigError(f"{option} {given} cannot be written: no permission in {below}")
    return path
