"""The figures that a recipe asks for, checked; :mod:`zsrobust.study.plots` computes what they show.

An entry under ``figures`` of a recipe has a ``kind`` and, depending on it:

    scatter   a point for each group of cells: ``x`` and ``y`` (clean or robust), ``colour`` and ``marker`` (axes),
              ``path: alpha`` or ``path: AXIS`` joins the points along α or along that axis
    lines     ``x``: an axis, an option of adapt, ``alpha``, ``steps`` (attacks pgd:K) or ``eps`` (of the evaluation);
              ``y``: robust, clean or both; ``colour``: an axis or ``tier``
    bars      ``y``; ``by``: ``task``, ``tier`` or an axis; ``colour``: an axis
    rates     held-out robust accuracy against the tuned option; ``colour`` and ``panel``: axes

and all of them ``title``, ``where`` (axes with a level or a list), ``tier``, ``threat``, ``attack``, ``panel`` (an axis
or ``tier``) and ``note``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zsrobust.errors import ConfigError
from zsrobust.study.charts import COLOURS, MARKERS
from zsrobust.study.results import ALL, CLEAN, EVERY_ATTACK, ROBUST, TIER_NAMES, level_name
from zsrobust.study.selecting import axes_in, entries_of, levels_of, one_of

_COMMON = ("kind", "title", "where", "tier", "threat", "attack", "panel", "note")
KINDS: dict[str, tuple[str, ...]] = {
    "scatter": (*_COMMON, "x", "y", "colour", "marker", "path"),
    "lines": (*_COMMON, "x", "y", "colour"),
    "bars": (*_COMMON, "y", "by", "colour"),
    "rates": ("kind", "title", "where", "colour", "panel", "note"),
}
ALPHA, STEPS, EPS, TIER, TASK = "alpha", "steps", "eps", "tier", "task"
MEASURES = (CLEAN, ROBUST)


@dataclass(frozen=True)
class Figure:
    """A figure of a recipe, checked; empty words mean "not asked for"."""

    kind: str
    name: str
    title: str
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tier: str = "unrelated"
    threat: str = ""
    attack: str = EVERY_ATTACK
    x: str = ""
    y: tuple[str, ...] = (ROBUST,)
    by: str = ""
    colour: str = ""
    marker: str = ""
    path: str = ""
    panel: str = ""
    note: str = ""

    def __str__(self) -> str:
        return f"figure '{self.title}'"


def check(recipe: Mapping[str, Any]) -> list[Figure]:
    """The figures of a recipe.

    Raises:
        ConfigError: one line about the entry that is wrong; the nearest match where a name is.
    """
    every = tuple(dict.fromkeys(key for keys in KINDS.values() for key in keys))
    axes = axes_in(recipe)
    entries = entries_of(recipe, "figures", every, ("kind",))
    return [_figure(entry, i, axes, recipe) for i, entry in enumerate(entries, 1)]


def _figure(
    entry: Mapping[str, Any], number: int, axes: Mapping[str, Sequence[str]], recipe: Mapping[str, Any]
) -> Figure:
    kind = one_of(entry["kind"], KINDS, "kind of figure")
    title = str(entry.get("title") or _DEFAULT_TITLES[kind])
    place = f"figure '{title}'"
    for key in entry:
        one_of(str(key), KINDS[kind], f"key for kind '{kind}' in {place}")
    figure = Figure(
        kind=kind,
        name=f"{number}-{kind}",
        title=title,
        where=levels_of(entry.get("where") or {}, axes, place),
        tier=one_of(entry.get("tier", _tier(entry)), TIER_NAMES, f"tier in {place}"),
        threat=level_name(entry.get("threat") or ""),
        attack=str(entry.get("attack") or EVERY_ATTACK),
        x=_x(kind, entry, axes, recipe, place),
        y=_y(entry.get("y", ROBUST), place),
        note=str(entry.get("note") or ""),
        **{key: _grouping(kind, key, entry, axes, place) for key in ("by", "colour", "marker", "path", "panel")},
    )
    if kind == "bars" and not figure.by:
        raise ConfigError(f"{place} has no 'by': task, tier or an axis")
    if kind == "scatter" and len(figure.y) != 1:
        raise ConfigError(f"{place}: a scatter has one y, {' or '.join(MEASURES)}")
    if kind == "rates" and "values" not in (recipe.get("tune") or {}):
        raise ConfigError(f"{place}: kind 'rates' needs 'tune' with values in the recipe")
    return figure


def _tier(entry: Mapping[str, Any]) -> str:
    """Over which tasks, where the entry does not say: where they are told apart, over all."""
    return ALL if {TASK, TIER} & {entry.get(key) for key in ("by", "colour", "panel")} else "unrelated"


_DEFAULT_TITLES = {
    "scatter": "Clean and robust accuracy",
    "lines": "Accuracy",
    "bars": "Accuracy",
    "rates": "What tuning saw",
}


def _x(kind: str, entry: Mapping[str, Any], axes: Mapping[str, Any], recipe: Mapping[str, Any], place: str) -> str:
    if kind == "scatter":
        return one_of(entry.get("x", CLEAN), MEASURES, f"x in {place}")
    if kind != "lines":
        return ""
    if "x" not in entry:
        raise ConfigError(f"{place} has no 'x': an axis, an option of adapt, {ALPHA}, {STEPS} or {EPS}")
    return one_of(entry["x"], (*axes, *options_in(recipe), ALPHA, STEPS, EPS), f"x in {place}")


def options_in(recipe: Mapping[str, Any]) -> list[str]:
    """Options of adapt that the recipe's axes set."""
    levels = [level for axis in (recipe.get("axes") or {}).values() for level in axis.values()]
    return list(dict.fromkeys(str(option) for level in levels for option in level or {}))


def _y(given: Any, place: str) -> tuple[str, ...]:
    several = given if isinstance(given, list | tuple) else [given]
    found = tuple(dict.fromkeys(one_of(measure, MEASURES, f"y in {place}") for measure in several))
    if not found:
        raise ConfigError(f"{place} has an empty 'y'")
    return found


def _grouping(kind: str, key: str, entry: Mapping[str, Any], axes: Mapping[str, Sequence[str]], place: str) -> str:
    if key not in entry:
        return ""
    extra = {
        ("bars", "by"): (TASK, TIER),
        ("lines", "colour"): (TIER,),
        ("lines", "panel"): (TIER,),
        ("scatter", "panel"): (TIER,),
        ("bars", "panel"): (TIER,),
        ("scatter", "path"): (ALPHA,),
    }.get((kind, key), ())
    name = one_of(entry[key], (*axes, *extra), f"{key} in {place}")
    most = {"colour": COLOURS, "marker": MARKERS}.get(key)
    if most and name in axes and len(axes[name]) > most:
        allowed = [
            level for level in axes[name] if level in levels_of(entry.get("where") or {}, axes, place).get(name, ())
        ]
        if not 0 < len(allowed) <= most:
            raise ConfigError(f"{place}: {key} can tell {most} levels apart, '{name}' has {len(axes[name])}")
    return name
