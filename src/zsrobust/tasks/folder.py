"""Image folders: one folder a class, optionally under train/, validation/ (or val/) and test/.

Files whose suffix is not an image's, and hidden ones (``.DS_Store``, ``Thumbs.db``,
``x.jpg:Zone.Identifier``), are passed over; those of a split are listed in ``ignored``. Hidden folders are
passed over too. A class folder, or an image in it, may be a link; a linked folder inside a class folder is not
followed (links can run in circles), and images in no class folder are left out, both with a warning.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsrobust.errors import DataError
from zsrobust.tasks.images import is_image
from zsrobust.tasks.source import (
    UNDIVIDED,
    Source,
    check_undivided,
    hidden,
    no_split,
    printable,
    shown_names,
    split_of_folder,
)

LAYOUT = "expected one folder a class, with that class's images inside: FOLDER/cat/1.jpg, FOLDER/dog/2.jpg, …"


@dataclass
class FolderSource(Source):
    """Files of one split, sorted by class folder, then by path; an image's row is its place in that order."""

    files: tuple[Path, ...] = ()

    def name(self, row: int) -> str:
        """The file's path, printable."""
        return printable(self.files[row].as_posix())

    def content(self, row: int) -> bytes:
        """The file's bytes."""
        try:
            return self.files[row].read_bytes()
        except OSError as problem:
            reason = problem.strerror or str(problem)
            raise DataError(f"{self.name(row)}: cannot be read as an image ({reason})") from problem


def open_folder(root: Path, split: str, *, without: Collection[str] = ()) -> FolderSource:
    """Open one split of an image folder.

    Class names are the class folders' names over all splits, sorted.

    Args:
        root: The folder.
        split: ``"all"`` is every split, one after the other.
        without: Folders that are no classes.

    Raises:
        DataError: empty, flat, without the split, divided only in part, or with a class that has no image in it.
    """
    bases, class_folders = _bases_and_classes(root, split, without)
    if unnamed := [name for name in class_folders if printable(name) != name]:
        raise DataError(f"{root}: the class folder '{printable(unnamed[0])}' has a name that is not UTF-8; rename it")
    _tell_of_strays(list(dict.fromkeys([root, *bases])))
    files: list[Path] = []
    labels: list[int] = []
    ignored = [path.name for base in bases for path in sorted(base.iterdir()) if path.is_file()]
    for label, folder_name in enumerate(class_folders):
        below = [_images_below(base / folder_name) for base in bases]
        images, others = ([path for pair in below for path in pair[0]], [name for pair in below for name in pair[1]])
        if not images:
            told = f"; {len(others)} other files were ignored: {shown_names(others, 3)}" if others else ""
            raise DataError(f"{root}: class '{folder_name}' has no images in {bases[0] / folder_name}{told}")
        files += images
        labels += [label] * len(images)
        ignored += others
    return FolderSource(
        where=str(root),
        kind="folder",
        labels=np.array(labels, dtype=np.int64),
        data_classes=tuple(class_folders),
        ignored=tuple(ignored),
        files=tuple(files),
    )


def folder_splits(root: Path) -> dict[str, Path]:
    """Split → its folder; empty where the folders in ``root`` are classes.

    One class may be called like a split (``train``, beside ``bus``), if its images lie in its folder itself.

    Raises:
        DataError: two folders of one split, or splits beside folders that are none.
    """
    found: dict[str, Path] = {}
    others: list[str] = []
    for folder in _folders(root):
        split = split_of_folder(folder.name)
        if split is None:
            others.append(folder.name)
        elif split in found:
            raise DataError(f"{root} has two folders for the {split} split: {found[split].name} and {folder.name}")
        else:
            found[split] = folder
    if not others:
        return found
    if len(found) > 1 or any(_holds_only_folders(folder) for folder in found.values()):
        splits = shown_names([folder.name for folder in found.values()])
        raise DataError(
            f"{root} has folders named after splits ({splits}) beside others ({shown_names(others)}): move the others "
            "elsewhere; or, if each folder is a class, rename those named after splits"
        )
    return {}


def _holds_only_folders(folder: Path) -> bool:
    """Whether it holds folders, and no image beside them: as a split does, and a class hardly ever."""
    return bool(_folders(folder)) and not any(is_image(path.name) for path in folder.iterdir())


def _tell_of_strays(folders: Sequence[Path]) -> None:
    """Warns of images beside class folders: they have no class, so nobody sees them."""
    for folder in folders:
        strays = sorted(path.name for path in folder.iterdir() if is_image(path.name) and path.is_file())
        if strays:
            told = shown_names(strays, 3)
            warnings.warn(f"{folder}: images in no class folder are left out: {told}", stacklevel=4)


def _bases_and_classes(root: Path, split: str, without: Collection[str]) -> tuple[list[Path], list[str]]:
    """(the folders of the split, the names of the class folders in any split)."""
    splits = folder_splits(root)
    if not splits:
        class_folders = [folder.name for folder in _folders(root) if folder.name not in without]
        if not class_folders:
            raise _no_class_folders(root)
        check_undivided(str(root), split, "put the class folders under train/, validation/ and test/")
        return [root], class_folders
    if split not in splits and split != UNDIVIDED:
        raise no_split(str(root), split, list(splits))
    bases = [splits[name] for name in sorted(splits)] if split == UNDIVIDED else [splits[split]]
    found = {folder.name for base in splits.values() for folder in _folders(base)} - set(without)
    if not found:
        raise _no_class_folders(bases[0])
    return bases, sorted(found)


def _no_class_folders(folder: Path) -> DataError:
    images, others = _images_below(folder)
    if images:
        return DataError(f"{folder} has {len(images)} images but no class folders; {LAYOUT}")
    told = f"has no images ({len(others)} other files)" if others else "is empty"
    return DataError(f"{folder} {told}; {LAYOUT}")


def _folders(root: Path) -> list[Path]:
    return sorted((path for path in root.iterdir() if path.is_dir() and not hidden(path)), key=lambda path: path.name)


def _images_below(folder: Path) -> tuple[list[Path], list[str]]:
    """(image files, names of other files) below a folder, sorted by path; a missing folder has none."""
    images: list[Path] = []
    others: list[str] = []
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not hidden(Path(name))]
        if linked := sorted(name for name in folders if Path(here, name).is_symlink()):
            warnings.warn(f"{here}: linked folders are not followed: {shown_names(linked, 3)}", stacklevel=4)
        for name in names:
            if is_image(name):
                images.append(Path(here, name))
            else:
                others.append(name)
    return sorted(images, key=lambda path: path.relative_to(folder).as_posix()), sorted(others)
