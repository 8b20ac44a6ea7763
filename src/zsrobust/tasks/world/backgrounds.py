"""The backgrounds of the world: muted, and distinct from the textures of objects."""

import math
from collections.abc import Callable

import numpy as np

from zsrobust.tasks.world.drawing import SIZE, Colour, Dice, Field, blocks, clamp, hsv, line, luma, pixels, turned, wave
from zsrobust.tasks.world.scene import BACKGROUNDS


def draw_background(kind: int, paint: Colour, dice: Dice) -> tuple[Field, bool]:
    """((64, 64, 3) canvas in [0, 1], whether it is dark), of muted colours that stand off from ``paint``."""
    lightness = luma(paint)
    dark = lightness > 0.55 or (lightness > 0.35 and dice.below(2) == 0)
    hue, saturation = dice.between(0, 360), dice.between(0.05, 0.3)
    if dark:
        base, second = dice.between(0.05, 0.2), dice.between(0.36, 0.46)
    else:
        base, second = dice.between(0.88, 1.0), dice.between(0.62, 0.72)
    near = np.array(hsv(hue, saturation, base), dtype=np.float32)
    far = np.array(hsv(hue + dice.between(-40, 40), saturation, second), dtype=np.float32)
    mix = _PATTERNS[BACKGROUNDS[kind]](dice)
    return near + mix[..., None] * (far - near), dark


def _plain(dice: Dice) -> Field:
    return np.full((SIZE, SIZE), dice.between(0.0, 0.25), dtype=np.float32)


def _gradient(dice: Dice) -> Field:
    x, y = pixels()
    across, _ = turned(x - 32.0, y - 32.0, dice.between(0, 2 * math.pi))
    return clamp(0.5 + across / 64.0) * 1.2


def _noisy(dice: Dice) -> Field:
    return blocks(dice.field(SIZE // 2, SIZE // 2))


def _grid(dice: Dice) -> Field:
    x, y = pixels()
    period, width = dice.between(8.0, 11.0), dice.between(0.7, 1.1)
    across = line(x + dice.between(0, 11), period, width)
    along = line(y + dice.between(0, 11), period, width)
    mix: Field = np.maximum(across, along)
    return mix


def _wavy(dice: Dice) -> Field:
    x, y = pixels()
    if dice.below(2):
        x, y = y, x
    swing = wave(x / dice.between(18.0, 26.0) + dice.between(0, 1))
    height = y + dice.between(0, 10) + swing * dice.between(2.5, 3.5)
    bands = height / dice.between(8.5, 11.5)
    return 0.5 + 0.5 * wave(bands)


def _starry(dice: Dice) -> Field:
    mix = np.zeros((SIZE + 2, SIZE + 2), dtype=np.float32)
    places = dice.field(2, 40)
    row, column = np.floor(places * SIZE).astype(np.int64)
    for dy, dx, weight in ((0, 1, 0.6), (2, 1, 0.6), (1, 0, 0.6), (1, 2, 0.6), (1, 1, 1.4)):
        mix[row + dy, column + dx] = np.maximum(mix[row + dy, column + dx], weight)
    return mix[1:-1, 1:-1]


_PATTERNS: dict[str, Callable[[Dice], Field]] = {
    "plain": _plain,
    "gradient": _gradient,
    "noisy": _noisy,
    "grid": _grid,
    "wavy": _wavy,
    "starry": _starry,
}
"""Background -> (64, 64) mix of its two shades, 0 the first, 1 the second; a little beyond 1 is meant."""
