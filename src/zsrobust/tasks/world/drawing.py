"""What every drawing needs: dice, colours, and fields over the pixel grid.

Only +, -, *, /, sqrt, floor, min and max act on arrays here and in the modules that draw. IEEE arithmetic fixes those
to the last bit, while sin or exp differ between processors; so a render is the same bytes everywhere.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 64
"""Height and width of a render, in pixels."""

Field = NDArray[np.floating[Any]]
"""Values over pixels; float32 in fact, which numpy's own annotations cannot follow through arithmetic."""
Colour = tuple[float, float, float]

# Hue in degrees and its jitter; green has room on both sides, orange has not.
_HUES = ((0, 7), (29, 4), (55, 5), (120, 18), (182, 8), (226, 9), (275, 8), (325, 8))
_WEIGHTS = (0.299, 0.587, 0.114)


class Dice:
    """Uniform draws from one generator, the only randomness of a render."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self.rng.random()

    def below(self, n: int) -> int:
        """An integer in [0, n)."""
        return int(n * self.rng.random())

    def field(self, *shape: int) -> Field:
        """Numbers in [0, 1), float32."""
        return self.rng.random(shape, dtype=np.float32)


def object_colour(colour: int, dice: Dice) -> Colour:
    """A vivid RGB colour in [0, 1] with this name's hue."""
    hue, jitter = _HUES[colour]
    return hsv(hue + dice.between(-jitter, jitter), dice.between(0.8, 1.0), dice.between(0.8, 1.0))


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Hue in degrees, saturation and value in [0, 1] -> RGB in [0, 1]."""

    def channel(offset: float) -> float:
        k = (offset + hue / 60.0) % 6.0
        return value * (1.0 - saturation * max(0.0, min(k, 4.0 - k, 1.0)))

    return channel(5.0), channel(3.0), channel(1.0)


def luma(colour: Colour) -> float:
    """Brightness in [0, 1] as an eye weighs it (Rec. 601)."""
    return sum(weight * c for weight, c in zip(_WEIGHTS, colour, strict=True))


@lru_cache(maxsize=1)
def pixels() -> tuple[Field, Field]:
    """Pixel centres: x as (1, 64), y as (64, 1)."""
    centres = np.arange(SIZE, dtype=np.float32) + 0.5
    centres.flags.writeable = False
    return centres[None, :], centres[:, None]


def turned(x: Field, y: Field, angle: float) -> tuple[Field, Field]:
    """Coordinates in axes that are turned clockwise by ``angle`` radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


def clamp(x: Field) -> Field:
    """``x`` kept within [0, 1]."""
    clamped: Field = np.clip(x, 0.0, 1.0)
    return clamped


def union(one: Field, other: Field) -> Field:
    """The signed distance of what is in either shape."""
    nearer: Field = np.minimum(one, other)
    return nearer


def overlap(one: Field, other: Field) -> Field:
    """The signed distance of what is in both shapes."""
    farther: Field = np.maximum(one, other)
    return farther


def blocks(grains: Field) -> Field:
    """(H, W) -> (2 H, 2 W): every value fills a block of two by two pixels."""
    return np.repeat(np.repeat(grains, 2, axis=0), 2, axis=1)


def length(x: Field, y: Field) -> Field:
    """Distance from the origin."""
    distance: Field = np.sqrt(x * x + y * y)
    return distance


def cell(x: Field, period: float) -> Field:
    """Signed offset from the nearest multiple of the period, in [-period/2, period/2]."""
    nearest: Field = np.floor(x / period + 0.5)
    return x - period * nearest


def line(x: Field, period: float, half_width: float) -> Field:
    """1 on lines of this half width at every multiple of the period, 0 between them, anti-aliased."""
    return clamp((half_width + 0.5) - np.abs(cell(x, period)))


def wave(x: Field) -> Field:
    """A smooth wave of period 1 in [-1, 1], made of parabolas: like a sine, but exact on every machine."""
    half = 2 * cell(x, 1.0)
    fall: Field = 1 - np.abs(half)
    return 4 * half * fall
