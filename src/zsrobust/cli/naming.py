"""Where a run goes when nobody says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from zsrobust.cli.processes import logs_in

LATER = {"compile": False}
"""Options of adapt and evaluate that came later: left as they are, they are in no name, so that old runs are found."""


def run_folder(given: str | None, parts: Sequence[str], options: Mapping[str, object]) -> Path:
    """``given``, or ``runs/PART-PART-HASH``.

    The hash is of the options that decide the result: the same command finds its run again, and another one does not
    meet a run that it does not fit. In a job of several processes the logs go there from here on.

    Args:
        given: The user's folder.
        parts: Names that tell runs apart for a person; of paths the last two parts are used.
        options: What decides the result.
    """
    folder = Path(given).expanduser() if given is not None else _named(parts, options)
    logs_in(folder)
    return folder


def _named(parts: Sequence[str], options: Mapping[str, object]) -> Path:
    digest = hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()[:6]
    name = "-".join([*map(_slug, parts), digest])
    return Path("runs") / name


def _slug(text: str) -> str:
    short = "-".join(part for part in Path(text).parts[-2:] if part not in ("/", ".", "..", "~", "runs", "model"))
    plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in short.removesuffix(".toml"))
    return plain.strip("-.")[:40] or "run"
