"""QuickGELU or GELU: the same weights, other features. Decided by what is known, never guessed."""

from __future__ import annotations

from typing import Any

from torch import nn

from zsrobust.encoders.openclip import ACTIVATIONS
from zsrobust.errors import ConfigError, UnknownName


def checked(activation: str | None) -> str | None:
    """``activation`` itself.

    Raises:
        UnknownName: It is neither of the two.
    """
    if activation is not None and activation not in ACTIVATIONS:
        raise UnknownName("activation", activation, ACTIVATIONS)
    return activation


def agreed(asked: str | None, known: str, *, said_by: str) -> str:
    """The activation that ``said_by`` knows.

    Raises:
        ConfigError: Another was asked for.
    """
    if asked is not None and asked != known:
        raise ConfigError(f"activation={asked} was given, but {said_by} says {known}: leave the option out")
    return known


def activation_of(model: Any) -> str:
    """Of a CLIP of transformers, as its config says; both where the towers differ."""
    found = {str(part.hidden_act) for part in (model.config.vision_config, model.config.text_config)}
    return " and ".join(sorted(found))


def set_activation(model: nn.Module, activation: str) -> None:
    """Gives every block of a CLIP of transformers this activation, and its config."""
    from transformers.activations import ACT2FN

    known: Any = model
    for module in model.modules():
        if hasattr(module, "activation_fn") and hasattr(module, "fc1"):
            module.activation_fn = ACT2FN[activation]
    for part in (known.config.vision_config, known.config.text_config):
        part.hidden_act = activation
