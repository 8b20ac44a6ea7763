"""What an attack is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from zsrobust.threat import Threat

Model = Callable[[Tensor], Tensor]
"""Pixels (B, 3, H, W) in [0, 1] → logits (B, C). May have ``rows`` (rows of a forward pass) and ``parameters()``."""


@dataclass(frozen=True)
class Outcome:
    """What an attack found for B examples; claims, which the harness checks.

    Attributes:
        pixels: (B, 3, H, W) adversarial images.
        forwards, backwards: (B,) int64, passes spent on each example.
    """

    pixels: Tensor
    forwards: Tensor
    backwards: Tensor


@runtime_checkable
class Attack(Protocol):
    """Searches the threat's ball for an image that the model gets wrong."""

    @property
    def name(self) -> str:
        """As written on the command line, for example ``pgd:20``."""

    @property
    def threat(self) -> Threat:
        """The ball it searches."""

    def describe(self) -> dict[str, object]:
        """Everything that the strength depends on, JSON-able; stored with results."""

    def search(self, model: Model, pixels: Tensor, labels: Tensor, *, seed: int, examples: Sequence[int]) -> Outcome:
        """The evaluation's use: best point, and an example leaves at its first success.

        Args:
            model: Pixels → logits.
            pixels: (B, 3, H, W) in [0, 1].
            labels: (B,) int64.
            seed: Key of the random numbers, with …
            examples: … the ids of the B examples.
        """
