"""Draws scenes: analytic signed-distance shapes with anti-aliased edges, in numpy."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zsrobust.tasks.world.backgrounds import draw_background
from zsrobust.tasks.world.drawing import SIZE, Colour, Dice, Field, clamp, object_colour, pixels, turned
from zsrobust.tasks.world.glyphs import glyph_strokes
from zsrobust.tasks.world.scene import COLOURS, GLYPHS, SHAPES, TEXTURES, Scene, generator
from zsrobust.tasks.world.shapes import OUTLINES
from zsrobust.tasks.world.textures import TEXTURE_INK

_RADII = (8.5, 12.5, 17.0)  # small, medium, large: circumscribed circle in pixels
# (x, y) in the order of POSITIONS
_CENTRES = ((18.5, 18.5), (45.5, 18.5), (18.5, 45.5), (45.5, 45.5), (32.0, 32.0))
_CELLS = tuple((x, y) for y in (12.0, 32.0, 52.0) for x in (12.0, 32.0, 52.0))  # where counted objects may stand


def render(scene: Scene) -> NDArray[np.uint8]:
    """Draw a scene.

    Args:
        scene: What to draw; its (stream, seed, index) keys all nuisance: hue, placement, rotation, light and noise.

    Returns:
        (64, 64, 3) uint8 RGB.
    """
    dice = Dice(generator(scene.stream, scene.seed, scene.index))
    canvas = _DRAWERS[scene.stream](scene, dice)
    return _photographed(canvas, dice)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One drawn object: shape and texture numbers, place, circumscribed radius and angle (pixels, radians)."""

    shape: int
    texture: int
    x: float
    y: float
    radius: float
    angle: float
    paint: Colour
    ink: Colour


def _single(scene: Scene, dice: Dice) -> Field:
    paint = object_colour(scene.colour, dice)
    canvas, dark = draw_background(scene.background, paint, dice)
    x, y = _CENTRES[scene.position]
    item = Item(
        shape=scene.shape,
        texture=scene.texture,
        x=x + dice.between(-2.5, 2.5),
        y=y + dice.between(-2.5, 2.5),
        radius=_RADII[scene.size] * dice.between(0.93, 1.07),
        angle=dice.between(-0.2, 0.2),
        paint=paint,
        ink=_ink(dark, dice),
    )
    _draw_item(canvas, item, dice)
    return canvas


def _count(scene: Scene, dice: Dice) -> Field:
    hue = dice.below(len(COLOURS))
    mixed = dice.below(2)
    colours = [(hue + mixed * dice.below(len(COLOURS))) % len(COLOURS) for _ in range(scene.count + 1)]
    paints = [object_colour(colour, dice) for colour in colours]
    canvas, dark = draw_background(scene.background, paints[0], dice)
    cells = np.argsort(dice.field(len(_CELLS)), kind="stable")[: len(paints)]
    radius = dice.between(7.0, 9.0)
    for paint, cell in zip(paints, cells, strict=True):
        x, y = _CELLS[int(cell)]
        item = Item(
            shape=scene.shape,
            texture=TEXTURES.index("outlined") if mixed else TEXTURES.index("solid"),
            x=x + dice.between(-2.0, 2.0),
            y=y + dice.between(-2.0, 2.0),
            radius=radius,
            angle=dice.between(-0.2, 0.2),
            paint=paint,
            ink=_ink(dark, dice),
        )
        _draw_item(canvas, item, dice)
    return canvas


def _glyph(scene: Scene, dice: Dice) -> Field:
    paint = object_colour(scene.colour, dice)
    canvas, _ = draw_background(scene.background, paint, dice)
    height = dice.between(24.0, 44.0)
    room = 0.5 * (SIZE - height) - 3.0
    draw_glyph(
        canvas,
        glyph_strokes(GLYPHS[scene.glyph]),
        x=0.5 * SIZE + dice.between(-room, room),
        y=0.5 * SIZE + dice.between(-room, room),
        height=height,
        aspect=dice.between(0.85, 1.15),
        shear=dice.between(-0.1, 0.1),
        angle=dice.between(-0.15, 0.15),
        thickness=height * dice.between(0.11, 0.16),
        paint=paint,
    )
    return canvas


