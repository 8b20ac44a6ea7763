"""The geometry of what we draw: dumbbells for before → after, curves over ε. The template draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zsrobust.report.results import ALL, Mean
from zsrobust.report.summary import Summary
from zsrobust.report.view import Line, short_names, tasks_words
from zsrobust.report.words import NOT_ADAPTED, TIER_WORDS, TIERS, Threat, axis_words, percent
from zsrobust.statistics import Interval


@dataclass(frozen=True)
class Track:
    """A line on a scale of 0–100 from ``start`` (hollow; None: nothing before) to ``end`` (filled).

    ``kind`` is ``"clean"`` (a square) or ``"robust"`` (a disc): shape and colour both tell them apart.
    """

    kind: str
    start: float | None
    end: float
    interval: Interval
    words: str


def tracks(line: Line) -> tuple[Track, Track]:
    """The two tracks of a line, clean above robust, positions in %."""
    clean, robust = (_track(line, kind) for kind in ("clean", "robust"))
    return clean, robust


def _track(line: Line, kind: str) -> Track:
    end, start = getattr(line.after, kind), None if line.before is None else getattr(line.before, kind)
    low, high = getattr(line.after, f"{kind}_interval")
    if start is None:
        words = f"{line.label}, {line.model}: {kind} accuracy {percent(end)} %"
    else:
        words = f"{line.label}: {kind} accuracy {percent(start)} % before, {percent(end)} % after"
    return Track(kind, None if start is None else 100 * start, 100 * end, (100 * low, 100 * high), words)


@dataclass(frozen=True)
class CurvePoint:
    """A point of a curve, in the coordinates of its panel, with what it says."""

    x: float
    y: float
    low: float
    high: float
    words: str


@dataclass(frozen=True)
class Curve:
    """One model's robust accuracy over ε; ``style`` counts the models and picks colour, dash and marker."""

    model: str
    style: int
    points: tuple[CurvePoint, ...]

    @property
    def path(self) -> str:
        """The line, as an SVG path."""
        return "M" + " L".join(f"{p.x:.1f},{p.y:.1f}" for p in self.points)

    @property
    def band(self) -> str:
        """The interval around it, as an SVG path."""
        there = [f"{p.x:.1f},{p.high:.1f}" for p in self.points]
        back = [f"{p.x:.1f},{p.low:.1f}" for p in reversed(self.points)]
        return "M" + " L".join(there + back) + "Z"


@dataclass(frozen=True)
class Panel:
    """The curves of one tier (and seed), all over the same tasks: a plot of 300 × 200 with its axes."""

    title: str
    threat: str
    axis: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


LEFT, RIGHT, TOP, BOTTOM = 40.0, 280.0, 10.0, 165.0


def panels(summary: Summary) -> tuple[Panel, ...]:
    """A panel for each tier, set of tasks, seed and family of threats (norm, space) with at least two ε."""
    found = []
    families = dict.fromkeys((t.norm, t.space) for t in summary.threats)
    for norm, space in families:
        threats = {t.text: t for t in summary.threats if (t.norm, t.space) == (norm, space)}
        if len({t.eps for t in threats.values()}) < 2:
            continue
        ticks = {0.0: "0"} | {t.eps: t.eps_text for t in threats.values() if t.eps > 0}
        for seed in summary.seeds:
            for tier in (*TIERS, NOT_ADAPTED):
                every = [m for m in summary.means if m.which == ALL and m.threat in threats]
                means = [m for m in every if m.tier == tier and m.seed == seed]
                repeats = tier == NOT_ADAPTED and not {m.tier for m in summary.means} >= {
                    "related",
                    "unrelated",
                }
                sets = [] if repeats else list(dict.fromkeys(mean.tasks for mean in means))
                for tasks in sets:
                    title = TIER_WORDS[tier][0] if summary.adapted else "All tasks"
                    title += f", {tasks_words(tasks, sets)}" if len(sets) > 1 else ""
                    title += f", seed {seed}" if len(summary.seeds) > 1 else ""
                    found.append(_panel(summary, title, [m for m in means if m.tasks == tasks], threats, ticks))
    return tuple(found)


def _panel(
    summary: Summary,
    title: str,
    means: Sequence[Mean],
    threats: Mapping[str, Threat],
    ticks: dict[float, str],
) -> Panel:
    widest, threat = max(ticks), next(iter(threats.values()))
    eps = {text: t.eps for text, t in threats.items()}
    curves = []
    short = short_names(summary)
    for style, model in enumerate(summary.models):
        of_model = sorted((m for m in means if m.model == model.name), key=lambda m: eps[m.threat])
        if not of_model:
            continue
        values = [(eps[m.threat], m.robust, m.robust_interval) for m in of_model]
        if values[0][0] > 0:  # nothing can change at ε = 0, so the clean accuracy starts the curve
            values.insert(0, (0.0, of_model[0].clean, of_model[0].clean_interval))
        points = []
        for e, value, (low, high) in values:
            words = f"{short[model.name]} at ε = {ticks[e]}: {percent(value)} % ({percent(low)}–{percent(high)})"
            points.append(CurvePoint(_x(e, widest), _y(value), _y(low), _y(high), words))
        curves.append(Curve(model.name, style % 12, tuple(points)))
    x_ticks = tuple((_x(e, widest), text) for e, text in sorted(ticks.items()))
    y_ticks = tuple((_y(v / 100), f"{v}") for v in (0, 25, 50, 75, 100))
    return Panel(title, f"{threat.norm}, {threat.space}", axis_words(threat.norm), tuple(curves), x_ticks, y_ticks)


def _x(eps: float, widest: float) -> float:
    return LEFT + (RIGHT - LEFT) * eps / widest


def _y(share: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * share
