"""Where the names of points go, so that none hides a point or another name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Spot = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, bottom, right and top."""

_LETTER, _LINE, _DOT = 4.7, 9.0, 4.5
"""Of a name at 8 points: the width of a letter and the height of a line; half the width of a point. In points."""
_PLACES = ((7, 4), (7, -12), (-7, 4), (-7, -12), (0, 8), (0, -17), (7, 14), (7, -22), (-7, 14), (-7, -22))
"""Offsets in the order in which they are preferred; a negative one stands to the left of its point."""


def places(points: Sequence[Spot], names: Sequence[str], size: Spot) -> list[Spot]:
    """An offset for each name, chosen one after the other: where it covers least, and stays within the axes.

    Args:
        points: Where the points are, in typographic points from the lower left corner of the axes.
        names: One for each; empty ones need no place.
        size: Width and height of the axes, likewise.
    """
    taken = [_around(x, y) for x, y in points]
    chosen: list[Spot] = []
    for point, name in zip(points, names, strict=True):
        if not name:
            chosen.append(_PLACES[0])
            continue
        options = [(offset, _box(point, offset, name)) for offset in _PLACES]
        offset, box = min(options, key=lambda option: _covered(option[1], taken, size))
        taken.append(box)
        chosen.append(offset)
    return chosen


def aligned(offset: Spot) -> str:
    """How a name with this offset is aligned."""
    return "left" if offset[0] > 0 else "right" if offset[0] < 0 else "center"


def _around(x: float, y: float) -> Box:
    return x - _DOT, y - _DOT, x + _DOT, y + _DOT


def _box(point: Spot, offset: Spot, name: str) -> Box:
    width = _LETTER * len(name)
    left = point[0] + offset[0] - {"left": 0.0, "right": width, "center": width / 2}[aligned(offset)]
    bottom = point[1] + offset[1]
    return left, bottom, left + width, bottom + _LINE


def _covered(box: Box, taken: Sequence[Box], size: Spot) -> float:
    """Area that the box shares with those taken, and what of it lies outside the axes."""
    left, bottom, right, top = box
    shared = sum(max(0.0, w) * max(0.0, h) for w, h in _common(box, taken) if w > 0 and h > 0)
    outside = max(0.0, -left) + max(0.0, right - size[0]) + max(0.0, -bottom) + max(0.0, top - size[1])
    return shared + _LINE * outside


def _common(box: Box, taken: Sequence[Box]) -> Iterator[Spot]:
    for other in taken:
        yield min(box[2], other[2]) - max(box[0], other[0]), min(box[3], other[3]) - max(box[1], other[1])
