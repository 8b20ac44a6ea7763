"""The same images, embedded by two models, each through its own geometry and then the task's corruption."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError, DataError, ModelError
from zsrobust.evaluation import device_of
from zsrobust.passes import float32_only, frozen, in_rows
from zsrobust.pixels import to_pixels
from zsrobust.tasks.base import Task, stratified_order
from zsrobust.tasks.corruptions import Corruption
from zsrobust.tasks.folder import FolderSource
from zsrobust.tasks.images import is_image
from zsrobust.tasks.source import Source, hidden


@dataclass(frozen=True)
class Pictures:
    """Images to embed, with labels (n,) where they are known; ``of``: how many there are without a limit."""

    name: str
    source: Source
    rows: NDArray[np.int64]
    of: int
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    note: str = ""
    corruption: Corruption | None = None

    def only(self, positions: Sequence[int] | NDArray[np.int64]) -> Pictures:
        """Some of them."""
        chosen = np.asarray(positions, dtype=np.int64)
        return replace(self, rows=self.rows[chosen], labels=None if self.labels is None else self.labels[chosen])

    def take(self, limit: int, seed: int) -> Pictures:
        """At most ``limit`` of them at random, stratified by label."""
        strata = np.zeros(len(self.rows), dtype=np.int64) if self.labels is None else self.labels
        return self.only(np.sort(stratified_order(self.rows, strata, seed)[:limit]))

    def pair(self, models: tuple[Encoder, Encoder], row: int) -> list[NDArray[np.uint8]]:
        """A row as both models get it: the pixels of the task ``with_geometry`` of each.

        Raises:
            DataError: the image is unreadable, or does not fit a geometry.
            ConfigError: a corruption at two sizes; its constants and its noise would be others for each model.
        """
        image = self.source.image(row)
        try:
            pair = [np.ascontiguousarray(model.geometry(image)) for model in models]
        except DataError as problem:
            raise DataError(f"{self.source.name(row)} {problem}") from problem
        if self.corruption is None:
            return pair
        if pair[0].shape != pair[1].shape:
            sizes = " and ".join(f"{p.shape[0]}x{p.shape[1]} ('{m.name}')" for p, m in zip(pair, models, strict=True))
            raise ConfigError(
                f"'{self.name}' is corrupted at a model's input size, and would be two different things at {sizes}; "
                "drift needs the task without corruption, or two models of one size"
            )
        return [self.corruption(pixels, self.source.image_id(row)) for pixels in pair]


def from_task(task: Task) -> Pictures:
    """The decoded images of a task, before its own geometry and corruption; labels where it has several classes."""
    labelled = len(task.class_names) > 1
    labels = np.asarray(task.labels) if labelled else None
    names = task.class_names if labelled else ()
    return Pictures(
        task.name, task.source, np.asarray(task.ids), len(task), labels, names, task.templates,
        corruption=task.corruption,
    )  # fmt: skip


def from_folder(root: Path) -> Pictures:
    """Every image below ``root``, sorted by path; what is no image, or hidden, is passed over as in a task's folder."""
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"images folder '{root}' {what}")
    files: list[Path] = []
    linked = 0
    for here, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not hidden(Path(name))]
        linked += sum(Path(here, name).is_symlink() for name in folders)  # os.walk does not go into them
        files += [Path(here, name) for name in names if is_image(name)]
    if not files:
        raise DataError(f"{root} has no images, at any depth")
    files.sort(key=lambda path: path.relative_to(root).as_posix())
    note = f"{linked} linked folder{'s' if linked > 1 else ''} in {root} not followed" if linked else ""
    source = FolderSource(
        where=str(root), kind="folder", labels=np.zeros(len(files), dtype=np.int64), files=tuple(files)
    )
    return Pictures(str(root), source, np.arange(len(files)), len(files), note=note)


@dataclass
class Kept:
    """Which images were embedded (positions), and which not."""

    positions: list[int] = field(default_factory=list)
    duplicates: int = 0
    bad: list[str] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)


def embed(
    models: tuple[Encoder, Encoder], pictures: Pictures, batch_size: int, skip: bool, progress: bool
) -> tuple[Tensor, Tensor, Kept]:
    """Raw features (n, D) float32 of both models, on the CPU, and which images they are of.

    Raises:
        ConfigError: a corruption, and models of two input sizes.
        DataError: an unreadable image without ``skip``, or no image at all can be read.
        ModelError: the widths differ, or features are not finite or zero.
    """
    kept = Kept()
    features: tuple[list[Tensor], list[Tensor]] = ([], [])
    bar = tqdm(
        total=len(pictures.rows), desc="embedding", unit="image", disable=None if progress else True, leave=False
    )
    with bar:
        for first in range(0, len(pictures.rows), batch_size):
            positions = range(first, min(first + batch_size, len(pictures.rows)))
            batch = _decoded(models, pictures, positions, skip, kept)
            if batch:
                for model, found, images in zip(models, features, zip(*batch, strict=True), strict=True):
                    found.append(_features(model, np.stack(images), batch_size))
                _same_width(models, features)
            bar.update(len(positions))
    if not kept.positions:
        raise DataError(f"{pictures.name}: no image can be read; the first: {kept.bad[0]}")
    return torch.cat(features[0]), torch.cat(features[1]), kept


def _decoded(
    models: tuple[Encoder, Encoder], pictures: Pictures, positions: Sequence[int], skip: bool, kept: Kept
) -> list[list[NDArray[np.uint8]]]:
    """Each image as both models get it, without duplicates and, with ``skip``, without unreadable ones."""
    batch = []
    for position in positions:
        row = int(pictures.rows[position])
        try:
            pair = pictures.pair(models, row)
        except DataError as problem:
            if not skip:
                raise DataError(f"{problem}; --on_bad_image skip leaves such images out") from problem
            kept.bad.append(str(problem))
            continue
        content = hashlib.blake2b(pair[0].tobytes() + pair[1].tobytes(), digest_size=16).digest()
        if content in kept.seen:
            kept.duplicates += 1
            continue
        kept.seen.add(content)
        kept.positions.append(position)
        batch.append(pair)
    return batch


def _features(model: Encoder, images: NDArray[np.uint8], rows: int) -> Tensor:
    device = device_of(model)
    with torch.no_grad(), frozen(model), float32_only(device):
        pixels = to_pixels(images).to(device)
        (found,) = in_rows(lambda part: (model.encode_pixels(part),), rows)(pixels)
        features: Tensor = found.float().cpu()
    if not features.isfinite().all() or not (features.norm(dim=1) > 0).all():
        raise ModelError(f"'{model.name}' gives features that are not finite, or zero: they have no cosine")
    return features


def _same_width(models: tuple[Encoder, Encoder], features: tuple[list[Tensor], list[Tensor]]) -> None:
    widths = [found[0].shape[1] for found in features]
    if widths[0] != widths[1]:
        told = " and ".join(f"'{model.name}' in {width}" for model, width in zip(models, widths, strict=True))
        raise ModelError(f"{told} numbers: embeddings of different widths cannot be compared, nor share an index")
