"""uint8 images ↔ pixels: the one place where 255 becomes 1."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def to_pixels(images: npt.NDArray[np.uint8]) -> Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float().div_(255)


def to_images(pixels: Tensor) -> npt.NDArray[np.uint8]:
    """(B, 3, H, W) in [0, 1] → (B, H, W, 3) uint8, rounded to the nearest of 256 values."""
    rounded = pixels.detach().mul(255).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(rounded.cpu().numpy().transpose(0, 2, 3, 1))


def quantise(pixels: Tensor) -> Tensor:
    """What is left of ``pixels`` after a round trip through an 8-bit image file."""
    return to_pixels(to_images(pixels)).to(pixels.device)
