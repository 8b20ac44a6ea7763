"""The one ascent loop, and the gradient it climbs.

Adaptation wants exactly K steps for every example and the last iterate; evaluation wants the best point and lets an
example leave at its first success. Both are this loop: the second passes a :class:`Tracker`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zsrobust.passes import in_rows
from zsrobust.threat import Threat

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(points (b, 3, H, W), index (b,)) → (values (b,) to climb, broken (b,) bool); ``index`` says which examples these
are."""

Gradient = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""(points, index) → (values (b,), gradient (b, 3, H, W), broken (b,) bool)."""


def pixel_gradient(objective: Objective, *, rows: int | None = None) -> Gradient:
    """The objective with its gradient with respect to the pixels, and to nothing else.

    Values are summed, not averaged: an example's gradient must not shrink with the size of its batch.

    Args:
        objective: Per-example values.
        rows: Evaluate in padded chunks of exactly this many rows (see :func:`zsrobust.passes.in_rows`); None: the
            batch as it is.
    """

    def evaluate(points: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            points = points.detach().requires_grad_(True)
            values, broken = objective(points, index)
            (gradient,) = torch.autograd.grad(values.sum(), points)
        return values.detach(), gradient, broken

    return evaluate if rows is None else in_rows(evaluate, rows)


@dataclass
class Tracker:
    """What evaluation remembers of each of B examples while it climbs.

    Attributes:
        points: (B, 3, H, W) the point to report: the first that broke the example, else the one of the highest value.
        values: (B,) value at ``points``.
        broken: (B,) bool.
        forwards, backwards: (B,) int64, passes spent on each example.
    """

    points: Tensor
    values: Tensor = field(init=False)
    broken: Tensor = field(init=False)
    forwards: Tensor = field(init=False)
    backwards: Tensor = field(init=False)

    def __post_init__(self) -> None:
        count, device = len(self.points), self.points.device
        self.points = self.points.clone()
        self.values = torch.full((count,), float("-inf"), device=device)
        self.broken = torch.zeros(count, dtype=torch.bool, device=device)
        self.forwards = torch.zeros(count, dtype=torch.int64, device=device)
        self.backwards = torch.zeros(count, dtype=torch.int64, device=device)

    def observe(self, index: Tensor, points: Tensor, values: Tensor, broken: Tensor, *, backward: bool) -> Tensor:
        """Takes note of one evaluation of the examples ``index``; returns (b,) bool, those that climb on."""
        self.forwards[index] += 1
        self.backwards[index] += int(backward)
        better = broken | (values > self.values[index])
        self.points[index[better]] = points[better].detach()
        self.values[index[better]] = values[better]
        self.broken[index] |= broken
        return ~broken


def ascend(
    gradient: Gradient,
    start: Tensor,
    pixels: Tensor,
    threat: Threat,
    *,
    index: Tensor,
    steps: int,
    step_size: float,
    tracker: Tracker | None = None,
) -> Tensor:
    """Projected steepest ascent (Madry et al. 2018, arXiv 1706.06083, section 2.1; FGSM is one step).

    Args:
        gradient: What to climb.
        start: (b, 3, H, W) first points, allowed by the threat.
        pixels: (B, 3, H, W) all images; ``start`` belongs to ``pixels[index]``.
        threat: Gives the direction of a step and the projection.
        index: (b,) int64, which examples climb.
        steps: Number K of steps.
        step_size: Length of a step in the threat's norm, in pixel range [0, 1] units.
        tracker: Given: examples leave at their first success, and what is found is in the tracker. None: everybody
            does all K steps.

    Returns:
        (b', 3, H, W) last iterates, of the examples that made every step.
    """
    points = start
    for _ in range(steps):
        values, direction, broken = gradient(points, index)
        if tracker is not None:
            stay = tracker.observe(index, points, values, broken, backward=True)
            index, points, direction = index[stay], points[stay], direction[stay]
            if len(index) == 0:
                return points
        points = threat.project(points + step_size * threat.steepest(direction), pixels[index])
    return points
