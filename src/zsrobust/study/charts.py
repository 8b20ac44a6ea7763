"""A figure as data: panels of series of points with intervals, before anyone draws it; and the same as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zsrobust.report.words import percent, span
from zsrobust.statistics import Interval

COLOURS = 5
"""How many series can be told apart by colour; the unadapted model has one of its own (0) beside them."""
MARKERS = 6
PATCH, NO_MARKER, GREY = -1, -2, -1
"""In a legend: instead of a marker, and the colour of what is said by shape alone."""


@dataclass(frozen=True)
class Style:
    """How a series looks.

    Attributes:
        colour: 0 for the unadapted model, 1 to ``COLOURS`` for the others.
        marker: 0 (a star, for the unadapted model) or 1 to ``MARKERS``.
        hollow: Clean accuracies, where robust ones are in the same panel: hollow markers and dashed lines.
    """

    colour: int
    marker: int
    hollow: bool = False


@dataclass(frozen=True)
class Point:
    """A point; x is a position, or a share where ``x_interval`` is one.

    ``doubt`` names the alarms that put it in doubt; ``note`` is said in the table; ``ring`` marks what was chosen.
    """

    x: float
    y: float
    y_interval: Interval
    x_interval: Interval | None = None
    n: int = 0
    seeds: int = 0
    note: str = ""
    doubt: tuple[str, ...] = ()
    ring: bool = False


@dataclass(frozen=True)
class Series:
    """Points that belong together; ``joined`` ones by a line, a ``level`` goes across the panel.

    ``measure`` is said where clean and robust accuracies are in the same panel.
    """

    label: str
    style: Style
    points: tuple[Point, ...]
    joined: bool = False
    level: bool = False
    measure: str = ""

    @property
    def name(self) -> str:
        """Label and measure."""
        return ", ".join(word for word in (self.label, self.measure) if word)


@dataclass(frozen=True)
class Key:
    """An entry of the legend; ``line`` if it is one, and a patch of colour where the marker is ``PATCH``."""

    label: str
    style: Style
    line: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Chart:
    """A figure.

    Attributes:
        kind: ``"scatter"``, ``"lines"``, ``"bars"`` or ``"rates"``; the last has a logarithmic x.
        name: Of its files.
        title: What it shows.
        subtitle: Under which conditions: tasks, threat, attack, seeds, what the bars are.
        x_label: With its unit.
        y_label: With its unit.
        x_ticks: (position, text); empty where x is an accuracy or logarithmic.
        legend: Entries.
        panels: At least one.
    """

    kind: str
    name: str
    title: str
    subtitle: str
    x_label: str
    y_label: str
    x_ticks: tuple[tuple[float, str], ...]
    legend: tuple[Key, ...]
    panels: tuple[Panel, ...]

    @property
    def points(self) -> list[Point]:
        """All that is drawn."""
        return [point for panel in self.panels for series in panel.series for point in series.points]


def table(chart: Chart) -> tuple[list[str], list[list[str]]]:
    """Head and rows of what a chart draws; columns in which nothing is said are left out."""
    head = ["Panel", "Series", chart.x_label, chart.y_label, "n", "seeds", ""]
    ticks = dict(chart.x_ticks)
    rows = []
    for panel in chart.panels:
        for series in panel.series:
            for point in series.points:
                tick = ticks.get(point.x, f"{point.x:g}")
                x = tick if point.x_interval is None else _accuracy(point.x, point.x_interval)
                y = _accuracy(point.y, point.y_interval) + ("!" if point.doubt else "")
                counts = [f"{point.n:,}" if point.n else "–", str(point.seeds or "–")]
                rows.append([panel.title, series.name, "–" if series.level else x, y, *counts, point.note])
    told = {1, 2, 3, 4} | {i for i in (0, 5, 6) if any(row[i] not in ("", "–") for row in rows)}
    return [head[i] for i in sorted(told)], [[row[i] for i in sorted(told)] for row in rows]


def _accuracy(value: float, interval: Sequence[float]) -> str:
    return f"{percent(value)} ({span((interval[0], interval[1]))})"