_DRAWERS: dict[str, Callable[[Scene, Dice], Field]] = {"single": _single, "count": _count, "glyph": _glyph}


def _photographed(canvas: Field, dice: Dice) -> NDArray[np.uint8]:
    """Light and sensor: a gain for each channel, noise, and quantisation to (64, 64, 3) uint8."""
    light = dice.between(0.85, 1.05)
    gain = np.array([light * dice.between(0.97, 1.03) for _ in range(3)], dtype=np.float32)
    noise = dice.between(0.02, 0.09)
    lit = canvas * gain + (dice.field(SIZE, SIZE, 3) - 0.5) * noise
    quantised: NDArray[np.uint8] = np.floor(clamp(lit) * 255.0 + 0.5).astype(np.uint8)
    return quantised


def _draw_item(canvas: Field, item: Item, dice: Dice) -> None:
    """Paint one object onto the (64, 64, 3) canvas, in place, within its own window."""
    rows, columns = _window(item.y, item.radius), _window(item.x, item.radius)
    x = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] + (0.5 - item.x)
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + (0.5 - item.y)
    u, v = turned(x, y, item.angle)
    distance = OUTLINES[SHAPES[item.shape]](u / item.radius, v / item.radius) * item.radius
    ink = TEXTURE_INK[TEXTURES[item.texture]](u, v, distance, item.radius, dice)[..., None]
    colour = np.array(item.paint, dtype=np.float32) * (1 - ink) + np.array(item.ink, dtype=np.float32) * ink
    _blend(canvas[rows, columns], colour, distance)


def _blend(patch: Field, colour: Field, distance: Field) -> None:
    """Cover ``patch`` (H, W, 3), in place, where the signed ``distance`` (H, W; pixels) is negative."""
    cover = clamp(0.5 - distance)[..., None]
    patch += cover * (colour - patch)


def _window(centre: float, reach: float) -> slice:
    return slice(max(0, math.floor(centre - reach - 1.5)), min(SIZE, math.ceil(centre + reach + 1.5)))


def _ink(dark: bool, dice: Dice) -> Colour:
    """The second colour of a texture: near white on a dark background, near black on a light one.

    Taking the background's opposite keeps the object's edge visible where the texture meets it.
    """
    grey = dice.between(0.88, 1.0) if dark else dice.between(0.0, 0.14)
    return grey, grey, grey


def draw_glyph(
    canvas: Field,
    strokes: NDArray[np.float32],
    *,
    x: float,
    y: float,
    height: float,
    aspect: float,
    shear: float,
    angle: float,
    thickness: float,
    paint: Colour,
) -> None:
    """Draw strokes onto the (64, 64, 3) canvas, in place.

    Args:
        canvas: Values in [0, 1].
        strokes: (S, 2, 2) segments, (start, end) x (x, y), in glyph units: x in [-1/3, 1/3], y in [-1/2, 1/2], down.
        x: Centre, in pixels from the left.
        y: Centre, in pixels from the top.
        height: Of the glyph's frame, in pixels.
        aspect: Stretch of the width.
        shear: Pixels to the right for each pixel up.
        angle: Clockwise turn, in radians.
        thickness: Full width of the stroke, in pixels.
        paint: RGB in [0, 1].
    """
    across = strokes[..., 0] * aspect - strokes[..., 1] * shear
    across, along = turned(across * height, strokes[..., 1] * height, -angle)
    ends = np.stack([across + x, along + y], axis=-1)
    distance = _stroke_distance(ends) - 0.5 * thickness
    _blend(canvas, np.array(paint, dtype=np.float32), distance)


def _stroke_distance(ends: Field) -> Field:
    """(64, 64) distance in pixels to the nearest of (S, 2, 2) segments."""
    px, py = pixels()
    nearest: Field = np.full((SIZE, SIZE), 1e6, dtype=np.float32)
    for (ax, ay), (bx, by) in ends:
        run, rise = bx - ax, by - ay
        square = max(run * run + rise * rise, 1e-6)
        along = clamp(((px - ax) * run + (py - ay) * rise) / square)
        dx, dy = px - ax - along * run, py - ay - along * rise
        nearest = np.minimum(nearest, dx * dx + dy * dy)
    return np.sqrt(nearest)
