"""Names → things, found lazily.

A registry maps a name to ``"module:attribute"`` so that listing names imports nothing heavy. A user's own package adds
to it through the entry-point group ``zsrobust.<kind>`` (for example ``zsrobust.methods``); a clash with a built-in name
is an error, because a result called ``tecoa`` must always mean the same thing.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any

from zsrobust.errors import ConfigError, UnknownName


class Registry:
    """A kind of thing (method, attack, encoder, …) by name.

    Args:
        kind: Singular noun for messages; its plural names the entry-point group.
        builtin: name → ``"module:attribute"``.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self._builtin = dict(builtin)

    @cached_property
    def _addresses(self) -> dict[str, str]:
        addresses = dict(self._builtin)
        for entry in entry_points(group=f"zsrobust.{self.kind}s"):
            if entry.name in addresses:
                raise ConfigError(f"{self.kind} '{entry.name}' of {entry.value} clashes with a name already taken")
            addresses[entry.name] = entry.value
        return addresses

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._addresses))

    def __contains__(self, name: object) -> bool:
        return name in self._addresses

    def address(self, name: str) -> str:
        """``"module:attribute"`` of ``name``, without importing it."""
        if name not in self._addresses:
            raise UnknownName(self.kind, name, self._addresses)
        return self._addresses[name]

    def __getitem__(self, name: str) -> Any:
        """The thing itself.

        Raises:
            UnknownName: nothing is registered under ``name``; the message has the nearest match.
        """
        module, _, attribute = self.address(name).partition(":")
        return getattr(importlib.import_module(module), attribute)
