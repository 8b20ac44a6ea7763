"""Which cells a figure or a claim of a recipe is about, checked before anything runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from zsrobust.errors import ConfigError, UnknownName
from zsrobust.study.results import axes_of, level_name

UNADAPTED = "unadapted"


def axes_in(recipe: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Axis → levels of a recipe, those of single cells too."""
    single = [entry.get("levels") for entry in recipe.get("also") or () if isinstance(entry, Mapping)]
    used = [{str(a): level_name(v) for a, v in levels.items()} for levels in single if isinstance(levels, Mapping)]
    return axes_of(recipe, used)


def entries_of(recipe: Mapping[str, Any], key: str, allowed: Collection[str], needed: Sequence[str]) -> list[Any]:
    """The entries of a list in a recipe, each a mapping with known keys.

    Raises:
        ConfigError: not a list of mappings, or a key that is needed is not there.
        UnknownName: a key that there is not.
    """
    entries = recipe.get(key) or []
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise ConfigError(f"'{key}' of a study is a list, not {entries!r}")
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise ConfigError(f"an entry of '{key}' is {entry!r}, not a mapping like {{{needed[0]}: …}}")
        for name in entry:
            one_of(str(name), allowed, f"key in '{key}'")
        if missing := [name for name in needed if name not in entry]:
            raise ConfigError(f"an entry of '{key}' has no '{missing[0]}': {dict(entry)}")
    return list(entries)


def one_of(name: Any, allowed: Collection[str], kind: str) -> str:
    """``name``, if it is allowed.

    Raises:
        UnknownName: it is not; the message has the nearest match.
    """
    if name not in allowed:
        raise UnknownName(kind, level_name(name), allowed)
    return str(name)


def levels_of(where: Any, axes: Mapping[str, Sequence[str]], place: str) -> dict[str, tuple[str, ...]]:
    """``{axis: level or list of levels}`` as axis → levels, all known.

    Raises:
        ConfigError: not a mapping.
        UnknownName: an axis or a level that there is not.
    """
    if not isinstance(where, Mapping):
        raise ConfigError(f"{place} is {where!r}, not a mapping of axes to levels like {{loss: TeCoA}}")
    found = {}
    for axis, wanted in where.items():
        known = axes[one_of(str(axis), axes, f"axis in {place}")]
        several = wanted if isinstance(wanted, list | tuple) else [wanted]
        found[str(axis)] = tuple(one_of(level_name(one), known, f"level of '{axis}' in {place}") for one in several)
    return found


def fits(levels: Mapping[str, str], where: Mapping[str, Collection[str]]) -> bool:
    """Whether a cell has one of the levels asked for on every axis that is named."""
    return all(levels.get(axis) in wanted for axis, wanted in where.items())
