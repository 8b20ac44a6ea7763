"""Siamese adversarial fine-tuning (Sim-CLIP): no labels and no text.

Hossain, Imteaj: *Sim-CLIP: Unsupervised Siamese Adversarial Fine-Tuning for Robust and Semantically-Rich
Vision-Language Models*, arXiv 2407.14971. Both views go through the one model that is trained; with R' = f_θ(x + δ),
R = f_θ(x), and sg(·) that lets no gradient through:

    L(x, δ; θ) = −½ [cos(R', sg(R)) + cos(R, sg(R'))]
    min_θ  E_x  L(x, δ*; θ),  δ* = arg max_{‖δ‖ ≤ ε} ‖f_θ(x + δ) − f_θ(x)‖₂²

The loss is as reviews of the paper quote it; the paper itself could not be seen here. The released code
(speedlab-git/SimCLIP) departs from it: there R comes from the frozen original, so that the second half has no gradient
and only the first pulls. Nothing here ties the model to the original; that is the paper's choice, not ours. The
adversary's objective is the released code's, with the trained model's clean features in place of the original's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

from torch import Tensor

from zsrobust.losses import cosine, squared_distance
from zsrobust.methods.base import Batch, Learner, Method


@dataclass(frozen=True)
class SimCLIP(Method):
    """Cosine similarity of an image's two views, each pulled to the other as it stands."""

    labelled: ClassVar[bool] = False
    anchor: ClassVar[Literal["adapted"]] = "adapted"

    _: KW_ONLY
    name: str = "sim-clip"

    def inner(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """Squared distance to the features that the clean images had before the step: (B, 3, H, W) → (B,)."""
        assert batch.anchors is not None
        return squared_distance(learner.encoder.encode_pixels(points), batch.anchors)

    def outer(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """L for each example: (B, 3, H, W) → (B,)."""
        adversarial = learner.encoder.encode_pixels(points)
        clean = learner.encoder.encode_pixels(batch.pixels)
        return -(cosine(adversarial, clean.detach()) + cosine(clean, adversarial.detach())) / 2

    def describe(self) -> Mapping[str, object]:
        """Only the name: it has no options."""
        return {"name": self.name}
