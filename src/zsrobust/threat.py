"""The threat: which changes of an image the adversary may make.

A threat is geometry and nothing else: a norm, a radius ε in pixel range [0, 1], and the space the perturbation lives
in. The same three hooks (random start, steepest direction, projection) serve every ascent attack, so an attack is
written once and works for each norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from zsrobust.errors import ConfigError, UnknownName

Norm = Literal["linf", "l2"]
Space = Literal["native", "model"]


def parse_eps(text: str | float, called: str = "ε") -> float:
    """ε, or another length, as a number in pixel range [0, 1] units.

    Args:
        text: ``"4/255"``, a decimal such as ``"0.0157"`` or ``1.0``, or ``"0"``. A bare integer other than 0 is
            refused, because in this field "4" has meant both 4/255 and 4.
        called: What messages call it.

    Raises:
        ConfigError: not a number, negative, or a bare integer.
    """
    if isinstance(text, bool):
        raise ConfigError(f"{called} must be written like 4/255 or 0.0157, not {text}")
    # A whole number as it is, any other as a decimal: numpy's scalars write themselves differently.
    whole = isinstance(text, str) or hasattr(text, "__index__")
    written = str(text).strip() if whole else repr(float(text))
    numerator, slash, denominator = written.partition("/")
    try:
        value = float(numerator) / float(denominator) if slash else float(written)
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"{called} = '{written}' is not a number; write it like 4/255 or 0.0157") from None
    if value != 0 and written.lstrip("+-").isdecimal():
        raise ConfigError(
            f"{called} = {written} is ambiguous: did you mean {written}/255? "
            f"(for {called} = {written} write {written}.0)"
        )
    if not 0 <= value < float("inf"):
        raise ConfigError(f"{called} = {written} must be a finite number that is not negative")
    return value


def format_eps(eps: float) -> str:
    """``4/255`` where ε is a multiple of 1/255 (to a hundredth), else the decimal that reads back as the same."""
    in_255 = eps * 255
    if eps == 0:
        return "0"
    for digits in (0, 1, 2):
        numerator = f"{in_255:.{digits}f}"
        if float(numerator) / 255 == eps and eps < 1:
            return f"{numerator}/255"
    return repr(float(eps))


@dataclass(frozen=True, init=False)
class Threat:
    """An ε-ball around each image, cut with the box [0, 1].

    Attributes:
        norm: ``"linf"`` (largest change of one channel of one pixel) or ``"l2"`` (Euclidean length over the image).
        eps: Radius in pixel range [0, 1] units. L∞ above 1 covers the box; L2 may exceed 1.
        space: ``"native"``: the perturbation lives at the task's own resolution and the model's resize is attacked
            through; ``"model"``: it is added after resizing to the model's input size. The two are not comparable.
    """

    norm: Norm
    eps: float
    space: Space

    def __init__(self, norm: str = "linf", eps: str | float = "1/255", space: str = "native") -> None:
        if norm not in get_args(Norm):
            raise UnknownName("norm", norm, get_args(Norm))
        if space not in get_args(Space):
            raise UnknownName("threat space", space, get_args(Space))
        object.__setattr__(self, "norm", norm)
        object.__setattr__(self, "eps", parse_eps(eps))
        object.__setattr__(self, "space", space)

    def describe(self) -> str:
        """``linf:4/255:native``; :meth:`parse` reads it back."""
        return f"{self.norm}:{format_eps(self.eps)}:{self.space}"

    @classmethod
    def parse(cls, text: str) -> Threat:
        """A threat from ``NORM:EPS`` or ``NORM:EPS:SPACE``.

        Raises:
            ConfigError: another form, or a value that is not allowed.
        """
        parts = text.split(":")
        if len(parts) not in (2, 3):
            raise ConfigError(f"threat '{text}' must be NORM:EPS or NORM:EPS:SPACE, for example linf:4/255:native")
        return cls(*parts)

    def size(self, delta: Tensor) -> Tensor:
        """Norm of each perturbation: (B, …) → (B,) float32."""
        flat = delta.flatten(1).float()
        return flat.abs().amax(1) if self.norm == "linf" else flat.norm(dim=1)

    def allows(self, sizes: Tensor) -> Tensor:
        """(B,) sizes → (B,) bool: at most ε, to the rounding that a projection in float32 leaves."""
        return sizes <= self.eps * (1 + 1e-5) + 1e-6

    def random_start(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """A point of the ball ∩ box around each image.

        Args:
            pixels: (B, 3, H, W) in [0, 1].
            noise: (B, 3, H, W) uniform in [0, 1), drawn by the caller, who owns the keys of the random numbers.

        Returns:
            (B, 3, H, W). L∞: uniform in the ball. L2: uniform on its surface, where nearly all of a ball's volume
            lies in thousands of dimensions.
        """
        if self.norm == "linf":
            return self.project(pixels + self.eps * (2 * noise - 1), pixels)
        # The inverse error function of uniform numbers is Gaussian, and a Gaussian has no preferred direction.
        normal = torch.erfinv((2 * noise - 1).clamp(-1 + 1e-6, 1 - 1e-6))
        return self.project(pixels + self.eps * self.steepest(normal), pixels)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The unit-size direction in which a linear function with this gradient rises fastest: (B, …) → (B, …).

        L∞: the sign (0 where the gradient is 0). L2: the gradient over its length (0 where it is 0).
        """
        if self.norm == "linf":
            return gradient.sign()
        # Scaling by the largest entry first keeps the length from under- or overflowing in float32.
        shape = (-1, *[1] * (gradient.dim() - 1))
        largest = gradient.flatten(1).abs().amax(1).view(shape)
        scaled = gradient / torch.where(largest > 0, largest, torch.ones_like(largest))
        length = scaled.flatten(1).norm(dim=1).view(shape)
        return scaled / torch.where(length > 0, length, torch.ones_like(length))

    def project(self, candidate: Tensor, pixels: Tensor) -> Tensor:
        """The nearest allowed point (L∞), or an allowed one (L2: ball first, then box, which stays in the ball).

        Args:
            candidate: (B, 3, H, W), anything finite.
            pixels: (B, 3, H, W) in [0, 1], the images.

        Returns:
            (B, 3, H, W) in [0, 1] and within ε of ``pixels``, to float32 rounding.
        """
        if self.norm == "linf":
            lower, upper = (pixels - self.eps).clamp_min(0), (pixels + self.eps).clamp_max(1)
            return torch.minimum(torch.maximum(candidate, lower), upper)
        delta = candidate - pixels
        length = delta.flatten(1).norm(dim=1).view(-1, *[1] * (pixels.dim() - 1))
        inside = length <= self.eps
        shrunk = pixels + delta * (self.eps / length.clamp_min(1e-12))
        # Clamping moves each channel towards the image, which is in the box, so the length can only fall.
        return torch.where(inside, candidate, shrunk).clamp(0, 1)
