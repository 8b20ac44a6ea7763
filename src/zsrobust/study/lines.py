"""Figures of kind ``lines``: accuracy along an axis, an option, α, the attack's steps or ε."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from zsrobust.report.words import TIERS
from zsrobust.study.charts import Chart, Panel, Point, Series, Style
from zsrobust.study.figures import ALPHA, EPS, STEPS, TIER, Figure
from zsrobust.study.panels import (
    Group,
    chart_of,
    conditions_of,
    groups,
    left_open,
    places,
    point_of,
    score_of,
    style_of,
    tasks_words,
    under,
)  # fmt: skip
from zsrobust.study.results import ALL, CLEAN, Cell, Study, level_name, level_words
from zsrobust.study.scores import Score
from zsrobust.study.selecting import UNADAPTED

LONG = {"lr": "learning rate (lr)", "limit": "training images (limit)", "images": "training images"}
_PGD = re.compile(r"pgd:(\d+)$")


def lines(study: Study, figure: Figure) -> Chart | None:
    """Accuracy along an axis, an option, α, the attack's steps or ε."""
    threat, attack = under(study, figure)
    positions, x_label = _along(study, figure, threat)
    panels = []
    for place in places(study, figure):
        tiers = [t for t in TIERS if study.tasks_of(t)] if figure.colour == TIER else [place.tier]
        found: dict[tuple[str, str, bool, str], dict[float, Point]] = {}
        styles: dict[tuple[str, str, bool, str], Style] = {}
        for tier in tiers:
            for group in groups(study, place.where):
                for x, accuracy in _samples(study, figure, group, positions, threat, attack):
                    for what in figure.y:
                        key = (tier, group.levels.get(figure.colour, ""), group.unadapted, what)
                        one = accuracy(tier, what)
                        if one is None:
                            continue
                        row = found.setdefault(key, {})
                        if x in row:
                            raise left_open(study, figure, place)
                        row[x] = point_of(x, one, "")
                        styles[key] = _line_style(study, figure, group, tier, what)
        if figure.x == ALPHA:
            _begin_unadapted(found)
        panels.append(Panel(place.title, tuple(_lines(figure, found, styles, _crossing(figure)))))
    words = (
        "" if TIER in (figure.colour, figure.panel) else tasks_words(study, figure.tier),
        *conditions_of(study, threat, attack),
    )
    skip = {EPS: 1, STEPS: 2}.get(figure.x)
    words = tuple(word for i, word in enumerate(words) if i != skip)
    return chart_of(study, figure, panels, x_label=x_label, conditions=words, ticks=_ticks(figure, positions))


def _crossing(figure: Figure) -> bool:
    """Whether the unadapted model has no place along x, so that it goes across."""
    return figure.x not in (EPS, STEPS, ALPHA)


Sample = tuple[float, Callable[[str, str], Score | None]]


def _along(study: Study, figure: Figure, threat: str) -> tuple[dict[str, float], str]:
    """What x may be, as written → its position; and what x is."""
    if figure.x == ALPHA:
        alphas = sorted({1.0 if cell.alpha is None else cell.alpha for cell in study.finished} | {0.0})
        return {f"{alpha:g}": alpha for alpha in alphas}, "α, weight of the adapted model (0: unadapted, 1: adapted)"
    if figure.x == EPS:
        chosen = next(t for t in study.threats if t.text == threat)
        family = [t for t in study.threats if (t.norm, t.space) == (chosen.norm, chosen.space)]
        unit = "largest change of a pixel" if chosen.norm == "linf" else f"{chosen.norm} norm of the change"
        return {t.text: t.eps for t in family} | {"0": 0.0}, f"ε of the attack ({unit}; pixels are in 0..1)"
    if figure.x == STEPS:
        names = sorted(study.attacks.get(threat, ()), key=_by_steps)
        return {name: float(i) for i, name in enumerate(names)}, "attack (pgd:K takes K steps)"
    if figure.x in study.axes:
        return {level: float(i) for i, level in enumerate(study.axes[figure.x])}, LONG.get(figure.x, figure.x)
    values = sorted({_option(cell, figure.x) for cell in study.finished if not cell.unadapted}, key=_by_number)
    return {value: float(i) for i, value in enumerate(values)}, LONG.get(figure.x, figure.x)


