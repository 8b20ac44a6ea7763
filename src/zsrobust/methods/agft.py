"""Alignment-guided fine-tuning (AGFT): the original's own soft predictions in place of labels.

AGFT, arXiv 2603.29410, from its released code (YuboCui/AGFT); the paper itself could not be seen here. With cosine
similarities c_0(x) of the clean image under the model before adaptation, the model's logit scale s, and constants k, γ:

    p = softmax(γ · k·s · c_0(x))
    L(x, δ; θ) = −Σ_c p_c log softmax(k·s · c_θ(x + δ))_c
    min_θ  E_x  max_{‖δ‖ ≤ ε}  L(x, δ; θ)

The code trains at a scale of 180 where CLIP's own is 100, so k = 1.8, and softens the targets by γ = 0.4: the targets
then stand at 72, which calibrates them. Evaluation uses the model's own scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

from torch import Tensor

from zsrobust.losses import soft_cross_entropy
from zsrobust.methods.base import Batch, Learner, Method, checked_positive


@dataclass(frozen=True)
class AGFT(Method):
    """Soft cross-entropy against the original's calibrated predictions on the clean image; reads no labels.

    Attributes:
        sharpen: k, the training scale as a multiple of the checkpoint's own.
        soften: γ, the targets' scale as a multiple of the training scale.
    """

    labelled: ClassVar[bool] = False
    anchor: ClassVar[Literal["original"]] = "original"

    _: KW_ONLY
    sharpen: float = 1.8
    soften: float = 0.4
    name: str = "agft"

    def __post_init__(self) -> None:
        checked_positive(self, "sharpen")
        checked_positive(self, "soften")

    def inner(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """L for each example: (B, 3, H, W) → (B,)."""
        assert batch.anchors is not None
        scale = self.sharpen * learner.encoder.logit_scale
        targets = learner.head(batch.anchors, self.soften * scale).softmax(1)
        return soft_cross_entropy(learner.logits(points, scale), targets)

    def outer(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """The same at the adversary's points: (B, 3, H, W) → (B,)."""
        return self.inner(learner, points, batch)

    def describe(self) -> Mapping[str, object]:
        """Both factors."""
        return {"name": self.name, "sharpen": self.sharpen, "soften": self.soften}
