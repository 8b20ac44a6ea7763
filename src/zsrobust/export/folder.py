"""An export's folder: written beside its place, put there with one rename, and never over another one's files."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zsrobust.encoders import saving
from zsrobust.encoders.preprocessing import read_json
from zsrobust.errors import ConfigError, ModelError

EXPORT = "export.json"
FORMAT = "zsrobust.export/1"


def check_target(folder: Path, form: str, fingerprint: str) -> None:
    """Only nothing, an empty folder, or an earlier export of the same model in the same format may be replaced.

    Raises:
        ConfigError: Something else is there.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"'{folder}' is a file, not a folder")
    if not any(folder.iterdir()):
        return
    if not (folder / EXPORT).is_file():
        raise ConfigError(f"'{folder}' is not empty and is no export (no {EXPORT}); name another folder")
    earlier = read_json(folder / EXPORT)
    if (earlier.get("kind"), earlier.get("fingerprint")) != (form, fingerprint):
        raise ConfigError(
            f"'{folder}' already holds an export of another model or in another format ({earlier.get('kind')} of "
            f"'{earlier.get('model')}'); remove it, or name another folder"
        )


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """An empty folder that takes the place of ``folder`` at the end of the block, and leaves nothing on an error.

    Raises:
        ModelError: The disk is full or read-only, or the like.
    """
    fresh = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    try:
        fresh.mkdir(parents=True)
        yield fresh
        saving.replace_folder(fresh, folder)
    except OSError as error:
        raise ModelError(f"'{folder}' cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """``content`` as indented JSON.

    Raises:
        ConfigError: It is not JSON-able.
    """
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path.name} would not be JSON: {error}") from error
    path.write_text(text + "\n", encoding="utf-8")
