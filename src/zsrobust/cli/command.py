"""What a command is: a dataclass of options, and what may be written without ``--``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

from zsrobust import hints

Kind = Literal["value", "flag", "list", "mapping"]


@dataclass(frozen=True)
class Command:
    """A command's face.

    Attributes:
        name: As typed.
        options: The dataclass of its options; its docstring is the description in the help.
        usage: After ``zsrobust NAME``.
        positional: The option that takes what is written without ``--``; ``"config"``: those are recipes or YAML files;
            None: nothing may be.
        base: A shipped recipe that the options start from.
        examples: Shown below the help.
    """

    name: str
    options: type
    usage: str = "[--OPTION VALUE ...]"
    positional: str | None = None
    base: str | None = None
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: Dotted where dataclasses are nested, for example ``adapt.lr``.
        kind: ``list``: ``a,b`` or repeated; ``flag``: alone means true; ``mapping``: ``--name.key value``.
        hint: Its type.
        commas: Whether a comma separates items of a list.
        aliases: Other names.
    """

    name: str
    kind: Kind
    hint: Any
    commas: bool = True
    aliases: tuple[str, ...] = ()


WHOLE: dict[str, Any] = {"commas": False}
"""Metadata of a list whose items may contain commas."""


def also(*names: str) -> dict[str, Any]:
    """Metadata of a field that has other names too."""
    return {"aliases": names}


def options_of(cls: type, prefix: str = "") -> dict[str, Option]:
    """Name → option, nested dataclasses flattened."""
    typed = get_type_hints(cls)
    found: dict[str, Option] = {}
    for field in dataclasses.fields(cls):
        hint, name = typed[field.name], prefix + field.name
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            found |= options_of(hint, f"{name}.")
            continue
        aliases = tuple(prefix + alias for alias in field.metadata.get("aliases", ()))
        found[name] = Option(name, _kind(hint), hint, field.metadata.get("commas", True), aliases)
    return found


def _kind(hint: Any) -> Kind:
    allowed = hints.members(hint)
    if bool in allowed:
        return "flag"
    if any(map(hints.is_list, allowed)):
        return "list"
    return "mapping" if any(map(hints.is_mapping, allowed)) else "value"
