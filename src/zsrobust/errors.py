"""What can go wrong, one line each.

    ZSRobustError             a user's mistake or a refused situation; its text is one clear line
    ├── ConfigError           an option or a configuration value that is not allowed
    │   └── UnknownName       a name that nothing is registered under (says the nearest one)
    ├── DataError             a task's data is missing, broken or not what its TOML says
    │   └── UnreadableImage   an image that cannot be decoded in full
    ├── ModelError            a checkpoint that cannot be loaded, or must not be
    ├── RunError              a run folder that cannot be written, resumed or read
    └── DivergedError         adaptation met NaN or a diverging loss

The command line prints the text after ``zsrobust: error:`` and exits with status 2; a traceback means a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ZSRobustError(Exception):
    """Base of every error that is not a bug of this package."""


class ConfigError(ZSRobustError):
    """An option or configuration value that is not allowed."""


class UnknownName(ConfigError):
    """A name that nothing is registered under."""

    def __init__(self, kind: str, given: object, allowed: Iterable[str], *, also: str = "") -> None:
        names = sorted(allowed)
        near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        super().__init__(f"unknown {kind} '{given}'{hint} (known: {shown or 'none'}{'; ' if also else ''}{also})")


class DataError(ZSRobustError):
    """A task's data is missing, broken, or not what its TOML says."""


class UnreadableImage(DataError):
    """An image that cannot be decoded in full."""


class ModelError(ZSRobustError):
    """A checkpoint that cannot be loaded, or must not be."""


class RunError(ZSRobustError):
    """A run folder that cannot be written, resumed or read."""


class DivergedError(ZSRobustError):
    """Adaptation met NaN or a diverging loss."""
