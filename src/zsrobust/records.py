"""What was measured: one record for each (example, attack), one JSON line each.

Every number of a report is computed from these lines, and an evaluation killed at any moment resumes from
them with nothing counted twice. So the file is only ever appended to, each batch is on the disk before the
next begins, and a line is complete exactly when its newline is there.

A clean prediction is a record too, with attack ``"clean"`` and threat ``"none"``. Examples that are wrong
when clean have that one record and are not attacked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from zsrobust.errors import RunError
from zsrobust.line_file import LineFile

CLEAN = "clean"
UNKNOWN = "unknown"
"""In a model's ``adapted_on``: it was adapted, nobody said on what."""
NO_THREAT = "none"
SCOUT = "scout"
"""Within a suite, an attack that only saves time: what it cannot break is given to every other member."""
_SUITES_WITH_COLON = frozenset({"paper:aa"})
"""Other names with a colon before a slash are of attacks: ``transfer:openai/clip``, ``pgd:step_size=1/255``."""


def suite_of(attack: str) -> str | None:
    """``autoattack`` of ``autoattack/apgd:ce``; None for an attack that is no member of a suite."""
    head, slash, _ = attack.partition("/")
    return head if slash and (":" not in head or head in _SUITES_WITH_COLON) else None


class Key(NamedTuple):
    """What a record is about; a file holds at most one record for each."""

    model: str
    task: str
    example: int
    seed: int
    attack: str
    threat: str


class Cell(NamedTuple):
    """What is evaluated in one go: a model on a task with a seed."""

    model: str
    task: str
    seed: int


@dataclass(frozen=True, slots=True)
class Record:
    """One example under one attack.

    Attributes:
        model: Name of the model, as in ``run.json``.
        task: Name of the task.
        example: Row of the example in the task's source split.
        image: Cluster key: equal for all tasks that show the same image.
        label: Class index.
        seed: Seed of the attack's randomness.
        attack: ``"clean"``, or the attack's name, for example ``"pgd:20"``.
        threat: ``"none"`` for clean, otherwise for example ``"linf:4/255:native"``.
        prediction: Class index, in float32 and the canonical batch shape.
        correct: ``prediction == label``.
        margin: Logit of the label minus the largest other logit, at the stored point; finite.
        size: Norm of the perturbation in the threat's norm, in pixel range [0, 1]; 0 for clean.
        forwards: Forward passes spent on this example.
        backwards: Backward passes spent on this example.

    Raises:
        ValueError: the fields contradict each other, or a number is not finite or negative where it cannot
            be.
    """

    model: str
    task: str
    example: int
    image: str
    label: int
    seed: int
    attack: str
    threat: str
    prediction: int
    correct: bool
    margin: float
    size: float
    forwards: int
    backwards: int

    def __post_init__(self) -> None:
        if self.correct != (self.prediction == self.label):
            raise ValueError(f"correct is {self.correct}, prediction {self.prediction}, label {self.label}")
        if (self.attack == CLEAN) != (self.threat == NO_THREAT):
            raise ValueError(f"attack '{self.attack}' does not go with threat '{self.threat}'")
        if not (math.isfinite(self.margin) and math.isfinite(self.size)):
            raise ValueError(f"margin {self.margin} and size {self.size} must be finite")
        if min(self.example, self.label, self.prediction, self.size, self.forwards, self.backwards) < 0:
            raise ValueError("example, label, prediction, size, forwards and backwards must not be negative")

    @property
    def key(self) -> Key:
        """What this record is about."""
        return Key(self.model, self.task, self.example, self.seed, self.attack, self.threat)

    @property
    def cell(self) -> Cell:
        """The model, task and seed this record belongs to."""
        return Cell(self.model, self.task, self.seed)

    def to_json(self) -> str:
        """One line of JSON, without the newline."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Record:
        """The record written as ``line``.

        Raises:
            ValueError: not JSON, a key missing or unknown, a value of the wrong type, or a contradiction.
        """
        values = json.loads(line)
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        missing, unknown = _TYPES.keys() - values.keys(), values.keys() - _TYPES.keys()
        if missing or unknown:
            both = (("missing", missing), ("unknown", unknown))
            raise ValueError("; ".join(f"{what} {', '.join(sorted(names))}" for what, names in both if names))
        for name, kind in _TYPES.items():
            if kind is float and type(values[name]) is int:
                values[name] = float(values[name])
            if type(values[name]) is not kind:  # exact: True is no integer here
                raise ValueError(f"{name} is {values[name]!r}, not {kind.__name__}")
        return cls(**values)


_KINDS: dict[object, type] = {"str": str, "int": int, "float": float, "bool": bool}
_TYPES: dict[str, type] = {f.name: _KINDS[f.type] for f in fields(Record)}


@dataclass(slots=True)
class Done:
    """What a file already holds of one cell.

    Attributes:
        clean: Examples with a clean record.
        correct: Those of them that are right when clean, which are the ones to attack.
        attacked: (attack, threat) → examples with that record.
        fallen: (suite, threat) → examples that a member of the suite broke, which its other members need not attack.
    """

    clean: set[int] = field(default_factory=set)
    correct: set[int] = field(default_factory=set)
    attacked: dict[tuple[str, str], set[int]] = field(default_factory=dict)
    fallen: dict[tuple[str, str], set[int]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Count ``record`` as done."""
        if record.attack != CLEAN:
            self.attacked.setdefault((record.attack, record.threat), set()).add(record.example)
            if not record.correct and (suite := suite_of(record.attack)) is not None:
                self.fallen.setdefault((suite, record.threat), set()).add(record.example)
            return
        self.clean.add(record.example)
        if record.correct:
            self.correct.add(record.example)

    def needs(self, attack: str, threat: str) -> Callable[[int], bool]:
        """Tells whether ``attack`` has to look at an example: not known to be wrong when clean, and not settled."""
        suite = suite_of(attack)
        attacked = self.attacked.get((attack, threat), set())
        fallen = self.fallen.get((suite, threat), set()) if suite is not None else set()

        def needed(example: int) -> bool:
            right = example in self.correct or example not in self.clean
            return right and example not in attacked and example not in fallen

        return needed

    def settled(self, attack: str, threat: str) -> set[int]:
        """Examples that ``attack`` need not look at (any more): done, or broken by its suite before."""
        suite = suite_of(attack)
        broken = self.fallen.get((suite, threat), set()) if suite is not None else set()
        return self.attacked.get((attack, threat), set()) | broken


