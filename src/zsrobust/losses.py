"""Per-example losses on logits. Whoever calls them averages or sums; nothing here does."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from zsrobust.errors import ConfigError

TINY = 1e-12
"""Keeps a ratio of logits finite where they are all equal."""


_STRETCH = 64


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """−log softmax(logits)[label]: (B, C), (B,) int64 → (B,).

    Written as softplus(logsumexp of the others − own logit). Through a float32 softmax the label's own gradient,
    p − 1, is exactly 0 from a margin of about 17 on (common at CLIP's scale of 100): an ascent would lose its way.
    """
    logits = logits.float()
    own, others = _split(logits, labels)
    # CPU kernels of softplus round the last few numbers of a vector otherwise than the rest: an example's loss would
    # depend on its place in the batch. Here each has a whole stretch of its own.
    stretched = (others.logsumexp(1) - own)[:, None].expand(-1, _STRETCH).contiguous()
    return functional.softplus(stretched)[:, 0]


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """−Σ_c targets[c] · log softmax(logits)[c]: (B, C), (B, C) probabilities → (B,)."""
    return -(targets * logits.float().log_softmax(1)).sum(1)


def boosted_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """−log p_y − log(1 − max_{c≠y} p_c), with p = softmax(logits): (B, C), (B,) int64 → (B,).

    Wang et al. 2020 (MART), the boosted cross-entropy. The second term is written with log-sums of the other logits, so
    that it stays finite where one of them has all the probability.
    """
    logits = logits.float()
    _, others = _split(logits, labels)
    strongest = others.argmax(1, keepdim=True)
    rest = logits.scatter(1, strongest, float("-inf")).logsumexp(1)
    return cross_entropy(logits, labels) + logits.logsumexp(1) - rest


def divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """KL(softmax(reference) ‖ softmax(logits)): (B, C), (B, C) → (B,)."""
    own, other = reference.float().log_softmax(1), logits.float().log_softmax(1)
    return (own.exp() * (own - other)).sum(1)


def squared_distance(features: Tensor, others: Tensor) -> Tensor:
    """‖features − others‖₂² of raw features: (B, D), (B, D) → (B,)."""
    return (features.float() - others.float()).square().sum(1)


def cosine(features: Tensor, others: Tensor) -> Tensor:
    """Cosine similarity of raw features: (B, D), (B, D) → (B,)."""
    return functional.cosine_similarity(features.float(), others.float(), dim=1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the label less the largest other logit: (B, C), (B,) int64 → (B,).

    Positive exactly where the label is the strict prediction; 0 is a tie. With one class there is no other logit and
    the margin is +inf.
    """
    own, others = _split(logits, labels)
    return own - others.amax(1)


def margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest other logit less the label's: (B, C), (B,) int64 → (B,); positive where the label is not predicted.

    The loss f₆ of Carlini and Wagner 2017 (arXiv 1608.04644, section V-A) without its clipping. It does not saturate.
    """
    return -margin(logits, labels)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio, (max of the others − z_label) / (z_π1 − z_π3): (B, C), (B,) int64 → (B,).

    π is the order of falling logits. Croce and Hein 2020 (arXiv 2003.01690), equation 5. It does not change when logits
    are scaled or shifted, is in [−1, 0] where the label is predicted, and positive where it is not.

    Raises:
        ConfigError: fewer than 3 classes.
    """
    check_dlr(logits.shape[1])
    logits = logits.float()
    top = logits.topk(3, dim=1).values
    return margin_loss(logits, labels) / (top[:, 0] - top[:, 2] + TINY)


def check_dlr(classes: int) -> None:
    """Whether there are classes enough for :func:`dlr`.

    Raises:
        ConfigError: fewer than 3.
    """
    if classes < 3:
        raise ConfigError(f"the DLR loss needs at least 3 classes, not {classes}: use apgd:margin (or apgd:ce) instead")


def _split(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The label's logit (B,), and the logits (B, C) with −inf in its place."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    mask = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, labels[:, None], True)
    return own, logits.masked_fill(mask, float("-inf"))
