"""The outlines of the world's shapes, as signed distances."""

import math
from collections.abc import Callable

import numpy as np

from zsrobust.tasks.world.drawing import Field, length, overlap, union


def _circle(u: Field, v: Field) -> Field:
    return length(u, v) - 0.9


def _square(u: Field, v: Field) -> Field:
    return overlap(np.abs(u), np.abs(v)) - 0.8


def _triangle(u: Field, v: Field) -> Field:
    return _wedge(u, v, top=-0.95, bottom=0.75, half_base=0.98)


def _diamond(u: Field, v: Field) -> Field:
    return (np.abs(u) / 0.68 + np.abs(v) - 1.0) * 0.56


def _star(u: Field, v: Field) -> Field:
    # Mirror the plane into one tenth of the star; there its outline is one straight line from tip to notch.
    x, y = np.abs(u), -v
    cos, sin = math.cos(math.pi / 5), math.sin(math.pi / 5)
    for _ in range(2):
        beyond = np.maximum(x * cos - y * sin, 0)
        x, y = np.abs(x - 2 * beyond * cos), y + 2 * beyond * sin
    notch_x, notch_y = 0.46 * math.sin(math.pi / 5), 0.46 * math.cos(math.pi / 5)
    run, rise = notch_x, 1.0 - notch_y
    length = math.sqrt(run * run + rise * rise)
    return x * (rise / length) + (y - 1) * (run / length)


def _cross(u: Field, v: Field) -> Field:
    across, along = np.abs(u), np.abs(v)
    arm, width = 0.95, 0.32
    return union(overlap(across - width, along - arm), overlap(across - arm, along - width))


def _heart(u: Field, v: Field) -> Field:
    side = np.abs(u)
    body = (side + np.abs(v - 0.14) - 0.74) * math.sqrt(0.5)
    lobe = length(side - 0.37, v + 0.23) - 0.523
    return union(body, lobe)


def _ring(u: Field, v: Field) -> Field:
    off_centre_line: Field = np.abs(length(u, v) - 0.68)
    return off_centre_line - 0.26


def _crescent(u: Field, v: Field) -> Field:
    bite = 0.74 - length(u - 0.42, v + 0.1)
    return overlap(length(u, v) - 0.95, bite)


def _arrow(u: Field, v: Field) -> Field:
    head = _wedge(u, v, top=-0.98, bottom=0.1, half_base=0.88)
    shaft = overlap(np.abs(u) - 0.3, np.abs(v - 0.4) - 0.55)
    return union(head, shaft)


OUTLINES: dict[str, Callable[[Field, Field], Field]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "ring": _ring,
    "crescent": _crescent,
    "arrow": _arrow,
}
"""Shape -> signed distance (negative inside) on the unit disc; u runs right, v runs down."""


def _wedge(u: Field, v: Field, *, top: float, bottom: float, half_base: float) -> Field:
    """An upright isosceles triangle: apex at (0, top), base at v = bottom."""
    height = bottom - top
    length = math.sqrt(height * height + half_base * half_base)
    side = np.abs(u) * (height / length) - (v - top) * (half_base / length)
    return overlap(side, v - bottom)
