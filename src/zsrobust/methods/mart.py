"""Misclassification-aware adversarial training (MART) on the text head.

Wang et al.: *Improving Adversarial Robustness Requires Revisiting Misclassified Examples*, ICLR 2020, with the text
head as the classifier. With p = P_θ(x), p' = P_θ(x + δ), both softmax of its logits:

    L = −log p'_y − log(1 − max_{c≠y} p'_c) + λ · KL(p ‖ p') · (1 − p_y)

The adversary climbs the cross-entropy −log p'_y. λ = 5 is the released code's for CIFAR-10 (6 in some of its versions);
the paper itself could not be seen here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zsrobust.errors import ConfigError
from zsrobust.losses import boosted_cross_entropy, cross_entropy, divergence
from zsrobust.methods.base import Batch, Learner, Method, checked_scale, checked_weight


@dataclass(frozen=True)
class MART(Method):
    """Boosted cross-entropy, and a divergence that counts most where the clean image is not recognised.

    Attributes:
        weight: λ, of the divergence.
        scale: Factor on the cosine similarities while training; None: the checkpoint's own.
    """

    one_label: ClassVar[bool] = True

    _: KW_ONLY
    weight: float = 5.0
    scale: float | None = None
    name: str = "mart"

    def __post_init__(self) -> None:
        checked_scale(self)
        checked_weight(self, "weight")

    def inner(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy: (B, 3, H, W) → (B,)."""
        return cross_entropy(learner.logits(points, self.scale), _labels(batch))

    def outer(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """L for each example: (B, 3, H, W) → (B,)."""
        labels = _labels(batch)
        clean, adversarial = (learner.logits(pixels, self.scale) for pixels in (batch.pixels, points))
        doubt = 1 - clean.softmax(1).gather(1, labels[:, None])[:, 0]
        boosted = boosted_cross_entropy(adversarial, labels)
        result: Tensor = boosted + self.weight * divergence(clean, adversarial) * doubt
        return result

    def describe(self) -> Mapping[str, object]:
        """The weight and the scale."""
        return {"name": self.name, "weight": self.weight, "scale": self.scale}


def _labels(batch: Batch) -> Tensor:
    if batch.labels is None:
        raise ConfigError("mart needs one label for each image, and this batch has none")
    return batch.labels.to(torch.int64)
