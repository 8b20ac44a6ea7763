"""Natural corruptions of images at five strengths: what happens to pictures without an adversary.

The definitions and the constants are those of the code behind ImageNet-C and CIFAR-10-C (Hendrycks and Dietterich 2019,
arXiv 1903.12261; github.com/hendrycks/robustness, ImageNet-C/create_c: make_imagenet_c.py for 224 pixels,
make_imagenet_64_c.py, make_cifar_c.py for 32). It has other constants for each of the three sizes; an image is given
those of the size that its shorter side is nearest to (by ratio: below 46 CIFAR's, from 120 on ImageNet's), unscaled.
What differs: results are rounded to the nearest of 256 values where that code cuts the rest off, nothing is saved as a
JPEG afterwards, and random numbers are keyed by the image.

A corruption comes after the task's own geometry, on uint8 pixels, and before anything an adversary may touch.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from zsrobust.errors import ConfigError, UnknownName

Values = NDArray[np.float64]
"""(H, W, 3) in [0, 1]."""
STRENGTHS = (1, 2, 3, 4, 5)
SIZES = (32, 64, 224)
"""Shorter sides for which the source has constants."""

CONSTANTS: Mapping[str, Mapping[int, tuple[float, ...]]] = MappingProxyType(
    {
        # standard deviation, in pixel range
        "noise": {
            32: (0.04, 0.06, 0.08, 0.09, 0.10), 64: (0.04, 0.08, 0.12, 0.15, 0.18), 224: (0.08, 0.12, 0.18, 0.26, 0.38)
        },
        # photons of a white pixel
        "shot": {32: (500, 250, 100, 75, 50), 64: (250, 100, 50, 30, 15), 224: (60, 25, 12, 5, 3)},
        # standard deviation, in pixels
        "blur": {32: (0.4, 0.6, 0.7, 0.8, 1), 64: (0.5, 0.75, 1, 1.25, 1.5), 224: (1, 2, 3, 4, 6)},
        # radius of the disc, in pixels
        "defocus": {32: (0.3, 0.4, 0.5, 1, 1.5), 64: (0.5, 1, 1.5, 2.5, 3), 224: (3, 4, 6, 8, 10)},
        # quality
        "jpeg": {32: (80, 65, 58, 50, 40), 64: (65, 58, 50, 40, 25), 224: (25, 18, 15, 10, 7)},
        # added to the value of HSV
        "brightness": {32: (0.05, 0.1, 0.15, 0.2, 0.3), 64: (0.1, 0.2, 0.3, 0.4, 0.5), 224: (0.1, 0.2, 0.3, 0.4, 0.5)},
        # what is left of the distance to the mean
        "contrast": {32: (0.75, 0.5, 0.4, 0.3, 0.15), 64: (0.4, 0.3, 0.2, 0.1, 0.05), 224: (0.4, 0.3, 0.2, 0.1, 0.05)},
    }
)  # fmt: skip
_DISC_EDGES = {32: (0.4, 0.5, 0.6, 0.2, 0.1), 64: (0.6, 0.1, 0.1, 0.01, 0.1), 224: (0.1, 0.5, 0.5, 0.5, 0.5)}
"""Standard deviation, in pixels, of the blur of the disc's edge, for each strength of ``defocus``."""
NAMES = tuple(CONSTANTS)


