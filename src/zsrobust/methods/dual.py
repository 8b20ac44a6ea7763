"""Dual anchoring: held to the original in features and in predictions, of the image and of its patches. Our own.

What FARE (arXiv 2402.12336) and AGFT (arXiv 2603.29410) do apart, in one unit, that of a logit, and for every patch
as well. With unit features z_θ = f_θ/‖f_θ‖ of the image and z_θ,n of its N patches, z_0 of the model before adaptation,
its logit scale s, unit text embeddings t_c, the images x_j of the batch, and x' = x + δ:

    D(x, x') = s · (1 − z_θ(x')·z_0(x))
    T(x, x') = KL(softmax_c(s · z_0(x)·t_c) ‖ softmax_c(s · z_θ(x')·t_c))
    R(x, x') = KL(softmax_j(s · z_0(x)·z_0(x_j)) ‖ softmax_j(s · z_θ(x')·z_0(x_j)))
    P(x, x') = s · 1/N Σ_n (1 − z_θ,n(x')·z_0,n(x))
    L(x, x'; θ) = a·D + b·T + c·R + e·P + d·s·(1 − z_θ(x)·z_0(x))
    min_θ  E_x  L(x, x + δ*; θ),   δ* = arg max_{‖δ‖ ≤ ε}  a·D + b·T + c·R

No labels are read. The defaults are those that a search on validation images chose (docs/dual.md): R and the clean term
did not help and are off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from zsrobust.encoders.dense import dense
from zsrobust.losses import cosine, divergence
from zsrobust.methods.base import Batch, Learner, Method, checked_scale, checked_weight
from zsrobust.randomness import generator


@dataclass(frozen=True)
class Dual(Method):
    """Features, predictions and patches of the adversarial image, all towards the original's of the clean one.

    Attributes:
        features: Weight a, of the distance of the image's features.
        text: Weight b, of the divergence over the training texts.
        relations: Weight c, of the divergence over the images of the batch.
        clean: Weight d, of the distance of the clean image's features, which the adversary does not touch.
        patches: Weight e, of the distance of the patches' features, which the adversary does not climb; it takes a
            CLIP unless it is 0.
        mixed: Share of images that are blended with another one of the batch, flipped and recoloured.
        scale: s; None: the checkpoint's own.
    """

    fewest: ClassVar[int] = 2
    labelled: ClassVar[bool] = False
    anchor: ClassVar[Literal["original"]] = "original"

    _: KW_ONLY
    features: float = 1.0
    text: float = 0.3
    relations: float = 0.0
    clean: float = 0.0
    patches: float = 1.0
    mixed: float = 0.0
    scale: float | None = None
    name: str = "dual"

    def __post_init__(self) -> None:
        checked_scale(self)
        for weight in ("features", "text", "relations", "clean", "patches", "mixed"):
            checked_weight(self, weight)

    def views(self, pixels: Tensor, keys: Sequence[tuple[str | int, ...]]) -> Tensor:
        """(B, 3, H, W), some of them blended with the one before, mirrored, and with their colours changed round."""
        if not self.mixed:
            return pixels
        found = []
        for i, key in enumerate(keys):
            draw = torch.rand(4, generator=generator(*key, "view"))
            order = torch.randperm(3, generator=generator(*key, "colours"))
            image = pixels[i]
            if float(draw[0]) < self.mixed:
                image = torch.lerp(image, pixels[i - 1], float(draw[1]))[order]
                image = image.flip(2) if float(draw[2]) < 0.5 else image
                image = 1 - image if float(draw[3]) < 0.5 else image
            found.append(image)
        return torch.stack(found)

    def inner(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """a·D + b·T + c·R for each example: (B, 3, H, W) → (B,)."""
        assert batch.anchors is not None
        anchors, scale = batch.anchors.float(), learner.scale(self.scale)
        found = learner.encoder.encode_pixels(points)
        loss = self.features * scale * (1 - cosine(found, anchors))
        if self.text:
            loss = loss + self.text * divergence(learner.head(anchors, scale), learner.head(found, scale))
        if self.relations:
            with torch.autocast(found.device.type, enabled=False):
                own = scale * normalize(anchors if batch.bank is None else batch.bank, dim=1)
                before, now = normalize(anchors, dim=1) @ own.T, normalize(found.float(), dim=1) @ own.T
            loss = loss + self.relations * divergence(before, now)
        return loss

    def outer(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """L for each example: (B, 3, H, W) → (B,)."""
        assert batch.anchors is not None
        loss = self.inner(learner, points, batch)
        if self.patches:
            _, found = dense(learner.encoder, points)
            with torch.no_grad():
                _, before = dense(learner.original, batch.pixels)
            apart = 1 - torch.nn.functional.cosine_similarity(found.float(), before.float(), dim=2)
            loss = loss + self.patches * learner.scale(self.scale) * apart.mean(1)
        if self.clean:
            kept = cosine(learner.encoder.encode_pixels(batch.pixels), batch.anchors)
            loss = loss + self.clean * learner.scale(self.scale) * (1 - kept)
        return loss

    def compares(self) -> bool:
        """Only the relations do, and the views, which blend an image with the one before."""
        return bool(self.relations or self.mixed)

    def gathers(self) -> bool:
        """The relations do; to blend with the one before, its pixels would have to be here."""
        return not self.mixed

    def describe(self) -> Mapping[str, object]:
        """The weights and the scale."""
        options = ("name", "features", "text", "relations", "clean", "patches", "mixed", "scale")
        return {option: getattr(self, option) for option in options}
