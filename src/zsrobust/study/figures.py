"""The figures that a recipe asks for, checked; :mod:`zsrobust.study.plots` computes what they show.

An entry under ``figures`` of a recipe has a ``kind`` and, depending on it:

    scatter   a point for each group of cells: ``x`` and ``y`` (clean or robust), ``colour`` and ``marker`` (axes),
              ``path: alpha`` joins the points along α
    lines     ``x``: an axis, an option of adapt, ``alpha``, ``steps`` (attacks pgd:K) or ``eps`` (of the evaluation);
              ``y``: robust, clean or both; ``colour``: an axis or ``tier``
    bars      ``y``; ``by``: ``task``, ``tier`` or an axis; ``colour``: an axis
    rates     held-out robust accuracy against the tuned option; ``colour`` and ``panel``: axes

and all of them ``title``, ``where`` (axes with a level or a list), ``tier``, ``threat`` and ``panel`` (an axis,
``tier`` or ``task``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zsrobust.errors import ConfigError
from zsrobust.study.charts import COLOURS, MARKERS
from zsrobust.study.results import ALL, CLEAN, ROBUST, TIER_NAMES, level_name
from zsrobust.study.selecting import axes_in, entries_of, levels_of, one_of

ALPHA, STEPS, EPS, TIER, TASK = "alpha", "steps", "eps", "tier", "task"
MEASURES = (CLEAN, ROBUST)
_COMMON = ("kind", "title", "where", "tier", "threat", "panel")
KINDS: dict[str, tuple[str, ...]] = {
    "scatter": (*_COMMON, "x", "y", "colour", "marker", "path"),
    "lines": (*_COMMON, "x", "y", "colour"),
    "bars": (*_COMMON, "y", "by", "colour"),
    "rates": ("kind", "title", "where", "colour", "panel"),
}
_TITLES = {
    "scatter": "Clean and robust accuracy",
    "lines": "Accuracy",
    "bars": "Accuracy",
    "rates": "What tuning saw",
}
_NO_AXES = {
    ("lines", "colour"): (TIER,),
    ("lines", "panel"): (TIER, TASK),
    ("bars", "panel"): (TIER, TASK),
    ("scatter", "panel"): (TIER, TASK),
}


@dataclass(frozen=True)
class Figure:
    """A figure of a recipe, checked; empty words mean "not asked for".

    ``x`` is what runs along: of bars what they are ``by``.
    """

    kind: str
    name: str
    title: str
    where: Mapping[str, tuple[str, ...]]
    tier: str
    threat: str
    x: str
    y: tuple[str, ...]
    colour: str
    marker: str
    panel: str
    path: bool

    def __str__(self) -> str:
        return f"figure '{self.title}'"


def check(recipe: Mapping[str, Any]) -> list[Figure]:
    """The figures of a recipe.

    Raises:
        ConfigError: one line about the entry that is wrong; the nearest match where a name is.
    """
    every = tuple(dict.fromkeys(key for keys in KINDS.values() for key in keys))
    entries = entries_of(recipe, "figures", every, ("kind",))
    return [_figure(entry, i, axes_in(recipe), recipe) for i, entry in enumerate(entries, 1)]


def _figure(
    entry: Mapping[str, Any], number: int, axes: Mapping[str, Sequence[str]], recipe: Mapping[str, Any]
) -> Figure:
    kind = one_of(entry["kind"], KINDS, "kind of figure")
    title = str(entry.get("title") or _TITLES[kind])
    place = f"figure '{title}'"
    for key in entry:
        one_of(str(key), KINDS[kind], f"key for kind '{kind}' in {place}")
    if kind == "rates" and "values" not in (recipe.get("tune") or {}):
        raise ConfigError(f"{place}: kind 'rates' needs 'tune' with values in the recipe")
    # Over which tasks, where the entry does not say: where they are told apart, over all.
    apart = {TASK, TIER} & {entry.get(key) for key in ("by", "colour", "panel")}
    where = levels_of(entry.get("where") or {}, axes, place)
    colour, marker, panel = (_axis(kind, key, entry, axes, where, place) for key in ("colour", "marker", "panel"))
    return Figure(
        kind=kind,
        name=f"{number}-{kind}",
        title=title,
        where=where,
        tier=one_of(entry.get("tier", ALL if apart else "unrelated"), TIER_NAMES, f"tier in {place}"),
        threat=level_name(entry.get("threat") or ""),
        x=_x(kind, entry, axes, recipe, place),
        y=_y(kind, entry.get("y", ROBUST), place),
        colour=colour,
        marker=marker,
        panel=panel,
        path=bool(one_of(entry["path"], (ALPHA,), f"path in {place}")) if "path" in entry else False,
    )


def _x(kind: str, entry: Mapping[str, Any], axes: Mapping[str, Any], recipe: Mapping[str, Any], place: str) -> str:
    if kind == "rates":
        return ""
    levels = [level for axis in (recipe.get("axes") or {}).values() for level in axis.values()]
    options = [str(option) for level in levels for option in level or {}]
    key, allowed, words = {
        "scatter": ("x", MEASURES, ""),
        "lines": ("x", (*axes, *options, ALPHA, STEPS, EPS), f"an axis, an option of adapt, {ALPHA}, {STEPS} or {EPS}"),
        "bars": ("by", (*axes, TASK, TIER), f"{TASK}, {TIER} or an axis"),
    }[kind]
    if key not in entry and kind != "scatter":
        raise ConfigError(f"{place} has no '{key}': {words}")
    return one_of(entry.get(key, CLEAN), allowed, f"{key} in {place}")


def _y(kind: str, given: Any, place: str) -> tuple[str, ...]:
    several = given if isinstance(given, list | tuple) else [given]
    found = tuple(dict.fromkeys(one_of(measure, MEASURES, f"y in {place}") for measure in several))
    if not found or (kind == "scatter" and len(found) > 1):
        raise ConfigError(f"{place}: 'y' is {' or '.join(MEASURES)}, not {given!r}")
    return found


def _axis(
    kind: str,
    key: str,
    entry: Mapping[str, Any],
    axes: Mapping[str, Sequence[str]],
    where: Mapping[str, Sequence[str]],
    place: str,
) -> str:
    if key not in entry:
        return ""
    name = one_of(entry[key], (*axes, *_NO_AXES.get((kind, key), ())), f"{key} in {place}")
    most = {"colour": COLOURS, "marker": MARKERS}.get(key)
    if most and name in axes and len(where.get(name, axes[name])) > most:
        raise ConfigError(f"{place}: {key} can tell {most} levels apart, '{name}' has {len(axes[name])}")
    return name
