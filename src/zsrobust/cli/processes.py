"""The command line in a job of several processes, as torchrun starts them: the first one speaks, the others keep a log.

What the others would print goes to ``RUN/logs/process-RANK.log``. Until the run folder is known it is held back. What
only one of them has to say, an image on its machine that cannot be read, comes out on standard error all the same.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from zsrobust.distributed import LOGS, World, from_environment, joined
from zsrobust.errors import ConfigError

SHARED = ("adapt", "evaluate")
"""Commands that several processes can run together."""
_VOICE: ContextVar[tuple[World, Log | None] | None] = ContextVar("voice", default=None)


@contextmanager
def one_voice() -> Iterator[None]:
    """Inside, only the first process of a job speaks; nothing changes outside of a job."""
    try:
        me = from_environment()
    except ConfigError:  # a cluster's variables without torchrun; whoever needs them says what is wrong
        me = None
    if me is None or me.size == 1:
        yield
        return
    with ExitStack() as stack:
        log = None if me.main else stack.enter_context(Log(me))
        if me.main and threading.current_thread() is threading.main_thread():
            stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _ended))
        stack.callback(_VOICE.reset, _VOICE.set((me, log)))
        yield


def _ended(number: int, _: object) -> None:
    """A launcher ends all processes when one is gone: as always, but not without a word."""
    line = "the job was ended from outside, as when a process of it stops; the same command goes on from what is there"
    os.write(2, f"zsrobust: {line}\n".encode())
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextmanager
def shared(command: str) -> Iterator[None]:
    """Inside, the processes of a job work together; nothing changes outside of one.

    Raises:
        ConfigError: the command is not for several processes, or the environment is incomplete.
        ZSRobustError: as :func:`zsrobust.distributed.joined`.
    """
    if command in SHARED:
        me = from_environment()
        if me is None or me.size == 1:
            yield
            return
        with joined():
            yield
    elif _VOICE.get() is not None:
        names = " and ".join(SHARED)
        raise ConfigError(f"'{command}' runs in one process: start it without torchrun, which is for {names}")
    else:
        yield


class Log:
    """Standard output and error of a process that is not the first, on its way to a file."""

    def __init__(self, me: World) -> None:
        self.me = me
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        self._kept: list[int] = []
        self._streams = (sys.stdout, sys.stderr)

    def __enter__(self) -> Log:
        _flush()
        self._kept, self._streams = [os.dup(1), os.dup(2)], (sys.stdout, sys.stderr)
        self._turn()
        # A program may have put others in their place, which are not these two.
        sys.stdout, sys.stderr = (
            open(number, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            for number in (1, 2)
        )
        return self

    def __exit__(self, *_: object) -> None:
        _flush()
        sys.stdout, sys.stderr = self._streams
        for number, kept in enumerate(self._kept, start=1):
            os.dup2(kept, number)
            os.close(kept)
        self._kept = []
        self._file.close()

    def goes_to(self, folder: Path) -> None:
        """From here on, and what there was before, to a file in ``folder``; a second attempt is added to it."""
        _flush()
        self._file.seek(0)
        before = self._file.read()
        self._file.close()
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"process-{self.me.rank}.log").open("ab")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        who = f"process {self.me.rank} of {self.me.size}, {platform.node()}, pid {os.getpid()}"
        self._file.write(f"--- {now} {who}\n".encode() + before)
        self._file.flush()
        self._turn()

    def aloud(self, line: str) -> None:
        """Says something on the real standard error."""
        os.write(self._kept[1], f"{line}\n".encode())

    def _turn(self) -> None:
        for number in (1, 2):
            os.dup2(self._file.fileno(), number)


def logs_in(run: Path) -> None:
    """The run folder is known: the logs of this job go there, and the first process says so."""
    found = _VOICE.get()
    if found is None:
        return
    me, log = found
    if log is not None:
        log.goes_to(run / LOGS)
        return
    others = "process 1" if me.size == 2 else f"processes 1 to {me.size - 1}"
    print(f"Logs   {run / LOGS} (of {others})", flush=True)


def aloud(line: str) -> None:
    """Says a line on the real standard error, whichever process this is."""
    found = _VOICE.get()
    if found is None or found[1] is None:
        print(line, file=sys.stderr)
    else:
        found[1].aloud(line)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
