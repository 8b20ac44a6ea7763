"""A visual tower through ``torch.compile``, for the passes that may round in another way.

Compiled code rounds differently from the same code uncompiled, and differently with a gradient than without. So passes
that decide a verdict by themselves are never compiled: those inside ``lowered()`` may be, where float32 has the last
word, and in adaptation those with a gradient. Passes without a gradient outside ``lowered()`` stay as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from zsrobust.encoders import tower
from zsrobust.errors import UnknownName
from zsrobust.memory import ran_out

Passes = Literal["none", "lowered", "gradients"]
"""Which passes are compiled: none; those inside ``lowered()``; or those with a gradient, inside it or not."""

MOST = 6
"""Kinds of pass (shape, precision, what has a gradient) that are compiled; others run as they are. One kind takes from
seconds to minutes. Torch itself stops at 8 for a function."""


class CompiledTower:
    """:func:`zsrobust.encoders.tower.features`, compiled when it is first needed.

    What cannot be compiled here (no compiler, or one that fails) runs uncompiled from then on, after one warning. So do
    towers with hooks, which compiled code would pass by, and those with blocks that were given another ``forward``.

    Args:
        passes: Which ones are compiled.
        backend: Torch's name of the compiler.
    """

    def __init__(self, passes: str = "none", backend: str = "inductor") -> None:
        if passes not in get_args(Passes):
            raise UnknownName("kind of compiled passes", passes, get_args(Passes))
        self.passes, self.backend = passes, backend
        self.failed = False
        self.kinds: set[tuple[object, ...]] = set()
        self._function: Callable[[Any, Tensor, Tensor | None], Tensor] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.passes, self.backend)  # a copy compiles for itself: code cannot be copied

    def __call__(self, model: Any, image: Tensor, tokens: Tensor | None, *, lowered: bool) -> Tensor:
        """Raw features, as :func:`zsrobust.encoders.tower.features` gives them.

        Args:
            model: transformers' CLIP or SigLIP.
            image: (B, 3, H, W), normalised.
            tokens: Prompts, or None.
            lowered: Whether this is a pass inside ``lowered()``.
        """
        if not self._wanted(lowered) or _meddled_with(model):
            return tower.features(model, image, tokens)
        kind = _kind(model, image, tokens)
        known = kind in self.kinds
        if not known and len(self.kinds) == MOST:
            return tower.features(model, image, tokens)
        if known:
            return self._compiled()(model, image, tokens)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # compilers speak to their own authors
                found = self._compiled()(model, image, tokens)
        except Exception as error:  # every compiler fails in its own way
            if ran_out(error):
                raise
            self.failed = True
            why = " ".join(str(error).split())[:120]
            warnings.warn(f"torch.compile failed, passes run uncompiled: {type(error).__name__}: {why}", stacklevel=2)
            return tower.features(model, image, tokens)
        self.kinds.add(kind)
        return found

    def _wanted(self, lowered: bool) -> bool:
        if self.passes == "none" or self.failed or torch.compiler.is_compiling():
            return False
        return lowered or (self.passes == "gradients" and torch.is_grad_enabled())

    def _compiled(self) -> Callable[[Any, Tensor, Tensor | None], Tensor]:
        if self._function is None:
            compiler: Any = torch.compile
            own: dict[str, Any] = {"backend": self.backend, "dynamic": False}
            try:  # else all encoders of a process would share torch's own limit
                self._function = compiler(tower.features, isolate_recompiles=True, **own)
            except TypeError:  # a torch before it had this
                self._function = compiler(tower.features, **own)
        assert self._function is not None
        return self._function


def _meddled_with(model: Any) -> bool:
    """Whether somebody watches or replaces what happens in the tower."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(
        "forward" in vars(module) or any(getattr(module, name) for name in hooks)
        for module in model.vision_model.modules()
    )


def _kind(model: Any, image: Tensor, tokens: Tensor | None) -> tuple[object, ...]:
    """What code is compiled for."""
    device = image.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    wanted = tuple(weight.requires_grad for weight in model.vision_model.parameters())
    shape = None if tokens is None else (tuple(tokens.shape), tokens.requires_grad)
    gradient = torch.is_grad_enabled(), image.requires_grad, wanted if torch.is_grad_enabled() else ()
    return tuple(image.shape), image.dtype, shape, autocast, gradient, model.training
