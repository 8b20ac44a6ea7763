"""An evaluation shared by several processes: each takes the next piece of work, the first one collects the records.

Pieces are listed alike in every process, and taken one by one from a counter in the process group's key-value store:
an image that no attack breaks costs a thousand times one that falls at once, so pieces that were dealt out beforehand
would leave processes idle. Records travel through the store as lines of JSON. There is no collective in here: nobody
waits for anybody but the first process, at the end, for all.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self

from zsrobust.distributed import Watch, World
from zsrobust.records import Record

PIECES = 2
"""Pieces that a process should have at least, where there is enough work: the last ones to finish then differ less."""
PASSES = 4
"""Passes' worth of rows that a piece should have: towards its end, when few images still stand, rows stay empty."""
PAUSE = 0.2
"""Seconds between two looks for records of other processes."""


class Piece(NamedTuple):
    """Some examples of a task, with all attacks.

    Attributes:
        task: Number of the task.
        positions: Of the examples in the task, ascending.
    """

    task: int
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """Records that are finished.

    Attributes:
        task: Number of the task.
        records: Of it.
        made: Successes that attacks claimed meanwhile.
        refuted: Of those, the ones that the verdict denies.
    """

    task: int
    records: Sequence[Record]
    made: int = 0
    refuted: int = 0

    def to_text(self) -> str:
        """A line of JSON for the counts, and one for each record."""
        head = json.dumps({"task": self.task, "made": self.made, "refuted": self.refuted})
        return "\n".join([head, *(record.to_json() for record in self.records)])

    @classmethod
    def from_text(cls, text: str) -> Part:
        """What :meth:`to_text` wrote."""
        head, *lines = text.split("\n")
        return cls(records=[Record.from_json(line) for line in lines], **json.loads(head))


def pieces(left: Sequence[Sequence[int]], *, rows: int, most: int, processes: int) -> list[Piece]:
    """Cuts what is left into pieces.

    A forward pass has ``rows`` rows whatever it is given, so a small piece wastes some of them: it is only cut where a
    process would have nothing to do otherwise (``python -m benchmarks.scaling`` simulates what that buys).

    Args:
        left: Positions that need work, of each task.
        rows: Rows of a forward pass.
        most: Examples of a piece at most.
        processes: Among which they are shared.
    """
    total = sum(map(len, left))
    each = -(-total // processes)
    size = min(max(-(-each // PIECES), PASSES * rows), each)
    if each >= rows:
        size = -(-size // rows) * rows
    size = max(1, min(size, most))
    return [
        Piece(task, tuple(map(int, positions[first : first + size])))
        for task, positions in enumerate(left)
        for first in range(0, len(positions), size)
    ]


class Exchange:
    """What the processes share.

    Args:
        store: Key-value store of the process group, under a prefix of this evaluation alone.
        me: This process.
    """

    def __init__(self, store: Any, me: World) -> None:
        self._store, self._me, self._sent = store, me, 0

    def take(self) -> int:
        """Number of the next piece that nobody has taken."""
        return int(self._store.add("next", 1)) - 1

    def send(self, part: Part) -> None:
        """Hands a part to the first process."""
        self._store.set(f"part/{self._me.rank}/{self._sent}", part.to_text())
        self._sent += 1

    def finish(self) -> None:
        """Says that this process sends nothing more."""
        self._store.set(f"finished/{self._me.rank}", str(self._sent))


class Collector:
    """In the first process: a thread that keeps what the others send, while this one works too.

    Args:
        store: As that of :class:`Exchange`.
        me: This process.
        keep: Called with each part, one at a time.
        watch: Notices that another process is gone.

    Attributes:
        lock: Held while a part is kept.
    """

    def __init__(self, store: Any, me: World, keep: Callable[[Part], None], watch: Watch) -> None:
        self._store, self._keep, self._watch = store, keep, watch
        self._received = dict.fromkeys(range(1, me.size), 0)
        self.lock, self._over = threading.Lock(), threading.Event()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="zsrobust-collect")

    def keep(self, part: Part) -> None:
        """Keeps a part of this process.

        Raises:
            ZSRobustError: it cannot be kept, or what another process sent could not, or another process is gone.
        """
        self.check()
        with self.lock:
            self._keep(part)

    def check(self) -> None:
        """Raises what went wrong in the thread."""
        if self._problem is not None:
            raise self._problem

    def complete(self) -> bool:
        """Whether everything of every process is kept.

        Raises:
            ZSRobustError: as :meth:`keep`.
        """
        self.check()
        with self.lock:
            return all(
                self._store.check([f"finished/{rank}"]) and int(self._store.get(f"finished/{rank}")) == received
                for rank, received in self._received.items()
            )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if error is not None and self._problem in (None, error):
            with suppress(Exception):  # the first error is the one to tell; what has arrived is kept all the same
                self._collect()

    def _run(self) -> None:
        try:
            while not self._over.wait(PAUSE):
                self._collect()
                self._watch.look()
        except BaseException as problem:
            self._problem = problem

    def _collect(self) -> None:
        for rank in self._received:
            while self._store.check([name := f"part/{rank}/{self._received[rank]}"]):
                with self.lock:
                    self._keep(Part.from_text(self._store.get(name).decode()))
                    self._received[rank] += 1
                self._store.delete_key(name)
