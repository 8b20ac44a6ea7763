"""Archives with a text or .mat file that lists the images of each split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from zsrobust.errors import DataError
from zsrobust.tasks.folder import FolderSource
from zsrobust.tasks.source import as_labels, no_split, shown_names

KIND = "archive"


def pets(base: Path, split: str) -> FolderSource:
    """Oxford-IIIT Pet: ``images/NAME_12.jpg``; ``annotations/test.txt`` with lines ``NAME_12 class species breed``.

    Classes are numbered from 1 there; their names are the file names'.
    """
    file = base / _chosen(base, split, {"test": "annotations/test.txt", "train": "annotations/trainval.txt"})
    rows = [_fields(line, file, 4) for line in text_lines(file) if not line.startswith("#")]
    names: dict[int, str] = {}
    for image, number, *_ in rows:
        name = image.rpartition("_")[0]
        if names.setdefault(_whole(number, file), name) != name:
            raise DataError(f"{file}: class {number} is called both '{names[int(number)]}' and '{name}'")
    ordered = [names[number] for number in sorted(names)]
    paths = [base / "images" / f"{image}.jpg" for image, *_ in rows]
    return by_names(base, paths, [image.rpartition("_")[0] for image, *_ in rows], ordered)


def cars(base: Path, split: str) -> FolderSource:
    """Stanford Cars: ``cars_test/``, ``devkit/cars_meta.mat``, ``cars_test_annos_withlabels.mat``; classes from 1."""
    _chosen(base, split, {"test": "", "train": ""})
    if split == "train":
        file = base / "devkit" / "cars_train_annos.mat"
    else:
        called = "cars_test_annos_withlabels.mat"
        file = base / called if (base / called).exists() else base / "devkit" / called
    annotations = np.atleast_1d(_mat(file, "annotations"))
    try:
        paths = [base / f"cars_{split}" / str(name) for name in annotations["fname"]]
        labels = [int(number) - 1 for number in annotations["class"]]
    except (KeyError, ValueError, IndexError, TypeError) as problem:
        raise DataError(
            f"{file} has no fname and class of every image (cars_test_annos.mat has no labels)"
        ) from problem
    names = [str(name) for name in np.atleast_1d(_mat(base / "devkit" / "cars_meta.mat", "class_names"))]
    return _source(base, paths, as_labels(labels, str(file)), names)


def food101(base: Path, split: str) -> FolderSource:
    """Food-101: ``images/apple_pie/1.jpg``, and ``meta/test.txt`` with lines ``apple_pie/1``."""
    file = base / _chosen(base, split, {"test": "meta/test.txt", "train": "meta/train.txt"})
    lines = text_lines(file)
    paths = [base / "images" / f"{line}.jpg" for line in lines]
    return by_names(base, paths, [line.partition("/")[0] for line in lines])


def flowers102(base: Path, split: str) -> FolderSource:
    """Oxford Flowers 102: ``jpg/image_00001.jpg``, ``imagelabels.mat`` (classes from 1, no names) and ``setid.mat``."""
    key = _chosen(base, split, {"train": "trnid", "validation": "valid", "test": "tstid"})
    images = [int(number) for number in np.atleast_1d(_mat(base / "setid.mat", key))]
    labels = np.atleast_1d(_mat(base / "imagelabels.mat", "labels"))
    if images and not 1 <= min(images) <= max(images) <= len(labels):
        raise DataError(f"{base / 'setid.mat'} speaks of image {max(images)}, but imagelabels.mat has {len(labels)}")
    paths = [base / "jpg" / f"image_{number:05d}.jpg" for number in images]
    return _source(base, paths, as_labels([int(labels[number - 1]) - 1 for number in images], str(base)), None)


def aircraft(base: Path, split: str) -> FolderSource:
    """FGVC Aircraft, variants: ``images/0034309.jpg``; ``images_variant_test.txt`` with lines ``0034309 707-320``."""
    words = {"train": "train", "validation": "val", "trainval": "trainval", "test": "test"}
    file = base / f"images_variant_{_chosen(base, split, words)}.txt"
    rows = [_fields(line, file, 2) for line in text_lines(file)]
    paths = [base / "images" / f"{image}.jpg" for image, _ in rows]
    return by_names(base, paths, [name for _, name in rows], text_lines(base / "variants.txt"))


def dtd(base: Path, split: str) -> FolderSource:
    """Describable Textures, partition 1: ``images/banded/banded_1.jpg``, and ``labels/test1.txt`` that lists those."""
    words = {"train": "train1", "validation": "val1", "test": "test1"}
    lines = text_lines(base / "labels" / f"{_chosen(base, split, words)}.txt")
    return by_names(base, [base / "images" / line for line in lines], [line.partition("/")[0] for line in lines])


def hateful_memes(base: Path, split: str) -> FolderSource:
    """Hateful Memes: ``img/1.png``; ``test_seen.jsonl`` with lines ``{"img": "img/1.png", "label": 0, …}``, no names.

    ``test`` is test_seen and then test_unseen, as the paper's code asks for them.
    """
    lists = {"train": "train", "dev_seen": "dev_seen", "dev_unseen": "dev_unseen", "test": "test_seen test_unseen"}
    paths: list[Path] = []
    labels: list[object] = []
    for word in _chosen(base, split, lists | {"test_seen": "test_seen", "test_unseen": "test_unseen"}).split():
        file = base / f"{word}.jsonl"
        for number, line in enumerate(text_lines(file), 1):
            try:
                row = json.loads(line)
                image, label = str(row["img"]), row["label"]
            except (json.JSONDecodeError, KeyError, TypeError) as problem:
                raise DataError(f"{file}, line {number}: no img and label (a test list without labels?)") from problem
            paths.append(base / image)
            labels.append(label)
    return _source(base, paths, as_labels(labels, str(base)), None)


def by_names(
    base: Path, paths: Sequence[Path], names: Sequence[str], known: Sequence[str] | None = None
) -> FolderSource:
    """A source from the class name of every image.

    Args:
        base: What messages call the data.
        paths: The images, in order.
        names: The class of each.
        known: All class names; None: those in ``names``, sorted.
    """
    ordered = sorted(set(names)) if known is None else list(known)
    number = {name: i for i, name in enumerate(ordered)}
    if unknown := sorted(set(names) - set(number)):
        raise DataError(f"{base}: images are listed under names that are no class of it: {shown_names(unknown, 3)}")
    return _source(base, paths, np.array([number[name] for name in names], dtype=np.int64), ordered)


def text_lines(file: Path) -> list[str]:
    """The lines of a text file that are not empty, stripped.

    Raises:
        DataError: it is missing or is no text.
    """
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError as problem:
        raise DataError(f"{file} is missing; unpack all of the archive there, or give one folder a class") from problem
    except UnicodeDecodeError as problem:
        raise DataError(f"{file} is not a text file") from problem


def _source(base: Path, paths: Sequence[Path], labels: np.ndarray, names: Sequence[str] | None) -> FolderSource:
    there = {folder: set(_names_in(folder)) for folder in {path.parent for path in paths}}
    missing = [path.relative_to(base).as_posix() for path in paths if path.name not in there[path.parent]]
    if missing:
        raise DataError(f"{base}: {len(missing)} of {len(paths)} listed images are missing: {shown_names(missing, 3)}")
    return FolderSource(
        where=str(base),
        kind=KIND,
        labels=labels,
        data_classes=None if names is None else tuple(names),
        files=tuple(paths),
    )


def _names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _chosen(base: Path, split: str, words: Mapping[str, str]) -> str:
    """What the archive calls a split."""
    if split not in words:
        raise no_split(str(base), split, list(words))
    return words[split]


def _fields(line: str, file: Path, count: int) -> list[str]:
    fields = line.split(maxsplit=count - 1)
    if len(fields) != count:
        raise DataError(f"{file}: the line '{line[:60]}' has not {count} fields")
    return fields


def _whole(text: str, file: Path) -> int:
    if not text.isdigit():
        raise DataError(f"{file}: '{text}' is not a class number")
    return int(text)


def _mat(file: Path, key: str) -> Any:
    """One variable of a MATLAB file; scipy comes with scikit-learn."""
    if not file.is_file():
        raise DataError(f"{file} is missing; unpack all of the archive there, or give one folder a class")
    try:
        return import_module("scipy.io").loadmat(file, squeeze_me=True)[key]
    except KeyError as problem:
        raise DataError(f"{file} has no '{key}'") from problem
    except Exception as problem:  # a damaged file fails in the reader's own ways
        raise DataError(f"{file} is not a readable MATLAB file ({str(problem).splitlines()[0]})") from problem
