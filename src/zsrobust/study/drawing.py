"""A chart drawn with matplotlib, as SVG and PNG; the same chart always gives the same bytes.

No pyplot: a figure belongs to its caller and no window system is asked. Colours are those of the report's page; shape,
dash or fill says the same as colour.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zsrobust.statistics import Interval
from zsrobust.study import labels
from zsrobust.study.charts import NO_MARKER, PATCH, Chart, Key, Panel, Series, Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, RULE, PAPER = "#1b1f24", "#59626d", "#d9dde2", "#ffffff"
PALETTE = (INK, "#0063a5", "#c2410c", "#00785a", "#9d3f86", "#8a6d00")
_MARKERS = "*os^DvP"
_WIDTH = 7.3
_COLUMNS = 3
# So that two runs write the same ids and no dates, and text stays text.
_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "zsrobust",
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans", "sans-serif"],
    "text.parse_math": False,  # a $ in a title is a $
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.titlesize": 10,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.fontsize": 9.5,
    "savefig.facecolor": PAPER,
}


def svg(chart: Chart) -> str:
    """The chart as one SVG document."""
    with _drawn(chart) as figure:
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def png(chart: Chart) -> bytes:
    """The chart as a PNG file, 1,095 pixels wide."""
    with _drawn(chart) as figure:
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=150, metadata={"Software": None})
        return out.getvalue()


@contextmanager
def _drawn(chart: Chart) -> Iterator[Figure]:
    import matplotlib as mpl

    with mpl.rc_context(_SETTINGS):
        yield _figure(chart)


def _figure(chart: Chart) -> Figure:
    from matplotlib.figure import Figure

    columns = min(len(chart.panels), _COLUMNS)
    rows = -(-len(chart.panels) // columns)
    subtitle = [line.removeprefix("· ") for line in textwrap.wrap(chart.subtitle, 110)]
    title = textwrap.wrap(chart.title, 78)
    # As many entries of the legend in a row as fit the width.
    across = max(1, min(len(chart.legend), 100 // (max(len(key.label) for key in chart.legend) + 8)))
    legend = 0.205 * -(-len(chart.legend) // across)
    head = 0.22 + 0.22 * len(title) + 0.17 * len(subtitle) + legend
    body = (3.8 if columns == 1 else 2.7) * rows + 0.2
    height = head + body
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0.0, 0.0, 1.0, body / height), w_pad=0.06, h_pad=0.06)
    top = 1 - 0.08 / height
    figure.text(0.01, top, "\n".join(title), va="top", ha="left", fontsize=12, fontweight="bold")
    below = top - 0.22 * len(title) / height
    figure.text(0.01, below, "\n".join(subtitle), va="top", ha="left", fontsize=8.5, color=SOFT, linespacing=1.25)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    places = list(chain.from_iterable(grid))
    for axes, panel in zip(places[: len(chart.panels)], chart.panels, strict=True):
        _panel(axes, chart, panel)
    for axes in places[len(chart.panels) :]:
        axes.set_axis_off()
    for row in grid:
        row[0].set_ylabel(chart.y_label)
    figure.supxlabel(chart.x_label, fontsize=9.5)
    look: dict[str, Any] = {"loc": "upper left", "frameon": False, "borderaxespad": 0, "borderpad": 0.2}
    box = (0.002, 1 - (head - legend - 0.09) / height)
    figure.legend(handles=[_handle(key) for key in chart.legend], bbox_to_anchor=box, ncols=across, **look)
    return figure


def _panel(axes: Axes, chart: Chart, panel: Panel) -> None:
    if panel.title:
        axes.set_title(panel.title, loc="left", color=INK, fontsize=10)
    axes.grid(visible=True, axis="both" if chart.kind in ("scatter", "rates") else "y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    slots = sorted({_slot(series) for series in panel.series if not series.level})
    for series in panel.series:
        if series.level:
            _across(axes, series)
        elif chart.kind == "bars":
            _bars(axes, series, slots.index(_slot(series)), len(slots))
        else:
            _points(axes, series, annotate=chart.kind == "scatter" and series.joined)
    if chart.kind == "rates":  # ticks at what was tried: matplotlib's own ones would be in mathematical type
        values = sorted({point.x for series in panel.series for point in series.points})
        axes.set_xscale("log")
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.set_xticks([], minor=True)
        axes.margins(x=0.15)
    if chart.kind == "scatter":
        if len(chart.panels) == 1:
            _name(axes, panel)
        return
    highest = max(point.y_interval[1] for point in chart.points)
    axes.set_ylim(0, min(102.0, 10.0 * (int(10 * highest) + 1) + (2 if highest > 0.9 else 0)))
    if chart.x_ticks:
        many = sum(len(text) for _, text in chart.x_ticks) * len(chart.panels) > 75
        positions, texts = zip(*sorted(chart.x_ticks), strict=True)
        axes.set_xticks(positions, texts, rotation=35 if many else 0, ha="right" if many else "center")
        axes.tick_params(axis="x", labelcolor=INK)


def _slot(series: Series) -> tuple[int, int]:
    return series.style.colour, series.style.marker


def _points(axes: Axes, series: Series, *, annotate: bool) -> None:
    style, colour = series.style, _colour(series.style)
    shares = any(p.x_interval for p in series.points)
    x = [100 * p.x if shares else p.x for p in series.points]
    y = [100 * p.y for p in series.points]
    axes.errorbar(
        x,
        y,
        yerr=_bars_of((p.y, p.y_interval) for p in series.points),
        xerr=_bars_of((p.x, p.x_interval or (p.x, p.x)) for p in series.points) if shares else None,
        fmt=_MARKERS[style.marker],
        color=colour,
        markerfacecolor=PAPER if style.hollow else colour,
        markersize=13 if style.marker == 0 else 7,
        markeredgewidth=1.3,
        elinewidth=1.1,
        clip_on=False,
        linestyle=("--" if style.hollow else "-") if series.joined else "none",
        linewidth=1.4,
        zorder=4 if style.marker == 0 else 3,
    )
    for point, left, height in zip(series.points, x, y, strict=True):
        if point.ring:
            axes.plot([left], [height], "o", markersize=13, markerfacecolor="none", markeredgecolor=INK, zorder=5)
        words = (point.note if annotate and point.note != "α = 0" else "") + (" !" if point.doubt else "")
        if words.strip():
            at: dict[str, Any] = {"xytext": (6, 5), "textcoords": "offset points", "fontsize": 8, "color": colour}
            axes.annotate(words.strip(), (left, height), **at)


def _name(axes: Axes, panel: Panel) -> None:
    """Writes names beside points that neither colour nor marker tells apart."""
    alike = [s for s in panel.series if not s.joined and len({point.note for point in s.points}) > 1]
    points = [(point, _colour(series.style)) for series in alike for point in series.points]
    if not points:
        return
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    width, height = 0.9 * 72 * _WIDTH, 3.3 * 72  # about that of the axes: the layout is made later
    spots = [
        (width * (100 * p.x - left) / (right - left), height * (100 * p.y - low) / (high - low)) for p, _ in points
    ]
    offsets = labels.places(spots, [point.note for point, _ in points], (width, height))
    for (point, colour), offset in zip(points, offsets, strict=True):
        at: dict[str, Any] = {"xytext": offset, "textcoords": "offset points", "fontsize": 8, "color": colour}
        axes.annotate(point.note, (100 * point.x, 100 * point.y), ha=labels.aligned(offset), **at)


def _bars(axes: Axes, series: Series, slot: int, slots: int) -> None:
    width = 0.82 / slots
    colour = _colour(series.style)
    x = [p.x + (slot - (slots - 1) / 2) * width for p in series.points]
    y = [100 * p.y for p in series.points]
    fill: dict[str, Any] = {"facecolor": "none", "edgecolor": colour} if series.style.hollow else {"facecolor": colour}
    axes.bar(x, y, width * 0.9, linewidth=1.1, zorder=2, alpha=0.8 if not series.style.hollow else 1.0, **fill)
    errors = _bars_of((p.y, p.y_interval) for p in series.points)
    axes.errorbar(x, y, yerr=errors, fmt="none", ecolor=INK, elinewidth=1.0, zorder=3)
    for point, left in zip(series.points, x, strict=True):
        if point.doubt and not series.style.hollow:
            axes.annotate("!", (left, 100 * point.y_interval[1]), ha="center", color=INK, fontweight="bold")


def _across(axes: Axes, series: Series) -> None:
    """The unadapted model where it has no place along x: a line with its interval as a band."""
    point, colour = series.points[0], _colour(series.style)
    low, high = point.y_interval
    axes.axhspan(100 * low, 100 * high, color=colour, alpha=0.12, linewidth=0, zorder=1)
    axes.axhline(100 * point.y, color=colour, linestyle="--" if series.style.hollow else "-", linewidth=1.2, zorder=1)


def _handle(key: Key) -> Any:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    style, colour = key.style, _colour(key.style)
    face = PAPER if style.hollow else colour
    if style.marker == PATCH:
        return Patch(facecolor=face, edgecolor=colour, label=key.label)
    return Line2D(
        [],
        [],
        color=colour,
        marker="none" if style.marker == NO_MARKER else _MARKERS[style.marker],
        markersize=11 if style.marker == 0 else 7,
        markerfacecolor=face,
        linestyle=("--" if style.hollow else "-") if key.line else "none",
        label=key.label,
    )


def _colour(style: Style) -> str:
    return SOFT if style.colour < 0 else PALETTE[style.colour]


def _bars_of(values: Iterable[tuple[float, Interval]]) -> NDArray[np.float64]:
    """(2, n): how far intervals go below and above their values, in points."""
    reaches = [(100 * (value - low), 100 * (high - value)) for value, (low, high) in values]
    ends: NDArray[np.float64] = np.maximum(0.0, reaches).T
    return ends
