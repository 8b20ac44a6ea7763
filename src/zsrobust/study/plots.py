"""What the figures of a recipe show, computed from a study's records; :mod:`zsrobust.study.drawing` draws it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from zsrobust.statistics import wilson
from zsrobust.study.charts import Chart, Panel, Point, Series, Style
from zsrobust.study.figures import ALPHA, EPS, STEPS, TASK, TIER, Figure
from zsrobust.study.panels import (
    Place,
    accuracy_label,
    attack_words,
    chart_of,
    groups,
    left_open,
    places,
    style_of,
    tasks_words,
    threat_of,
    threat_words,
)  # fmt: skip
from zsrobust.study.results import ALL, CLEAN, ROBUST, Cell, Study, StudyTask, level_name, level_words, name_of
from zsrobust.study.scores import Measure, Score, score
from zsrobust.study.selecting import UNADAPTED, fits

_LONG = {"lr": "learning rate (lr)", "limit": "training images (limit)", "images": "training images", TIER: "tasks"}
_PGD = re.compile(r"pgd:(\d+)$")


def build(study: Study, figure: Figure) -> Chart | None:
    """What a figure of a study shows; None where nothing of it was measured.

    Raises:
        ConfigError: an axis is left open, so that several cells would be drawn as one.
        UnknownName: a threat that the study does not have.
    """
    return {"scatter": _scatter, "rates": _rates}.get(figure.kind, _along)(study, figure)


def _point(x: float, one: Score) -> Point:
    return Point(x, one.value, one.interval, n=one.n, seeds=len(one.seeds), doubt=one.doubt)


def _scatter(study: Study, figure: Figure) -> Chart | None:
    """One accuracy against the other: a point for each group of cells."""
    threat = threat_of(study, figure)
    panels = []
    for place in places(study, figure):
        found: dict[str, tuple[Style, list[Point]]] = {}
        for group in groups(study, place):
            cell = group[0]
            x, y = (score(group, study.tasks_of(place.tier), Measure(what, threat)) for what in (figure.x, figure.y[0]))
            if x is None or y is None or (cell.alpha is not None and not figure.path):
                continue
            told = {a: v for a, v in cell.levels.items() if figure.path or a in (figure.colour, figure.marker)}
            rest = {a: v for a, v in cell.levels.items() if a not in told}
            note = f"α = {_alpha(cell):g}" if figure.path else name_of(rest) if rest else ""
            point = replace(_point(x.value, y), x_interval=x.interval, doubt=(*x.doubt, *y.doubt))
            label = UNADAPTED if cell.unadapted else name_of(told) if told else "adapted"
            _, points = found.setdefault(label, (style_of(study, figure, cell.levels), []))
            points.append(point if cell.unadapted else replace(point, note=note))
        before = found.pop(UNADAPTED, None)
        start = [replace(point, note="α = 0") for point in before[1]] if before and figure.path else []
        series = [
            Series(label, style, (*start, *points), joined=figure.path) for label, (style, points) in found.items()
        ]
        series += [Series(UNADAPTED, before[0], tuple(before[1]))] if before else []
        panels.append(Panel(place.title, tuple(series)))
    words = ("" if figure.panel in (TIER, TASK) else tasks_words(study, figure.tier), threat_words(study, threat))
    labels = accuracy_label((figure.x,)), accuracy_label(figure.y)
    return chart_of(study, figure, panels, labels, (*words, attack_words(study, threat)))


def _alpha(cell: Cell) -> float:
    """Weight of the adapted model."""
    return 0.0 if cell.unadapted else 1.0 if cell.alpha is None else cell.alpha


class _Row(NamedTuple):
    """Which series of lines or bars: its tier where colours are tiers, the model, and the measure."""

    tier: str
    model: str
    unadapted: bool
    what: str


def _along(study: Study, figure: Figure) -> Chart | None:
    """Lines or bars: accuracy along tasks, tiers, an axis, an option, α, the attack's steps or ε."""
    threat = threat_of(study, figure)
    positions, x_label = _positions(study, figure, threat)
    across = figure.x not in (EPS, STEPS, ALPHA, TASK, TIER)  # the unadapted model has no place along x
    panels = []
    for place in places(study, figure):
        rows, styles = _rows(study, figure, place, positions, threat)
        series = []
        for row, points in rows.items():
            names = [UNADAPTED] * row.unadapted + [row.tier if figure.colour == TIER else row.model]
            measure = row.what if len(figure.y) > 1 else ""
            label = ", ".join(filter(None, names)) or ("" if measure else "adapted")
            ordered = tuple(points[x] for x in sorted(points))
            level, joined = across and row.unadapted, figure.kind == "lines"
            series.append(Series(label, styles[row], ordered, joined=joined, level=level, measure=measure))
        panels.append(Panel(place.title, tuple(series)))
    apart = {TASK, TIER} & {figure.x, figure.colour, figure.panel}
    words = (
        "" if apart else tasks_words(study, figure.tier),
        "" if figure.x == EPS else threat_words(study, threat),
        "" if figure.x == STEPS else attack_words(study, threat),
    )
    ticks = tuple((x, text.split(":")[1] if figure.x == EPS and x else text) for text, x in positions.items())
    ticks = tuple((x, "0" if figure.x == EPS and not x else text) for x, text in ticks)
    return chart_of(study, figure, panels, (x_label, accuracy_label(figure.y)), words, ticks)


