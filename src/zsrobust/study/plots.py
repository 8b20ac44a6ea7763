"""What the figures of a recipe show, computed from a study's records; :mod:`zsrobust.study.drawing` draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from zsrobust.report.words import TIERS
from zsrobust.study.charts import Chart, Panel, Point, Series, Style
from zsrobust.study.figures import ALPHA, TASK, TIER, Figure
from zsrobust.study.lines import LONG, lines
from zsrobust.study.panels import (
    Group,
    Place,
    accuracy_label,
    chart_of,
    conditions_of,
    groups,
    left_open,
    places,
    point_of,
    rank,
    score_of,
    style_of,
    tasks_words,
    under,
)  # fmt: skip
from zsrobust.study.results import ALL, CLEAN, ROBUST, Study, level_name, level_words, name_of
from zsrobust.study.scores import Measure, score, share
from zsrobust.study.selecting import UNADAPTED, fits


def build(study: Study, figure: Figure) -> Chart | None:
    """What a figure of a study shows; None where nothing of it was measured.

    Raises:
        ConfigError: an axis is left open, so that several cells would be drawn as one.
        UnknownName: a threat or an attack that the study does not have.
    """
    kinds: dict[str, Callable[[Study, Figure], Chart | None]] = {
        "scatter": scatter,
        "lines": lines,
        "bars": bars,
        "rates": rates,
    }
    return kinds[figure.kind](study, figure)


def scatter(study: Study, figure: Figure) -> Chart | None:
    """Robust against clean accuracy, or the other way round: a point for each group of cells."""
    threat, attack = under(study, figure)
    panels = []
    for place in places(study, figure):
        drawn: dict[tuple[str, ...], list[tuple[Any, Group, Point]]] = {}
        for group in groups(study, place.where):
            if group.alpha is not None and figure.path != ALPHA:
                continue
            x, y = (score_of(study, group, place.tier, what, threat, attack) for what in (figure.x, figure.y[0]))
            if x is None or y is None:
                continue
            note = name_of({a: v for a, v in group.levels.items() if a not in (figure.colour, figure.marker)}, None)
            if figure.path == ALPHA:
                note = f"α = {1 if group.alpha is None else group.alpha:g}"
            point = replace(point_of(x.value, y, "" if group.unadapted else note), x_interval=x.interval)
            point = replace(point, doubt=tuple(dict.fromkeys((*x.doubt, *y.doubt))))
            order = (1.0 if group.alpha is None else group.alpha, rank(study, group.levels, figure.path))
            drawn.setdefault(_series_key(figure, group), []).append((order, group, point))
        panels.append(Panel(place.title, tuple(_scattered(study, figure, drawn))))
    tier_words = "" if figure.panel == TIER else tasks_words(study, figure.tier)
    return chart_of(
        study,
        figure,
        panels,
        x_label=accuracy_label((figure.x,)),
        conditions=(tier_words, *conditions_of(study, threat, attack)),
    )


def _series_key(figure: Figure, group: Group) -> tuple[str, ...]:
    if group.unadapted:
        return ()
    if figure.path:
        return tuple(level for axis, level in group.levels.items() if axis != figure.path)
    return tuple(group.levels.get(axis, "") for axis in (figure.colour, figure.marker) if axis)


def _scattered(
    study: Study, figure: Figure, drawn: Mapping[tuple[str, ...], Sequence[tuple[Any, Group, Point]]]
) -> Iterator[Series]:
    before = [point for _, group, point in drawn.get((), ()) if group.unadapted]
    for members in (members for key, members in drawn.items() if key):
        ordered = sorted(members, key=lambda member: member[0])
        points = [point for _, _, point in ordered]
        if figure.path == ALPHA and before:
            points.insert(0, replace(before[0], note="α = 0", x_interval=before[0].x_interval))
        levels = {a: v for a, v in ordered[0][1].levels.items() if a != figure.path}
        shown = {a: v for a, v in levels.items() if figure.path or a in (figure.colour, figure.marker)}
        label = name_of(shown, None) if shown else "adapted"
        yield Series(label, style_of(study, figure, ordered[0][1].levels), tuple(points), joined=bool(figure.path))
    if before:
        yield Series(UNADAPTED, Style(0, 0), tuple(before))


def bars(study: Study, figure: Figure) -> Chart | None:
    """Accuracy task by task, tier by tier or level by level."""
    threat, attack = under(study, figure)
    panels = []
    for place in places(study, figure):
        positions = _bar_positions(study, figure, place)
        found: dict[tuple[str, bool, str], dict[float, Point]] = {}
        styles: dict[tuple[str, bool, str], Style] = {}
        for group in groups(study, place.where):
            if group.alpha is not None:
                continue
            for x, tasks in _bar_slots(study, figure, group, positions, place):
                for what in figure.y:
                    one = score(group.cells, tasks, Measure(what, threat, attack))
                    key = (group.levels.get(figure.colour, ""), group.unadapted, what)
                    if one is None:
                        continue
                    if x in found.setdefault(key, {}):
                        raise left_open(study, figure, place)
                    found[key][x] = point_of(x, one, "")
                    style = Style(0, 0) if group.unadapted else style_of(study, figure, group.levels)
                    styles[key] = replace(style, hollow=what == CLEAN and len(figure.y) > 1)
        panels.append(Panel(place.title, tuple(_bars(figure, found, styles))))
        ticks = tuple((float(i), text) for i, text in enumerate(positions))
    by_axis = figure.by not in (TASK, TIER) and figure.panel != TIER
    tier_words = tasks_words(study, figure.tier) if by_axis else ""
    x_label = {TASK: "task", TIER: "tasks"}.get(figure.by, figure.by)
    return chart_of(
        study,
        figure,
        panels,
        x_label=x_label,
        conditions=(tier_words, *conditions_of(study, threat, attack)),
        ticks=ticks,
    )


def _bar_positions(study: Study, figure: Figure, place: Place) -> dict[str, Any]:
    if figure.by == TASK:
        return {task.name: (task,) for task in study.tasks_of(ALL if figure.panel == TIER else place.tier)}
    if figure.by == TIER:
        return {tier: study.tasks_of(tier) for tier in TIERS if study.tasks_of(tier)}
    return dict.fromkeys(study.axes[figure.by])


def _bar_slots(
    study: Study, figure: Figure, group: Group, positions: Mapping[str, Any], place: Place
) -> Iterator[tuple[float, Any]]:
    for i, (name, tasks) in enumerate(positions.items()):
        if tasks is not None:
            yield float(i), tasks
        elif group.levels.get(figure.by) == name:
            yield float(i), study.tasks_of(place.tier)
    if group.unadapted and figure.by in study.axes:
        yield 0.0, study.tasks_of(place.tier)  # drawn across


def _bars(
    figure: Figure, found: Mapping[tuple[str, bool, str], Mapping[float, Point]], styles: Mapping[Any, Style]
) -> Iterator[Series]:
    for key, row in found.items():
        level, unadapted, what = key
        name = UNADAPTED if unadapted else level_words(figure.colour, level) if level else "adapted"
        measure = what if len(figure.y) > 1 else ""
        across = unadapted and figure.by not in (TASK, TIER)
        points = tuple(row[x] for x in sorted(row))
        yield Series(name, styles[key], points, level=across, measure=measure)


def rates(study: Study, figure: Figure) -> Chart | None:
    """What tuning saw: held-out robust accuracy against the tuned option; what was chosen has a ring."""
    tune = study.recipe.get("tune") or {}
    option, images = str(tune.get("option", "lr")), int(tune.get("images", 200))
    panels = []
    for place in places(study, figure):
        found: dict[str, dict[float, Point]] = {}
        styles: dict[str, Style] = {}
        for entry in study.tuning:
            levels = {str(axis): level_name(level) for axis, level in entry["levels"].items()}
            if not fits(levels, place.where) or (entry.get("held_out_robust") is None and not entry.get("diverged")):
                continue
            level = levels.get(figure.colour, "")
            row = found.setdefault(level, {})
            if entry["value"] in row:
                raise left_open(study, figure, place)
            right = 0.0 if entry.get("diverged") else float(entry["held_out_robust"])
            note = "diverged" if entry.get("diverged") else "chosen" if entry.get("chosen") else ""
            row[entry["value"]] = Point(
                float(entry["value"]), right, share(right, images), n=images, note=note, ring=bool(entry.get("chosen"))
            )
            styles[level] = style_of(study, figure, levels)
        series = [
            Series(
                level_words(figure.colour, level) if level else ROBUST,
                styles[level],
                tuple(row[x] for x in sorted(row)),
                joined=True,
            )
            for level, row in found.items()
        ]
        panels.append(Panel(place.title, tuple(series)))
    seed = f"seed {tune.get('seed', 0)}"
    conditions = (f"{images:,} held-out images of the adaptation task", seed, "ring: chosen")
    chart = chart_of(study, figure, panels, x_label=LONG.get(option, option), conditions=conditions, seeded=False)
    return None if chart is None else replace(chart, y_label="held-out robust accuracy, %", log_x=True)
