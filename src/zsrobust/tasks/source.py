"""What every kind of data offers a task: labelled rows of one split, read one at a time."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from zsrobust.errors import DataError
from zsrobust.tasks.images import decode

if TYPE_CHECKING:
    from PIL.Image import Image

SPLITS = ("train", "validation", "test")
"""The splits of data without a TOML; a TOML may declare others."""
UNDIVIDED = "all"
"""What a TOML's ``from`` calls everything the data has, whether it is divided into splits or not."""
_WORDS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


def split_of(name: str) -> str | None:
    """The split that a name speaks of: ``val`` and ``cifar-val-00000-of-00002`` → ``validation``.

    None where it speaks of none, or of several.
    """
    found = {_WORDS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _WORDS}
    return found.pop() if len(found) == 1 else None


def split_of_folder(name: str) -> str | None:
    """The split that a folder of exactly this name holds, or None."""
    return _WORDS.get(name.lower())


class NoSplit(DataError):
    """The data is there, but has no such split."""


def no_split(where: str, split: str, present: Sequence[str]) -> NoSplit:
    """The one line for a split that the data does not have."""
    return NoSplit(f"{where} has no '{split}' split (it has: {', '.join(sorted(present)) or 'none'})")


def check_undivided(where: str, split: str, how: str) -> None:
    """Data that is not divided into splits is all ``test``; used as ``train`` it would be tested on as well.

    Raises:
        NoSplit: another split is asked for; ``how`` says how to divide the data.
    """
    if split not in ("test", UNDIVIDED):
        raise NoSplit(
            f"{where} is not divided into splits, so all of it is its test split (--split test); for '{split}' {how}"
        )


@dataclass
class Source:
    """One split of a data set. Rows are numbered as the data has them; nothing is decoded early.

    Attributes:
        where: What messages call the data.
        kind: parquet, folder, archive, webdataset, hub, digits or world.
        labels: (n,) int64, the class of every row.
        data_classes: Class names as the data has them, in label order; None where it has none.
        templates: Prompt templates that came with the data; empty where it has none.
        ignored: Files that were passed over because they are not images.
    """

    where: str
    kind: str
    labels: np.ndarray
    data_classes: tuple[str, ...] | None = None
    templates: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    _digests: dict[int, bytes] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def encoded(self) -> bool:
        """True where an image is its content, decoded: then pixels belong to the content's digest and can be kept.

        A kind of data with an ``image`` of its own makes its images in another way.
        """
        return type(self).image is Source.image

    def name(self, row: int) -> str:
        """What messages call a row's image."""
        raise NotImplementedError

    def content(self, row: int) -> bytes:
        """The encoded bytes of a row's image.

        Raises:
            DataError: they are missing or cannot be read.
        """
        raise NotImplementedError

    def image(self, row: int) -> Image:
        """A row's image, decoded to RGB.

        Raises:
            DataError: it is unreadable; the message begins with its name.
        """
        return decode(self.content(row), name=self.name(row))

    def read(self, row: int) -> tuple[bytes, bytes]:
        """(content, its sha256) of a row, read now; the digest is remembered.

        Raises:
            DataError: it is missing or cannot be read.
        """
        content = self.content(row)
        digest = self._digests[row] = hashlib.sha256(content).digest()
        return content, digest

    def known_digest(self, row: int) -> bytes | None:
        """The digest of a row whose content was read before."""
        return self._digests.get(row)

    def digest(self, row: int) -> bytes:
        """sha256 of the content of a row."""
        return self._digests.get(row) or self.read(row)[1]

    def identity(self) -> tuple[str, ...]:
        """Texts that tell these rows from others: of other data, of another split. Not their content: see digest."""
        labels = hashlib.sha256(np.ascontiguousarray(self.labels, dtype="<i8").tobytes()).hexdigest()
        where = str(Path(self.where).absolute()) if Path(self.where).exists() else self.where
        ends = (self.name(0), self.name(len(self) - 1)) if len(self) else ()
        return self.kind, where, str(len(self)), labels, *ends

    def image_id(self, row: int) -> str:
        """Equal for rows, of any task, with the same content."""
        return self.digest(row).hex()[:16]

    def fingerprint_rows(self, rows: np.ndarray) -> list[int]:
        """The rows whose digest enters a fingerprint, given the rows of a task: see ``Task.fingerprint``."""
        if len(rows) <= FINGERPRINT_ROWS:
            return [int(row) for row in rows]
        # runs of neighbours, because files that hold many images are read a piece at a time
        starts = np.linspace(0, len(rows) - FINGERPRINT_RUN, FINGERPRINT_ROWS // FINGERPRINT_RUN).astype(int)
        return [int(row) for start in starts for row in rows[start : start + FINGERPRINT_RUN]]


FINGERPRINT_ROWS = 50_000
"""Up to this many images a fingerprint covers every one; beyond, so many in evenly spaced runs: not hours."""
FINGERPRINT_RUN = 1_000
"""Length of such a run."""


def as_labels(values: Sequence[object], where: str) -> np.ndarray:
    """Integer labels → (n,) int64.

    Raises:
        DataError: something else than whole numbers from 0 is among them; the first such row is named.
    """
    for row, value in enumerate(values):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 0:
            hint = " (-1 marks a split without labels)" if value == -1 else ""
            raise DataError(f"{where}: row {row} has the label {value!r}; labels are whole numbers from 0{hint}")
    return np.asarray(values, dtype=np.int64).reshape(-1)


def shown_names(names: Sequence[str], most: int = 6) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")


def printable(name: str) -> str:
    """A file's name as it can be printed and stored: bytes that are no UTF-8 are written out, like xff."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def hidden(path: PurePath) -> bool:
    """True for what no person put there as data: ``.git``, ``.DS_Store``, ``__MACOSX``."""
    return path.name.startswith(".") or path.name == "__MACOSX"
