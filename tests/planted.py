"""Defences that seem robust and are not, one for each alarm, and what their authors should have declared.

Each wraps an honest encoder and is one; ``DECLARED`` holds those that say what they are, so that an attack can adapt.
What is planted in the gradient is in ``masked_gradients.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from tests.masked_gradients import (
    BorrowedGradient,
    Bypassed,
    Compressed,
    DeclaredBorrowed,
    DeclaredCompressed,
    DeclaredDetached,
    DeclaredQuantised,
    DeclaredShattered,
    Detached,
    Faint,
    HalfMasked,
    Prompted,
    Quantised,
    Shattered,
    Unveiled,
    Wrapped,
)
from torch import Tensor, nn

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
