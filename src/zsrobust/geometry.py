"""Decoded image → uint8 array of the size a task attacks, bit-equal to the reference processors.

Resizing and cropping are PIL on uint8, before anything an adversary may touch. The arithmetic is that of
transformers' ``CLIPImageProcessorPil`` (shorter side with ``int()``, centre crop, zero padding of images
smaller than the crop) and of its SigLIP processor (exact resize): ``round()`` in place of ``int()`` already
changes pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from zsrobust.errors import ConfigError, DataError, UnknownName

if TYPE_CHECKING:
    from PIL.Image import Image

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
MAX_SIDE = 16_384
"""Longest side, in pixels, that a geometry may name."""
MAX_PIXELS = 2**27
"""Most pixels that a resize of the shorter side may make: a sliver of 1x1000000 would become gigabytes."""


@dataclass(frozen=True)
class Geometry:
    """How a decoded image becomes the pixels of a task.

    Attributes:
        resize: An int resizes the shorter side to it and keeps the aspect ratio; ``(H, W)`` resizes to
            exactly that; None keeps the size.
        crop: Side, or ``(H, W)``, of a centre crop after the resize; smaller images are padded with zeros.
            None: no crop.
        interpolation: PIL's filter for the resize.
        size: ``(H, W)`` that every image must already have; another size is an error. Excludes ``resize``
            and ``crop``.
    """

    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    interpolation: Interpolation = "bicubic"
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.interpolation not in get_args(Interpolation):
            raise UnknownName("interpolation", str(self.interpolation), get_args(Interpolation))
        for key in ("resize", "crop", "size"):
            _check_side(key, getattr(self, key))
        if self.size is not None and (self.resize is not None or self.crop is not None):
            raise ConfigError(f"geometry size = {_show(self.size)} keeps images as they are; leave out resize and crop")

    def __call__(self, image: Image) -> np.ndarray:
        """Apply the geometry.

        Args:
            image: A PIL image in mode RGB.

        Returns:
            uint8 array (H, W, 3).

        Raises:
            DataError: the image has not the ``size`` it must have, or would have more than ``MAX_PIXELS``
                after the resize.
        """
        if self.size is not None and (image.height, image.width) != self.size:
            raise DataError(
                f"is {image.height}x{image.width}, but every image must be {_show(self.size)}; "
                "to mix sizes, set [geometry] resize and crop (for example 256 and 224) in the task's TOML"
            )
        if self.resize is not None:
            image = image.resize(self._resized(image), resample=_filter(self.interpolation))
        pixels = np.asarray(image, dtype=np.uint8)
        return pixels.copy() if self.crop is None else centre_crop(pixels, _pair(self.crop))

    @property
    def output_size(self) -> tuple[int, int] | None:
        """(H, W) of every result, or None where it depends on the image."""
        if self.crop is not None:
            return _pair(self.crop)
        return self.resize if isinstance(self.resize, tuple) else self.size

    def describe(self) -> str:
        """What is stored with results: ``256/224 bicubic``, ``exactly 224x224 bicubic`` or ``32x32 as is``."""
        if self.resize is None and self.crop is None:
            return "as is" if self.size is None else f"{_show(self.size)} as is"
        if self.resize is None:
            return f"crop {_show(self.crop)}"
        resize = f"exactly {_show(self.resize)}" if isinstance(self.resize, tuple) else str(self.resize)
        crop = "" if self.crop is None else f"/{_show(self.crop)}"
        return f"{resize}{crop} {self.interpolation}"

    def _resized(self, image: Image) -> tuple[int, int]:
        """(width, height), PIL's order, after the resize."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        assert self.resize is not None
        short, long = sorted((image.width, image.height))
        new_long = int(self.resize * long / short)
        if new_long * self.resize > MAX_PIXELS:
            raise DataError(f"is {image.height}x{image.width}: its resize would be {self.resize}x{new_long}, too large")
        return (self.resize, new_long) if image.width <= image.height else (new_long, self.resize)


def centre_crop(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Centre crop, padding with zeros what is smaller than the crop.

    Args:
        pixels: (h, w, 3) uint8.
        size: (H, W) of the result.

    Returns:
        (H, W, 3) uint8. Odd remainders fall as in transformers: the crop's start is rounded down, the
        padding's up.
    """
    height, width = pixels.shape[:2]
    result = np.zeros((*size, 3), dtype=pixels.dtype)
    rows_from, rows_to = _overlap(height, size[0])
    columns_from, columns_to = _overlap(width, size[1])
    result[rows_to, columns_to] = pixels[rows_from, columns_from]
    return result


def _overlap(length: int, wanted: int) -> tuple[slice, slice]:
    """Where to read and where to write along one axis."""
    if length >= wanted:
        start = (length - wanted) // 2
        return slice(start, start + wanted), slice(0, wanted)
    start = -((length - wanted) // 2)  # the padding, rounded up
    return slice(0, length), slice(start, start + length)


def _pair(side: int | tuple[int, int]) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else side


def _show(side: int | tuple[int, int] | None) -> str:
    return f"{side[0]}x{side[1]}" if isinstance(side, tuple) else str(side)


def _check_side(key: str, side: object) -> None:
    sides = side if isinstance(side, tuple) and len(side) == 2 else (side,)
    whole = all(isinstance(s, int) and not isinstance(s, bool) and 0 < s <= MAX_SIDE for s in sides)
    if side is not None and not whole:
        raise ConfigError(f"geometry {key} = {side!r} is neither a positive number of pixels nor a pair (H, W) of them")


def _filter(interpolation: Interpolation) -> int:
    from PIL import Image

    return {
        "nearest": Image.Resampling.NEAREST,
        "bilinear": Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC,
        "lanczos": Image.Resampling.LANCZOS,
    }[interpolation]
