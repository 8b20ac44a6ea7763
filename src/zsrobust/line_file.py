"""A file that only grows, line by line: what a kill tears off is cut away, and two processes do not write at once."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

from zsrobust.errors import RunError


def lock(stream: BinaryIO, path: Path) -> None:
    """Locks an open file until it is closed, or the process ends; ``path`` is what the message calls it.

    Raises:
        RunError: another process has it.
    """
    try:
        import fcntl

        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunError(f"{path} is being written by another process; wait for it") from None
    except (ImportError, OSError):
        return  # Windows, or a file system without locks: two writers at once are not noticed


class LineFile:
    """Lines on disk. Reading changes nothing; :meth:`open` locks the file until :meth:`close`, or the process's end.

    Args:
        path: The file; it need not exist yet, its folder must.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: BinaryIO | None = None
        self._size = 0

    @property
    def is_open(self) -> bool:
        """Whether it is locked for writing."""
        return self._stream is not None

    def read(self) -> bytes:
        """The complete lines; a missing file has none.

        Raises:
            RunError: unreadable.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise RunError(f"cannot read {self.path}: {error.strerror}") from None
        return data[: data.rfind(b"\n") + 1]

    def open(self) -> bytes:
        """The complete lines; from here on the file is locked. The first :meth:`append` cuts off what a kill tore.

        Raises:
            RunError: unreadable, cannot be written, or another process writes it.
        """
        try:
            stream = self.path.open("ab", buffering=0)
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror}") from None
        try:
            lock(stream, self.path)
            data = self.read()
            self._size = len(data)
        except BaseException:
            stream.close()
            raise
        self._stream = stream
        return data

    def append(self, data: bytes, *, kept: str) -> None:
        """Writes whole lines and waits until they are on the disk: all of them, or on an error none.

        Args:
            data: Lines with their ends.
            kept: What is there already, for the message of an error.

        Raises:
            RunError: the disk is full or read-only.
        """
        assert self._stream is not None
        try:
            self._stream.truncate(self._size)
            rest = memoryview(data)
            while rest:
                rest = rest[self._stream.write(rest) :]
            os.fsync(self._stream.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):  # else whole lines and a torn one stay: both can be resumed
                self._stream.truncate(self._size)
            self.close()
            raise RunError(
                f"cannot write {self.path}: {error.strerror}; {kept} already there "
                "are kept, run the same command again to go on"
            ) from None
        self._size += len(data)

    def close(self) -> None:
        """Release the file; it can be opened again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