def _rows(
    study: Study, figure: Figure, place: Place, positions: Mapping[str, float], threat: str
) -> tuple[dict[_Row, dict[float, Point]], dict[_Row, Style]]:
    """The points of a panel by series and x, and how the series look."""
    found: dict[_Row, dict[float, Point]] = {}
    styles: dict[_Row, Style] = {}
    for tier in study.tiers if figure.colour == TIER else (place.tier,):
        for group in groups(study, place):
            levels = group[0].levels
            model = level_words(figure.colour, levels[figure.colour]) if figure.colour in levels else ""
            for x, tasks, measure in _samples(study, figure, group[0], positions, tier, threat):
                for what in figure.y:
                    # Where nothing may change, robust accuracy is clean accuracy.
                    one = score(group, tasks, measure if measure.what == CLEAN else replace(measure, what=what))
                    row = _Row(tier, model, not levels, what)
                    if one is None:
                        continue
                    if x in found.setdefault(row, {}):
                        raise left_open(study, figure, place)
                    found[row][x] = _point(x, one)
                    styles[row] = style_of(study, figure, levels, tier, hollow=what == CLEAN and len(figure.y) > 1)
    if figure.x != ALPHA:
        return found, styles
    # Every line over α begins at the unadapted model.
    before = {(row.tier, row.what): points for row, points in found.items() if row.unadapted}
    adapted = {row: points for row, points in found.items() if not row.unadapted}
    return {row: points | before.get((row.tier, row.what), {}) for row, points in adapted.items()}, styles


def _positions(study: Study, figure: Figure, threat: str) -> tuple[dict[str, float], str]:
    """What x may be, as written → its position; and what x is."""
    x_label = _LONG.get(figure.x, figure.x)
    if figure.x == ALPHA:
        alphas = sorted({_alpha(cell) for cell in study.finished} | {0.0, 1.0})
        return {f"{alpha:g}": alpha for alpha in alphas}, "α, weight of the adapted model (0: unadapted, 1: adapted)"
    if figure.x == EPS:
        chosen = next(t for t in study.threats if t.text == threat)
        family = {t.text: t.eps for t in study.threats if (t.norm, t.space) == (chosen.norm, chosen.space)}
        unit = "largest change of a pixel" if chosen.norm == "linf" else f"{chosen.norm} norm of the change"
        zero = {} if 0.0 in family.values() else {"0": 0.0}
        return family | zero, f"ε of the attack ({unit}; pixels are in 0..1)"
    if figure.x == STEPS:
        names, x_label = sorted(study.attacks.get(threat, ()), key=_by_steps), "attack (pgd:K takes K steps)"
    elif figure.x == TASK:
        names = [task.name for task in study.tasks_of(figure.tier)]
    elif figure.x in (TIER, *study.axes):
        names = list(study.tiers if figure.x == TIER else study.axes[figure.x])
    else:
        names = sorted({_option(cell, figure.x) for cell in study.finished if not cell.unadapted}, key=_by_number)
    return {name: float(i) for i, name in enumerate(names)}, x_label


