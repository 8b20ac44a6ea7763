"""Contrastive adversarial training without text (CoAdv): class embeddings that say nothing.

A comparison of the TeCoA paper: the same contrastive loss, but the embedding of a class carries no text. Its formula
could not be seen here and is in no released code; ours replaces the text embeddings t_c of TeCoA by fixed random unit
vectors r_c of the same width, one for each class of the training task. With z = f_θ(x)/‖f_θ(x)‖ and the frozen logit
scale s:

    L(x, y; θ) = −log  exp(s · z·r_y) / Σ_c exp(s · z·r_c)
    min_θ  E_(x,y)  max_{‖δ‖ ≤ ε}  L(x + δ, y; θ)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from zsrobust.methods.base import Batch, Learner, Method, checked_scale
from zsrobust.randomness import generator


class Codes(nn.Module):
    """One fixed random unit vector for each class: ``vectors`` (C, D)."""

    vectors: Tensor

    def __init__(self, classes: int, width: int, source: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("vectors", normalize(torch.randn(classes, width, generator=source), dim=1))


@dataclass(frozen=True)
class CoAdv(Method):
    """Cross-entropy over random class codes, for adversary and learner alike.

    Attributes:
        scale: Factor on the cosine similarities while training; None: the checkpoint's own.
    """

    _: KW_ONLY
    scale: float | None = None
    name: str = "coadv"

    def __post_init__(self) -> None:
        checked_scale(self)

    def extra(self, width: int, classes: int, seed: int) -> nn.Module:
        """The codes r_c, drawn by the seed; nothing of them is trained."""
        return Codes(classes, width, generator(seed, self.name, "codes"))

    def logits(self, learner: Learner, pixels: Tensor) -> Tensor:
        """S · z·r_c: (B, 3, H, W) → (B, C)."""
        assert isinstance(learner.extra, Codes)
        features = learner.encoder.encode_pixels(pixels)
        with torch.autocast(features.device.type, enabled=False):
            return learner.scale(self.scale) * normalize(features.float(), dim=1) @ learner.extra.vectors.T

    def inner(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """L(points, y; θ) for each example: (B, 3, H, W) → (B,)."""
        return batch.cross_entropy(self.logits(learner, points))

    def outer(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """The same at the adversary's points: (B, 3, H, W) → (B,)."""
        return self.inner(learner, points, batch)

    def describe(self) -> Mapping[str, object]:
        """The scale."""
        return {"name": self.name, "scale": self.scale}
