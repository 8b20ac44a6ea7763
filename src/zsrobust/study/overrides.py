"""Options of adapt from the command line, which are for every cell: a level that sets the same would win unseen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zsrobust.errors import ConfigError
from zsrobust.study.grid import Combination, combinations
from zsrobust.study.recipe import Levels, StudyRecipe

_NOTHING = object()


def check_heeded(recipe: StudyRecipe, given: Mapping[str, Any], only: Levels) -> None:
    """Whether every wanted cell is adapted as the command line says.

    Args:
        recipe: Read with ``given`` among its shared options.
        given: Options of adapt.
        only: Cells with these levels are wanted; empty: all.

    Raises:
        ConfigError: a level says otherwise; the option and the level are named.
    """
    for combination in combinations(recipe):
        if any(combination.levels[axis] != level for axis, level in only.items()):
            continue
        for path in _paths(given):
            if _at(combination.adapt, path) != _at(recipe.adapt, path):
                why = _why(recipe, combination, path)
                raise ConfigError(f"{recipe.name}: --adapt.{'.'.join(path)}: {why}")


def _why(recipe: StudyRecipe, combination: Combination, path: Sequence[str]) -> str:
    """Which level it is that gives a combination another value than all share."""
    levels = combination.levels
    single = {f"also: {', '.join(named.values())}": own for named, own in recipe.also if named == levels}
    parts = single | {
        f"level {level} of axis {axis}": recipe.axes[axis].get(level, {}) for axis, level in levels.items()
    }
    for called, own in parts.items():
        if _at(own, path) is not _NOTHING:
            return f"{called} sets it"
    whole = path[0].removesuffix("_options")
    owner = next(called for called, own in parts.items() if path[0] in own or whole in own)
    return f"{owner} has its own {path[0]}"


def _paths(given: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """To every value, also those in mappings."""
    for name, value in given.items():
        yield from ((name, *inner) for inner in _paths(value)) if isinstance(value, Mapping) else [(name,)]


def _at(given: object, path: Sequence[str]) -> object:
    for name in path:
        given = given.get(name, _NOTHING) if isinstance(given, Mapping) else _NOTHING
    return given
