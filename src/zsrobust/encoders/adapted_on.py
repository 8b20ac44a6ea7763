"""What somebody else adapted a model on: its user says it, no weight file does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError
from zsrobust.records import UNKNOWN


def read(given: str | Sequence[str]) -> tuple[str, ...]:
    """The names of tasks: several of them, or a text with commas as on the command line.

    Where one is a task of this package but for capitals and punctuation, that task is among them too: it may be what is
    meant, or a folder of one's own, and a report must not call either zero-shot.

    Raises:
        ConfigError: No names.
    """
    listed: Any = given
    if isinstance(given, str):
        listed = [part for part in given.split(",") if part.strip()] or [""]
    listed = tuple(listed) if isinstance(listed, Iterable) else (None,)
    if not all(isinstance(name, str) and name.strip() for name in listed):
        raise ConfigError(f"adapted_on={given!r} is no name of a task and no list of names, as in ['imagenet']")
    known = {_letters(task): task for task in (UNKNOWN, *_tasks())}
    names = [name.strip() for name in listed]
    return tuple(dict.fromkeys(one for name in names for one in (name, known.get(_letters(name), name))))


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def _tasks() -> list[str]:
    """Names of this package's tasks, read off their files: encoders import no tasks."""
    return [path.stem for path in (Path(__file__).parents[1] / "tasks").glob("*.toml")]


def tell(encoder: Encoder, names: Sequence[str]) -> None:
    """Writes into the encoder's provenance what it was adapted on; in place of what it says is unknown.

    Raises:
        ConfigError: The encoder, another package's, has a provenance that cannot be set.
    """
    told: Any = encoder
    own: Any = encoder.provenance.get("adapted_on", [])
    known = [task for task in own if task != UNKNOWN]
    provenance = {**encoder.provenance, "adapted_on": list(dict.fromkeys([*known, *names]))}
    try:
        told.provenance = provenance
    except AttributeError:  # a property, or a frozen dataclass
        raise ConfigError(
            f"adapted_on was given, but the provenance of '{encoder.name}' (a {type(encoder).__name__}) cannot be set"
        ) from None
