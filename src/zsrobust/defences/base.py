"""What a test-time defence is: an encoder that wraps an encoder, so that no attack can go around it by mistake.

A defence shares the weights and the text tower of what it wraps. Results call it by its own name, ``tiny+ttc``, with
its options where they are not the default, and its provenance says what it is under ``defence``: a number of the
defended model cannot be taken for one of the model without it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from zsrobust.defences.options import kind_of, takes
from zsrobust.errors import ConfigError, ModelError
from zsrobust.randomness import Draws, uniform
from zsrobust.threat import format_eps

if TYPE_CHECKING:
    from zsrobust.encoders.base import Encoder
    from zsrobust.geometry import Geometry

PROVENANCE = "defence"
"""Where in the provenance of a defended model its defences are, the innermost first."""

DRAWS = 20
"""Draws that attacks and verdicts average over, as in AutoAttack's version for randomised models."""

Encode = Callable[[Tensor], Tensor]
"""Pixels (B, 3, h, w) in [0, 1] → features (B, D)."""


class Defence(nn.Module):
    """An :class:`~zsrobust.encoders.base.Encoder` around another one; frozen, in evaluation mode.

    A defence has a :attr:`title`, options, and :meth:`encode_pixels`; where that has no useful gradient also
    ``encode_differentiable``, and where it is random, ``samples``.

    Attributes:
        base: The encoder inside, which may be a defended one.
        options: The keyword-only arguments that it was made with, JSON-able.
    """

    title: ClassVar[str]

    def __init__(self, base: Encoder, **options: object) -> None:
        """Wrap ``base``, whose weights are shared."""
        super().__init__()
        self.base: Any = base
        self.options = options
        self.requires_grad_(False)
        self.eval()

    @abstractmethod
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Raw image features ``(B, D)`` of ``pixels (B, 3, h, w)`` in [0, 1], defended."""

    def describe(self) -> dict[str, object]:
        """Name and options, JSON-able."""
        return {"name": self.title} | self.options

    @property
    def name(self) -> str:
        """``tiny+ttc``, with the options that are not the default: ``tiny+ttc:eps=8/255``."""
        changed = [
            f"{option}={_written(self.options[option], parameter)}"
            for option, parameter in takes(type(self)).items()
            if self.options[option] != parameter.default
        ]
        return f"{self.base.name}+{':'.join([self.title, *changed])}"

    @property
    def undefended(self) -> Encoder:
        """The model without any defence: what an oblivious attack knows."""
        inner: Encoder = getattr(self.base, "undefended", self.base)
        return inner

    @property
    def provenance(self) -> Mapping[str, object]:
        """The model's own, and under ``defence`` what is around it."""
        told = dict(self.base.provenance)
        inner = told.get(PROVENANCE, ())
        return told | {PROVENANCE: [*(inner if isinstance(inner, list | tuple) else ()), self.describe()]}

    @property
    def samples(self) -> int:
        """Draws that an attack and a verdict average over: those of the model inside, unless this one is random."""
        return int(getattr(self.base, "samples", 1))

    @property
    def encode_differentiable(self) -> Encode:
        """Features to be differentiated in place of :meth:`encode_pixels`.

        Raises:
            AttributeError: none is needed, neither here nor inside; attributes that are not there are asked for so.
        """
        if not hasattr(self.base, "encode_differentiable"):
            raise AttributeError("encode_differentiable")
        return self._smooth

    def _smooth(self, pixels: Tensor) -> Tensor:
        """This defence around the inner one's stand-in, for a defence that is differentiable itself.

        Raises:
            ModelError: it has none: it can only stand next to the model.
        """
        raise ModelError(
            f"defence '{self.title}' cannot stand around '{self.base.name}', whose gradient is a stand-in's: "
            "write _smooth() for it, or put it next to the model"
        )

    @property
    def inner(self) -> Encode:
        """What is inside, as an attack differentiates it."""
        found: Encode = getattr(self.base, "encode_differentiable", self.base.encode_pixels)
        return found

    @property
    def input_size(self) -> tuple[int, int]:
        """``(H, W)`` of the visual tower."""
        size: tuple[int, int] = self.base.input_size
        return size

    @property
    def geometry(self) -> Geometry:
        """The checkpoint's own PIL resize and crop."""
        found: Geometry = self.base.geometry
        return found

    @property
    def resize_description(self) -> str:
        """The resize inside, as stored with results."""
        return str(self.base.resize_description)

    @property
    def logit_scale(self) -> float:
        """The model's own."""
        return float(self.base.logit_scale)

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for a model without."""
        first = next(self.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def forward(self, pixels: Tensor) -> Tensor:
        """:meth:`encode_pixels`, so that hooks see the call."""
        return self.encode_pixels(pixels)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Raw text features ``(N, D)``: those of the model inside."""
        features: Tensor = self.base.encode_texts(texts)
        return features

    @contextmanager
    def lowered(self) -> Iterator[None]:
        """Inside, :meth:`encode_pixels` computes fast and roughly in bfloat16, the defence too."""
        own = getattr(self.base, "lowered", None)
        with torch.autocast(self.device.type, dtype=torch.bfloat16) if own is None else own():
            yield

    def fingerprint(self) -> str:
        """sha256 over that of the model inside and what the defence is."""
        own = getattr(self.base, "fingerprint", None)
        inside = own() if own is not None else self._answers()
        return hashlib.sha256(f"{inside} {json.dumps(self.describe(), sort_keys=True)}".encode()).hexdigest()

    @torch.no_grad()
    def _answers(self) -> str:
        """What stands for the fingerprint of a model without one: its weights, logit scale, and what it answers."""
        probe = uniform([("fingerprint",)], (3, *self.input_size), device=self.device)
        with Draws(probe.device, "fingerprint"):
            answers = [self.base.encode_pixels(probe)]
            with suppress(Exception):  # it may know the names of its classes alone
                answers.append(self.base.encode_texts(["a photo of a thing"]))
        found = hashlib.sha256(f"{float(self.base.logit_scale)}".encode())
        for tensor in (*answers, *self.parameters()):
            found.update(tensor.detach().float().cpu().numpy().tobytes())
        return found.hexdigest()

    @property
    def text_fingerprint(self) -> Callable[[], str]:
        """That of the model inside, where it has one: text features do not depend on the defence."""
        found: Callable[[], str] = self.base.text_fingerprint
        return found


def _written(value: object, parameter: inspect.Parameter) -> str:
    return format_eps(value) if kind_of(parameter) == "Length" and isinstance(value, float) else str(value)


def least(defence: str, option: str, value: float, at_least: float) -> None:
    """Whether an option is a finite number and large enough.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not at_least <= value < float("inf"):
        raise ConfigError(f"{option} of defence '{defence}' must be a number of at least {at_least:g}, not {value!r}")


def whole(defence: str, option: str, value: int, at_least: int) -> None:
    """Whether an option is a whole number and large enough.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ConfigError(f"{option} of defence '{defence}' must be a whole number from {at_least} up, not {value!r}")
