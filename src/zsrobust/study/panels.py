"""What all kinds of figures share: groups of cells, panels, styles, conditions, legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from zsrobust.errors import ConfigError
from zsrobust.report.words import TIERS, plural
from zsrobust.study.charts import GREY, NO_MARKER, PATCH, Chart, Key, Panel, Point, Series, Style
from zsrobust.study.figures import TIER, Figure
from zsrobust.study.results import ALL, CLEAN, EVERY_ATTACK, Cell, Study, level_words
from zsrobust.study.scores import Measure, Score, score
from zsrobust.study.selecting import UNADAPTED, fits, one_of

Levels = Mapping[str, str]


@dataclass(frozen=True)
class Group:
    """Cells that differ in their seed only."""

    levels: Levels
    alpha: float | None
    cells: tuple[Cell, ...]

    @property
    def unadapted(self) -> bool:
        """Whether this is the model before adaptation."""
        return not self.levels


@dataclass(frozen=True)
class Place:
    """One panel: its title, the levels that belong to it, and the tier that it averages over."""

    title: str
    where: Mapping[str, tuple[str, ...]]
    tier: str


def under(study: Study, figure: Figure) -> tuple[str, str]:
    """The threat and the attack of a figure.

    Raises:
        UnknownName: the study has no such threat or attack.
    """
    threat = one_of(figure.threat or study.primary.text, [t.text for t in study.threats], f"threat in {figure}")
    return threat, one_of(figure.attack, (EVERY_ATTACK, *study.attacks.get(threat, ())), f"attack in {figure}")


def groups(study: Study, where: Mapping[str, tuple[str, ...]]) -> list[Group]:
    """Those asked for, and the unadapted model."""
    found = [Group(dict(levels), alpha, tuple(cells)) for (levels, alpha), cells in study.groups().items()]
    ordered = [replace(g, levels={a: g.levels[a] for a in study.axes if a in g.levels}) for g in found]
    return [group for group in ordered if group.unadapted or fits(group.levels, where)]


def places(study: Study, figure: Figure) -> list[Place]:
    """The panels that a figure asks for; one without a title, if it asks for none."""
    if figure.panel == TIER:
        tiers = [tier for tier in TIERS if study.tasks_of(tier)]
        return [Place(tasks_words(study, tier), figure.where, tier) for tier in tiers]
    if figure.panel:
        allowed = figure.where.get(figure.panel, study.axes.get(figure.panel, ()))
        levels = [level for level in study.axes.get(figure.panel, ()) if level in allowed]
        return [Place(level_words(figure.panel, n), {**figure.where, figure.panel: (n,)}, figure.tier) for n in levels]
    return [Place("", figure.where, figure.tier)]


def score_of(study: Study, group: Group, tier: str, what: str, threat: str, attack: str) -> Score | None:
    """The accuracy of a group, mean over the tasks of a tier."""
    return score(group.cells, study.tasks_of(tier), Measure(what, threat, attack))


def point_of(x: float, one: Score, note: str) -> Point:
    """A point for a score."""
    return Point(x, one.value, one.interval, n=one.n, seeds=len(one.seeds), note=note, doubt=one.doubt)


def style_of(study: Study, figure: Figure, levels: Levels) -> Style:
    """Colour and marker of a group's levels; without an axis for markers the marker follows the colour."""
    colour = 1 + rank(study, levels, figure.colour, figure.where) if figure.colour in study.axes else 1
    marker = 1 + rank(study, levels, figure.marker, figure.where) if figure.marker else colour
    return Style(colour, marker)


def rank(study: Study, levels: Levels, axis: str, where: Mapping[str, tuple[str, ...]] | None = None) -> int:
    """Which level of an axis it is; among those that are drawn, where there are too many for all to have a colour."""
    known = study.axes.get(axis, ())
    if len(known) > 5 and where and axis in where:
        known = tuple(level for level in known if level in where[axis])
    return known.index(levels[axis]) if levels.get(axis) in known else 0


