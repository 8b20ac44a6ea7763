"""Attack a model that is no transformer: anything with two towers is an encoder.

The model here is plain torch, a small convolutional network beside a bag of words, with random weights: the point is
the wrapper. It inherits nothing from zsrobust; having the attributes and methods of ``zsrobust.encoders.Encoder`` is
all that is asked. Run it with ``python examples/two_tower.py``; it needs no network and takes seconds.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from zsrobust.geometry import Geometry

BUCKETS = 1024


class ConvTower(nn.Sequential):
    """Images (B, 3, 32, 32) → features (B, width)."""

    def __init__(self, width: int) -> None:
        """Two strided convolutions and a projection."""
        super().__init__(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(32 * 16, width),
        )  # fmt: skip


class BagOfWords(nn.Module):
    """Texts → the mean of their words' vectors; a word's row is a hash, so there is no vocabulary to keep."""

    def __init__(self, width: int) -> None:
        """One row for each bucket."""
        super().__init__()
        self.words = nn.EmbeddingBag(BUCKETS, width, mode="mean")

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Features (N, width)."""
        rows = [[zlib.crc32(word.encode()) % BUCKETS for word in text.lower().split()] or [0] for text in texts]
        starts = torch.tensor([0, *map(len, rows)]).cumsum(0)[:-1]
        flat = torch.tensor([row for text in rows for row in text])
        device = self.words.weight.device
        return self.words(flat.to(device), starts.to(device))


class TwoTower(nn.Module):
    """The wrapper: what zsrobust asks of an encoder, written out."""

    name = "conv-and-words"
    input_size = (32, 32)
    geometry = Geometry(resize=32, crop=32, interpolation="bilinear")
    resize_description = "torch bilinear, antialias"
    logit_scale = 20.0

    def __init__(self, width: int = 64) -> None:
        """Random weights."""
        super().__init__()
        self.provenance = {"source": "examples/two_tower.py", "revision": None, "adapted_on": []}
        self.visual = ConvTower(width)
        self.text = BagOfWords(width)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Raw features (B, width) of pixels (B, 3, h, w) in [0, 1]. The resize is inside: it is attacked too."""
        if tuple(pixels.shape[-2:]) != self.input_size:
            pixels = nn.functional.interpolate(
                pixels, size=self.input_size, mode="bilinear", antialias=True, align_corners=False
            )
        return self.visual((pixels - 0.5) / 0.5)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Raw features (N, width)."""
        return self.text(texts)

    def visual_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Only needed to adapt it: what training may change."""
        return self.visual.named_parameters(prefix="visual")

    def copy(self) -> TwoTower:
        """Only needed to adapt it: the copy is trained, and this one stays as it is."""
        return copy.deepcopy(self)


def build(*, seed: int = 0) -> TwoTower:
    """The encoder, frozen and in evaluation mode, with the same weights for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TwoTower().eval().requires_grad_(False)


def main() -> None:
    """Clean and robust accuracy on one rendered task; with random weights both are near chance."""
    import zsrobust as zr

    threat = zr.Threat("linf", "4/255")
    print(zr.evaluate(build(), tasks=["world-shape"], attacks="pgd:10", threat=threat, limit=50))


if __name__ == "__main__":
    main()
