"""A stroke font for digits and capital letters, drawn on a grid of 5 columns and 7 rows.

A glyph is a string of strokes, a stroke a run of points "column row"; row 0 is the top. Pairs that look alike in print
are told apart on purpose: 0 has a slash and is narrow, I has serifs and 1 a flag without one, 5/S, 2/Z, 8/B and U/V
differ in their corners.
"""

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_FONT = {
    "digit 0": "20 11 12 14 15 26 35 34 32 31 20,15 31",
    "digit 1": "11 20 26",
    "digit 2": "01 10 30 41 42 33 24 15 06 46",
    "digit 3": "01 10 30 41 42 33 23,33 44 45 36 16 05",
    "digit 4": "36 30 04 44",
    "digit 5": "40 00 02 32 43 45 36 06",
    "digit 6": "30 12 04 05 16 36 45 44 33 13 04",
    "digit 7": "00 40 16,13 33",
    "digit 8": "13 02 01 10 30 41 42 33 13 04 05 16 36 45 44 33",
    "digit 9": "42 33 13 02 01 10 30 41 42 34 16",
    "letter A": "06 20 46,14 34",
    "letter B": "00 06 36 45 44 33 03,33 42 41 30 00",
    "letter C": "41 30 10 01 05 16 36 45",
    "letter D": "00 06 26 44 42 20 00",
    "letter E": "40 00 06 46,03 33",
    "letter F": "40 00 06,03 33",
    "letter G": "41 30 10 01 05 16 36 45 43 23",
    "letter H": "00 06,40 46,03 43",
    "letter I": "10 30,20 26,16 36",
    "letter J": "20 40,30 35 26 16 05 04",
    "letter K": "00 06,40 03 46",
    "letter L": "00 06 46",
    "letter M": "06 00 23 40 46",
    "letter N": "06 00 46 40",
    "letter O": "10 30 41 45 36 16 05 01 10",
    "letter P": "06 00 30 41 42 33 03",
    "letter Q": "10 30 41 45 36 16 05 01 10,24 46",
    "letter R": "06 00 30 41 42 33 03,23 46",
    "letter S": "41 30 10 01 02 13 33 44 45 36 16 05",
    "letter T": "00 40,20 26",
    "letter U": "00 05 16 36 45 40",
    "letter V": "00 26 40",
    "letter W": "00 16 23 36 40",
    "letter X": "00 46,40 06",
    "letter Y": "00 23 40,23 26",
    "letter Z": "00 40 06 46,13 33",
}


@lru_cache(maxsize=256)
def glyph_strokes(name: str) -> NDArray[np.float32]:
    """The segments of a glyph.

    Args:
        name: One of ``scene.GLYPHS``.

    Returns:
        (S, 2, 2) segments, (start, end) x (x, y): x in [-1/3, 1/3], y in [-1/2, 1/2] downwards, about (0, 0).
    """
    return parse_strokes(_FONT[name])


def parse_strokes(strokes: str) -> NDArray[np.float32]:
    """(S, 2, 2) segments of strokes such as ``"00 40,20 26"`` (column, row); see ``glyph_strokes``."""
    segments: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for stroke in strokes.split(","):
        points = [((int(p[0]) - 2) / 6, (int(p[1]) - 3) / 6) for p in stroke.split()]
        segments += pairwise(points)
    parsed = np.array(segments, dtype=np.float32)
    parsed.flags.writeable = False
    return parsed
