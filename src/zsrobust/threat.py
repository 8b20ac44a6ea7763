"""The threat: which changes of an image the adversary may make.

A threat is geometry and nothing else: a norm, a radius ε in pixel range [0, 1], and the space the perturbation lives
in. The same three hooks (random start, steepest direction, projection) serve every ascent attack, so an attack is
written once and works for each norm.

The ``patch`` is no norm but stands in its place: inside one square, wherever the adversary wants it, every pixel may
take any value in [0, 1], and outside nothing may change. Its ε is the part of the image's area that the square may
cover. Such a set is not convex, so an ascent that is projected on it gets stuck at the first square; the attack
``patch`` chooses the square first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from zsrobust import squares
from zsrobust.errors import ConfigError, UnknownName

Norm = Literal["linf", "l2", "patch"]
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
    try:
        written = str(text).strip() if whole else repr(float(text))
    except (TypeError, ValueError):
        raise ConfigError(f"{called} must be written like 4/255 or 0.0157, not {text!r}") from None
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
        norm: ``"linf"`` (largest change of one channel of one pixel), ``"l2"`` (Euclidean length over the image) or
            ``"patch"`` (one square of arbitrary pixels; the size is the part of the area that it covers).
        eps: Radius in pixel range [0, 1] units. L∞ above 1 covers the box; L2 may exceed 1. Patch: part of the area,
            0 to 1; the side of the square is rounded down to whole pixels, so it never covers more.
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
        size = parse_eps(eps)
        if norm == "patch" and size > 1:
            raise ConfigError(f"patch:{eps} is more than the whole image; write a part of the area, as in patch:0.1")
        object.__setattr__(self, "norm", norm)
        object.__setattr__(self, "eps", size)
        object.__setattr__(self, "space", space)

    def describe(self) -> str:
        """``linf:4/255:native``; :meth:`parse` reads it back."""
        written = repr(self.eps) if self.norm == "patch" and self.eps > 0 else format_eps(self.eps)
        return f"{self.norm}:{written}:{self.space}"

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

    def only_ball(self, attack: str) -> None:
        """For attacks that search a ball.

        Raises:
            ConfigError: this is a patch.
        """
        if self.norm == "patch":
            raise ConfigError(f"attack '{attack}' cannot search {self.describe()}; the attack for patches is 'patch'")

    def side(self, height: int, width: int) -> int:
        """Side in pixels of the square that a patch may change in images of this size; see :func:`squares.side_of`."""
        return squares.side_of(self.eps, height, width)

    def size(self, delta: Tensor) -> Tensor:
        """Norm of each perturbation: (B, …) → (B,) float32.

        Patch: (B, 3, H, W) → area of the smallest square that covers all changed pixels, over the area of the image.
        """
        if self.norm == "patch":
            covered = squares.extent((delta != 0).any(1)).float()
            return covered.square() / (delta.shape[2] * delta.shape[3])
        flat = delta.flatten(1).float()
        return flat.abs().amax(1) if self.norm == "linf" else flat.norm(dim=1)

    def allows(self, sizes: Tensor) -> Tensor:
        """(B,) sizes → (B,) bool: at most ε, to the rounding that a projection in float32 leaves."""
        if self.norm == "patch":  # no projection rounds a side
            return sizes <= self.eps * (1 + squares.ROUNDING)
        return sizes <= self.eps * (1 + 1e-5) + 1e-6

    def random_start(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """A point of the ball ∩ box around each image.

        Args:
            pixels: (B, 3, H, W) in [0, 1].
            noise: (B, 3, H, W) uniform in [0, 1), drawn by the caller, who owns the keys of the random numbers.

        Returns:
            (B, 3, H, W). L∞: uniform in the ball. L2: uniform on its surface, where nearly all of a ball's volume
            lies in thousands of dimensions. Patch: a square anywhere, filled with the noise itself; the first two
            numbers of the noise say where.
        """
        if self.norm == "patch":
            if self.eps == 0:
                return pixels
            height, width = pixels.shape[2:]
            side = self.side(height, width)
            places = squares.at_random(noise.flatten(1)[:, :2], side, height, width)
            return torch.where(squares.mask(places, side, height, width), noise, pixels)
        if self.norm == "linf":
            return self.project(pixels + self.eps * (2 * noise - 1), pixels)
        # The inverse error function of uniform numbers is Gaussian, and a Gaussian has no preferred direction.
        normal = torch.erfinv((2 * noise - 1).clamp(-1 + 1e-6, 1 - 1e-6))
        return self.project(pixels + self.eps * self.steepest(normal), pixels)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The unit-size direction in which a linear function with this gradient rises fastest: (B, …) → (B, …).

        L∞: the sign (0 where the gradient is 0). L2: the gradient over its length (0 where it is 0). Patch: the sign
        inside the square with the largest sum of absolute values, 0 outside: every pixel of it moves by one.
        """
        if self.norm == "patch":
            return self._inside(gradient.abs(), gradient.sign(), torch.zeros_like(gradient))
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

        Patch: box first; then, where the changed pixels do not fit into one square already, the changes in the square
        with the largest sum of absolute changes (the first of equals) are kept, and all others undone. Among all
        allowed points that is the nearest one in L1.

        Args:
            candidate: (B, 3, H, W), anything finite.
            pixels: (B, 3, H, W) in [0, 1], the images.

        Returns:
            (B, 3, H, W) in [0, 1] and within ε of ``pixels``, to float32 rounding.
        """
        if self.norm == "linf":
            lower, upper = (pixels - self.eps).clamp_min(0), (pixels + self.eps).clamp_max(1)
            return torch.minimum(torch.maximum(candidate, lower), upper)
        if self.norm == "patch":
            boxed = candidate.clamp(0, 1)
            delta = boxed - pixels
            # What is allowed already must come back to the bit; sums in another order could favour another square.
            fits = squares.extent((delta != 0).any(1)) <= self.side(*pixels.shape[2:])
            fits = fits.view(-1, 1, 1, 1)
            return torch.where(fits, boxed, self._inside(delta.abs(), boxed, pixels))
        delta = candidate - pixels
        length = delta.flatten(1).norm(dim=1).view(-1, *[1] * (pixels.dim() - 1))
        inside = length <= self.eps
        shrunk = pixels + delta * (self.eps / length.clamp_min(1e-12))
        # Clamping moves each channel towards the image, which is in the box, so the length can only fall.
        return torch.where(inside, candidate, shrunk).clamp(0, 1)

    def _inside(self, weights: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
        """``inner`` in the square with the largest sum of ``weights`` (all (B, 3, H, W)), ``outer`` elsewhere."""
        if self.eps == 0:
            return outer.clone()
        height, width = weights.shape[2:]
        side = self.side(height, width)
        places = squares.best(squares.masses(weights.sum(1), side))
        return torch.where(squares.mask(places, side, height, width), inner, outer)


def widest(threats: Iterable[Threat]) -> Threat:
    """The largest ε; of the L∞ threats where there are any, since radii of different norms cannot be compared."""
    return max(threats, key=lambda threat: (threat.norm == "linf", threat.eps))
