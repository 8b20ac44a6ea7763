"""TRADES on the text head: clean accuracy, and a smooth neighbourhood.

Zhang et al.: *Theoretically Principled Trade-off between Robustness and Accuracy*, ICML 2019, arXiv 1901.08573,
equation 5, with the text head as the classifier. With P_θ = softmax of its logits:

    L(x, y; θ) = CE(P_θ(x), y) + β · max_{‖δ‖ ≤ ε} KL(P_θ(x) ‖ P_θ(x + δ))

β is 1/λ in the paper. The adversary sees P_θ(x) as a constant; the learner's gradient goes through both. The paper
starts its adversary a thousandth away from the image; ours starts anywhere in the ball, as for every other method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

from torch import Tensor

from zsrobust.losses import divergence
from zsrobust.methods.base import Batch, Learner, Method, checked_scale, checked_weight


@dataclass(frozen=True)
class TRADES(Method):
    """Cross-entropy of the clean image, and its divergence from the adversarial one.

    Attributes:
        beta: Weight of the divergence; 6 is the paper's for CIFAR-10.
        scale: Factor on the cosine similarities while training; None: the checkpoint's own.
    """

    anchor: ClassVar[Literal["adapted"]] = "adapted"

    _: KW_ONLY
    beta: float = 6.0
    scale: float | None = None
    name: str = "trades"

    def __post_init__(self) -> None:
        checked_scale(self)
        checked_weight(self, "beta")

    def inner(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """The divergence from the clean predictions before the step: (B, 3, H, W) → (B,)."""
        assert batch.anchors is not None
        clean = learner.head(batch.anchors, learner.scale(self.scale))
        return divergence(clean, learner.logits(points, self.scale))

    def outer(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """L for each example: (B, 3, H, W) → (B,)."""
        clean, adversarial = (learner.logits(pixels, self.scale) for pixels in (batch.pixels, points))
        return batch.cross_entropy(clean) + self.beta * divergence(clean, adversarial)

    def describe(self) -> Mapping[str, object]:
        """The weight and the scale."""
        return {"name": self.name, "beta": self.beta, "scale": self.scale}
