"""Encoder + text head = what an attack receives: pixels → logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from zsrobust.encoders.base import Encoder
from zsrobust.errors import ModelError
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

    @property
    def samples(self) -> int:
        """Draws that an attack averages over, and a verdict too: what the encoder declares; 1 unless it is random.

        Raises:
            ModelError: the encoder declares something else than a whole number of at least 1.
        """
        declared: object = getattr(self.encoder, "samples", 1)
        if isinstance(declared, bool) or not isinstance(declared, int) or declared < 1:
            raise ModelError(f"encoder '{self.encoder.name}' declares samples = {declared!r}; it must be at least 1")
        return declared

    @property
    def surrogate(self) -> Callable[[Tensor], Tensor] | None:
        """Pixels → logits to be differentiated in place of the classifier, where the encoder declares one (BPDA)."""
        declared: Callable[[Tensor], Tensor] | None = getattr(self.encoder, "encode_differentiable", None)
        if declared is None:
            return None

        def differentiable(pixels: Tensor) -> Tensor:
            return self.head(declared(pixels), self.encoder.logit_scale)

        return differentiable

    def lowered(self) -> AbstractContextManager[object]:
        """A context in which a call computes fast and roughly, in bfloat16; the head stays float32."""
        own: Callable[[], AbstractContextManager[object]] | None = getattr(self.encoder, "lowered", None)
        if own is not None:
            return own()
        return torch.autocast(self.head.embeddings.device.type, dtype=torch.bfloat16)
