"""Per-example losses on logits. Whoever calls them averages or sums; nothing here does."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """−log softmax(logits)[label]: (B, C), (B,) int64 → (B,).

    Written as softplus(logsumexp of the others − own logit). Through a float32 softmax the label's own gradient,
    p − 1, is exactly 0 from a margin of about 17 on (common at CLIP's scale of 100): an ascent would lose its way.
    """
    logits = logits.float()
    own, others = _split(logits, labels)
    return functional.softplus(others.logsumexp(1) - own)


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


def _split(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The label's logit (B,), and the logits (B, C) with −inf in its place."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    mask = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, labels[:, None], True)
    return own, logits.masked_fill(mask, float("-inf"))
