"""What a training batch is labelled with: the data's labels, the unadapted model's, or nothing.

The paper replaces labels by the zero-shot predictions of the unadapted model where there are none; its formula could
not be seen here. With p = softmax of the unadapted model's logits on the clean image: ``hard`` is arg max p, ``soft``
is p itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from zsrobust.errors import ConfigError
from zsrobust.methods.base import Batch, Learner, Method
from zsrobust.methods.gathering import Share, gathered

Labels = Literal["true", "hard", "soft", "none"]


def check(method: Method, labels: Labels) -> None:
    """Refuses what could only be an accident.

    Raises:
        ConfigError: the method needs labels and there are to be none, or the other way round.
    """
    if labels == "none" and method.labelled:
        raise ConfigError(f"method '{method.name}' needs labels: true ones, or hard or soft pseudo-labels; not none")
    if labels in ("hard", "soft") and not method.labelled:
        raise ConfigError(f"method '{method.name}' reads no labels: leave labels at true, or say none; not {labels}")
    if labels == "soft" and method.one_label:
        raise ConfigError(f"method '{method.name}' needs one label for each image: true or hard ones, not soft")


def fewest(method: Method) -> int:
    """Images that a batch must have: with options that compare none, a method does with one."""
    return method.fewest if method.compares() else 1


def check_batches(method: Method, size: int, images: int) -> None:
    """Refuses batches of ``size`` of so many images if the method's losses say nothing about the smallest of them.

    The last batch of an epoch takes what is left, which can be one image.

    Raises:
        ConfigError: they do not.
    """
    need, most, last = fewest(method), min(size, images), images % size
    needs = f"{method.name} compares images of a batch: it needs at least {need}"
    if most < need:
        raise ConfigError(f"{needs}, not {most}")
    if 0 < last < need:
        raise ConfigError(
            f"{needs}, and of {images} images in batches of {size} the last batch of an epoch has {last}: take another "
            "batch_size"
        )


def check_split(method: Method, processes: int, rows: int | None) -> None:
    """Refuses to take a batch in pieces if the method's losses compare its images.

    Args:
        method: Whose losses.
        processes: That share a batch.
        rows: Rows that are passed at once; None: all.

    Raises:
        ConfigError: they do.
    """
    if not method.compares():
        return
    if rows is not None:
        raise ConfigError(f"{method.name} compares images of a batch: micro_batch must be null, not {rows}")
    if processes > 1 and not method.gathers():
        raise ConfigError(
            f"{method.name} with these options compares images of a batch, which {processes} processes cannot share: "
            "use one process"
        )


@torch.no_grad()
def prepare(
    learner: Learner, method: Method, pixels: Tensor, truth: Tensor, labels: Labels, share: Share | None = None
) -> Batch:
    """The batch of a step: ``pixels`` (B, 3, H, W) with ``truth`` (B,), pseudo-labels or none, and with anchors.

    A method that reads no labels gets none, so that it cannot. ``share``: which rows of a larger batch these are.
    """
    batch = Batch(pixels, truth if method.labelled and labels == "true" else None, share=share)
    if method.labelled and labels in ("hard", "soft"):
        original = learner.original
        logits = learner.head(original.encode_pixels(pixels), original.logit_scale)
        if labels == "hard":
            batch = replace(batch, labels=logits.argmax(1))
        else:
            batch = replace(batch, targets=logits.softmax(1))
    if method.anchor is not None:
        whose = learner.original if method.anchor == "original" else learner.encoder
        anchors = whose.encode_pixels(pixels).float()
        batch = replace(batch, anchors=anchors)
        if share is not None and method.compares():
            batch = replace(batch, bank=gathered(anchors, share))
    return batch
