"""A set of captioned images: which texts there are, and whose they are.

Every distinct text is one text: a caption that two images share is right for both, and is asked once.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsrobust.errors import DataError
from zsrobust.geometry import Geometry
from zsrobust.tasks import Task
from zsrobust.tasks.images import ORIENTATION
from zsrobust.tasks.loader import NATIVE_SIDE
from zsrobust.tasks.source import Source


@dataclass(frozen=True, eq=False)
class CaptionSet:
    """N images with captions.

    Attributes:
        name: What results call it.
        task: The images; it has no classes, all its labels are 0.
        captions: Row of the data → the image's captions, at least one, without outer blanks, none twice.
    """

    name: str
    task: Task
    captions: Sequence[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.task)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The T distinct captions of these images, in the order of the images."""
        return tuple(dict.fromkeys(text for row in self.task.ids for text in self.captions[int(row)]))

    @cached_property
    def own_texts(self) -> list[NDArray[np.int64]]:
        """For each of the N images the numbers of its texts."""
        number = {text: i for i, text in enumerate(self.texts)}
        return [np.array([number[t] for t in self.captions[int(row)]], dtype=np.int64) for row in self.task.ids]

    @cached_property
    def owners(self) -> list[NDArray[np.int64]]:
        """For each of the T texts the positions of its images."""
        found: list[list[int]] = [[] for _ in self.texts]
        for image, texts in enumerate(self.own_texts):
            for text in texts.tolist():
                found[text].append(image)
        return [np.array(images, dtype=np.int64) for images in found]

    def take(self, limit: int | None, *, seed: int = 0) -> CaptionSet:
        """At most ``limit`` images, drawn with ``seed``; fewer images are also fewer texts to tell apart.

        Raises:
            ConfigError: the limit is not at least 1.
            DataError: what is left cannot be ranked; see :func:`checked`.
        """
        taken = self if limit is None else replace(self, task=self.task.take(limit, seed=seed))
        return checked(taken)

    def describe(self) -> dict[str, Any]:
        """What a run stores about the set, as JSON; images and texts by the hash of their content."""
        digest = hashlib.sha256(json.dumps([self.texts, [o.tolist() for o in self.own_texts]]).encode())
        digest.update(self.task.fingerprint.encode())
        limit = self.task.limit
        return {
            "name": self.name,
            "images": len(self),
            "texts": len(self.texts),
            "of": self.task.of,
            "limit": limit and {"limit": limit[0], "seed": limit[1]},
            "geometry": self.task.geometry.describe(),
            "source": {"kind": self.task.source.kind, "where": self.task.source.where},
            "fingerprint": digest.hexdigest(),
        }


def caption_set(name: str, source: Source, captions: Sequence[Sequence[str]], *, split: str = "test") -> CaptionSet:
    """Images of a source with their captions; equal images (the same bytes) become one with the captions of all.

    Without that an image that comes once a caption would compete with itself.

    Args:
        name: What results call it.
        source: N rows.
        captions: For each row its captions as they are written.
        split: Of the source.

    Raises:
        DataError: there is no image, or one without a caption; it is named.
    """
    if len(source) == 0:
        raise DataError(f"{source.where} has no images")
    merged: dict[str, int] = {}
    kept: list[int] = []
    said: list[list[str]] = [[] for _ in range(len(source))]
    for row, texts in enumerate(captions):
        cleaned = [text.strip() for text in texts if text.strip()]
        if not cleaned:
            raise DataError(f"{source.where}: image '{source.name(row)}' has no caption")
        first = merged.setdefault(source.image_id(row), row)
        if first == row:
            kept.append(row)
        said[first] += cleaned
    ids = np.array(kept, dtype=np.int64)
    task = Task(
        name=name, version=1, description="", split=split, class_names=(), templates=(), follows_from=(),
        geometry=_native(source, kept), ids=ids, labels=np.zeros(len(ids), dtype=np.int64), source=source, of=len(ids),
    )  # fmt: skip
    return CaptionSet(name, task, [tuple(dict.fromkeys(texts)) for texts in said])


def checked(found: CaptionSet) -> CaptionSet:
    """The set itself, if every image has a foreign text and there are two images.

    Raises:
        DataError: it cannot be ranked.
    """
    where = found.task.source.where
    if len(found) < 2:
        raise DataError(f"{where}: {len(found)} captioned image; retrieval needs at least 2")
    for image, texts in enumerate(found.own_texts):
        if len(texts) == len(found.texts):
            name = found.task.image_name(image)
            raise DataError(
                f"{where}: image '{name}' has all {len(texts)} captions of the set, so none is wrong for it"
            )
    return found


def _native(source: Source, rows: Sequence[int]) -> Geometry:
    """Images of one size, none larger than ``NATIVE_SIDE``, keep it; otherwise the paper's 256/224, as for tasks.

    Every image is looked at until one is too large or of another size: one that is not would stop a run.
    """
    sizes = (_size(source, row) for row in rows)
    first = next(sizes)
    if max(first) <= NATIVE_SIDE and all(size == first for size in sizes):
        return Geometry(size=first)
    return Geometry(resize=256, crop=224)


def _size(source: Source, row: int) -> tuple[int, int]:
    """(height, width) of an image, from the head of its file if that is enough."""
    if source.encoded:
        from PIL import Image

        with suppress(Exception), Image.open(io.BytesIO(source.content(row))) as head:
            if head.width == head.height or head.getexif().get(ORIENTATION, 1) < 5:  # from 5 on it lies on its side
                return head.height, head.width
    image = source.image(row)
    return image.height, image.width
