"""Planted defences without a useful gradient or with that of another function, and the wrapper of every encoder.

``planted.py`` has the others, and says which alarm each of them must raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zsrobust.geometry import Geometry


class Wrapped(nn.Module):
    """An encoder around another one, which it does not change."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.name = f"{type(self).__name__.lower()} {inner.name}"
        self.provenance: dict[str, object] = {"source": "tests"}
        self.eval()

    @property
    def input_size(self) -> tuple[int, int]:
        size: tuple[int, int] = self.inner.input_size
        return size

    @property
    def geometry(self) -> Geometry:
        geometry: Geometry = self.inner.geometry
        return geometry

    @property
    def resize_description(self) -> str:
        return str(self.inner.resize_description)

    @property
    def logit_scale(self) -> float:
        return float(self.inner.logit_scale)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.inner.encode_pixels(pixels)
        return features

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        features: Tensor = self.inner.encode_texts(texts)
        return features


# No useful gradient


class Quantised(Wrapped):
    """Rounds its input to a few levels: constant almost everywhere, so the gradient is exactly zero."""

    levels = 16

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return super().encode_pixels((pixels * (self.levels - 1)).round() / (self.levels - 1))


class Unveiled(Wrapped):
    """Says that its gradient may be taken as if it only passed the image on."""

    def encode_differentiable(self, pixels: Tensor) -> Tensor:
        return Wrapped.encode_pixels(self, pixels)


class DeclaredQuantised(Unveiled, Quantised):
    pass


def _cosines(size: int) -> Tensor:
    k, x = torch.arange(size)[:, None], torch.arange(size)[None]
    table = torch.cos((2 * x + 1) * k * torch.pi / (2 * size)) * (2 / size) ** 0.5
    table[0] /= 2**0.5
    return table


class Compressed(Wrapped):
    """JPEG's idea: rounds the cosine coefficients of blocks of 4 × 4 pixels."""

    coarseness = 0.12

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        b, c, h, w = pixels.shape
        table = _cosines(4).to(pixels.device)
        blocks = pixels.reshape(b, c, h // 4, 4, w // 4, 4).permute(0, 1, 2, 4, 3, 5)
        rounded = ((table @ blocks @ table.T) / self.coarseness).round() * self.coarseness
        restored = (table.T @ rounded @ table).permute(0, 1, 2, 4, 3, 5).reshape(b, c, h, w)
        return super().encode_pixels(restored)


class DeclaredCompressed(Unveiled, Compressed):
    pass


class Detached(Wrapped):
    """Leaves torch on the way: autograd does not reach the pixels."""

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return super().encode_pixels(torch.from_numpy(pixels.detach().cpu().numpy().copy()).to(pixels.device))


class DeclaredDetached(Unveiled, Detached):
    pass


class Faint(Wrapped):
    """Stairs whose treads slope a little: there is a gradient, and it says nothing of the next step."""

    levels, slope = 16, 1e-4

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        stairs = (pixels.detach() * (self.levels - 1)).round() / (self.levels - 1)
        return super().encode_pixels(stairs + self.slope * (pixels - stairs))


class Shattered(Wrapped):
    """Adds a ripple to each pixel: invisible in the image, all that one sees in the gradient."""

    frequency, height = 1200.0, 0.01

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return super().encode_pixels(pixels + self.height * (self.frequency * pixels).sin())


class DeclaredShattered(Unveiled, Shattered):
    pass


# The gradient of another function


def _prompt(pixels: Tensor) -> Tensor:
    """A pixel prompt: a frame of fixed noise, and a veil over the rest."""
    draw = torch.Generator().manual_seed(3)
    veil = 0.25 * torch.randn(pixels.shape[1:], generator=draw).to(pixels.device)
    return pixels + veil


class Prompted(Wrapped):
    """Honest: the prompt is part of the function, and of its gradient."""

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return super().encode_pixels(_prompt(pixels))


class Bypassed(Wrapped):
    """Predicts with the prompt; whoever asks for a gradient gets the model without it."""

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return super().encode_pixels(pixels if torch.is_grad_enabled() else _prompt(pixels))


class BorrowedGradient(Wrapped):
    """The value is the prompted model's, the gradient that of the image upside down."""

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        other = super().encode_pixels(pixels.flip(-2))
        return other + (super().encode_pixels(pixels) - other).detach()


class DeclaredBorrowed(Unveiled, BorrowedGradient):
    pass


class HalfMasked(Wrapped):
    """Every second row of pixels is hidden from the gradient."""

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        hidden = pixels.detach().clone()
        hidden[..., ::2, :] = pixels[..., ::2, :]
        return super().encode_pixels(hidden)
