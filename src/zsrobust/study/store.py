"""What studies share on disk: adapted models and evaluations, each in a folder named after what it was made of."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from zsrobust.errors import RunError
from zsrobust.run_folder import write_atomically, writing

Kind = Literal["adapted", "evaluated"]
DONE = "done.json"
"""Written last: a folder that has it is whole."""


@dataclass(frozen=True)
class Job:
    """One adaptation or one evaluation.

    Attributes:
        kind: Which.
        key: Hash of ``content``; names its folder.
        content: What decides the result.
        settings: Arguments of adapt_job or evaluate_job.
        base: Model that is adapted, or was.
        adapted: Key of the adapted model that is evaluated; None: the base.
        alpha: Weight of the adapted model against the base; None: the adapted model itself.
        units: Predicted seconds.
    """

    kind: Kind
    key: str
    content: Mapping[str, Any]
    settings: Mapping[str, Any]
    base: str = ""
    adapted: str | None = None
    alpha: float | None = None
    units: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        seconds: It took; None where it was interrupted and resumed: the time before is not known.
        held_out: Last scores on held-out images, where some were asked for.
        diverged: Why training stopped by itself; None: it did not. Stored, since it would happen again.
        error: Any other reason for there being no result; None: there is one. Never stored.
        notes: Warnings for people.
    """

    seconds: float | None = None
    held_out: Mapping[str, float] = field(default_factory=dict)
    diverged: str | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def failure(self) -> str | None:
        """Why there is no result."""
        return self.error or self.diverged


def key_of(content: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits for what decides a result."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class Store:
    """A folder with ``adapted/KEY`` and ``evaluated/KEY``.

    Args:
        path: The folder; made when something is put there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._evaluations: dict[Path, str] = {}

    def folder(self, kind: Kind, key: str) -> Path:
        """Run folder of a job."""
        return self.path / kind / key

    def outcome(self, kind: Kind, key: str) -> Outcome | None:
        """How the job ended; None: it has not.

        Raises:
            RunError: the file is damaged.
        """
        path = self.folder(kind, key) / DONE
        try:
            found = json.loads(path.read_text())
            return Outcome(found["seconds"], found["held_out"], found["diverged"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} cannot be read ({error}); remove {path.parent}, it will be made again") from None

    def alike(self, job: Job) -> list[Path]:
        """Folders of finished evaluations whose content is the job's, but for which examples of its tasks they saw."""
        for path in (self.path / "evaluated").glob(f"*/{DONE}"):
            if path.parent not in self._evaluations:  # hundreds of them, and they never change
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                    self._evaluations[path.parent] = _but_examples(json.loads(path.read_text())["content"])
        wanted = _but_examples(job.content)
        return [folder for folder, content in sorted(self._evaluations.items()) if content == wanted]

    def finish(self, job: Job, outcome: Outcome) -> None:
        """Notes how the job ended.

        Raises:
            RunError: it cannot be written.
        """
        stored = {name: value for name, value in asdict(outcome).items() if name not in ("error", "notes")}
        text = json.dumps(stored | {"kind": job.kind, "content": job.content}, indent=1, ensure_ascii=False)
        write_atomically(self.folder(job.kind, job.key) / DONE, text.encode())

    @contextlib.contextmanager
    def claim(self, job: Job) -> Iterator[None]:
        """Keeps other processes off the job; waits for one that is at it. A process that dies lets go.

        Raises:
            RunError: the store cannot be written.
        """
        lock = self.path / ".locks" / job.key
        with writing(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
            stream = lock.open("w")
        with stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def tidy(self, job: Job) -> None:
        """Removes what only a resumed adaptation would need: checkpoints are several times the model."""
        shutil.rmtree(self.folder(job.kind, job.key) / "checkpoints", ignore_errors=True)


def _but_examples(content: Mapping[str, Any]) -> str:
    tasks = [{name: value for name, value in task.items() if name != "fingerprint"} for task in content["tasks"]]
    return key_of({**content, "tasks": tasks})
