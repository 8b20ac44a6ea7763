"""A study's recipe: a YAML file with axes, shared settings, a tuning budget, figures and claims."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zsrobust.errors import ConfigError, UnknownName
from zsrobust.study import claims, figures, options
from zsrobust.study.results import level_name
from zsrobust.yaml_files import as_mapping, looks_like_file, parsed, shipped, text_of

Levels = Mapping[str, str]
"""Axis → level: which cell, or where only some axes are named, which cells."""

KEYS = (
    "title", "seeds", "adapt", "evaluate", "unadapted", "axes", "without", "also", "tune", "interpolate", "figures",
    "claims", "corrected",
)  # fmt: skip


@dataclass(frozen=True)
class Tune:
    """The same search for every combination of levels.

    Attributes:
        option: Of adapt; also ``method_options.scale``.
        seed: Of the runs.
        images: Held-out images, of the validation split of the task that is adapted on.
        values: To try; empty with ``source``.
        axis: The axis by whose level the values differ; None: ``values`` are for all.
        by_level: Level of the axis → values.
        source: Another study, whose choice is taken.
    """

    option: str
    seed: int
    images: int
    values: tuple[float, ...] = ()
    axis: str | None = None
    by_level: Mapping[str, tuple[float, ...]] | None = None
    source: str | None = None

    def values_for(self, levels: Levels) -> tuple[float, ...]:
        """What is tried for one combination."""
        if self.by_level is None or self.axis is None:
            return self.values
        return self.by_level[levels[self.axis]]


@dataclass(frozen=True)
class StudyRecipe:
    """A recipe, checked.

    Attributes:
        name: The file's.
        title: For people.
        seeds: Of adaptation; each combination is adapted once with each.
        adapt: Options of adapt that all cells share.
        evaluate: Options of evaluate.
        unadapted: Whether the model before adaptation is a cell too.
        axes: Axis → level → overrides of ``adapt``.
        without: Combinations that are left out.
        also: Further combinations: their levels and overrides.
        tune: None: nothing is tuned.
        interpolate: Each adapted cell also as (1 − α) original + α adapted.
        path: Of its file, as it was given; None: a shipped one. Recipes that it refers to may be beside it.
        content: The whole, as written, with figures, claims, and whether claims of the same words are ``corrected`` for
            being several.
    """

    name: str
    title: str
    seeds: tuple[int, ...]
    adapt: Mapping[str, Any]
    evaluate: Mapping[str, Any]
    unadapted: bool
    axes: Mapping[str, Mapping[str, Mapping[str, Any]]]
    without: tuple[Levels, ...]
    also: tuple[tuple[Levels, Mapping[str, Any]], ...]
    tune: Tune | None
    interpolate: tuple[float, ...]
    path: Path | None
    content: Mapping[str, Any]

    @property
    def spec(self) -> str:
        """What ``zsrobust study`` takes: the file's path, or the name of a shipped study."""
        return self.name if self.path is None else str(self.path)

    def with_seeds(self, seeds: Sequence[int]) -> StudyRecipe:
        """The same with further seeds."""
        return replace(self, seeds=tuple(sorted({*self.seeds, *seeds})))

    def selection(self, given: object, where: str) -> dict[str, str]:
        """Axis → level, both known.

        Raises:
            ConfigError: not of that form, or an unknown axis or level, with the nearest.
        """
        if not isinstance(given, Mapping):
            raise ConfigError(f"{where} names levels, one for an axis, not {given!r}")
        known = self.levels()
        found = {str(axis): level_name(level) for axis, level in given.items()}
        for axis, level in found.items():
            if axis not in known:
                raise ConfigError(f"{where}: {UnknownName('axis', axis, known)}")
            if level not in known[axis]:
                raise ConfigError(f"{where}: {UnknownName(f'level of {axis}', level, known[axis])}")
        return found

    def levels(self) -> dict[str, list[str]]:
        """Axis → its levels, those of single further cells too."""
        found = {axis: list(levels) for axis, levels in self.axes.items()}
        for one, _ in self.also:
            for axis, level in one.items():
                if level not in found[axis]:
                    found[axis].append(level)
        return found


def read(
    spec: str,
    *,
    beside: Path | None = None,
    adapt: Mapping[str, Any] | None = None,
    evaluate: Mapping[str, Any] | None = None,
) -> StudyRecipe:
    """The recipe in a YAML file, or the shipped one of that name.

    Args:
        spec: Path or name.
        beside: A folder that is searched for ``NAME.yaml`` before the shipped ones.
        adapt: In place of options of its ``adapt``.
        evaluate: Likewise of ``evaluate``.

    Raises:
        UnknownName: neither a file nor a shipped study.
        ConfigError: not readable, or something in it that is not allowed; one line.
    """
    path, text = _text(spec, beside)
    content = as_mapping(parsed(text, str(path or spec)), str(path or spec), "a study")
    for key, given in (("adapt", adapt), ("evaluate", evaluate)):
        if given:
            content[key] = _overridden(content.get(key), given)
    return parse(content, name=spec if path is None else path.stem, path=path)