def _by_steps(name: str) -> tuple[float, str]:
    found = _PGD.match(name)
    return (float(found[1]), "") if found else (float("inf"), name)


def _by_number(text: str) -> tuple[float, str]:
    try:
        return float(text), ""
    except ValueError:
        return float("inf"), text


def _option(cell: Cell, name: str) -> str:
    value = cell.tuned.get(name, cell.adapt.get(name))
    return ALL if value is None and name == "limit" else level_name(value)


def _samples(
    study: Study, figure: Figure, cell: Cell, positions: Mapping[str, float], tier: str, threat: str
) -> Iterator[tuple[float, tuple[StudyTask, ...], Measure]]:
    """Where along x a group is, and what is measured there."""
    tasks, usual = study.tasks_of(tier), Measure(ROBUST, threat)
    if cell.alpha is not None and figure.x != ALPHA:
        return
    if figure.x == TASK:
        yield from ((positions[task.name], (task,), usual) for task in tasks)
    elif figure.x == TIER:
        yield from ((x, study.tasks_of(one), usual) for one, x in positions.items())
    elif figure.x == EPS:
        yield from (
            (x, tasks, Measure(CLEAN, threat) if t == "0" else Measure(ROBUST, t)) for t, x in positions.items()
        )
    elif figure.x == STEPS:
        yield from ((x, tasks, replace(usual, attack=name)) for name, x in positions.items())
    elif figure.x == ALPHA:
        yield _alpha(cell), tasks, usual
    elif cell.unadapted:
        yield 0.0, tasks, usual  # drawn across
    else:
        level = cell.levels.get(figure.x) if figure.x in study.axes else _option(cell, figure.x)
        if level is not None:
            yield positions[level], tasks, usual


def _rates(study: Study, figure: Figure) -> Chart | None:
    """What tuning saw: held-out robust accuracy against the tuned option; what was chosen has a ring."""
    tune = study.recipe.get("tune") or {}
    option, images = str(tune.get("option", "lr")), int(tune.get("images", 200))
    panels = []
    for place in places(study, figure):
        found: dict[str, tuple[Style, dict[float, Point]]] = {}
        for entry in study.tuning:
            levels = {str(axis): level_name(level) for axis, level in entry["levels"].items()}
            diverged, chosen = bool(entry.get("diverged")), bool(entry.get("chosen"))
            if not fits(levels, place.where) or (entry.get("held_out_robust") is None and not diverged):
                continue
            label = level_words(figure.colour, levels[figure.colour]) if figure.colour in levels else ROBUST
            _, row = found.setdefault(label, (style_of(study, figure, levels), {}))
            x, y = float(entry["value"]), 0.0 if diverged else float(entry["held_out_robust"])
            if x in row:
                raise left_open(study, figure, place)
            note = "diverged" if diverged else "chosen" if chosen else ""
            row[x] = Point(x, y, wilson(y * images, images), n=images, note=note, ring=chosen)
        series = (Series(n, s, tuple(row[x] for x in sorted(row)), joined=True) for n, (s, row) in found.items())
        panels.append(Panel(place.title, tuple(series)))
    words = f"{images:,} held-out images of the adaptation task", f"seed {tune.get('seed', 0)}", "ring: chosen"
    return chart_of(study, figure, panels, (_LONG.get(option, option), "held-out robust accuracy, %"), words)