def _by_steps(name: str) -> tuple[int, str]:
    found = _PGD.match(name)
    return (int(found[1]), "") if found else (10**9, name)


def _by_number(text: str) -> tuple[float, str]:
    try:
        return float(text), ""
    except ValueError:
        return float("inf"), text


def _option(cell: Cell, name: str) -> str:
    value = cell.tuned.get(name, cell.adapt.get(name))
    return ALL if value is None and name == "limit" else level_name(value)


def _samples(
    study: Study, figure: Figure, group: Group, positions: Mapping[str, float], threat: str, attack: str
) -> Iterator[Sample]:
    """Where along x a group is, and how to get its accuracy there."""

    def at(threat: str, attack: str) -> Callable[[str, str], Score | None]:
        return lambda tier, what: score_of(study, group, tier, what, threat, attack)

    if figure.x == EPS and group.alpha is None:
        for text, eps in positions.items():
            if text != "0":
                yield eps, at(text, attack)
        # Where nothing may change, robust accuracy is clean accuracy.
        if not any(eps == 0 for text, eps in positions.items() if text != "0"):
            yield (
                0.0,
                lambda tier, what: score_of(study, group, tier, CLEAN, threat, attack),
            )  # nothing can change there
    elif figure.x == STEPS and group.alpha is None:
        for name, x in positions.items():
            yield x, at(threat, name)
    elif figure.x == ALPHA:
        yield (0.0 if group.unadapted else 1.0 if group.alpha is None else group.alpha), at(threat, attack)
    elif group.alpha is None and group.unadapted:
        yield 0.0, at(threat, attack)  # drawn across
    elif group.alpha is None:
        level = group.levels.get(figure.x) if figure.x in study.axes else _option(group.cells[0], figure.x)
        if level is not None:
            yield positions[level], at(threat, attack)


def _begin_unadapted(found: dict[tuple[str, str, bool, str], dict[float, Point]]) -> None:
    """Every line over α begins at the unadapted model."""
    for tier, level, unadapted, what in list(found):
        before = found.get((tier, "", True, what))
        if not unadapted and before:
            found[tier, level, False, what] |= before
    for key in [key for key in found if key[2]]:
        del found[key]


def _lines(
    figure: Figure,
    found: Mapping[tuple[str, str, bool, str], Mapping[float, Point]],
    styles: Mapping[tuple[str, str, bool, str], Style],
    crossing: bool,
) -> Iterator[Series]:
    for key, row in found.items():
        tier, level, unadapted, what = key
        names = [tier] if figure.colour == TIER else [level_words(figure.colour, level)] if level else []
        names = [UNADAPTED, *names] if unadapted else names
        points = tuple(row[x] for x in sorted(row))
        measure = what if len(figure.y) > 1 or not names else ""
        yield Series(", ".join(names), styles[key], points, joined=True, level=unadapted and crossing, measure=measure)


def _line_style(study: Study, figure: Figure, group: Group, tier: str, what: str) -> Style:
    hollow = what == CLEAN and len(figure.y) > 1
    if figure.colour == TIER:
        return Style(1 + TIERS.index(tier), 0 if group.unadapted else 1 + TIERS.index(tier), hollow)
    return Style(0, 0, hollow) if group.unadapted else replace(style_of(study, figure, group.levels), hollow=hollow)


def _ticks(figure: Figure, positions: Mapping[str, float]) -> tuple[tuple[float, str], ...]:
    if figure.x == EPS:
        return tuple(
            (eps, "0" if eps == 0 else text.split(":")[1]) for text, eps in positions.items() if text != "0" or eps == 0
        )
    return tuple((x, text) for text, x in positions.items())
