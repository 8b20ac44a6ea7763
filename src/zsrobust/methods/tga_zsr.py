"""Text-guided attention for zero-shot robustness (TGA-ZSR).

Yu, Zhang, Xu: *Text-Guided Attention is All You Need for Zero-Shot Robustness in Vision-Language Models*, NeurIPS
2024. The attention A(x) to the text of the label: cosine similarity of each patch (its last hidden state, through the
tower's last LayerNorm and projection) with the label's text embedding, stretched to [0, 1] over the patches of the
image, and drawn at the model's input size, bilinearly. With A_θ of the model and A_0 of the model before adaptation:

    L = CE(P_θ(x'), y) + α · ‖A_θ(x') − A_0(x)‖₂ + β · ‖A_θ(x) − A_0(x)‖₂

The adversary climbs the first term. α and β are the released code's (zhyblue424/TGA-ZSR; the paper itself could not be
seen here). That code divides the features by their norm over the tokens, not over the features; here each patch has
unit length, as the cosine asks for. ‖·‖₂ runs over all pixels of the map: the weights mean the
same only at 224 × 224.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from zsrobust.encoders.base import Encoder
from zsrobust.encoders.dense import dense
from zsrobust.errors import ConfigError
from zsrobust.losses import TINY
from zsrobust.methods.base import Batch, Learner, Method, checked_scale, checked_weight


@dataclass(frozen=True)
class TGAZSR(Method):
    """Cross-entropy, and attention to the label's text that stays where the original's was.

    Attributes:
        alpha: Weight of the adversarial image's attention.
        beta: Weight of the clean image's attention.
        scale: Factor on the cosine similarities of the cross-entropy while training; None: the checkpoint's own.
    """

    one_label: ClassVar[bool] = True

    _: KW_ONLY
    alpha: float = 0.08
    beta: float = 0.05
    scale: float | None = None
    name: str = "tga-zsr"

    def __post_init__(self) -> None:
        checked_scale(self)
        checked_weight(self, "alpha")
        checked_weight(self, "beta")

    def inner(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy: (B, 3, H, W) → (B,)."""
        return batch.cross_entropy(learner.logits(points, self.scale))

    def outer(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """L for each example: (B, 3, H, W) → (B,)."""
        if batch.labels is None:
            raise ConfigError("tga-zsr needs one label for each image, and this batch has none")
        texts = learner.head.embeddings[batch.labels]
        features, attacked = _attention(learner.encoder, points, texts)
        _, clean = _attention(learner.encoder, batch.pixels, texts)
        with torch.no_grad():
            _, original = _attention(learner.original, batch.pixels, texts)
        entropy = batch.cross_entropy(learner.head(features, learner.scale(self.scale)))
        return entropy + self.alpha * _distance(attacked, original) + self.beta * _distance(clean, original)

    def describe(self) -> Mapping[str, object]:
        """The weights and the scale."""
        return {"name": self.name, "alpha": self.alpha, "beta": self.beta, "scale": self.scale}


def _attention(encoder: Encoder, pixels: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Features (B, D), and the map (B, H, W) of attention to one text (B, D) for each image."""
    features, patches = dense(encoder, pixels)
    with torch.autocast(pixels.device.type, enabled=False):
        flat = (normalize(patches.float(), dim=-1) @ texts[:, :, None])[..., 0]
        low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        height, width = encoder.input_size
        rows = round((flat.shape[1] * height / width) ** 0.5)
        drawn = ((flat - low) / (high - low + TINY)).reshape(len(flat), 1, rows, -1)
        return features, interpolate(drawn, size=(height, width), mode="bilinear")[:, 0]


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """Euclidean distance of maps (B, H, W): (B,); its gradient is finite where they are equal."""
    return ((one - other).square().sum((1, 2)) + TINY).sqrt()
