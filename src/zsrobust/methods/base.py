"""What a method is: a min–max, so two functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from zsrobust.encoders.base import Encoder
from zsrobust.text_head import TextHead


@dataclass(frozen=True)
class Batch:
    """B training examples.

    Attributes:
        pixels: (B, 3, H, W) clean images in [0, 1], in the threat's space.
        labels: (B,) int64, index into the head's class names.
    """

    pixels: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Learner:
    """What a method may compute with.

    Attributes:
        encoder: The model being adapted.
        original: The same model before adaptation; its weights never change.
        head: Text head of all classes of the training task, from the original's text tower.
    """

    encoder: Encoder
    original: Encoder
    head: TextHead

    def logits(self, pixels: Tensor, scale: float | None = None) -> Tensor:
        """(B, 3, H, W) → (B, C) logits of the model being adapted; ``scale``: instead of its own logit scale."""
        return self.head(self.encoder.encode_pixels(pixels), self.encoder.logit_scale if scale is None else scale)


@runtime_checkable
class Method(Protocol):
    """An adversary that maximises ``inner`` and a learner that minimises ``outer``."""

    name: str

    def inner(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """What the adversary maximises: per-example values (B,) at ``points`` (B, 3, H, W)."""

    def outer(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """What the learner minimises: per-example losses (B,), given the adversary's ``points`` (B, 3, H, W)."""

    def describe(self) -> Mapping[str, object]:
        """The method's options, JSON-able; stored with the adapted model."""