@dataclass(frozen=True)
class Corruption:
    """One corruption at one strength; the same image always gives the same result.

    Attributes:
        name: One of :data:`NAMES`.
        strength: 1 (mild) to 5.
        seed: Of the noises' random numbers.

    Raises:
        UnknownName: no such corruption.
        ConfigError: another strength.
    """

    name: str
    strength: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in CONSTANTS:
            raise UnknownName("corruption", self.name, NAMES)
        if self.strength not in STRENGTHS:
            raise ConfigError(f"the strength of a corruption is 1, 2, 3, 4 or 5, not {self.strength}")

    def __str__(self) -> str:
        return f"{self.name}-{self.strength}"

    def __call__(self, pixels: NDArray[np.uint8], image: str) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 → the same shape; ``image`` is the id that keys the random numbers."""
        size = nearest_size(min(pixels.shape[:2]))
        if self.name == "jpeg":
            return _jpeg(pixels, int(self.constant(size)))
        values, constant = pixels / 255.0, self.constant(size)
        if self.name == "defocus":
            changed = _through(values, disc(constant, _DISC_EDGES[size][self.strength - 1]))
        elif self.name in _RANDOM:
            changed = _RANDOM[self.name](values, constant, self._numbers(image))
        else:
            changed = _PLAIN[self.name](values, constant)
        rounded: NDArray[np.uint8] = np.rint(255 * changed.clip(0, 1)).astype(np.uint8)
        return rounded

    def constant(self, size: int) -> float:
        """Its constant for one of :data:`SIZES`."""
        return CONSTANTS[self.name][size][self.strength - 1]

    def _numbers(self, image: str) -> np.random.RandomState:
        key = "\x1f".join((str(self.seed), image, self.name, str(self.strength)))
        # RandomState, since numpy promises that its streams never change; those of Generator's methods may.
        return np.random.RandomState(np.frombuffer(hashlib.blake2b(key.encode(), digest_size=32).digest(), np.uint32))


def taken_apart(text: str, seed: int = 0) -> tuple[str, Corruption | None]:
    """``digits@noise-3`` → (``digits``, the corruption); a text without ``@NAME-STRENGTH`` at its end is as it was.

    Raises:
        UnknownName: no such corruption.
        ConfigError: a strength that does not exist, or two corruptions.
    """
    found = re.fullmatch(r"(.+)@([a-z]+)-(\d+)", text)
    if found is None:
        return text, None
    if re.fullmatch(r".+@[a-z]+-\d+", found[1]):
        raise ConfigError(f"'{text}' has two corruptions; one is allowed")
    return found[1], Corruption(found[2], int(found[3]), seed)


def nearest_size(side: int) -> int:
    """The one of :data:`SIZES` whose ratio to ``side`` is nearest to 1."""
    return min(SIZES, key=lambda size: abs(np.log(size / side)))


def _noise(values: Values, scale: float, numbers: np.random.RandomState) -> Values:
    return values + numbers.normal(0, scale, values.shape)


def _shot(values: Values, photons: float, numbers: np.random.RandomState) -> Values:
    noisy: Values = numbers.poisson(values * photons) / photons
    return noisy


def _brightness(values: Values, more: float) -> Values:
    """Hue and saturation stay, so the three channels keep their proportions; black becomes grey."""
    value = values.max(2, keepdims=True)
    brighter = (value + more).clip(0, 1)
    scaled: Values = np.where(value > 0, values * brighter / np.where(value > 0, value, 1), brighter)
    return scaled


def _contrast(values: Values, left: float) -> Values:
    means = values.mean((0, 1), keepdims=True)
    result: Values = (values - means) * left + means
    return result


def _blur(values: Values, deviation: float) -> Values:
    """Gaussian, cut off at four standard deviations; at the border the outermost pixels are repeated."""
    bell = gaussian(int(4 * deviation + 0.5), deviation)
    for axis in (0, 1):
        reach = len(bell) // 2
        padded = np.pad(values, [(reach, reach) if a == axis else (0, 0) for a in range(3)], mode="edge")
        length = values.shape[axis]
        values = sum(
            (w * padded.take(range(i, i + length), axis) for i, w in enumerate(bell)), start=np.zeros_like(values)
        )
    return values


def gaussian(reach: int, deviation: float) -> NDArray[np.float64]:
    """(2 reach + 1,) weights that sum to 1."""
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    result: NDArray[np.float64] = weights / weights.sum()
    return result


def disc(radius: float, edge: float) -> NDArray[np.float64]:
    """(k, k) weights that sum to 1: a disc, its edge softened by a Gaussian of 3x3 pixels (5x5 above radius 8)."""
    reach = max(8, int(radius))
    line = np.arange(-reach, reach + 1)
    weights = (line[:, None] ** 2 + line[None, :] ** 2 <= radius**2).astype(np.float64)
    bell = gaussian(1 if radius <= 8 else 2, edge)
    return _through((weights / weights.sum())[:, :, None], np.outer(bell, bell))[:, :, 0]


def _through(values: Values, kernel: NDArray[np.float64]) -> Values:
    """(H, W, C) filtered with a symmetric (k, k) kernel; the border is mirrored without repeating its pixels."""
    reach = len(kernel) // 2
    padded = np.pad(values, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    height, width = values.shape[:2]
    result = np.zeros_like(values)
    for i, j in zip(*kernel.nonzero(), strict=True):
        result += kernel[i, j] * padded[i : i + height, j : j + width]
    return result


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream).convert("RGB"), dtype=np.uint8).copy()


_PLAIN: Mapping[str, Callable[[Values, float], Values]] = MappingProxyType(
    {"blur": _blur, "brightness": _brightness, "contrast": _contrast}
)
_RANDOM: Mapping[str, Callable[[Values, float, np.random.RandomState], Values]] = MappingProxyType(
    {"noise": _noise, "shot": _shot}
)
