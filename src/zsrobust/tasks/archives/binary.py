"""Archives whose images are raw pixels in a few large files: STL-10, CIFAR's binary form, PCam's HDF5."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from zsrobust.errors import DataError
from zsrobust.tasks.archives.listed import KIND, text_lines
from zsrobust.tasks.generated import Generated
from zsrobust.tasks.source import as_labels, no_split

_PICKLES = (
    "holds Python pickles, which can run any code when they are opened, so they are not read; "
    "use the binary version ({binary}) or a parquet file"
)


@dataclass
class RawImages(Generated):
    """Square images of one byte a value, three planes each, one after the other in files.

    Attributes:
        files: In order.
        starts: The first row of each file.
        side: Height and width.
        head: Bytes before each image: its labels.
        by_columns: Planes are stored column after column.
    """

    files: tuple[Path, ...] = ()
    starts: tuple[int, ...] = ()
    side: int = 32
    head: int = 0
    by_columns: bool = False

    def pixels(self, row: int) -> np.ndarray:
        """(side, side, 3) uint8."""
        number = bisect_right(self.starts, row) - 1
        length = 3 * self.side**2
        with self.files[number].open("rb") as file:
            file.seek((row - self.starts[number]) * (self.head + length) + self.head)
            planes = np.frombuffer(file.read(length), dtype=np.uint8)
        if planes.size < length:
            raise DataError(f"{self.name(row)}: cannot be read as an image ({self.files[number].name} ends within it)")
        planes = planes.reshape(3, self.side, self.side)
        return np.ascontiguousarray(planes.transpose((2, 1, 0) if self.by_columns else (1, 2, 0)))


@dataclass
class PcamImages(Generated):
    """Rows of an HDF5 table of images; the file is opened for each, so that the source can go to other processes."""

    file: Path = Path()

    def pixels(self, row: int) -> np.ndarray:
        """(96, 96, 3) uint8."""
        with _h5py().File(self.file, "r") as table:
            return np.asarray(table["x"][row], dtype=np.uint8)


def stl10(base: Path, split: str) -> RawImages:
    """STL-10: ``test_X.bin`` (planes by columns), ``test_y.bin`` (classes from 1) and ``class_names.txt``."""
    if split not in ("train", "test"):
        raise no_split(str(base), split, ["train", "test"])
    images, file = base / f"{split}_X.bin", base / f"{split}_y.bin"
    labels = np.frombuffer(_content(file), dtype=np.uint8).astype(np.int64) - 1
    if images.stat().st_size != len(labels) * 3 * 96**2:
        raise DataError(f"{images} has not the size of the {len(labels):,} images that {file.name} speaks of")
    names = base / "class_names.txt"
    return RawImages(
        where=str(base), kind=KIND, labels=as_labels(labels.tolist(), str(file)), split=split,
        data_classes=tuple(text_lines(names)) if names.exists() else None, files=(images,), starts=(0,), side=96,
        by_columns=True,
    )  # fmt: skip


def cifar10(base: Path, split: str) -> RawImages:
    """CIFAR-10, binary version: ``test_batch.bin`` of ``<label><3072 bytes>``, …, ``batches.meta.txt``."""
    if not (base / "test_batch.bin").exists():
        raise DataError(f"{base} {_PICKLES.format(binary='cifar-10-binary.tar.gz')}")
    files = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
    return _cifar(base, split, files, "batches.meta.txt", head=1)


def cifar100(base: Path, split: str) -> RawImages:
    """CIFAR-100, binary version: ``test.bin`` of ``<coarse label><label><3072 bytes>``, ``fine_label_names.txt``."""
    if not (base / "fine_label_names.txt").exists():
        raise DataError(f"{base} {_PICKLES.format(binary='cifar-100-binary.tar.gz')}")
    return _cifar(base, split, {"train": ["train.bin"], "test": ["test.bin"]}, "fine_label_names.txt", head=2)


def pcam(base: Path, split: str) -> PcamImages:
    """PatchCamelyon: ``camelyonpatch_level_2_split_test_x.h5`` and ``_y.h5``, labels 0 and 1; needs h5py."""
    words = {"train": "train", "validation": "valid", "test": "test"}
    if split not in words:
        raise no_split(str(base), split, list(words))
    images, file = (base / pcam_file(words[split], part) for part in "xy")
    for path in (images, file):
        if not path.exists():
            packed = path.with_name(path.name + ".gz").exists()
            raise DataError(f"{path} is missing{'; unpack it: gunzip ' + path.name + '.gz' if packed else ''}")
    try:
        with _h5py().File(file, "r") as table:
            labels = np.asarray(table["y"][:]).reshape(-1)
    except (OSError, KeyError) as problem:
        raise DataError(f"{file} is not a readable HDF5 file of labels ({str(problem).splitlines()[0]})") from problem
    return PcamImages(
        where=str(base),
        kind=KIND,
        labels=as_labels([int(label) for label in labels], str(file)),
        split=split,
        file=images,
    )


def pcam_file(split: str, part: str) -> str:
    """A file's name; ``part`` is x (images) or y (labels)."""
    return f"camelyonpatch_level_2_split_{split}_{part}.h5"


def _cifar(base: Path, split: str, files: dict[str, list[str]], names: str, *, head: int) -> RawImages:
    if split not in files:
        raise no_split(str(base), split, list(files))
    paths = [base / name for name in files[split]]
    length = head + 3 * 32**2
    labels: list[np.ndarray] = []
    for path in paths:
        content = np.frombuffer(_content(path), dtype=np.uint8)
        if content.size % length:
            raise DataError(f"{path} is not whole: its size is no multiple of {length} bytes an image")
        labels.append(content.reshape(-1, length)[:, head - 1])
    starts = [0, *accumulate(len(part) for part in labels)][:-1]
    return RawImages(
        where=str(base), kind=KIND, labels=as_labels(np.concatenate(labels).tolist(), str(base)), split=split,
        data_classes=tuple(text_lines(base / names)), files=tuple(paths), starts=tuple(starts), head=head,
    )  # fmt: skip


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as problem:
        raise DataError(f"{path} is missing; unpack all of the archive there") from problem


def _h5py() -> Any:
    try:
        return import_module("h5py")
    except ImportError as problem:
        raise DataError(
            "PCam's .h5 files need h5py: pip install h5py; or give the images as a parquet file or one folder a class"
        ) from problem
