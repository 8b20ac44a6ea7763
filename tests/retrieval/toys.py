"""Captioned images of random pixels, and an encoder whose worst case is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tests.fakes import Arrays, Toy
from torch import Tensor

from zsrobust.retrieval.captions import CaptionSet, caption_set

CAPTIONS = [["one", "uno"], ["two"], ["three", "drei", "tre"], ["four"], ["five", "shared"], ["six", "shared"]]


def captioned(captions: Sequence[Sequence[str]] = CAPTIONS, *, seed: int = 0, size: int = 6) -> CaptionSet:
    """One random image for each entry."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(captions), size, size, 3), dtype=np.uint8)
    labels = np.zeros(len(captions), dtype=np.int64)
    return caption_set("toys", Arrays(where="memory", kind="folder", labels=labels, pixels=pixels), captions)


class Plane(Toy):
    """Two texts at right angles; the image feature is (1 − m, m) with m the mean of the pixels.

    Text ``"dark"`` is (1, 0), ``"light"`` is (0, 1): an image is nearer to ``dark`` exactly where m < 1/2, and within ε
    (L∞, inside the box) the mean can be moved by exactly ε.
    """

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        self.pixel_calls += 1
        mean = pixels.flatten(1).mean(1)
        return torch.stack([1 - mean, mean], dim=1)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        self.text_calls += 1
        return torch.tensor([[1.0, 0.0] if text == "dark" else [0.0, 1.0] for text in texts])


def grey(values: Sequence[float], captions: Sequence[Sequence[str]]) -> CaptionSet:
    """Images of one grey each, apart by one pixel so that none is another."""
    pixels = np.stack([np.full((6, 6, 3), round(255 * value), dtype=np.uint8) for value in values])
    labels = np.zeros(len(values), dtype=np.int64)
    return caption_set("greys", Arrays(where="memory", kind="folder", labels=labels, pixels=pixels), captions)
