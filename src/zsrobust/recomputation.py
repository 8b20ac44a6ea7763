"""Activations that are computed a second time on the way back, in place of being kept.

Chen, Xu, Zhang, Guestrin 2016 (arXiv 1604.06174): of each block only its input is kept; memory then grows with the
number of blocks, not of their layers, and a training pass costs one forward pass more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from zsrobust.encoders.base import Encoder
from zsrobust.errors import ModelError


def blocks_of(encoder: Encoder) -> list[Any]:
    """The transformer blocks of a visual tower of transformers, prompted or not.

    Raises:
        ModelError: it has none that are known.
    """
    model = getattr(getattr(encoder, "base", encoder), "model", None)
    layers = getattr(getattr(getattr(model, "vision_model", None), "encoder", None), "layers", None)
    if not layers:
        raise ModelError(
            f"checkpoint_activations takes a visual tower with the blocks of transformers' CLIP or SigLIP, and "
            f"'{encoder.name}' has none"
        )
    return list(layers)


@contextmanager
def recomputed(encoder: Encoder) -> Iterator[None]:
    """Inside, a pass keeps of each block what enters it; its backward pass, which may come later, computes the rest."""
    blocks = blocks_of(encoder)
    before = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        # Nothing in a block is random: towers are adapted in evaluation mode.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            del block.forward
            if own is not None:
                block.forward = own
