"""Test-time defences by name: encoders that wrap an encoder, such as ``ttc``, ``resizing`` and ``jpeg``.

They are written after a model, ``tiny+ttc:steps=2:eps=4/255``, and each is evaluated twice: attacked on the undefended
model, as defence papers do, and through the defence. A user's package adds its own through the entry-point group
``zsrobust.defences``: a class called with ``(encoder, **options)`` whose keyword-only parameters, with their defaults
and annotations, are the options; see :class:`zsrobust.defences.base.Defence`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsrobust.defences.options import arguments, read
from zsrobust.registry import Registry

if TYPE_CHECKING:
    from zsrobust.encoders.base import Encoder

__all__ = ["DEFENCES", "wrapped"]

DEFENCES = Registry(
    "defence",
    {
        "ttc": "zsrobust.defences.ttc:TTC",
        "resizing": "zsrobust.defences.resizing:Resizing",
        "jpeg": "zsrobust.defences.jpeg:JPEG",
    },
)


def wrapped(encoder: Encoder, text: str) -> Encoder:
    """``encoder`` behind the defence called ``text``: ``NAME[:option=value]…``.

    Args:
        encoder: The undefended model; it is shared and not copied.
        text: For example ``"ttc"`` or ``"ttc:steps=2:eps=4/255"``; lengths are in pixel range [0, 1].

    Raises:
        UnknownName: no such defence, or it has no such option.
        ConfigError: a value that the defence does not take.
    """
    name, options = read(text)
    build = DEFENCES[name]
    defended: Encoder = build(encoder, **arguments(build, name, options))
    return defended
