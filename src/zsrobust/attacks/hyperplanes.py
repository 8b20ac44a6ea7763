"""The nearest point of a hyperplane inside the box [0, 1], per row, in L∞ or L2.

    min ‖δ‖   over   ⟨w, x + δ⟩ + b = 0,  0 ≤ x + δ ≤ 1        (Croce & Hein 2020, arXiv 1907.02044, equation 4)

Every coordinate moves towards the hyperplane until it meets the border of the box: |δᵢ| = min(λ sᵢ, roomᵢ), with speed
sᵢ = 1 in L∞ and |wᵢ| in L2, and the multiplier λ ≥ 0 solves

    Σ |wᵢ| min(λ sᵢ, roomᵢ) = |⟨w, x⟩ + b|.

The left side is concave and piecewise linear in λ, so Newton's method from 0 never oversteps: each of its points is
either the exact solution or lies behind another coordinate's border. The paper sorts the borders and bisects; this
reaches the same solution in a few passes over the pixels, without a sort.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zsrobust.threat import Norm

# Squares of smaller slopes would underflow to 0 in float32; no coordinate of the box is long enough to make up for it.
_FLAT = 1e-12


def onto_hyperplane(points: Tensor, slopes: Tensor, values: Tensor, norm: Norm) -> Tensor:
    """The smallest change of each point that takes a linear function to zero inside the box.

    Args:
        points: (n, …) in [0, 1].
        slopes: (n, …) w, the gradients of the functions. Coordinates of slope 0 (below 1e-12 of the row's largest) stay
            where they are.
        values: (n,) the functions at the points, ⟨w, x⟩ + b.
        norm: What is smallest.

    Returns:
        (n, …) δ. Where the hyperplane misses the box: to the corner nearest to it. Where w is 0: no change.
    """
    x, w = points.flatten(1), slopes.flatten(1)
    largest = w.abs().amax(1, keepdim=True)
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))  # squares of tiny slopes would underflow
    direction = -values.sign()[:, None] * w.sign()
    pull = (w / scale).abs()
    moves = pull > _FLAT
    room = torch.where(direction > 0, 1 - x, x) * moves
    speed = moves.to(w.dtype) if norm == "linf" else pull
    travel = _travel(pull, speed, room, values.abs()[:, None] / scale)
    return (direction * travel).view_as(points)


def _travel(pull: Tensor, speed: Tensor, room: Tensor, lack: Tensor) -> Tensor:
    """min(λ·speed, room) (n, d), for the λ ≥ 0 of each row with Σ pull·min(λ·speed, room) = lack (n, 1).

    A row that is solved stays bit by bit as it is while others go on: its answer does not depend on them.
    """
    filled, drive = pull * room, pull * speed
    free = drive > 0
    while True:
        rest = (lack - torch.where(free, 0.0, filled).sum(1, keepdim=True)).clamp_min(0)
        pace = torch.where(free, drive, 0.0).sum(1, keepdim=True)
        way = rest / pace * speed
        stopped = free & (way >= room)
        if not bool(stopped.any()):
            return torch.where(free, way, room)
        free &= ~stopped
