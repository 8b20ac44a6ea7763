"""What changes how fast an encoder is and how its arithmetic rounds: attention and compiled passes.

The switches are those of the model inside, whatever prompts and defences are around it. An encoder of somebody else's
has none, and is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError

OWN = "own"
"""The attention of an encoder that has no such switch."""


def inside(encoder: Encoder) -> Any:
    """The encoder under prompts and defences that has the switches; None where there is none."""
    found: Any = encoder
    while found is not None and not hasattr(found, "set_compiled"):
        found = getattr(found, "base", None)
    return found


def attention_of(encoders: Sequence[Encoder]) -> str:
    """``"sdpa"`` or ``"eager"`` (``"own"`` without a switch), all that occur, as ``run.json`` says it."""
    found = {OWN if inside(encoder) is None else inside(encoder).attention for encoder in encoders}
    return ", ".join(sorted(found))


def compiled(encoders: Sequence[Encoder]) -> bool:
    """Whether passes of any of them are compiled; False where the compiler has failed."""
    return any(one is not None and one.compiled != "none" for one in map(inside, encoders))


def forget_lowered(encoder: Encoder) -> None:
    """A bfloat16 copy of the model inside is made anew when it is next asked for."""
    model = inside(encoder)
    if model is not None:
        model.forget_lowered()


def set_compiled(encoder: Encoder, passes: str) -> None:
    """Which passes of the model inside are compiled: ``"none"``, ``"lowered"`` or ``"gradients"``.

    Raises:
        ConfigError: it has no such switch.
    """
    model = inside(encoder)
    if model is None:
        if passes == "none":
            return
        raise ConfigError(f"compile was given, but encoder '{encoder.name}' is not one that can be compiled")
    if passes != "none" and hasattr(encoder, "undefended"):  # some differentiate twice, which compiled code cannot
        raise ConfigError(f"compile was given, but '{encoder.name}' has a test-time defence: evaluate it without")
    if model.compiled != passes:
        model.set_compiled(passes)


@contextmanager
def as_before(encoders: Sequence[Encoder]) -> Iterator[None]:
    """Inside, the switches may be turned; afterwards they are as they were."""
    models = [model for model in map(inside, encoders) if model is not None]
    before = [(model.attention, model.compiled) for model in models]
    try:
        yield
    finally:
        for model, (attention, passes) in zip(models, before, strict=True):
            if model.attention != attention:
                model.set_attention(attention)
            if model.compiled != passes:
                model.set_compiled(passes)
