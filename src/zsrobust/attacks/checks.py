"""The harness's own look at what an attack returns. An attack's word counts for nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zsrobust.attacks.base import Model
from zsrobust.errors import ModelError
from zsrobust.losses import margin
from zsrobust.passes import float32_only, frozen, in_rows
from zsrobust.threat import Threat


@dataclass(frozen=True)
class Verdict:
    """What the model makes of B images, in float32 without autocast and in the canonical shape.

    A random model is asked ``samples`` times: its prediction is the one most often given, its logits and margin are
    means over the draws.

    Attributes:
        pixels: (B, 3, H, W) the images judged.
        logits: (B, C).
        predictions: (B,) int64.
        margins: (B,) logit of the label less the largest other.
    """

    pixels: Tensor
    logits: Tensor
    predictions: Tensor
    margins: Tensor


def judge(model: Model, pixels: Tensor, labels: Tensor) -> Verdict:
    """The model's verdict on ``pixels`` (B, 3, H, W) with true ``labels`` (B,).

    Raises:
        ModelError: logits that are not finite: a prediction from them would mean nothing.
    """
    rows: int | None = getattr(model, "rows", None)
    samples: int = getattr(model, "samples", 1)

    def forward(points: Tensor) -> tuple[Tensor]:
        return (model(points).float(),)

    with torch.no_grad(), frozen(model), float32_only(pixels.device):
        ask = forward if rows is None else in_rows(forward, rows)
        draws = torch.stack([ask(pixels)[0] for _ in range(samples)])
    if not bool(draws.isfinite().all()):
        bad = int((~draws.isfinite()).any(2).any(0).sum())
        raise ModelError(f"{bad} of {len(pixels)} images have logits that are NaN or infinite")
    margins = torch.stack([margin(logits, labels) for logits in draws]).mean(0)
    return Verdict(pixels, draws.mean(0), draws.argmax(2).mode(0).values, margins)


def enforce(threat: Threat, candidate: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The attack's images, projected into the budget, and the size of each perturbation.

    Args:
        threat: The budget.
        candidate: (B, 3, H, W) what the attack returned.
        pixels: (B, 3, H, W) the images.

    Returns:
        (B, 3, H, W) images in [0, 1] and in the ball, and (B,) their distance in the threat's norm.

    Raises:
        ModelError: a shape that changed, NaN, or a distance above ε by more than float32 rounding.
    """
    if candidate.shape != pixels.shape:
        raise ModelError(
            f"the attack returned shape {tuple(candidate.shape)} for images of shape {tuple(pixels.shape)}"
        )
    allowed = threat.project(candidate.detach().to(pixels.dtype), pixels)
    sizes = threat.size(allowed - pixels)
    if not bool((threat.allows(sizes) & (allowed.flatten(1) >= 0).all(1) & (allowed.flatten(1) <= 1).all(1)).all()):
        raise ModelError(
            f"an adversarial image is NaN or outside the budget: distance {float(sizes.max())}, ε = {threat.eps}"
        )
    return allowed, sizes
