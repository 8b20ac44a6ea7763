"""Random numbers that depend on a key and on nothing else.

A verdict must not depend on batch size, order, or which process an example went to. So each example draws from its
own generator, keyed by (seed, example, attack, restart), on the CPU whatever the device: the same key gives the same
numbers everywhere.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def generator(*key: str | int) -> torch.Generator:
    """A CPU generator seeded by the hash of ``key``."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's own CPU generator starts from ``seed`` inside, and is the caller's again afterwards.

    For what cannot be given a key: a random encoder in training draws from it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class Draws:
    """Inside (``with``), the global generators begin where ``key`` says; a second time, where the first one ended.

    Torch's on the CPU and on ``device``, NumPy's and Python's, which are the caller's again afterwards. For what cannot
    be given a key: a random encoder in evaluation draws from them. One with a generator of its own is out of reach.

    Args:
        device: Where the model draws, if not on the CPU.
        key: As that of :func:`generator`.
    """

    def __init__(self, device: torch.device, *key: str | int) -> None:
        self._device, self._seed = device, generator(*key).initial_seed()
        self._own: tuple[Any, ...] | None = None
        self._callers: tuple[Any, ...] = ()

    def __enter__(self) -> None:
        self._callers = self._states()
        if self._own is not None:
            self._put(self._own)
            return
        torch.default_generator.manual_seed(self._seed)
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                torch.cuda.manual_seed(self._seed)
        np.random.seed(self._seed % 2**32)
        random.seed(self._seed)

    def __exit__(self, *error: object) -> None:
        self._own = self._states()
        self._put(self._callers)

    def _states(self) -> tuple[Any, ...]:
        device = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        return torch.get_rng_state(), device, np.random.get_state(), random.getstate()

    def _put(self, states: tuple[Any, ...]) -> None:
        cpu, device, arrays, python = states
        torch.set_rng_state(cpu)
        if device is not None:
            torch.cuda.set_rng_state(device, self._device)
        np.random.set_state(arrays)
        random.setstate(python)


def uniform(keys: Sequence[tuple[str | int, ...]], shape: Sequence[int], *, device: torch.device) -> Tensor:
    """One row of uniform numbers for each key.

    Args:
        keys: B keys.
        shape: Shape of one row.
        device: Where the result goes.

    Returns:
        (B, *shape) float32 in [0, 1); row i depends on ``keys[i]`` alone.
    """
    rows = torch.empty(len(keys), *shape, dtype=torch.float32)
    for row, key in zip(rows, keys, strict=True):
        row.uniform_(generator=generator(*key))
    return rows.to(device)
