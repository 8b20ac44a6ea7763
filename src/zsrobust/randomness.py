"""Random numbers that depend on a key and on nothing else.

A verdict must not depend on batch size, order, or which process an example went to. So each example draws from its
own generator, keyed by (seed, example, attack, restart), on the CPU whatever the device: the same key gives the same
numbers everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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
