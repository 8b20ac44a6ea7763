"""How a forward or backward pass is run when its result must be trusted: weights frozen, float32, one shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from zsrobust.errors import RunError
from zsrobust.memory import ran_out

ROWS = 32
"""Rows of every forward pass in evaluation, whatever the batch: float32 kernels round differently for other
shapes."""


RowWise = TypeVar("RowWise", bound=Callable[..., tuple[Tensor, ...]])


def in_rows(function: RowWise, rows: int) -> RowWise:
    """``function`` of row-wise tensors, called on chunks of exactly ``rows`` rows.

    The last chunk is filled up by repeating rows from its start. Kernels round differently for different shapes;
    with one shape for every call, what happens to an example does not depend on how many others are in its batch.
    """

    def chunked(*tensors: Tensor) -> tuple[Tensor, ...]:
        parts = []
        count, device = len(tensors[0]), tensors[0].device
        for first in range(0, count, rows):
            chunk = torch.arange(first, min(first + rows, count), device=device)
            filled = chunk[torch.arange(rows, device=device) % len(chunk)]
            parts.append([result[: len(chunk)] for result in function(*(tensor[filled] for tensor in tensors))])
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    return cast(RowWise, chunked)


@contextmanager
def within_memory(rows: int) -> Iterator[None]:
    """Says what helps where memory ends inside: passes of fewer ``rows``, not fewer images in flight.

    Raises:
        RunError: one line, in place of what torch or Python said.
    """
    try:
        yield
    except Exception as error:
        if not ran_out(error):
            raise
        less = f"a smaller --rows (it is {rows}), or --rows auto in a new run" if rows > 1 else "a smaller model"
        raise RunError(f"out of memory in a pass: {less} needs less; what was computed is kept") from error


def weights_of(model: object) -> list[nn.Parameter]:
    """What ``model.parameters()`` gives; nothing where there is no such method."""
    parameters: Callable[[], Iterator[nn.Parameter]] | None = getattr(model, "parameters", None)
    return list(parameters()) if parameters is not None else []


@contextmanager
def frozen(model: object) -> Iterator[None]:
    """Weights need no gradient inside, and are as they were afterwards.

    Saved activations shrink and a backward pass reaches the pixels without touching any weight.
    """
    with frozen_weights(weights_of(model)):
        yield


@contextmanager
def frozen_weights(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """As :func:`frozen`, for weights that were looked up before: a large model has thousands."""
    wanted = [weight for weight in weights if weight.requires_grad]
    for weight in wanted:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in wanted:
            weight.requires_grad_(True)


@contextmanager
def float32_only(device: torch.device) -> Iterator[None]:
    """No autocast and no TF32 inside: what a verdict is computed with."""
    restore = _switch_tf32_off()
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        restore()


def _switch_tf32_off() -> Callable[[], None]:
    """Returns what puts back what was."""
    try:
        before, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:  # somebody set it by place, and torch lets nobody read it as a whole
        return _switch_off_by_place()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False  # torch's default is True, and a patch embedding is a convolution

    def restore() -> None:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolutions

    return restore


def _switch_off_by_place() -> Callable[[], None]:
    backends: Any = torch.backends
    places = (backends.cuda.matmul, backends.mkldnn.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    before = [place.fp32_precision for place in places]
    for place in places:
        place.fp32_precision = "ieee"

    def restore() -> None:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision

    return restore
