"""What an attack is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from zsrobust.threat import Threat

Model = Callable[[Tensor], Tensor]
"""Pixels (B, 3, H, W) in [0, 1] → logits (B, C).

May have ``rows`` (rows of a forward pass), ``parameters()``, ``samples`` (draws to average over, for a model that is
random), ``surrogate`` (pixels → logits, to be differentiated in the model's place: BPDA), ``guide`` (another model
whose gradient is climbed: a transfer attack) and ``lowered()`` (a context in which it computes fast in bfloat16)."""


@dataclass(frozen=True)
class Outcome:
    """What an attack found for b examples; claims, which the harness checks.

    Attributes:
        pixels: (b, 3, H, W) adversarial images.
        forwards, backwards: (b,) int64, passes spent on each example.
        claimed: (b,) bool, where the attack believes it has succeeded; None: it does not say.
    """

    pixels: Tensor
    forwards: Tensor
    backwards: Tensor
    claimed: Tensor | None = None


Found = tuple[Tensor, Outcome]
"""Positions (b,) int64 in the batch, and what was found for them."""


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


@runtime_checkable
class Streaming(Attack, Protocol):
    """An attack that hands out examples as they finish, so that nothing found is lost when it is interrupted."""

    def stream(
        self, model: Model, pixels: Tensor, labels: Tensor, *, seed: int, examples: Sequence[int]
    ) -> Iterator[Found]:
        """As :meth:`Attack.search`, in parts: every position comes once."""
