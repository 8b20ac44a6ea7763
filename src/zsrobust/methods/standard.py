"""Standard adversarial training: a learned linear head in place of the text.

Madry et al. 2018 (arXiv 1706.06083, section 2.1, equation 2.1), as the TeCoA paper compares with it ("Adv."): the text
tower plays no part in training, and the adapted tower is evaluated zero-shot with the original text head. With raw
features f_θ(x) and a new head W (C, D), b (C,):

    L(x, y; θ, W, b) = −log softmax(W f_θ(x) + b)_y
    min_(θ,W,b)  E_(x,y)  max_{‖δ‖ ≤ ε}  L(x + δ, y; θ, W, b)

The paper's own formula could not be seen here; its released code does not contain this baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn

from zsrobust.methods.base import Batch, Learner, Method, checked_positive
from zsrobust.randomness import generator


@dataclass(frozen=True)
class Standard(Method):
    """Cross-entropy over a linear head that starts at random.

    Attributes:
        head_lr: Peak learning rate of the head. None: ten times that of the model, since the head starts from nothing;
            name one where prompts are trained, whose own learning rates are far too large for a head.
    """

    _: KW_ONLY
    head_lr: float | None = None
    name: str = "standard"

    def __post_init__(self) -> None:
        checked_positive(self, "head_lr")

    def extra_lr(self, lr: float) -> float:
        """That of the head."""
        return 10 * lr if self.head_lr is None else self.head_lr

    def extra(self, width: int, classes: int, seed: int) -> nn.Module:
        """W from N(0, 1/D) by the seed, b from 0."""
        head = nn.Linear(width, classes)
        nn.init.normal_(head.weight, std=width**-0.5, generator=generator(seed, self.name, "head"))
        nn.init.zeros_(head.bias)
        return head

    def logits(self, learner: Learner, pixels: Tensor) -> Tensor:
        """W f_θ(pixels) + b: (B, 3, H, W) → (B, C)."""
        assert learner.extra is not None
        features = learner.encoder.encode_pixels(pixels)
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = learner.extra(features.float())
        return logits

    def inner(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """L(points, y; θ, W, b): (B, 3, H, W) → (B,)."""
        return batch.cross_entropy(self.logits(learner, points))

    def outer(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """The same at the adversary's points: (B, 3, H, W) → (B,)."""
        return self.inner(learner, points, batch)

    def describe(self) -> Mapping[str, object]:
        """The head's learning rate."""
        return {"name": self.name, "head_lr": self.head_lr}
