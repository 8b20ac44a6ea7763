"""The one ascent step, and the loop of adaptation.

Adaptation wants exactly K steps for every example and the last iterate: that is :func:`ascend`. Evaluation wants the
best point and lets an example leave at its first success: there the runs of many examples share the passes, each at its
own step (:mod:`zsrobust.attacks.lanes`), and take the same :func:`step`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zsrobust.threat import Threat


def gradient_of(objective: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """Gradient of per-example values (b,) with respect to the pixels (b, 3, H, W), and to nothing else.

    Values are summed, not averaged: an example's gradient must not shrink with the size of its batch.
    """
    with torch.enable_grad():
        points = points.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(objective(points).sum(), points)
    return gradient


def step(points: Tensor, gradient: Tensor, pixels: Tensor, threat: Threat, size: float) -> Tensor:
    """One projected step of steepest ascent, ``size`` long in the threat's norm: (b, 3, H, W) → (b, 3, H, W)."""
    return threat.project(points + size * threat.steepest(gradient), pixels)


def ascend(
    objective: Callable[[Tensor], Tensor],
    start: Tensor,
    pixels: Tensor,
    threat: Threat,
    *,
    steps: int,
    step_size: float,
) -> Tensor:
    """Projected steepest ascent (Madry et al. 2018, arXiv 1706.06083, section 2.1; FGSM is one step).

    Args:
        objective: (b, 3, H, W) → per-example values (b,) to climb.
        start: (b, 3, H, W) first points, allowed by the threat.
        pixels: (b, 3, H, W) the images.
        threat: Gives the direction of a step and the projection.
        steps: Number K of steps.
        step_size: Length of a step in the threat's norm, in pixel range [0, 1] units.

    Returns:
        (b, 3, H, W) last iterates.
    """
    points = start
    for _ in range(steps):
        points = step(points, gradient_of(objective, points), pixels, threat, step_size)
    return points