class RecordFile:
    """The records of a run, on disk.

    Reading changes nothing. The first :meth:`append` opens the file for writing: a line that a kill tore off
    is cut away, what is there is indexed, and the file is locked against a second writer until :meth:`close`
    (or the end of the ``with`` block, or of the process).

    Args:
        path: The file, usually ``RUN/records.jsonl``; it need not exist yet, its folder must.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = LineFile(self.path)
        self._keys: set[Key] = set()

    def read(self) -> list[Record]:
        """All complete records, in the order they were written; a torn last line is left out.

        Raises:
            RunError: unreadable, a broken line (its number is named), or the same record twice.
        """
        return list(self._parse(self._file.read()))

    def done(self) -> dict[Cell, Done]:
        """What need not be computed again. Errors as :meth:`read`."""
        cells: dict[Cell, Done] = {}
        for record in self.read():
            cells.setdefault(record.cell, Done()).add(record)
        return cells

    def append(self, records: Sequence[Record]) -> None:
        """Write a batch and wait until it is on the disk. Either all of it is kept, or on an error none.

        Raises:
            RunError: a record is there already (nothing is written), the disk is full or read-only, another
                process writes the same file, or what is there is broken.
        """
        if not self._file.is_open:
            self._open()
        new: set[Key] = set()
        for key in (record.key for record in records):
            if key in self._keys or key in new:
                raise RunError(f"{self.path}: a second record for {_describe(key)}; this batch was not written")
            new.add(key)
        lines = "".join(record.to_json() + "\n" for record in records).encode()
        self._file.append(lines, kept=f"the {len(self._keys)} records")
        self._keys |= new

    def close(self) -> None:
        """Release the file; appending again reopens it."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _parse(self, data: bytes) -> Iterator[Record]:
        lines: dict[Key, int] = {}
        for number, line in enumerate(data.split(b"\n")[:-1], start=1):
            try:
                record = Record.from_json(line.decode())
            except ValueError as error:
                raise RunError(f"{self.path}: line {number} is broken: {error}") from None
            if (first := lines.setdefault(record.key, number)) != number:
                raise RunError(f"{self.path}: line {number} repeats line {first} ({_describe(record.key)})")
            yield record

    def _open(self) -> None:
        data = self._file.open()
        try:
            self._keys = {record.key for record in self._parse(data)}
        except BaseException:
            self.close()
            raise


def _describe(key: Key) -> str:
    return (
        f"model '{key.model}', task '{key.task}', example {key.example}, seed {key.seed}, "
        f"attack '{key.attack}', threat '{key.threat}'"
    )
