"""Weights averaged over training: an exponential moving average, or a uniform soup of checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zsrobust.recipe import Recipe

AVERAGE = "average."
"""Before the names of averaged weights in a checkpoint."""


class Average:
    """The average of trained weights over a run, beside the weights themselves.

    With ``ema`` = d, after step t: average ← d_t · average + (1 − d_t) · weights, where d_t = min(d, (1 + t)/(10 + t))
    forgets the weights of the beginning faster while the run is young. With ``soup`` = k: the uniform mean of the
    weights at k evenly spaced steps of the second half of the run, the last step among them. Otherwise there is no
    average, and every call does nothing.

    Args:
        how: Says which; at most one of ``ema`` and ``soup`` is set.
        steps: Of the whole run.
        weights: What is trained, by name; a model's own, without what a method trains beside it.
    """

    def __init__(self, how: Recipe, steps: int, weights: Mapping[str, nn.Parameter]) -> None:
        self.weights = weights
        self.decay = how.ema
        self.servings = _servings(how.soup, steps) if how.soup is not None else []
        on = how.ema is not None or how.soup is not None
        with torch.no_grad():
            self.average = {name: nn.Parameter(w.detach().clone(), False) for name, w in weights.items()} if on else {}

    def named(self) -> dict[str, nn.Parameter]:
        """The averaged weights under the names that a checkpoint keeps them by; empty where there is no average."""
        return {f"{AVERAGE}{name}": value for name, value in self.average.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after optimizer step ``step`` (the first is 1)."""
        share = self._share(step)
        if share is not None:
            for mean, weight in self._pairs():
                mean.lerp_(weight, share)

    def _share(self, step: int) -> float | None:
        """Weight of the new in the average; None: it is not taken in."""
        if self.decay is not None:
            return 1 - min(self.decay, (1 + step) / (10 + step))
        if step in self.servings:
            return 1 / (self.servings.index(step) + 1)
        return None

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the weights are the average; afterwards they are what they were."""
        before = {name: self.weights[name].detach().clone() for name in self.average}
        self.settle()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in before.items():
                    self.weights[name].copy_(weight)

    @torch.no_grad()
    def settle(self) -> None:
        """Puts the average in the weights' place, at the end of the run."""
        for mean, weight in self._pairs():
            weight.copy_(mean)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((mean, self.weights[name]) for name, mean in self.average.items())


def _servings(count: int, steps: int) -> list[int]:
    """Up to ``count`` steps of the second half, evenly spaced, the last one among them."""
    half = max(1, steps // 2)  # the weights before the first step are nobody's result
    return sorted({steps - round((steps - half) * k / count) for k in range(count)})
