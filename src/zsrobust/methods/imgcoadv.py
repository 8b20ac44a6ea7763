"""Image-to-image contrastive adversarial training (ImgCoAdv): no labels and no text.

A comparison of the TeCoA paper: an adversarial image is to look like its own clean image, and unlike the others. The
paper's formula could not be seen here and is in no released code. Ours, for the images x_1 … x_B of a batch, with
z(x) = f_θ(x)/‖f_θ(x)‖ and the frozen logit scale s:

    L_i(δ; θ) = −log  exp(s · z(x_i + δ)·z(x_i)) / Σ_j exp(s · z(x_i + δ)·z(x_j))
    min_θ  E  1/B Σ_i  max_{‖δ‖ ≤ ε}  L_i(δ; θ)

The adversary sees the clean features as constants; the learner's gradient goes through both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from zsrobust.losses import cross_entropy
from zsrobust.methods.base import Batch, Learner, Method, checked_scale
from zsrobust.methods.gathering import gathered


@dataclass(frozen=True)
class ImgCoAdv(Method):
    """Cross-entropy over the batch: which clean image is this adversarial image of?

    Attributes:
        scale: Factor on the cosine similarities while training; None: the checkpoint's own.
    """

    fewest: ClassVar[int] = 2
    labelled: ClassVar[bool] = False
    anchor: ClassVar[Literal["adapted"]] = "adapted"

    _: KW_ONLY
    scale: float | None = None
    name: str = "imgcoadv"

    def __post_init__(self) -> None:
        checked_scale(self)

    def inner(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """L_i at ``points`` (B, 3, H, W), against the features that the clean images had before the step: (B,)."""
        clean = batch.anchors if batch.bank is None else batch.bank
        assert clean is not None
        return self._loss(learner, points, clean, batch)

    def outer(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """L_i at ``points`` (B, 3, H, W), against the clean images, whose features get a gradient too: (B,)."""
        clean = learner.encoder.encode_pixels(batch.pixels)
        if batch.share is not None:
            clean = gathered(clean.float(), batch.share)
        return self._loss(learner, points, clean, batch)

    def _loss(self, learner: Learner, points: Tensor, clean: Tensor, batch: Batch) -> Tensor:
        features = learner.encoder.encode_pixels(points)
        with torch.autocast(features.device.type, enabled=False):
            adversarial, own = normalize(features.float(), dim=1), normalize(clean.float(), dim=1)
            similarities = learner.scale(self.scale) * adversarial @ own.T
        first = 0 if batch.share is None else batch.share.first
        return cross_entropy(similarities, torch.arange(first, first + len(points), device=points.device))

    def gathers(self) -> bool:
        """Yes: the other clean images may be with other processes."""
        return True

    def describe(self) -> Mapping[str, object]:
        """The scale."""
        return {"name": self.name, "scale": self.scale}
