"""What is in a picture of the micro-world: its vocabulary, and scenes sampled from (stream, seed, index).

Attributes are stratified: within each block of consecutive indices every value occurs equally often, so the classes of
every task are balanced, and the attributes of any index are known without drawing the picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "heart", "ring", "crescent", "arrow")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
TEXTURES = ("solid", "striped", "dotted", "checkered", "speckled", "outlined")
SIZES = ("small", "medium", "large")
POSITIONS = ("top left", "top right", "bottom left", "bottom right", "centre")
BACKGROUNDS = ("plain", "gradient", "noisy", "grid", "wavy", "starry")
COUNTS = ("one object", "two objects", "three objects", "four objects", "five objects")
GLYPHS = tuple(f"digit {d}" for d in "0123456789") + tuple(f"letter {c}" for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")

VOCABULARY: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "shape": SHAPES,
        "colour": COLOURS,
        "texture": TEXTURES,
        "size": SIZES,
        "position": POSITIONS,
        "background": BACKGROUNDS,
        "count": COUNTS,
        "glyph": GLYPHS,
    }
)
"""Attribute name -> its values, in label order."""

COMPOSITIONS = tuple((s, c, t) for s in range(len(SHAPES)) for c in range(len(COLOURS)) for t in range(len(TEXTURES)))
"""All (shape, colour, texture) triples; a composition's number is its place in this tuple."""

STREAMS: Mapping[str, tuple[tuple[str, ...], ...]] = MappingProxyType(
    {
        "single": (("shape", "colour", "texture"), ("size", "position", "background")),
        "count": (("count", "background"), ("shape",)),
        "glyph": (("glyph",), ("colour", "background")),
    }
)
"""Stream name -> groups of attributes; within a group every *combination* of values is equally frequent."""

ABSENT = -1
"""The value of an attribute that a scene does not have."""

_MIN_BLOCK = 480  # small groups are repeated up to this block length, which keeps the number of blocks low
_STRATA_KEY = 1 << 40  # sets the strata's random streams apart from those of the renders


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The attributes of one picture as label numbers; ``ABSENT`` where its stream has no such attribute.

    ``(stream, seed, index)`` also keys everything that has no name: exact hue, placement, noise.
    """

    stream: str
    seed: int
    index: int
    shape: int = ABSENT
    colour: int = ABSENT
    texture: int = ABSENT
    size: int = ABSENT
    position: int = ABSENT
    background: int = ABSENT
    count: int = ABSENT
    glyph: int = ABSENT


def attributes(stream: str, seed: int, indices: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """The attributes of many scenes at once, without drawing them.

    Args:
        stream: One of ``STREAMS``.
        seed: Any integer in [0, 2**32).
        indices: (N,) scene numbers, non-negative.

    Returns:
        Attribute name -> (N,) label numbers, for the attributes this stream has.
    """
    found: dict[str, NDArray[np.int64]] = {}
    for group, names in enumerate(_groups(stream)):
        radices = tuple(len(VOCABULARY[name]) for name in names)
        combination = _stratum(stream, seed, group, int(np.prod(radices)), indices)
        found.update(zip(names, np.unravel_index(combination, radices), strict=True))
    return found


def sample_scene(stream: str, seed: int, index: int) -> Scene:
    """The scene with this number; the same (stream, seed, index) always gives the same scene."""
    row = attributes(stream, seed, np.array([index], dtype=np.int64))
    return Scene(stream=stream, seed=seed, index=index, **{name: int(values[0]) for name, values in row.items()})


def generator(stream: str, seed: int, index: int, purpose: int = 0) -> np.random.Generator:
    """A random generator that depends on its arguments only.

    ``purpose`` sets independent uses of one scene apart (0 drawing, 1 wording). Callers draw with ``random`` only,
    whose bit stream numpy keeps stable between versions.
    """
    key = (list(STREAMS).index(stream) << 44) | (purpose << 41) | seed
    return np.random.Generator(np.random.Philox(key=np.array([key, index], dtype=np.uint64)))


def composition_number(
    shape: NDArray[np.int64], colour: NDArray[np.int64], texture: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(N,) places in ``COMPOSITIONS`` of (N,) shape, colour and texture labels."""
    return (shape * len(COLOURS) + colour) * len(TEXTURES) + texture


def held_out(shape: NDArray[np.int64], colour: NDArray[np.int64], texture: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N,) whether adaptation never sees this composition.

    A fifth of the compositions, laid out as a lattice: every colour and every texture, and every pair of them, is held
    out with exactly a fifth of the shapes, so nothing but the combination itself is new.
    """
    unseen: NDArray[np.bool_] = (shape + colour + 2 * texture) % 5 == 0
    return unseen


def _groups(stream: str) -> tuple[tuple[str, ...], ...]:
    if stream not in STREAMS:
        raise ValueError(f"unknown stream {stream!r}; the world has {', '.join(STREAMS)}")
    return STREAMS[stream]


def _stratum(stream: str, seed: int, group: int, radix: int, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) values in [0, radix): each block of indices is a shuffled run of equally many copies of every value."""
    length = radix * -(-_MIN_BLOCK // radix)
    blocks, where = np.unique(indices // length, return_inverse=True)
    table = np.stack([_shuffled(stream, seed, group, radix, length, int(block)) for block in blocks])
    return table[where.reshape(-1), indices % length]


@lru_cache(maxsize=1024)
def _shuffled(stream: str, seed: int, group: int, radix: int, length: int, block: int) -> NDArray[np.int64]:
    draws = generator(stream, seed, _STRATA_KEY * (group + 1) + block).random(length)
    return np.argsort(draws, kind="stable").astype(np.int64) % radix