def parse(content: Mapping[str, Any], *, name: str, path: Path | None = None) -> StudyRecipe:
    """A recipe from the mapping in its file.

    Raises:
        ConfigError: an unknown key, option or level (with the nearest), or a value that is not allowed.
    """
    _known(content, KEYS, name)
    axes = _axes(content.get("axes"), name)
    adapt = options.checked("adapt", content.get("adapt"), f"{name}: adapt")
    recipe = StudyRecipe(
        name=name,
        title=str(content.get("title") or name),
        seeds=_seeds(content.get("seeds", [0]), name),
        adapt=options.merged(options.defaults("adapt"), adapt),
        evaluate=options.defaults("evaluate")
        | options.checked("evaluate", content.get("evaluate"), f"{name}: evaluate"),
        unadapted=_flag(content.get("unadapted", True), f"{name}: unadapted"),
        axes=axes,
        without=(),
        also=_also(content.get("also"), axes, name),
        tune=_tune(content.get("tune"), axes, name),
        interpolate=_alphas(content.get("interpolate"), name),
        path=path,
        content=content,
    )
    _check_tuned(recipe, adapt)
    if not recipe.evaluate["tasks"]:
        raise ConfigError(f"{name}: evaluate.tasks names no task")
    _check_references(recipe)
    _flag(content.get("corrected", False), f"{name}: corrected")
    out = [
        recipe.selection(one, f"{name}: without {i + 1}")
        for i, one in enumerate(_mappings(content.get("without"), f"{name}: without"))
    ]
    return replace(recipe, without=tuple(out))


def _text(spec: str, beside: Path | None) -> tuple[Path | None, str]:
    path = Path(spec)
    if beside is not None and (beside / f"{spec}.yaml").is_file():
        path = beside / f"{spec}.yaml"
    if not looks_like_file(str(path)):
        known = shipped("studies")
        if spec not in known:
            raise UnknownName("study", spec, known, also="or the path of a YAML file")
        return None, known[spec]
    return path, text_of(path.expanduser(), "study")


def _overridden(base: object, given: Mapping[str, Any]) -> dict[str, Any]:
    content = dict(base) if isinstance(base, Mapping) else {}
    for name, value in given.items():
        inner = isinstance(value, Mapping) and isinstance(content.get(name), Mapping)
        content[name] = _overridden(content[name], value) if inner else value
    return content


def _known(given: Mapping[str, Any], allowed: Iterable[str], where: str) -> None:
    for key in given:
        if key not in allowed:
            raise ConfigError(f"{where}: {UnknownName('key', str(key), allowed)}")


def _mappings(given: object, where: str) -> tuple[dict[str, Any], ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise ConfigError(f"{where} is a list of entries with names and values")
    return tuple(given)


def _flag(given: object, where: str) -> bool:
    if not isinstance(given, bool):
        raise ConfigError(f"{where} must be true or false, not {given!r}")
    return given


def _whole(given: object, least: int, where: str) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or given < least:
        raise ConfigError(f"{where} must be a whole number of at least {least}, not {given!r}")
    return given


def _seeds(given: object, name: str) -> tuple[int, ...]:
    if not isinstance(given, list) or not given or len({*map(str, given)}) != len(given):
        raise ConfigError(f"{name}: seeds is a list of different whole numbers, not {given!r}")
    return tuple(_whole(seed, 0, f"{name}: a seed") for seed in given)


def _numbers(given: object, where: str) -> tuple[float, ...]:
    listed = given if isinstance(given, list) else []
    numbers = [value for value in listed if isinstance(value, int | float) and not isinstance(value, bool)]
    if not numbers or numbers != given or len(set(numbers)) != len(numbers):
        raise ConfigError(f"{where} is a list of different numbers, not {given!r}")
    return tuple(sorted(numbers))


def _alphas(given: object, name: str) -> tuple[float, ...]:
    alphas = _numbers(given, f"{name}: interpolate") if given else ()
    for alpha in alphas:
        if not 0 < alpha < 1 or not math.isfinite(alpha):
            raise ConfigError(f"{name}: interpolate takes weights between 0 and 1, both excluded, not {alpha}")
    return tuple(float(alpha) for alpha in alphas)


def _axes(given: object, name: str) -> dict[str, dict[str, dict[str, Any]]]:
    axes: dict[str, dict[str, dict[str, Any]]] = {}
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"{name}: axes holds axes with their levels, not {given!r}")
    for axis, levels in (given or {}).items():
        if not isinstance(levels, Mapping) or not levels:
            raise ConfigError(f"{name}: axis {axis} holds levels with options of adapt, not {levels!r}")
        axes[str(axis)] = {
            level_name(level): options.checked("adapt", overrides, f"{name}: level {level_name(level)} of {axis}")
            for level, overrides in levels.items()
        }
    return axes