def left_open(study: Study, figure: Figure, place: Place) -> ConfigError:
    """The error that several cells would fall on one point."""
    pinned = {axis for axis, levels in place.where.items() if len(levels) == 1}
    drawn = {figure.x, figure.by, figure.colour, figure.marker, figure.panel, figure.path}
    left = [axis for axis, levels in study.axes.items() if axis not in drawn | pinned and len(levels) > 1]
    return ConfigError(
        f"{figure}: several cells would be drawn as one, because it leaves {', '.join(left) or 'an axis'} open; give "
        "it to colour or panel, or name one level under where"
    )


def conditions_of(study: Study, threat: str, attack: str) -> tuple[str, ...]:
    """Threat and attack, for a subtitle."""
    one = next(t for t in study.threats if t.text == threat)
    names = study.attacks.get(threat, ())
    attacks = " + ".join(names) if attack == EVERY_ATTACK else attack
    return f"{one.short} ({one.norm}, {one.space})", f"attack {attacks}"


def tasks_words(study: Study, tier: str) -> str:
    """``mean of 6 unrelated tasks``."""
    count = len(study.tasks_of(tier))
    word = "" if tier == ALL else f"{tier} "
    return f"mean of {count} {word}tasks" if count != 1 else f"1 {word}task"


def accuracy_label(measures: Sequence[str]) -> str:
    """What an axis shows, with its unit."""
    if len(measures) > 1:
        return "accuracy, %"
    return "clean accuracy, %" if measures[0] == CLEAN else "robust accuracy (at most), %"


def chart_of(
    study: Study,
    figure: Figure,
    panels: Sequence[Panel],
    *,
    x_label: str,
    conditions: Sequence[str],
    ticks: tuple[tuple[float, str], ...] = (),
    seeded: bool = True,
) -> Chart | None:
    """The chart; None where no cell of it was measured."""
    kept = tuple(panel for panel in panels if panel.series)
    if not any(not series.level for panel in kept for series in panel.series):
        return None
    seeds = (plural(len(study.seeds), "seed"),) if seeded else ()
    return Chart(
        kind=figure.kind,
        name=figure.name,
        title=figure.title,
        subtitle=" · ".join(word for word in (*conditions, *seeds, "thin lines: 95\u00a0% intervals") if word),
        x_label=x_label,
        y_label=accuracy_label(figure.y),
        x_ticks=ticks,
        legend=_legend(study, figure, kept),
        panels=kept,
        notes=(figure.note,) if figure.note else (),
    )


def _legend(study: Study, figure: Figure, panels: Sequence[Panel]) -> tuple[Key, ...]:
    """Colours and markers apart where both mean something, else an entry for each label; and clean from robust."""
    series = list({s.name: s for panel in panels for s in panel.series}.values())
    if figure.colour and figure.marker:
        return (*_by_axis(study, figure, series), *(Key(s.label, s.style) for s in series if s.style.colour == 0))
    named = {s.label: s for s in sorted(series, key=lambda s: s.style.hollow, reverse=True) if s.label and not s.level}
    marker = {"marker": PATCH} if figure.kind == "bars" else {}
    keys = [Key(n, replace(s.style, hollow=False, **marker), line=s.joined) for n, s in named.items()]
    shown = {s.measure: s for s in series if s.measure and not s.level}
    grey = GREY if named else 1
    for measure, one in shown.items():
        style = Style(grey, PATCH if figure.kind == "bars" else one.style.marker if not named else 1, one.style.hollow)
        keys.append(Key(measure, style, line=one.joined))
    if levels := [s for s in series if s.level]:
        colour = 0 if all(s.style.colour == 0 for s in levels) else GREY
        keys.append(Key(f"{UNADAPTED} (line across)", Style(colour, NO_MARKER), line=True))
    return tuple(sorted(keys, key=lambda key: key.label == UNADAPTED))


def _by_axis(study: Study, figure: Figure, series: Sequence[Series]) -> list[Key]:
    drawn = [s.style for s in series]
    found = []
    for level in study.axes[figure.colour]:
        style = style_of(study, figure, {figure.colour: level})
        if style.colour in {d.colour for d in drawn}:
            found.append(Key(level_words(figure.colour, level), replace(style, marker=PATCH)))
    for level in study.axes[figure.marker]:
        style = style_of(study, figure, {figure.marker: level})
        if style.marker in {d.marker for d in drawn}:
            found.append(Key(level_words(figure.marker, level), Style(GREY, style.marker)))
    return found
