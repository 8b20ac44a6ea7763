"""What all kinds of figures share: groups of cells, panels, styles, conditions, legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from zsrobust.errors import ConfigError
from zsrobust.report.words import TIERS, plural
from zsrobust.study.charts import COLOURS, GREY, NO_MARKER, PATCH, Chart, Key, Panel, Series, Style
from zsrobust.study.figures import TASK, TIER, Figure
from zsrobust.study.results import ALL, CLEAN, Cell, Study, level_words
from zsrobust.study.selecting import UNADAPTED, fits, one_of


@dataclass(frozen=True)
class Place:
    """One panel: its title, the levels that belong to it, and the tier that it averages over."""

    title: str
    where: Mapping[str, tuple[str, ...]]
    tier: str


def threat_of(study: Study, figure: Figure) -> str:
    """The threat of a figure.

    Raises:
        UnknownName: the study has no such threat.
    """
    return one_of(figure.threat or study.primary.text, [t.text for t in study.threats], f"threat in {figure}")


def places(study: Study, figure: Figure) -> list[Place]:
    """The panels that a figure asks for; one without a title, if it asks for none."""
    if figure.panel == TIER:
        return [Place(tasks_words(study, tier), figure.where, tier) for tier in study.tiers]
    if figure.panel == TASK:
        return [Place(task.name, figure.where, task.name) for task in study.tasks]
    if not figure.panel:
        return [Place("", figure.where, figure.tier)]
    levels = [level for level in study.axes[figure.panel] if level in figure.where.get(figure.panel, (level,))]
    return [Place(level_words(figure.panel, n), {**figure.where, figure.panel: (n,)}, figure.tier) for n in levels]


def groups(study: Study, place: Place) -> list[tuple[Cell, ...]]:
    """Cells that differ in their seed only: those that a panel shows, and the unadapted model."""
    return [group for group in study.groups() if group[0].unadapted or fits(group[0].levels, place.where)]


def style_of(study: Study, figure: Figure, levels: Mapping[str, str], tier: str = "", *, hollow: bool = False) -> Style:
    """Colour and marker of a group's levels; without an axis for markers the marker follows the colour."""
    if figure.colour == TIER:
        return Style(1 + TIERS.index(tier), 1 + TIERS.index(tier) if levels else 0, hollow)
    if not levels:
        return Style(0, 0, hollow)
    colour = 1 + _rank(study, figure, levels, figure.colour)
    return Style(colour, 1 + _rank(study, figure, levels, figure.marker) if figure.marker else colour, hollow)


def _rank(study: Study, figure: Figure, levels: Mapping[str, str], axis: str) -> int:
    """Which level of an axis it is; among those that are drawn, where there are too many for all to have a colour."""
    known = study.axes.get(axis, ())
    if len(known) > COLOURS:
        known = tuple(level for level in known if level in figure.where.get(axis, known))
    return known.index(levels[axis]) if levels.get(axis) in known else 0


def left_open(study: Study, figure: Figure, place: Place) -> ConfigError:
    """The error that several cells would fall on one point."""
    pinned = {axis for axis, levels in place.where.items() if len(levels) == 1}
    drawn = {figure.x, figure.colour, figure.marker, figure.panel}
    left = [axis for axis, levels in study.axes.items() if axis not in drawn | pinned and len(levels) > 1]
    return ConfigError(
        f"{figure}: several cells would be drawn as one, because it leaves {', '.join(left) or 'an axis'} open; give "
        "it to colour or panel, or name one level under where"
    )


def threat_words(study: Study, threat: str) -> str:
    """``ε = 4/255 (linf, native)``."""
    one = next(t for t in study.threats if t.text == threat)
    return f"{one.short} ({one.norm}, {one.space})"


def attack_words(study: Study, threat: str) -> str:
    """``attack pgd:10 + cw:20``."""
    return f"attack {' + '.join(study.attacks.get(threat, ()))}"


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
    labels: tuple[str, str],
    conditions: Sequence[str],
    ticks: tuple[tuple[float, str], ...] = (),
) -> Chart | None:
    """The chart, with ``labels`` for x and y; None where no cell of it was measured."""
    kept = tuple(panel for panel in panels if panel.series)
    if not any(not series.level for panel in kept for series in panel.series):
        return None
    chart = Chart(figure.kind, figure.name, figure.title, "", *labels, ticks, _legend(study, figure, kept), kept)
    seeds = sorted({point.seeds for point in chart.points} - {0})
    words = [f"{seeds[0]} to " * (len(seeds) > 1) + plural(seeds[-1], "seed")] if seeds else []
    words += ["thin lines: 95\u00a0% intervals"]
    words += [alarm.text for alarm in study.everywhere if alarm.doubt and figure.kind != "rates"]
    return replace(chart, subtitle=" · ".join(word for word in (*conditions, *words) if word))


def _legend(study: Study, figure: Figure, panels: Sequence[Panel]) -> tuple[Key, ...]:
    """Colours and markers apart where both mean something, else an entry for each label; and clean from robust."""
    series = list({s.name: s for panel in panels for s in panel.series}.values())
    if figure.colour and figure.marker:
        return (*_by_axis(study, figure, series), *(Key(s.label, s.style) for s in series if s.style.colour == 0))
    named = {s.label: s for s in sorted(series, key=lambda s: s.style.hollow, reverse=True) if s.label and not s.level}
    bars = figure.kind == "bars"
    keys = [
        Key(name, replace(s.style, hollow=False, marker=PATCH if bars else s.style.marker), line=s.joined)
        for name, s in named.items()
    ]
    for measure, one in {s.measure: s for s in series if s.measure and not s.level}.items():
        marker = PATCH if bars else 1 if named else one.style.marker
        keys.append(Key(measure, Style(GREY if named else 1, marker, one.style.hollow), line=one.joined))
    if levels := [s for s in series if s.level]:
        colour = 0 if all(s.style.colour == 0 for s in levels) else GREY
        keys.append(Key(f"{UNADAPTED} (line across)", Style(colour, NO_MARKER), line=True))
    return tuple(sorted(keys, key=lambda key: key.label == UNADAPTED))


def _by_axis(study: Study, figure: Figure, series: Sequence[Series]) -> list[Key]:
    found = []
    for axis, what in ((figure.colour, "colour"), (figure.marker, "marker")):
        for level in study.axes[axis]:
            style = style_of(study, figure, {axis: level})
            if getattr(style, what) in {getattr(s.style, what) for s in series}:
                key = replace(style, marker=PATCH) if what == "colour" else replace(style, colour=GREY)
                found.append(Key(level_words(axis, level), key))
    return found