def _also(given: object, axes: Mapping[str, Mapping[str, Any]], name: str) -> tuple[tuple[Levels, dict[str, Any]], ...]:
    found: list[tuple[Levels, dict[str, Any]]] = []
    for i, entry in enumerate(_mappings(given, f"{name}: also")):
        where = f"{name}: also {i + 1}"
        _known(entry, ("levels", "adapt"), where)
        levels = entry.get("levels")
        if not isinstance(levels, Mapping) or {str(axis) for axis in levels} != set(axes):
            raise ConfigError(f"{where}: levels must name one level for each of {', '.join(axes)}, not {levels!r}")
        named = {axis: level_name(levels[axis]) for axis in axes}
        own = options.checked("adapt", entry.get("adapt"), where)
        new = [f"'{level}'" for axis, level in named.items() if level not in axes[axis]]
        if new and not own:
            raise ConfigError(f"{where}: {' and '.join(new)} is no level of an axis, so it needs options under adapt")
        found.append((named, own))
    return tuple(found)


def _tune(given: object, axes: Mapping[str, Mapping[str, Any]], name: str) -> Tune | None:
    if given is None:
        return None
    where = f"{name}: tune"
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where} holds option, seed, images and values, not {given!r}")
    _known(given, ("option", "seed", "images", "values", "from"), where)
    if ("from" in given) == ("values" in given):
        raise ConfigError(f"{where} has either values, or the study that they are taken from; not both, not none")
    option = str(given.get("option", "lr"))
    head, _, inner = option.partition(".")
    known = options.defaults("adapt")
    if head not in known or (inner != "") != isinstance(known[head], dict):
        raise ConfigError(f"{where}: {UnknownName('option of adapt', option, known)}")
    seed = _whole(given.get("seed", 0), 0, f"{where}: seed")
    images = _whole(given.get("images", 200), 1, f"{where}: images")
    if "from" in given:
        return Tune(option, seed, images, source=str(given["from"]))
    values = given["values"]
    if not isinstance(values, Mapping):
        return Tune(option, seed, images, _tried(values, option, f"{where}: values"))
    if len(values) != 1 or next(iter(values)) not in axes:
        raise ConfigError(f"{where}: values differ by the level of one axis ({', '.join(axes)}), not {[*values]}")
    axis = str(next(iter(values)))
    by_level: dict[str, tuple[float, ...]] = {}
    if not isinstance(values[axis], Mapping):
        raise ConfigError(f"{where}: values of {axis} holds its levels, each with a list, not {values[axis]!r}")
    for level, some in values[axis].items():
        by_level[level_name(level)] = _tried(some, option, f"{where}: values of {level_name(level)}")
    return Tune(option, seed, images, axis=axis, by_level=by_level)


def _tried(given: object, option: str, where: str) -> tuple[float, ...]:
    numbers = _numbers(given, where)
    if "." in option:
        return numbers
    kept: list[float] = [options.checked("adapt", {option: number}, where)[option] for number in numbers]
    return tuple(kept)


def _check_tuned(recipe: StudyRecipe, adapt: Mapping[str, Any]) -> None:
    """Nothing else sets what is tuned: the cells would not be what their levels say."""
    if recipe.tune is None:
        return
    option = recipe.tune.option
    head, _, inner = option.partition(".")
    parts = {f"adapt, or --adapt.{option},": adapt}
    for axis, levels in recipe.axes.items():
        parts |= {f"level {level} of {axis}": own for level, own in levels.items()}
    parts |= {f"also {i + 1}": own for i, (_, own) in enumerate(recipe.also)}
    for where, own in parts.items():
        if head in own and (not inner or inner in own[head]):
            raise ConfigError(f"{recipe.name}: {where} sets {option}, which tune chooses: leave one out")


def _check_references(recipe: StudyRecipe) -> None:
    """What names axes and levels names known ones."""
    known, tune = recipe.levels(), recipe.tune
    if tune is not None and tune.axis is not None and tune.by_level is not None:
        for level in tune.by_level:
            recipe.selection({tune.axis: level}, f"{recipe.name}: tune: values")
        if missing := [level for level in known[tune.axis] if level not in tune.by_level]:
            raise ConfigError(f"{recipe.name}: tune: no values for {tune.axis} '{missing[0]}'")
    for check in (figures.check, claims.check):
        try:
            check(recipe.content)
        except ConfigError as problem:
            raise ConfigError(f"{recipe.name}: {problem}") from None
