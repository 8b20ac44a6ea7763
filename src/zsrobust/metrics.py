"""What training looked like: JSON lines always, TensorBoard when asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from zsrobust.errors import ConfigError, RunError
from zsrobust.run_folder import write_atomically, writing


class MetricsFile:
    """``RUN/metrics.jsonl``, one line for each measured step.

    Args:
        folder: The run folder; None: nothing is written.
        resume_at: Lines of later steps, which a killed run may have written after its last checkpoint, are dropped.
        tensorboard: Also write TensorBoard events to ``RUN/tensorboard``.

    Raises:
        ConfigError: TensorBoard was asked for and is not installed, or there is no run folder for it.
    """

    def __init__(self, folder: Path | None, *, resume_at: int, tensorboard: bool = False) -> None:
        self._path = folder / "metrics.jsonl" if folder is not None else None
        self._board = _board(folder, resume_at) if tensorboard else None
        if self._path is None:
            return
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            kept = [line for line in _lines(self._path) if _step(line, self._path) <= resume_at]
            write_atomically(self._path, "".join(kept).encode())

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line: the step and its values.

        Raises:
            RunError: the disk is full or the folder read-only.
        """
        if self._path is not None:
            with writing(self._path), self._path.open("a") as stream:
                stream.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._board is not None:
            self._board.close()


def _lines(path: Path) -> list[str]:
    """The complete lines of the file; a torn last one is left out."""
    text = path.read_text() if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines(keepends=True)


def _step(line: str, path: Path) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        raise RunError(f"{path} has a line that is not one of metrics: {line.strip()[:60]!r}; remove it") from None


def _board(folder: Path | None, resume_at: int) -> Any:
    if folder is None:
        raise ConfigError("TensorBoard events need a run folder")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError("TensorBoard is not installed; pip install 'zsrobust[tensorboard]'") from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=resume_at + 1)
