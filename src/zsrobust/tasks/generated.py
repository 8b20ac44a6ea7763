"""Data that needs no files: the rendered micro-world and scikit-learn's handwritten digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zsrobust.errors import UnknownName
from zsrobust.tasks.source import Source

if TYPE_CHECKING:
    from PIL.Image import Image

DIGITS_ROWS = {"train": (0, 600), "validation": (600, 1000), "test": (1000, 1797)}
"""Rows of scikit-learn's digits in each split."""


@dataclass
class Generated(Source):
    """Rows whose images are arrays, not files; content and digest are those of the pixels."""

    split: str = "test"

    def pixels(self, row: int) -> np.ndarray:
        """(H, W, 3) uint8."""
        raise NotImplementedError

    def name(self, row: int) -> str:
        """Data, split and row."""
        return f"{self.where} {self.split} row {row}"

    def content(self, row: int) -> bytes:
        """Shape and pixels."""
        pixels = self.pixels(row)
        return str(pixels.shape).encode() + pixels.tobytes()

    def image(self, row: int) -> Image:
        """The pixels as a PIL image."""
        from PIL import Image

        return Image.fromarray(self.pixels(row))


@dataclass
class World(Generated):
    """One view of the micro-world, rendered when asked for."""

    view: str = ""

    def pixels(self, row: int) -> np.ndarray:
        """(64, 64, 3) uint8."""
        return np.asarray(self._view.image(self.split, row), dtype=np.uint8)

    def image_id(self, row: int) -> str:
        """Equal for views that show the same render."""
        return str(self._view.image_id(self.split, row))

    @property
    def _view(self) -> Any:
        """Looked up each time: a view holds functions that cannot be sent to another process."""
        from zsrobust.tasks.world.views import VIEWS

        return VIEWS[self.view]

    def fingerprint_rows(self, rows: np.ndarray) -> list[int]:
        """The first and the last four: code made them, so drawing all would cost more than it tells."""
        return [int(row) for row in np.unique(np.concatenate([rows[:4], rows[-4:]]))]


@dataclass
class Digits(Generated):
    """Rows of scikit-learn's 8x8 digits, 0..16 scaled to 0..255."""

    values: np.ndarray | None = None

    def pixels(self, row: int) -> np.ndarray:
        """(8, 8, 3) uint8."""
        assert self.values is not None
        grey = np.rint(self.values[row] * (255 / 16)).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)

    def image_id(self, row: int) -> str:
        """The row in scikit-learn's table."""
        return f"digits/{DIGITS_ROWS[self.split][0] + row}"


def open_world(view: str, split: str) -> World:
    """Open one split of a view of the micro-world.

    Raises:
        UnknownName: no such view, or no such split.
    """
    from zsrobust.tasks.world.views import SPLIT_SIZES, VIEWS

    if view not in VIEWS:
        raise UnknownName("view of the world", view, VIEWS)
    if split not in SPLIT_SIZES:
        raise UnknownName("split of the world", split, SPLIT_SIZES)
    found = VIEWS[view]
    labels = np.asarray(found.labels(split), dtype=np.int64)
    return World(
        where=f"world view '{view}'",
        kind="world",
        labels=labels,
        data_classes=tuple(found.class_names),
        split=split,
        view=view,
    )


def open_digits(split: str) -> Digits:
    """Open one split of scikit-learn's digits; its classes have no names, the TOML gives them.

    Raises:
        UnknownName: no such split.
    """
    if split not in DIGITS_ROWS:
        raise UnknownName("split of the digits", split, DIGITS_ROWS)
    from sklearn.datasets import load_digits

    data = load_digits()
    rows = slice(*DIGITS_ROWS[split])
    return Digits(
        where="digits",
        kind="digits",
        labels=np.asarray(data.target[rows], dtype=np.int64),
        split=split,
        values=np.asarray(data.images[rows], dtype=np.float64),
    )
