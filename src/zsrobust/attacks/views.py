"""A model seen otherwise by an attack: everything about it stays but one thing.

:class:`zsrobust.attacks.probe.Probe` asks a model how often it must be drawn and whose gradient to climb; a view
answers for it. An attack that runs on a view is one as well.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor

from zsrobust.attacks.base import Found, Model, Outcome, Streaming
from zsrobust.threat import Threat


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


class Part(Streaming, Protocol):
    """An attack that streams, and takes targets."""

    def search(
        self,
        model: Model,
        pixels: Tensor,
        labels: Tensor,
        *,
        seed: int,
        examples: Sequence[int],
        targets: Tensor | None = None,
    ) -> Outcome:
        """As :meth:`zsrobust.attacks.lanes.LaneAttack.search`."""


class ThroughView(ABC):
    """An attack that runs on a view of the model it is given."""

    attack: Part

    @property
    def threat(self) -> Threat:
        """The ball."""
        return self.attack.threat

    @abstractmethod
    def view(self, model: Model) -> Model:
        """What the attack is shown."""

    def search(
        self,
        model: Model,
        pixels: Tensor,
        labels: Tensor,
        *,
        seed: int,
        examples: Sequence[int],
        targets: Tensor | None = None,
    ) -> Outcome:
        """As :meth:`zsrobust.attacks.lanes.LaneAttack.search`."""
        seen = self.view(model)
        return self.attack.search(seen, pixels, labels, seed=seed, examples=examples, targets=targets)

    def stream(
        self, model: Model, pixels: Tensor, labels: Tensor, *, seed: int, examples: Sequence[int]
    ) -> Iterator[Found]:
        """As :meth:`zsrobust.attacks.lanes.LaneAttack.stream`."""
        return self.attack.stream(self.view(model), pixels, labels, seed=seed, examples=examples)
