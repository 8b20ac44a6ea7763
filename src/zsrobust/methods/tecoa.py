"""Text-guided contrastive adversarial training (TeCoA).

Mao, Geng, Yang, Wang, Vondrick: *Understanding Zero-Shot Adversarial Robustness for Large-Scale Models*, ICLR 2023,
arXiv 2212.07016, section 3. With z = f_θ(x)/‖f_θ(x)‖, t_c the frozen unit embedding of the prompt of class c, and the
frozen logit scale s:

    L(x, y; θ) = −log  exp(s · z·t_y) / Σ_c exp(s · z·t_c)
    min_θ  E_(x,y)  max_{‖δ‖ ≤ ε}  L(x + δ, y; θ)

The sum runs over all class prompts of the training set, and only from image to text: this is what the authors' released
code computes. The paper's own numbering of these equations could not be checked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from zsrobust.methods.base import Batch, Learner, Method, checked_scale


@dataclass(frozen=True)
class TeCoA(Method):
    """Cross-entropy over the text head, for adversary and learner alike.

    Attributes:
        scale: Factor s on the cosine similarities while training. None: the checkpoint's own (100 for OpenAI's CLIP),
            as in the paper. A smaller one pulls the features of a few narrow classes apart less;
            docs/training-scale.md measures it.
    """

    _: KW_ONLY
    scale: float | None = None
    name: str = "tecoa"

    def __post_init__(self) -> None:
        checked_scale(self)

    def inner(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """L(points, y; θ) for each example: (B, 3, H, W) → (B,)."""
        return batch.cross_entropy(learner.logits(points, self.scale))

    def outer(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """The same at the adversary's points: (B, 3, H, W) → (B,)."""
        return self.inner(learner, points, batch)

    def describe(self) -> Mapping[str, object]:
        """The scale."""
        return {"name": self.name, "scale": self.scale}
