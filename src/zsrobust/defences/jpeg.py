"""JPEG as a purification: every image is rounded to 8 bits, written as a JPEG file and read again.

    x → f(J_q(x))        and for attacks        ∂/∂x f(J_q(x)) ≈ f′(J_q(x))

Dziugaite, Ghahramani and Roy 2016, *A study of the effect of JPG compression on adversarial images*, arXiv 1608.00853;
one of the transformations of Guo et al. 2018, arXiv 1711.00117. Rounding has no gradient: attacks go through it by BPDA
(Athalye et al. 2018, arXiv 1802.00420, section 4.1), with the identity in the place of J's derivative, and f
differentiated at J's own output.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zsrobust.defences.base import Defence, Encode
from zsrobust.errors import ConfigError

if TYPE_CHECKING:
    from zsrobust.encoders.base import Encoder

Bytes = NDArray[np.uint8]

_HALVED_COLOURS = 2
"""PIL's number for 4:2:0: colour at half the resolution, as JPEG files usually have it."""


class JPEG(Defence):
    """``base`` on images that went through a JPEG file; at the size that they are given in, before the model's resize.

    Attributes:
        quality: 1 to 95, PIL's scale; 75 is its default. Colours at half the resolution (4:2:0).
    """

    title = "jpeg"

    def __init__(self, base: Encoder, *, quality: int = 75) -> None:
        """Wrap ``base``.

        Raises:
            ConfigError: no such quality.
        """
        if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 95:
            raise ConfigError(f"quality of defence 'jpeg' must be a whole number from 1 to 95, not {quality!r}")
        super().__init__(base, quality=quality)
        self.quality = quality

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Raw features ``(B, D)`` of ``pixels (B, 3, h, w)`` in [0, 1] after compression; without a gradient."""
        features: Tensor = self.base.encode_pixels(self.compressed(pixels))
        return features

    @property
    def encode_differentiable(self) -> Encode:
        """:meth:`encode_pixels` with the derivative of the compression taken for the identity (BPDA)."""
        return self._straight_through

    def _straight_through(self, pixels: Tensor) -> Tensor:
        return self.inner(pixels + (self.compressed(pixels) - pixels).detach())

    @torch.no_grad()
    def compressed(self, pixels: Tensor) -> Tensor:
        """``(B, 3, h, w)`` → the same after a JPEG file each, multiples of 1/255."""
        images = (pixels.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        if not len(images):
            return pixels.detach().clone()
        read = torch.from_numpy(np.stack([self._through_file(image) for image in images]))
        return (read.permute(0, 3, 1, 2).to(pixels.device).float() / 255).to(pixels.dtype)

    def _through_file(self, image: Bytes) -> Bytes:
        """(h, w, 3) uint8 → the same."""
        file = io.BytesIO()
        Image.fromarray(image).save(file, format="JPEG", quality=self.quality, subsampling=_HALVED_COLOURS)
        file.seek(0)
        with Image.open(file) as found:
            return np.array(found.convert("RGB"))
