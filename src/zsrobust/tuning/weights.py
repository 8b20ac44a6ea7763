"""Fine-tuning of weights that the model has: its visual tower, or parts of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError, ModelError
from zsrobust.tuning.base import Tuning

_BLOCK = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.")
_AFTER = ("vision_model.post_layernorm.", "vision_model.head.", "visual_projection.")
"""What of transformers' CLIP and SigLIP comes after the last block."""


@dataclass(frozen=True)
class Full(Tuning):
    """The whole visual tower: model fine-tuning in the TeCoA paper."""

    name: str = "full"

    def prepare(self, encoder: Encoder, *, seed: int) -> tuple[Encoder, dict[str, nn.Parameter]]:
        """A copy with gradients on in its visual tower; see :class:`~zsrobust.tuning.base.Tuning`."""
        copy = copied(encoder)
        return copy, trainable(copy.visual_parameters())

    def finish(self, adapted: Encoder) -> Encoder:
        """The same encoder."""
        return adapted

    def describe(self) -> Mapping[str, object]:
        """Only the name: it has no options."""
        return {"name": self.name}


@dataclass(frozen=True)
class LastBlocks(Tuning):
    """The last transformer blocks of the visual tower and what comes after them.

    After them come CLIP's last LayerNorm and its visual projection, or SigLIP's last LayerNorm and its pooling head.

    Attributes:
        count: How many blocks, 1 or more.
    """

    count: int = 1
    name: str = "last-blocks"

    def __post_init__(self) -> None:
        if not whole(self.count) or self.count < 1:
            raise ConfigError(f"{self.name}: count must be a whole number of at least 1, not {self.count!r}")

    def prepare(self, encoder: Encoder, *, seed: int) -> tuple[Encoder, dict[str, nn.Parameter]]:
        """A copy with gradients on in these blocks; see :class:`~zsrobust.tuning.base.Tuning`.

        Raises:
            ModelError: the encoder's visual tower has no blocks that are named as in transformers' CLIP and SigLIP.
            ConfigError: it has fewer than ``count``.
        """
        copy = copied(encoder)
        tower = dict(copy.visual_parameters())
        block = {name: int(match[1]) for name in tower if (match := _BLOCK.match(name))}
        if not block:
            raise ModelError(
                f"'{encoder.name}' has no transformer blocks named as in the visual tower of transformers' CLIP and "
                "SigLIP, so its last blocks cannot be trained"
            )
        blocks = max(block.values()) + 1
        if self.count > blocks:
            raise ConfigError(f"{self.name}: count = {self.count}, but '{encoder.name}' has {blocks} blocks")
        first = blocks - self.count
        chosen = (pair for pair in tower.items() if block.get(pair[0], -1) >= first or pair[0].startswith(_AFTER))
        return copy, trainable(chosen)

    def finish(self, adapted: Encoder) -> Encoder:
        """The same encoder."""
        return adapted

    def describe(self) -> Mapping[str, object]:
        """The number of blocks."""
        return {"name": self.name, "count": self.count}


@dataclass(frozen=True)
class LayerNorms(Tuning):
    """Weight and bias of every LayerNorm of the visual tower."""

    name: str = "layernorm"

    def prepare(self, encoder: Encoder, *, seed: int) -> tuple[Encoder, dict[str, nn.Parameter]]:
        """A copy with gradients on in its LayerNorms; see :class:`~zsrobust.tuning.base.Tuning`.

        Raises:
            ModelError: the encoder's visual tower has no LayerNorm with weights.
        """
        copy = copied(encoder)
        norms = {
            id(parameter)
            for module in copy.modules()
            if isinstance(module, nn.LayerNorm)
            for parameter in module.parameters()
        }
        chosen = trainable((name, value) for name, value in copy.visual_parameters() if id(value) in norms)
        if not chosen:
            raise ModelError(f"'{encoder.name}' has no LayerNorm with weights in its visual tower: nothing to train")
        return copy, chosen

    def finish(self, adapted: Encoder) -> Encoder:
        """The same encoder."""
        return adapted

    def describe(self) -> Mapping[str, object]:
        """Only the name: it has no options."""
        return {"name": self.name}


def copied(encoder: Encoder) -> Any:
    """A copy of an encoder that can be adapted; nothing of it requires a gradient.

    Raises:
        ModelError: it cannot, or it could not be given the name and the provenance of the adapted model.
    """
    copy = writable(encoder, "adapted").copy()
    copy.requires_grad_(False)
    for attribute in ("name", "provenance"):
        try:
            setattr(copy, attribute, getattr(copy, attribute))
        except AttributeError:
            raise ModelError(
                f"'{encoder.name}' cannot be adapted: its {attribute} cannot be set, and the adapted model has another "
                "one; make it a plain attribute, or a property with a setter"
            ) from None
    return copy


def writable(encoder: Encoder, purpose: str) -> Any:
    """The encoder itself, if it can be copied and says which weights are its visual tower's.

    Args:
        encoder: Any.
        purpose: What is to be done with it, for the message: ``adapted``, ``mixed``.

    Raises:
        ModelError: it is not a ``torch.nn.Module`` with ``visual_parameters()`` and ``copy()``.
    """
    if isinstance(encoder, nn.Module) and hasattr(encoder, "visual_parameters") and hasattr(encoder, "copy"):
        return encoder
    raise ModelError(
        f"'{encoder.name}' cannot be {purpose}: it must be a torch.nn.Module with visual_parameters() and copy()"
    )


def trainable(parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, nn.Parameter]:
    """Name → parameter, sorted by name, each set to require a gradient."""
    chosen = dict(sorted(parameters))
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    return chosen


def whole(value: object) -> bool:
    """Whether an option is a whole number: options come from files and command lines, where ``true`` is no count."""
    return isinstance(value, int) and not isinstance(value, bool)
