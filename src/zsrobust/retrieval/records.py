"""What a retrieval run keeps: the features it found, as it finds them, and from these a record of ranks.

``found.jsonl`` has one line for each (model, image, attack) with the image's features. It is only appended to, so a run
that is killed goes on from it with nothing counted twice. The rank of an image for its captions depends on all other
images, so the records, one line each, are written when the last image of an attack is there.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zsrobust.errors import RunError
from zsrobust.line_file import LineFile

CLEAN = "clean"


class Key(NamedTuple):
    """What a line is about."""

    model: str
    attack: str
    example: int


@dataclass(frozen=True, slots=True)
class Found:
    """One image, clean or after an attack, as the model sees it.

    Attributes:
        model: Name of the model, as in ``run.json``.
        attack: ``"clean"`` or the attack's name.
        example: Row of the image in the data.
        size: Norm of the perturbation, in pixel range [0, 1].
        forwards: Forward passes spent.
        backwards: Backward passes spent.
        features: (D,) float32 unit features, in base64.
    """

    model: str
    attack: str
    example: int
    size: float
    forwards: int
    backwards: int
    features: str

    @property
    def key(self) -> Key:
        """What this is about."""
        return Key(self.model, self.attack, self.example)

    @property
    def vector(self) -> NDArray[np.float32]:
        """(D,) float32."""
        return np.frombuffer(base64.b64decode(self.features), dtype="<f4").astype(np.float32)

    @staticmethod
    def packed(vector: NDArray[np.float32]) -> str:
        """``features`` of a (D,) vector."""
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()


@dataclass(frozen=True, slots=True)
class Ranked:
    """Where an image finds its captions, and its captions find it.

    Attributes:
        model: Name of the model.
        attack: ``"clean"`` or the attack's name.
        threat: ``"none"`` for clean, otherwise for example ``"linf:2/255:native"``.
        seed: Of the attack's random numbers.
        example: Row of the image in the data.
        image: Its name.
        rank: Of the best of its own texts among all texts, from 1; ties count against the model.
        texts: Numbers of its texts.
        text_ranks: For each of them the rank of the best of its images among all images, all of them under this
            attack.
        size: Norm of the perturbation, in pixel range [0, 1].
        forwards: Forward passes spent.
        backwards: Backward passes spent.
    """

    model: str
    attack: str
    threat: str
    seed: int
    example: int
    image: str
    rank: int
    texts: list[int]
    text_ranks: list[int]
    size: float
    forwards: int
    backwards: int


def to_lines(items: Sequence[Found] | Sequence[Ranked]) -> bytes:
    """One line of JSON each."""
    dumped = (json.dumps(asdict(item), ensure_ascii=False, allow_nan=False, separators=(",", ":")) for item in items)
    return "".join(f"{line}\n" for line in dumped).encode()


def read_records(path: Path) -> list[Ranked]:
    """The records of a run; none where there is no file.

    Raises:
        RunError: a broken line, or the same record twice.
    """
    records = [Ranked(**values) for values in _parsed(path, LineFile(path).read(), {f.name for f in fields(Ranked)})]  # type: ignore[arg-type]
    if len({(r.model, r.attack, r.example) for r in records}) != len(records):
        raise RunError(f"{path} has the same record twice")
    return records


def _parsed(path: Path, data: bytes, keys: set[str]) -> list[dict[str, object]]:
    """Lines of JSON objects with these keys."""
    found = []
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            values = json.loads(line)
        except ValueError as error:
            raise RunError(f"{path}: line {number} is broken: {error}") from None
        if not isinstance(values, dict) or values.keys() != keys:
            raise RunError(f"{path}: line {number} is broken: not the keys of this format")
        found.append(values)
    return found


class Ledger:
    """``found.jsonl``: read at once, then appended to, under a lock.

    Args:
        path: The file; it need not exist.

    Raises:
        RunError: unreadable, a broken line, the same line twice, or another process writes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = LineFile(path)
        data = self._file.open()
        try:
            lines = [Found(**values) for values in _parsed(path, data, {f.name for f in fields(Found)})]  # type: ignore[arg-type]
            self.found = {line.key: line for line in lines}
            if len(self.found) != len(lines):
                raise RunError(f"{path} has the same line twice")
        except BaseException:
            self.close()
            raise

    def append(self, items: Sequence[Found]) -> None:
        """Write some lines and wait until they are on the disk: all of them, or on an error none.

        Raises:
            RunError: a line is there already, or the disk is full or read-only.
        """
        for item in items:
            if item.key in self.found:
                raise RunError(f"{self.path}: a second line for {item.key}")
        self._file.append(to_lines(items), kept=f"the {len(self.found)} images")
        self.found |= {item.key: item for item in items}

    def close(self) -> None:
        """Release the file; one without a line goes, since no run was begun then."""
        self._file.close()
        with contextlib.suppress(OSError):
            if self.path.stat().st_size == 0:
                self.path.unlink()
