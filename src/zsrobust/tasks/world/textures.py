"""The textures of the world's objects: where the ink goes."""

import math
from collections.abc import Callable

import numpy as np

from zsrobust.tasks.world.drawing import Dice, Field, blocks, cell, clamp, length, line, turned


def _solid(u: Field, v: Field, distance: Field, radius: float, dice: Dice) -> Field:
    return np.zeros_like(distance)


def _striped(u: Field, v: Field, distance: Field, radius: float, dice: Dice) -> Field:
    across, _ = turned(u, v, dice.between(0, math.pi))
    return line(across + dice.between(0, 6), dice.between(5.2, 6.4), 1.4)


def _dotted(u: Field, v: Field, distance: Field, radius: float, dice: Dice) -> Field:
    period = dice.between(5.6, 6.6)
    across = cell(u + dice.between(0, 6), period)
    along = cell(v + dice.between(0, 6), period)
    return clamp(2.3 - length(across, along))


def _checkered(u: Field, v: Field, distance: Field, radius: float, dice: Dice) -> Field:
    period = dice.between(8.4, 9.8)
    middle = period * 0.25 - 0.5
    column = clamp(np.abs(cell(u + dice.between(0, 9), period)) - middle)
    row = clamp(np.abs(cell(v + dice.between(0, 9), period)) - middle)
    return column + row - 2 * column * row


def _speckled(u: Field, v: Field, distance: Field, radius: float, dice: Dice) -> Field:
    height, width = distance.shape
    grains = dice.field((height + 1) // 2, (width + 1) // 2) < 0.33
    return blocks(grains.astype(np.float32))[:height, :width]


def _outlined(u: Field, v: Field, distance: Field, radius: float, dice: Dice) -> Field:
    # A border that grows with the object, so that a small one keeps its colour inside.
    return clamp(distance + (0.5 + dice.between(0.16, 0.22) * radius))


TEXTURE_INK: dict[str, Callable[[Field, Field, Field, float, Dice], Field]] = {
    "solid": _solid,
    "striped": _striped,
    "dotted": _dotted,
    "checkered": _checkered,
    "speckled": _speckled,
    "outlined": _outlined,
}
"""Texture -> share of ink in [0, 1] at (u, v) pixels from the object's centre, ``distance`` from its edge; the object
has this ``radius``."""
