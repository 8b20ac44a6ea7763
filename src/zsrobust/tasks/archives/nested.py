"""Archives with one folder a class, but deeper, under other names, or with more in them than classes."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

from zsrobust.errors import DataError
from zsrobust.tasks.archives.listed import KIND, by_names, text_lines
from zsrobust.tasks.folder import FolderSource, open_folder
from zsrobust.tasks.source import check_undivided, hidden, no_split, split_of_folder

BACKGROUND = "BACKGROUND_Google"
"""Caltech-101's folder of things that are no class."""
_DIVIDE = 'divide the rows in a TOML: [splits] train = { from = "all", rows = "0:800" }'


def caltech101(base: Path, split: str) -> FolderSource:
    """Caltech-101: ``101_ObjectCategories/ant/image_0001.jpg``, without ``BACKGROUND_Google``."""
    folder = base / "101_ObjectCategories"
    found = open_folder(folder if folder.is_dir() else base, split, without=(BACKGROUND,))
    return replace(found, kind=KIND)


def caltech256(base: Path, split: str) -> FolderSource:
    """Caltech-256: ``256_ObjectCategories/001.ak47/001_0001.jpg``; the few stray files and folders are not counted."""
    check_undivided(str(base), split, _DIVIDE)
    folder = base / "256_ObjectCategories"
    folder = folder if folder.is_dir() else base
    classes = sorted(path.name for path in _folders(folder))
    paths = [path for name in classes for path in sorted((folder / name).glob("*.jpg"))]
    return by_names(folder, paths, [path.parent.name for path in paths], classes)


def sun397(base: Path, split: str) -> FolderSource:
    """SUN397: ``a/apse/indoor/sun_x.jpg``; ``ClassName.txt`` with lines ``/a/apse/indoor``: class ``apse/indoor``."""
    check_undivided(str(base), split, _DIVIDE)
    classes = text_lines(base / "ClassName.txt")
    if bad := [line for line in classes if len(line) < 4 or line[0] != "/" or line[2] != "/"]:
        raise DataError(f"{base / 'ClassName.txt'}: '{bad[0]}' is not of the form /a/abbey")
    found = [(path, line[3:]) for line in classes for path in sorted((base / line[1:]).glob("sun_*.jpg"))]
    return by_names(base, [path for path, _ in found], [name for _, name in found], [line[3:] for line in classes])


def eurosat(base: Path, split: str) -> FolderSource:
    """EuroSAT, RGB: ``2750/AnnualCrop/AnnualCrop_1.jpg`` (also under ``EuroSAT_RGB``)."""
    folder = base / "2750"
    return replace(open_folder(folder if folder.is_dir() else base / "EuroSAT_RGB", split), kind=KIND)


def country211(base: Path, split: str) -> FolderSource | None:
    """Country211: ``train/AD/1.jpg``, ``valid/``, ``test/``."""
    return replace(open_folder(base, split), kind=KIND) if _folders(base / "valid") else None


def imagenet(base: Path, split: str) -> FolderSource | None:
    """ImageNet: ``val/n01440764/x.JPEG`` and ``train/``, beside whatever else was unpacked (the devkit).

    Its ``test`` images have no labels; they are never read. None for other data in folders of these names.
    """
    found = {split_of_folder(path.name): path for path in _folders(base) if _folders(path)}
    found = {name: path for name, path in found.items() if name in ("train", "validation")}
    if not found:
        return None
    if split not in found:
        raise no_split(str(base), split, [str(name) for name in found])
    return replace(open_folder(found[split], "test"), kind=KIND)


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not hidden(path)] if folder.is_dir() else []


def refuse_flat_imagenet(root: Path) -> None:
    """The validation images as their archive unpacks: no folders, hence no labels.

    Raises:
        DataError: with what to do.
    """
    folders = (root, root / "val", root / "validation", root / "ILSVRC2012_img_val")
    for folder in (folder for folder in folders if folder.is_dir()):
        if next(islice(folder.glob("ILSVRC2012_val_*.JPEG"), 1), None) is not None:
            raise DataError(
                f"{folder} has ImageNet's validation images in one heap, without their classes; move each into the "
                "folder of its WordNet id (val/n01440764/…): torchvision.datasets.ImageNet does so from "
                "ILSVRC2012_img_val.tar and the devkit"
            )
