"""A model seen otherwise by an attack: everything about it stays but one thing.

:class:`zsrobust.attacks.probe.Probe` asks a model how often it must be drawn and whose gradient to climb; a view
answers for it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from zsrobust.attacks.base import Model


class View:
    """A model whose call and whose attributes are those of another."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) → logits (B, C)."""
        return self.model(pixels)

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # not there yet, while a copy is being unpickled
            raise AttributeError(name)
        return getattr(self.model, name)


class Sampled(View):
    """Averaged over ``samples`` draws, values and gradients, for every step (EOT)."""

    def __init__(self, model: Model, samples: int) -> None:
        super().__init__(model)
        self.samples = samples


class Guided(View):
    """Judged by itself at every point, while the points come from climbing ``guide``."""

    def __init__(self, model: Model, guide: Model) -> None:
        super().__init__(model)
        self.guide = guide
