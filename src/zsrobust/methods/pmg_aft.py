"""Pre-trained model guided adversarial fine-tuning (PMG-AFT).

Wang, Zhang, Yuan, Shan: *Pre-trained Model Guided Fine-Tuning for Zero-Shot Adversarial Robustness*, CVPR 2024,
arXiv 2401.04350. With P_θ = softmax of the text head's logits, P_0 that of the model before adaptation, x' = x + δ:

    L = CE(P_θ(x'), y) + α · KL(P_0(x') ‖ P_θ(x')) + β · KL(P_θ(x) ‖ P_θ(x'))

The adversary climbs the first term. The split into three terms with weights α and β is the paper's, as summaries quote
it; the directions of the divergences are those of the released code
(serendipity1122/Pre-trained-Model-Guided-Fine-Tuning-for-Zero-Shot-Adversarial-Robustness). That code normalises images
by ImageNet's mean and std and loses the temperature (its logits are cosines), and sums the divergences over the batch
beside an average cross-entropy; here all three are averages, at the model's own scale. Where P_0 and the clean P_θ let
gradients through follows the code: P_0 never, P_θ(x) always.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from zsrobust.losses import divergence
from zsrobust.methods.base import Batch, Learner, Method, checked_scale, checked_weight


@dataclass(frozen=True)
class PMGAFT(Method):
    """Cross-entropy, held to the original on the adversarial image and to the model itself on the clean one.

    Attributes:
        alpha: Weight of the divergence from the original.
        beta: Weight of the divergence from the model's own clean predictions.
        scale: Factor on the cosine similarities while training, of both models; None: the checkpoint's own.
    """

    _: KW_ONLY
    alpha: float = 1.0
    beta: float = 1.0
    scale: float | None = None
    name: str = "pmg-aft"

    def __post_init__(self) -> None:
        checked_scale(self)
        checked_weight(self, "alpha")
        checked_weight(self, "beta")

    def inner(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy: (B, 3, H, W) → (B,)."""
        return batch.cross_entropy(learner.logits(points, self.scale))

    def outer(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """L for each example: (B, 3, H, W) → (B,)."""
        adversarial = learner.logits(points, self.scale)
        clean = learner.logits(batch.pixels, self.scale)
        with torch.no_grad():
            original = learner.head(learner.original.encode_pixels(points), learner.scale(self.scale))
        general, own = divergence(original, adversarial), divergence(clean, adversarial)
        return batch.cross_entropy(adversarial) + self.alpha * general + self.beta * own

    def describe(self) -> Mapping[str, object]:
        """The weights and the scale."""
        return {"name": self.name, "alpha": self.alpha, "beta": self.beta, "scale": self.scale}
