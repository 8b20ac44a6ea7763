"""The cache folder: what is kept there was computed from something else, and can be computed again.

    FOLDER/pixels/    pixels of tasks, decoded and resized (zsrobust.tasks.pixel_cache)
    FOLDER/text/      text heads: embeddings of class names (zsrobust.text_head)

``ZSROBUST_CACHE`` says where FOLDER is; else it is ``zsrobust`` in ``XDG_CACHE_HOME`` or ``~/.cache``. ``off`` or
``none`` keep nothing on disk. ``ZSROBUST_CACHE_BYTES`` bounds it (``20GB``): what was not used for longest goes first.
Nothing here is worth an error: a folder that cannot be written is done without, after one warning.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zsrobust.errors import ConfigError

FOLDER_VARIABLE = "ZSROBUST_CACHE"
BYTES_VARIABLE = "ZSROBUST_CACHE_BYTES"
DEFAULT_BYTES = 20 * 10**9
OFF = ("off", "none")
BLOCK = 4096
"""Bytes that file systems give out at a time, usually."""
KINDS = ("pixels", "text")
"""Folders in the cache folder."""
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_OURS = re.compile(r"\.?[0-9a-f]{64}(\.[0-9a-f]{8})?\.(pixels|safetensors|tmp)")
_warned: set[Path] = set()


@dataclass(frozen=True)
class Kept:
    """A file in the cache folder.

    Attributes:
        path: Where.
        bytes: What it takes on the disk; a sparse file takes less than its length.
        used: When it was last written or marked as used, in seconds.
    """

    path: Path
    bytes: int
    used: float


def folder() -> Path | None:
    """The cache folder, which need not exist yet; None where nothing is to be kept on disk."""
    given = os.environ.get(FOLDER_VARIABLE, "").strip()
    if given.lower() in OFF:
        return None
    if given:
        return Path(given).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME", "").strip()
    # the XDG specification: a path that is not absolute is to be ignored
    return (Path(base) if base and Path(base).is_absolute() else Path(os.path.expanduser("~/.cache"))) / "zsrobust"


def bound() -> int:
    """Bytes that the cache folder may take.

    Raises:
        ConfigError: ``ZSROBUST_CACHE_BYTES`` is no size.
    """
    given = os.environ.get(BYTES_VARIABLE, "").strip()
    if not given:
        return DEFAULT_BYTES
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", given.lower())
    if found is None:
        raise ConfigError(f"{BYTES_VARIABLE} = '{given}' is no size; write bytes or a size such as 500MB, 20GB or 8GiB")
    return int(float(found[1]) * _UNITS[found[2] or ""])


def kept(here: Path) -> list[Kept]:
    """The files that were put into a cache folder, those first that were not used for longest; no other file."""
    found = []
    for entry in _entries(here):
        with contextlib.suppress(OSError):  # another process took it away
            if _OURS.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                found.append(Kept(Path(entry.path), taken(status), status.st_mtime))
    return sorted(found, key=lambda file: (file.used, file.path.name))


def taken(status: os.stat_result) -> int:
    """Bytes that a file takes on the disk; its length where the system does not tell."""
    blocks = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else int(blocks) * 512


def make_room(here: Path, wanted: int, *, growing: Path | None = None) -> bool:
    """Delete what was not used for longest until ``wanted`` more bytes stay within the bound.

    A file that another process has open is lost to later ones only: that process goes on with it.

    Args:
        here: The cache folder.
        wanted: Bytes that are about to be written.
        growing: The file that they are for, which is not deleted.

    Returns:
        Whether there is room now; where there cannot be, nothing is deleted.
    """
    wanted = -(-wanted // BLOCK) * BLOCK
    limit, files = bound(), kept(here)
    own = sum(file.bytes for file in files if file.path == growing)
    if own + wanted > limit:
        return False
    total = sum(file.bytes for file in files)
    for file in files:
        if total + wanted <= limit:
            break
        if file.path != growing:
            with contextlib.suppress(FileNotFoundError):
                file.path.unlink()
            total -= file.bytes
    return True


def warn_once(here: Path, problem: OSError) -> None:
    """Say, once for each folder and process, that nothing (more) can be kept there."""
    if here not in _warned:
        _warned.add(here)
        warnings.warn(
            f"the cache folder {here} cannot be used ({problem.strerror or problem}), so work is done without it; "
            f"{FOLDER_VARIABLE} names another, and 'off' does without",
            stacklevel=3,
        )


def _entries(here: Path) -> Iterator[os.DirEntry[str]]:
    for kind in KINDS:
        with contextlib.suppress(OSError), os.scandir(here / kind) as entries:
            yield from entries
