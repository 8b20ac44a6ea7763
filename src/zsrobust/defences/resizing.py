"""Random resizing with noise as a purification: another size and other noise for every image and every call.

    x → f(R_{h×w}( R_{s·h × s·w}(x) + σ·n )),        s ~ U(smallest, largest),   n ~ N(0, 1)

R is bilinear with antialiasing. After Xie et al. 2018, *Mitigating adversarial effects through randomization*, arXiv
1711.01991, who pad the resized image where this brings it back to its size, and without noise. All of it is
differentiable; attacks average over draws (EOT, Athalye et al. 2018, arXiv 1707.07397).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zsrobust.defences.base import DRAWS, Defence, least, whole
from zsrobust.defences.options import Length
from zsrobust.errors import ConfigError

if TYPE_CHECKING:
    from zsrobust.encoders.base import Encoder


class Resizing(Defence):
    """``base`` on images that were resized by a random factor, made noisy, and resized back.

    Factors and noise come from torch's global generator on the CPU, each image's its own. The result is not clamped to
    [0, 1], which would only hide gradient.

    Attributes:
        smallest: Least factor, above 0.
        largest: Greatest factor.
        noise: σ, in pixel range [0, 1]; 0: none.
        samples: Draws that attacks and verdicts average over.
    """

    title = "resizing"

    def __init__(
        self,
        base: Encoder,
        *,
        smallest: float = 0.75,
        largest: float = 1.25,
        noise: Length = 8 / 255,
        samples: int = DRAWS,
    ) -> None:
        """Wrap ``base``.

        Raises:
            ConfigError: an option that is not allowed.
        """
        least(self.title, "smallest", smallest, 0.1)
        least(self.title, "noise", noise, 0)
        whole(self.title, "samples", samples, 2)
        if not smallest <= largest <= 4:
            raise ConfigError(f"largest of defence 'resizing' must be from smallest ({smallest:g}) to 4, not {largest}")
        super().__init__(base, smallest=smallest, largest=largest, noise=noise, samples=samples)
        self.smallest, self.largest, self.noise, self.draws = smallest, largest, noise, samples

    @property
    def samples(self) -> int:
        """Draws that an attack and a verdict average over: its own, or the inner model's if those are more."""
        return max(self.draws, super().samples)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Raw features ``(B, D)`` of ``pixels (B, 3, h, w)`` in [0, 1], each purified by a draw of its own."""
        features: Tensor = self.base.encode_pixels(self.purified(pixels))
        return features

    def _smooth(self, pixels: Tensor) -> Tensor:
        return self.inner(self.purified(pixels))

    def purified(self, pixels: Tensor) -> Tensor:
        """``(B, 3, h, w)`` → the same; differentiable."""
        height, width = pixels.shape[-2:]
        factors = self.smallest + (self.largest - self.smallest) * torch.rand(len(pixels))
        sizes = [(max(1, round(f * height)), max(1, round(f * width))) for f in factors.tolist()]
        found = torch.empty_like(pixels)
        with torch.autocast(pixels.device.type, enabled=False):
            for size in sorted(set(sizes)):  # interpolation takes one size for a whole tensor
                index = torch.tensor([i for i, own in enumerate(sizes) if own == size], device=pixels.device)
                image = _resized(pixels[index], size)
                image = image + self.noise * torch.randn(image.shape).to(image)
                found = found.index_copy(0, index, _resized(image, (height, width)))
        return found


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(image.shape[-2:]) == size:
        return image
    return nn.functional.interpolate(image, size=size, mode="bilinear", antialias=True, align_corners=False)
