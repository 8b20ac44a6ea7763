"""What a method is: a min–max, so two functions; and what they compute with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError
from zsrobust.losses import cross_entropy, soft_cross_entropy
from zsrobust.methods.gathering import Share
from zsrobust.text_head import TextHead


@dataclass(frozen=True)
class Batch:
    """B training examples.

    Attributes:
        pixels: (B, 3, H, W) clean images in [0, 1], in the threat's space.
        labels: (B,) int64, index into the head's class names: true or hard pseudo-labels. None where a run uses none,
            or soft ones.
        targets: (B, C) probabilities of the classes: soft pseudo-labels, in place of ``labels``.
        anchors: (B, D) features of the clean images without gradient, where the method asks for an ``anchor``.
        share: Which rows of a larger batch these are, where several processes share one; None: they are the batch.
        bank: (share.of, D) the anchors of the whole batch, where there is a share and the method compares images.
    """

    pixels: Tensor
    labels: Tensor | None
    targets: Tensor | None = None
    anchors: Tensor | None = None
    share: Share | None = None
    bank: Tensor | None = None

    def rows(self, first: int, end: int) -> Batch:
        """Examples ``first`` … ``end`` − 1; of a method that does not compare them."""
        if first == 0 and end >= len(self.pixels):
            return self
        labels, targets, anchors = (
            None if part is None else part[first:end] for part in (self.labels, self.targets, self.anchors)
        )
        return replace(self, pixels=self.pixels[first:end], labels=labels, targets=targets, anchors=anchors)

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """Cross-entropy of logits (B, C) against the labels, or against the soft targets: (B,).

        Raises:
            ConfigError: the batch has neither.
        """
        if self.targets is not None:
            return soft_cross_entropy(logits, self.targets)
        if self.labels is None:
            raise ConfigError("the method needs labels, and this batch has none")
        return cross_entropy(logits, self.labels)


@dataclass(frozen=True)
class Learner:
    """What a method may compute with.

    Attributes:
        encoder: The model being adapted.
        original: The same model before adaptation; its weights never change.
        head: Text head of all classes of the training task, from the original's text tower.
        extra: What the method trains beside the encoder (:meth:`Method.extra`); None: nothing.
    """

    encoder: Encoder
    original: Encoder
    head: TextHead
    extra: nn.Module | None = None

    def logits(self, pixels: Tensor, scale: float | None = None) -> Tensor:
        """(B, 3, H, W) → (B, C) logits of the model being adapted; ``scale``: instead of its own logit scale."""
        return self.head(self.encoder.encode_pixels(pixels), self.scale(scale))

    def scale(self, scale: float | None) -> float:
        """``scale``, or where it is None the logit scale of the model being adapted."""
        return self.encoder.logit_scale if scale is None else scale


@runtime_checkable
class Method(Protocol):
    """An adversary that maximises ``inner`` and a learner that minimises ``outer``.

    A method inherits from this class, which gives it what most methods share; it must write ``name``, ``inner``,
    ``outer`` and ``describe``.

    Attributes:
        name: As in the catalogue.
        adversarial: Whether there is an adversary; without one, ``points`` are the clean pixels.
        fewest: Images that a batch must have for the losses to say anything, where they compare its images.
        labelled: Whether the losses read labels, true or pseudo.
        one_label: Whether each image must have one label: soft ones will not do.
        anchor: Whose features of the clean images come with each batch as ``anchors``: those of the model being
            adapted (as it is at the beginning of the step), of the original, or None: nobody's.
    """

    name: str
    adversarial: ClassVar[bool] = True
    fewest: ClassVar[int] = 1
    labelled: ClassVar[bool] = True
    one_label: ClassVar[bool] = False
    anchor: ClassVar[Literal["adapted", "original"] | None] = None

    def inner(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """What the adversary maximises: per-example values (B,) at ``points`` (B, 3, H, W)."""
        ...

    def outer(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        """What the learner minimises: per-example losses (B,), given the adversary's ``points`` (B, 3, H, W)."""
        ...

    def describe(self) -> Mapping[str, object]:
        """The method's options, JSON-able; stored with the adapted model."""
        ...

    def extra(self, width: int, classes: int, seed: int) -> nn.Module | None:
        """What the method needs beside the encoder, for features of ``width`` and so many classes; None: nothing.

        Its parameters are trained with the encoder and dropped with the end of the run; its buffers are fixed.
        """
        return None

    def extra_lr(self, lr: float) -> float:
        """Peak learning rate of what :meth:`extra` returns, where that of the model is ``lr``."""
        return lr

    def views(self, pixels: Tensor, keys: Sequence[tuple[str | int, ...]]) -> Tensor:
        """The clean images (B, 3, H, W) in [0, 1] that a step is about, drawn by one key for each; as they are here.

        A method that reads no labels may change what is on them; adversary and anchors start from what comes back.
        """
        return pixels

    def logits(self, learner: Learner, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, C): the classifier that the method trains, on the classes of its training task.

        Held-out images are scored with it while training. The text head, unless the method has a head of its own.
        """
        return learner.logits(pixels)

    def compares(self) -> bool:
        """Whether an image's loss or views depend on the other images of its batch: it cannot be taken in pieces then.

        A method that needs more than one image in a batch is taken to compare them, unless it says otherwise.
        """
        return self.fewest > 1

    def gathers(self) -> bool:
        """Of a method that compares images: whether its losses look at a whole batch that several processes share.

        They then read ``share`` and ``bank`` of the batch, and get the others' features by
        :func:`~zsrobust.methods.gathering.gathered`.
        """
        return False


def checked_scale(method: Method) -> None:
    """Refuses a ``scale`` of the method that is not above 0.

    Raises:
        ConfigError: it is not.
    """
    checked_positive(method, "scale")


def checked_positive(method: Method, option: str) -> None:
    """Refuses an option of the method that is neither None nor a number above 0.

    Raises:
        ConfigError: it is not.
    """
    value: object = getattr(method, option, None)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and 0 < value < math.inf):  # type: ignore[operator]
        raise ConfigError(f"{method.name}'s {option} must be above 0, not {value!r}")


def checked_weight(method: Method, option: str) -> None:
    """Refuses an option of the method that is no number of at least 0.

    Raises:
        ConfigError: it is not.
    """
    value: object = getattr(method, option)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 <= value < math.inf):  # type: ignore[operator]
        raise ConfigError(f"{method.name}'s {option} must be at least 0, not {value!r}")
