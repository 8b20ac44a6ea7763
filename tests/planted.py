"""Defences that seem robust and are not, one for each alarm, and what their authors should have declared.

Each wraps an honest encoder and is one; ``DECLARED`` holds those that say what they are, so that an attack can adapt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
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


# Random


class Noisy(Wrapped):
    """Noise at inference."""

    sigma = 0.1

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return super().encode_pixels(pixels + self.sigma * torch.randn_like(pixels))


class DeclaredNoisy(Noisy):
    samples = 16


class ArrayNoise(Wrapped):
    """Noise from numpy, of a generator of its own."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.source = np.random.default_rng(0)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        noise = torch.from_numpy(self.source.standard_normal(pixels.shape).astype(np.float32))
        return super().encode_pixels(pixels + 0.05 * noise.to(pixels.device))


class Shifted(Wrapped):
    """A random shift of the image by a pixel to either side, or none."""

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return super().encode_pixels(pixels.roll(int(torch.randint(-1, 2, ())), -1))


class DeclaredShifted(Shifted):
    samples = 16


class Turns(Wrapped):
    """Answers in turn with one of two models, without any random number."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.turn = 0

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        self.turn += 1
        return super().encode_pixels(pixels if self.turn % 2 else pixels.flip(-1))


# Outputs that starve the loss


class Loud(Wrapped):
    """Logits × 10⁶."""

    @property
    def logit_scale(self) -> float:
        return super().logit_scale * 1e6


class Softmaxed:
    """A classifier that returns probabilities."""

    def __init__(self, classifier: Any, scale: float = 1.0) -> None:
        self.classifier, self.scale, self.rows = classifier, scale, classifier.rows
        self.encoder = classifier.encoder

    def __call__(self, pixels: Tensor) -> Tensor:
        return self.scale * self.classifier(pixels).softmax(1)

    def parameters(self) -> Iterator[nn.Parameter]:
        parameters: Iterator[nn.Parameter] = self.classifier.parameters()
        return parameters


class Lowered(Wrapped):
    """The tower runs in 16 bit under autocast."""

    dtype = torch.bfloat16

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        with torch.autocast(pixels.device.type, dtype=self.dtype):
            return super().encode_pixels(pixels).float()


class Halved(Lowered):
    dtype = torch.float16


class HalfFeatures(Wrapped):
    """Features pass through 16 bit in numpy on their way out, where torch sees nothing of it."""

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        features = super().encode_pixels(pixels)
        stored = torch.from_numpy(features.detach().cpu().numpy().astype(np.float16).astype(np.float32))
        return features + (stored.to(features.device) - features).detach()


# Modes and loops


class Dropping(Wrapped):
    """Dropout on the features, in training mode."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.drop = nn.Dropout(0.3)
        self.drop.train()

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return self.drop(super().encode_pixels(pixels))  # type: ignore[no-any-return]


class Normalising(Wrapped):
    """A batch norm on the pixels, in training mode: deterministic, and every image depends on its batch."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.norm = nn.BatchNorm2d(3, affine=False)
        self.norm.train()

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return super().encode_pixels(0.5 + 0.2 * self.norm(pixels))


class Purifying(Wrapped):
    """Climbs its own confidence for a few steps before it answers (a test-time defence)."""

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        moved = pixels.detach()
        for _ in range(3):
            with torch.enable_grad():
                points = moved.requires_grad_(True)
                (gradient,) = torch.autograd.grad(super().encode_pixels(points).norm(dim=1).sum(), points)
            moved = (moved + gradient.sign() / 255).detach()
        return super().encode_pixels(pixels + (moved - pixels).detach())


class DeclaredPurifying(Unveiled, Purifying):
    pass


class Searching(Wrapped):
    """Tries fixed variants of the image one after the other and keeps the most confident: a loop without a gradient."""

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        tried = [super(Searching, self).encode_pixels(pixels + k / 255) for k in range(-5, 6)]
        norms = torch.stack([features.norm(dim=1) for features in tried])
        best = norms.argmax(0)
        return torch.stack(tried)[best, torch.arange(len(pixels), device=pixels.device)]


# Preprocessing


class Normalised(Wrapped):
    """Honest: CLIP's mean and std, once, and says so."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.register_buffer("mean", torch.tensor([0.48, 0.46, 0.41]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.27, 0.26, 0.28]).view(1, 3, 1, 1))

    def normalise(self, pixels: Tensor) -> Tensor:
        return (pixels - self.mean) / self.std  # type: ignore[operator]

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return super().encode_pixels(self.normalise(pixels))


class NormalisedTwice(Normalised):
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return super().encode_pixels(self.normalise(pixels))


class NotNormalised(Normalised):
    def normalise(self, pixels: Tensor) -> Tensor:
        return pixels


class Scaled(Wrapped):
    """Inputs × 255."""

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return super().encode_pixels(pixels * 255)


class Settled(Dropping):
    """Dropout, in evaluation mode as it should be."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.drop.eval()


ENCODERS: dict[str, tuple[type[Wrapped], ...]] = {
    "zero-gradient": (Quantised, Compressed, Detached, Faint),
    "wrong-gradient": (BorrowedGradient, HalfMasked),
    "shattered-gradient": (Shattered,),
    "bypassed": (Bypassed,),
    "randomised": (Noisy, ArrayNoise, Shifted, Turns),
    "saturated-logits": (Loud,),
    "half-precision": (Lowered, Halved, HalfFeatures),
    "training-mode": (Dropping, Normalising),
    "optimises-inside": (Purifying, Searching),
    "preprocessed-twice": (NormalisedTwice,),
    "wrong-preprocessing": (NotNormalised, Scaled),
}
"""Alarm → encoders that must raise it."""

DECLARED: tuple[type[Wrapped], ...] = (DeclaredQuantised, DeclaredCompressed, DeclaredNoisy, DeclaredShifted)
"""Defences that say all that they are: no alarm."""

HONEST: tuple[type[Wrapped], ...] = (Wrapped, Prompted, Normalised)
"""Encoders with nothing to say."""

ADAPTIVE: dict[type[Wrapped], tuple[type[Wrapped], str]] = {
    Quantised: (DeclaredQuantised, "surrogate: no rounding"),
    Compressed: (DeclaredCompressed, "surrogate: no compression"),
    Detached: (DeclaredDetached, "surrogate: the same in torch"),
    Shattered: (DeclaredShattered, "surrogate: no ripple"),
    BorrowedGradient: (DeclaredBorrowed, "surrogate: the function's own gradient"),
    Bypassed: (Prompted, "the prompt is attacked too"),
    Noisy: (DeclaredNoisy, "samples"),
    Shifted: (DeclaredShifted, "samples"),
    Dropping: (Settled, "in evaluation mode"),
    Purifying: (DeclaredPurifying, "surrogate: no purification"),
}
"""Defence → the same as an adaptive attacker sees it, and how in words."""
