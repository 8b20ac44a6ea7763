"""Encoder + text head = what an attack receives: pixels → logits."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from zsrobust.encoders.base import Encoder
from zsrobust.passes import ROWS
from zsrobust.text_head import TextHead


class ZeroShotClassifier:
    """A zero-shot classifier: pixels (B, 3, H, W) in [0, 1] → logits (B, C) float32.

    The text tower ran when the head was built; a call touches only the visual tower.

    Args:
        encoder: Pixels → features.
        head: Features → logits.
        rows: Rows of a forward pass in :func:`zsrobust.passes.in_rows`; part of a run's provenance.
    """

    def __init__(self, encoder: Encoder, head: TextHead, *, rows: int = ROWS) -> None:
        self.encoder = encoder
        self.head = head
        self.rows = rows

    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] → (B, C)."""
        return self.head(self.encoder.encode_pixels(pixels), self.encoder.logit_scale)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The encoder's weights, so that an attack can freeze them."""
        return self.encoder.parameters() if isinstance(self.encoder, nn.Module) else iter(())
