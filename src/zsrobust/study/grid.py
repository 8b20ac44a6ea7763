"""The cells of a study: every combination of levels, with every seed, and at every α."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from zsrobust.errors import ConfigError
from zsrobust.study import options
from zsrobust.study.recipe import Levels, StudyRecipe
from zsrobust.study.results import level_words


@dataclass(frozen=True, eq=False)
class Combination:
    """One level of each axis.

    Attributes:
        levels: Axis → level.
        adapt: All options of adapt, but for seed and what is tuned.
    """

    levels: Levels
    adapt: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Cell:
    """One model that is evaluated.

    Attributes:
        combination: How it is adapted; None: it is not.
        seed: Of its adaptation.
        alpha: Its weight against the original's; None: the adapted model itself.
    """

    combination: Combination | None = None
    seed: int | None = None
    alpha: float | None = None

    @property
    def levels(self) -> Levels:
        """Axis → level; empty for the unadapted model."""
        return self.combination.levels if self.combination is not None else {}

    def describe(self) -> str:
        """For people: ``TeCoA, fine-tuning, seed 0``."""
        if self.combination is None:
            return "unadapted"
        parts = [*(level_words(axis, level) for axis, level in self.levels.items()), f"seed {self.seed}"]
        return ", ".join([*parts, f"α {self.alpha:g}"] if self.alpha is not None else parts)


def combinations(recipe: StudyRecipe) -> list[Combination]:
    """The product of the axes, without what is left out, and then the single further ones.

    Raises:
        ConfigError: nothing is left, two levels set the same option, or a single one that is there already.
    """
    found: list[Combination] = []
    for chosen in product(*(levels.items() for levels in recipe.axes.values())):
        levels = dict(zip(recipe.axes, (level for level, _ in chosen), strict=True))
        if any(all(levels[axis] == level for axis, level in out.items()) for out in recipe.without):
            continue
        found.append(Combination(levels, _adapt(recipe, levels, {})))
    for levels_, own in recipe.also:
        if any(one.levels == levels_ for one in found):
            raise ConfigError(f"{recipe.name}: also: {', '.join(levels_.values())} is a cell already")
        found.append(Combination(levels_, _adapt(recipe, levels_, own)))
    if not found:
        raise ConfigError(f"{recipe.name}: no combination is left")
    return found


def cells(recipe: StudyRecipe, found: Sequence[Combination]) -> list[Cell]:
    """The unadapted model, then every combination seed by seed, each followed by its α."""
    return [*([Cell()] if recipe.unadapted else []), *_adapted(recipe, found)]


def _adapted(recipe: StudyRecipe, found: Sequence[Combination]) -> Iterator[Cell]:
    # Seed by seed: a study that is stopped has whole seeds.
    for seed in recipe.seeds:
        for combination in found:
            for alpha in (*recipe.interpolate, None):
                yield Cell(combination, seed, alpha)


def _adapt(recipe: StudyRecipe, levels: Levels, own: Mapping[str, Any]) -> dict[str, Any]:
    parts = {
        f"{recipe.name}: level {level} of {axis}": recipe.axes[axis].get(level, {}) for axis, level in levels.items()
    }
    shared = options.merged(recipe.adapt, options.joined(parts))
    return options.merged(shared, own)
