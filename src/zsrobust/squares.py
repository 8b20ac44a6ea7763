"""Squares within images: how large one may be, how much lies in each, and which one holds the most."""

from __future__ import annotations

import torch
from torch import Tensor

from zsrobust.errors import ConfigError

ROUNDING = 1e-6
"""Relative, of a part of the area that was computed in float32: 0.09 of 10x10 pixels is 9 of them, not 8.999."""


def side_of(part: float, height: int, width: int) -> int:
    """Side in pixels of the largest square that covers at most ``part`` of the image's area, rounded down.

    It is never longer than the image's shorter side. 0 for ``part`` = 0.

    Raises:
        ConfigError: ``part`` is above 0 and less than one pixel.
    """
    side = min(int((part * height * width * (1 + ROUNDING)) ** 0.5), height, width)
    if side == 0 and part > 0:
        raise ConfigError(
            f"a patch of {part:g} of a {height}x{width} image is less than one pixel; the smallest is "
            f"patch:{_up(1 / (height * width)):g}"
        )
    return side


def extent(changed: Tensor) -> Tensor:
    """Side of the smallest square that covers all that is True: (B, H, W) bool → (B,) int64; 0 where nothing is."""
    return torch.maximum(*(_length(changed.any(axis)) for axis in (1, 2)))


def masses(values: Tensor, side: int) -> Tensor:
    """Sum over every square of this side: (B, H, W) → (B, H − side + 1, W − side + 1), in float64.

    Entry (i, j) is of the square whose first row is i and first column j.
    """
    return values.double().unfold(1, side, 1).sum(-1).unfold(2, side, 1).sum(-1)


def best(found: Tensor) -> Tensor:
    """(B, h, w) masses → (B, 2) int64, first row and column of the heaviest square, the first of equals."""
    index = found.flatten(1).argmax(1)
    return torch.stack([index // found.shape[2], index % found.shape[2]], 1)


def without_near(found: Tensor, places: Tensor, apart: int) -> Tensor:
    """The masses with those of squares less than ``apart`` pixels from a place, in both directions, made −inf.

    Args:
        found: (B, h, w) masses.
        places: (B, 2) first row and column.
        apart: 1 takes out the place alone.
    """
    rows, columns = (torch.arange(length, device=found.device) for length in found.shape[1:])
    near = ((rows - places[:, :1]).abs() < apart)[:, :, None] & ((columns - places[:, 1:]).abs() < apart)[:, None, :]
    return found.masked_fill(near, -torch.inf)


def at_random(numbers: Tensor, side: int, height: int, width: int) -> Tensor:
    """Places of equal chance: two uniform numbers in [0, 1) each, (B, 2) → (B, 2) int64 first row and column."""
    free = torch.tensor([height - side + 1, width - side + 1], device=numbers.device)
    return torch.minimum((numbers * free).long(), free - 1)


def mask(places: Tensor, side: int, height: int, width: int) -> Tensor:
    """The square at each place: (B, 2) → (B, 1, H, W) bool."""
    rows, columns = (torch.arange(length, device=places.device) for length in (height, width))
    down = (rows >= places[:, :1]) & (rows < places[:, :1] + side)
    across = (columns >= places[:, 1:]) & (columns < places[:, 1:] + side)
    return (down[:, :, None] & across[:, None, :])[:, None]


def _length(line: Tensor) -> Tensor:
    """(B, n) bool → (B,) from the first True to the last."""
    reached = line.int().cumsum(1).clamp_max(1) * line.int().flip(1).cumsum(1).clamp_max(1).flip(1)
    return reached.sum(1)


def _up(part: float) -> float:
    """Rounded up to two digits, so that it is enough."""
    unit = 10.0 ** (len(f"{1 / part:.0f}") + 1)
    return -(-part * unit // 1) / unit
