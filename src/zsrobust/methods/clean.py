"""Fine-tuning on clean images with the text head: no adversary.

The "VP baseline" of the TeCoA paper's released code, for every way of adapting. With the notation of
:mod:`zsrobust.methods.tecoa`:

    min_θ  E_(x,y)  L(x, y; θ)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from torch import Tensor

from zsrobust.methods.base import Batch, Learner, Method, checked_scale


@dataclass(frozen=True)
class Clean(Method):
    """Cross-entropy over the text head on clean images.

    Attributes:
        scale: Factor on the cosine similarities while training; None: the checkpoint's own.
    """

    adversarial: ClassVar[bool] = False

    _: KW_ONLY
    scale: float | None = None
    name: str = "clean"

    def __post_init__(self) -> None:
        checked_scale(self)

    def inner(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """The same loss; what held-out images are attacked with. (B, 3, H, W) → (B,)."""
        return batch.cross_entropy(learner.logits(points, self.scale))

    def outer(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """L(x, y; θ) at the clean pixels, whatever ``points`` are: → (B,)."""
        return self.inner(learner, batch.pixels, batch)

    def describe(self) -> Mapping[str, object]:
        """The scale."""
        return {"name": self.name, "scale": self.scale}
