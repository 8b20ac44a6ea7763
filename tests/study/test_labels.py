"""Names beside points."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from zsrobust.study import labels

SIZE = (450.0, 240.0)


def overlap(one: labels.Box, other: labels.Box) -> float:
    return sum(w * h for w, h in labels._common(one, [other]) if w > 0 and h > 0)


def test_two_points_at_one_height_name_themselves_to_either_side() -> None:
    points, names = [(200.0, 100.0), (216.0, 100.0)], ["FARE", "ours"]
    offsets = labels.places(points, names, SIZE)
    boxes = [labels._box(*each) for each in zip(points, offsets, names, strict=True)]
    assert overlap(*boxes) == 0
    assert all(overlap(box, labels._around(*point)) == 0 for box in boxes for point in points)


def test_a_name_stays_within_the_axes() -> None:
    (offset,) = labels.places([(440.0, 235.0)], ["a long name of a method"], SIZE)
    assert labels.aligned(offset) == "right"
    assert offset[1] < 0


@given(st.lists(st.tuples(st.floats(0, 450), st.floats(0, 240)), min_size=1, max_size=14))
@settings(max_examples=30, deadline=None)
def test_every_name_has_a_place_and_the_same_one_again(points: list[tuple[float, float]]) -> None:
    names = [f"method {i}" if i % 3 else "" for i in range(len(points))]
    assert labels.places(points, names, SIZE) == labels.places(points, names, SIZE)
    assert len(labels.places(points, names, SIZE)) == len(points)
