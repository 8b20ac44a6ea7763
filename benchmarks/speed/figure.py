"""A figure: what was measured, its unit, its ratios to other things, and how far it scatters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

RATIOS = ("ratio_to_floor", "ratio_to_reference", "ratio_to_passes", "ratio_to_pyautoattack")
FREE = 0.15
"""A curve's exponent may be so far above that of its work before it is called a defect."""


@dataclass(frozen=True)
class Figure:
    """One number of the benchmark.

    Attributes:
        name: In ``snake_case``, stable: tables and tests look for it.
        value: The number; None: it was not run, and ``settings["why"]`` says why.
        unit: Of the value.
        ratios: Some of :data:`RATIOS`: speeds, ours over the other's.
        spread: (largest − smallest) / median over the repetitions; None: measured once.
        n: Repetitions.
        settings: What the number depends on.
        points: Of a curve: [x, value, work] each; the value is then the exponent of a log-log fit.
    """

    name: str
    value: float | None
    unit: str
    ratios: Mapping[str, float] = field(default_factory=dict)
    spread: float | None = None
    n: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    points: Sequence[Sequence[float]] = ()

    def __post_init__(self) -> None:
        if unknown := set(self.ratios) - set(RATIOS):
            raise ValueError(f"{self.name}: {', '.join(sorted(unknown))} is not one of {', '.join(RATIOS)}")
        for number in (self.value, self.spread, *self.ratios.values()):
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{self.name}: {number} is no measurement")

    def to_json(self) -> dict[str, Any]:
        """Flat: ratios beside the value, rounded to four digits; an absent ratio is absent."""
        row: dict[str, Any] = {"name": self.name, "value": _rounded(self.value), "unit": self.unit}
        row |= {name: _rounded(self.ratios[name]) for name in RATIOS if name in self.ratios}
        row |= {"spread": _rounded(self.spread), "n": self.n, "settings": dict(self.settings)}
        if self.points:
            row["points"] = [[_rounded(number) for number in point] for point in self.points]
        return row


def curve(name: str, points: Sequence[tuple[float, float, float]], *, x: str, y: str, work: str, **more: Any) -> Figure:
    """The exponent with which y grows in x, beside the exponent with which its work does.

    Args:
        name: Of the figure.
        points: (x, y, work); at least two, all above 0.
        x: What x is, with its unit.
        y: What y is.
        work: What the work is: y should not grow faster.
        **more: Further settings.
    """
    grows = exponent([(a, b) for a, b, _ in points])
    predicted = exponent([(a, c) for a, _, c in points])
    settings = {
        "x": x, "y": y, "work": work, "exponent_of_the_work": _rounded(predicted),
        "faster_than_its_work": grows > predicted + FREE, **more,
    }  # fmt: skip
    return Figure(name, grows, "exponent", n=len(points), settings=settings, points=points)


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """Slope of log y over log x, least squares."""
    xs, ys = ([math.log(point[i]) for point in points] for i in (0, 1))
    middle_x, middle_y = sum(xs) / len(xs), sum(ys) / len(ys)
    width = sum((x - middle_x) ** 2 for x in xs)
    if not width:
        raise ValueError("a curve needs at least two different x")
    return sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True)) / width


def _rounded(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.4g}")
