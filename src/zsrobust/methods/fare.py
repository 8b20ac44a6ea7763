"""Unsupervised adversarial fine-tuning towards the original's features (FARE): no labels and no text.

Schlarmann, Singh, Croce, Hein: *Robust CLIP: Unsupervised Adversarial Fine-Tuning of Vision Embeddings for Robust Large
Vision-Language Models*, ICML 2024, arXiv 2402.12336. With raw features f_θ, and f_0 of the model before adaptation:

    L(x, δ; θ) = ‖f_θ(x + δ) − f_0(x)‖₂²
    min_θ  E_x  max_{‖δ‖ ≤ ε}  L(x, δ; θ)

The square is summed over the features and not normalised, as in the released code (chs20/RobustVLM), whose adversary
also has a momentum of 0.9 and whose first point may leave [0, 1]; ours is the adversary of every other method here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

from torch import Tensor

from zsrobust.losses import squared_distance
from zsrobust.methods.base import Batch, Learner, Method


@dataclass(frozen=True)
class FARE(Method):
    """Squared distance of the adversarial image's features to the original's features of the clean image."""

    labelled: ClassVar[bool] = False
    anchor: ClassVar[Literal["original"]] = "original"

    _: KW_ONLY
    name: str = "fare"

    def inner(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """L for each example: (B, 3, H, W) → (B,)."""
        assert batch.anchors is not None
        return squared_distance(learner.encoder.encode_pixels(points), batch.anchors)

    def outer(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """The same at the adversary's points: (B, 3, H, W) → (B,)."""
        return self.inner(learner, points, batch)

    def describe(self) -> Mapping[str, object]:
        """Only the name: it has no options."""
        return {"name": self.name}
