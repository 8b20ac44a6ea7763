"""Data sets as their original archives unpack, where one folder a class is not what comes out.

A TOML says ``[source] layout = "pets"``; its folder may then hold either what the archive unpacks to (there, or up to
two folders down) or one folder a class. Facts about the layouts are those of torchvision's loaders
(pytorch/vision, torchvision/datasets) and, for hateful memes and CIFAR's binary form, of the archives' read-me files.
Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from zsrobust.errors import DataError
from zsrobust.tasks.archives import binary, listed, nested
from zsrobust.tasks.source import Source, hidden

MOST_FOLDERS = 20
"""A folder with more folders than this holds classes, and nothing else is looked for below it."""


@dataclass(frozen=True)
class Archive:
    """One archive's layout.

    Attributes:
        marks: Files or folders; a folder that has one of them holds the archive, whole or in part.
        open: (that folder, split) → the data; None where it is something else under the same names.
        needs: What a folder with a mark must have besides; where it is missing the data is incomplete.
    """

    marks: tuple[str, ...]
    open: Callable[[Path, str], Source | None]
    needs: tuple[str, ...] = ()


ARCHIVES: dict[str, Archive] = {
    "aircraft": Archive(("variants.txt", "images_variant_test.txt"), listed.aircraft, ("variants.txt", "images")),
    "caltech101": Archive(("101_ObjectCategories", nested.BACKGROUND), nested.caltech101),
    "caltech256": Archive(("256_ObjectCategories", "001.ak47"), nested.caltech256),
    "cars": Archive(("devkit", "cars_test"), listed.cars, ("devkit/cars_meta.mat",)),
    "cifar10": Archive(("test_batch.bin", "test_batch", "data_batch_1"), binary.cifar10),
    "cifar100": Archive(("fine_label_names.txt", "meta"), binary.cifar100),
    "country211": Archive(("valid",), nested.country211),
    "dtd": Archive(("labels",), listed.dtd, ("images",)),
    "eurosat": Archive(("2750", "EuroSAT_RGB"), nested.eurosat),
    "flowers102": Archive(
        ("setid.mat", "imagelabels.mat", "jpg"), listed.flowers102, ("setid.mat", "imagelabels.mat", "jpg")
    ),
    "food101": Archive(("meta",), listed.food101, ("images",)),
    "hateful-memes": Archive(("test_seen.jsonl", "train.jsonl"), listed.hateful_memes, ("img",)),
    "imagenet": Archive(("train", "val", "validation", "ILSVRC2012_img_val"), nested.imagenet),
    "pcam": Archive((binary.pcam_file("test", "x"), binary.pcam_file("test", "x") + ".gz"), binary.pcam),
    "pets": Archive(("annotations", "images"), listed.pets, ("annotations", "images")),
    "stl10": Archive(("test_X.bin", "train_X.bin"), binary.stl10),
    "sun397": Archive(("ClassName.txt",), nested.sun397),
}
"""Word of a TOML's ``layout`` → the archive."""


def open_archive(layout: str, root: Path, split: str) -> Source | None:
    """Open one split of an unpacked archive; None where there is none, so that one folder a class may be tried.

    Raises:
        NoSplit: the archive has no such split.
        DataError: it is incomplete or broken, or of a form that is not read (with the form that is).
    """
    archive = ARCHIVES[layout]
    if layout == "imagenet":
        nested.refuse_flat_imagenet(root)
    base = _base(root, archive)
    if base is None:
        return None
    if missing := [need for need in archive.needs if not (base / need).exists()]:
        raise DataError(
            f"{base} looks like the archive of {layout}, but {', '.join(missing)} is missing; "
            "unpack all of the archive there, or give one folder a class"
        )
    return archive.open(base, split)


def _base(root: Path, archive: Archive) -> Path | None:
    for folder in _candidates(root):
        if any((folder / mark).exists() for mark in archive.marks):
            return folder
    return None


def _candidates(root: Path) -> Iterator[Path]:
    """The folder, then the folders in it, then those in them."""
    level = [root]
    for _ in range(3):
        yield from level
        level = [below for folder in level for below in _few_folders(folder)]


def _few_folders(folder: Path) -> list[Path]:
    below = sorted(path for path in folder.iterdir() if path.is_dir() and not hidden(path))
    return below if len(below) <= MOST_FOLDERS else []
