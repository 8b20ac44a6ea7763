"""What a way of adapting is: which parameters of a copy of the model are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import nn

from zsrobust.encoders.base import Encoder


@runtime_checkable
class Tuning(Protocol):
    """Chooses, or adds, what is trained, and leaves everything else as it is, bit for bit.

    Attributes:
        name: As in the catalogue.
    """

    name: str

    def prepare(self, encoder: Encoder, *, seed: int) -> tuple[Encoder, dict[str, nn.Parameter]]:
        """A copy of ``encoder`` to be adapted, and what of it is trained.

        Args:
            encoder: Is not changed.
            seed: Of what starts at random.

        Returns:
            The copy (a prompted model is a wrapped copy), and name → parameter, sorted by name, each requiring a
            gradient; no other parameter of the copy requires one.

        Raises:
            ModelError: the encoder has no such parts.
            ConfigError: an option does not fit the encoder.
        """
        ...

    def finish(self, adapted: Encoder) -> Encoder:
        """What is saved and evaluated, of the copy after its last step (low-rank adapters are merged here)."""
        ...

    def describe(self) -> Mapping[str, object]:
        """Name and options, JSON-able; stored with the adapted model."""
        ...
