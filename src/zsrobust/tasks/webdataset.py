"""Folders of tar files in the clip-benchmark layout.

    {train,test}/{0..n-1}.tar        samples: KEY.webp (or png, jpg, …) and KEY.cls, a label as text
    {train,test}/nshards.txt         n
    classnames.txt                   one name a line, in label order
    zeroshot_classification_templates.txt      one a line, ``{c}`` where the name goes

The tars are read once for their index; an image is a (file, offset, length) until it is asked for.
"""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from zsrobust.errors import DataError
from zsrobust.tasks.images import is_image
from zsrobust.tasks.source import (
    UNDIVIDED,
    Source,
    as_labels,
    check_undivided,
    hidden,
    no_split,
    printable,
    split_of_folder,
)

TEMPLATES = "zeroshot_classification_templates.txt"


@dataclass(frozen=True)
class Member:
    """Where one image lies."""

    shard: Path
    key: str
    offset: int
    length: int


@dataclass
class WebDataset(Source):
    """Samples of one split in the order of shards, then of each tar; a row is a place in that order."""

    members: tuple[Member, ...] = ()

    def name(self, row: int) -> str:
        """Shard and key, such as ``test/0.tar:s0000012.webp``."""
        member = self.members[row]
        return printable(f"{member.shard.parent.name}/{member.shard.name}:{member.key}")

    def content(self, row: int) -> bytes:
        """The member's bytes."""
        member = self.members[row]
        try:
            with member.shard.open("rb") as file:
                file.seek(member.offset)
                content = file.read(member.length)
        except OSError as problem:
            raise DataError(f"{self.name(row)}: cannot be read as an image ({problem.strerror})") from problem
        if len(content) < member.length:
            raise DataError(f"{self.name(row)}: cannot be read as an image (the tar file ends within it)")
        return content


def is_webdataset(root: Path) -> bool:
    """True for a folder with tar files, in it or in its split folders."""
    return any(root.glob("*.tar")) or any(root.glob("*/*.tar")) or any(root.glob("*/nshards.txt"))


def open_webdataset(root: Path, split: str) -> WebDataset:
    """Open one split of a folder of tars.

    Raises:
        DataError: a shard is missing or damaged, a sample has no image or no label, or it is no
            classification task.
    """
    kind = _lines(root / "dataset_type.txt")
    if kind and kind[0] != "classification":
        raise DataError(f"{root} is a {kind[0]} data set (dataset_type.txt); only classification is supported")
    members: list[Member] = []
    labels: list[int] = []
    ignored: list[str] = []
    for shard in _shards(root, split):
        _read_shard(shard, members, labels, ignored)
    return WebDataset(
        where=str(root),
        kind="webdataset",
        labels=as_labels(labels, str(root)),
        data_classes=tuple(_lines(root / "classnames.txt")) or None,
        templates=tuple(_lines(root / TEMPLATES)),
        ignored=tuple(ignored),
        members=tuple(members),
    )


def _shards(root: Path, split: str) -> list[Path]:
    folders = {name: p for p in sorted(root.iterdir()) if p.is_dir() and (name := split_of_folder(p.name))}
    if not folders:
        check_undivided(str(root), split, "put the tar files under train/, validation/ and test/")
        return _shards_of(root)
    if split == UNDIVIDED:
        return [shard for name in sorted(folders) for shard in _shards_of(folders[name])]
    if split not in folders:
        raise no_split(str(root), split, list(folders))
    return _shards_of(folders[split])


def _shards_of(folder: Path) -> list[Path]:
    declared = _lines(folder / "nshards.txt")
    if not declared:
        found = sorted((path for path in folder.glob("*.tar") if not hidden(path)), key=_shard_order)
        if not found:
            raise DataError(f"{folder} has no tar files")
        return found
    if not declared[0].isdigit():
        raise DataError(f"{folder / 'nshards.txt'} says {declared[0]!r}; expected the number of tar files")
    shards = [folder / f"{number}.tar" for number in range(int(declared[0]))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing or not shards:
        raise DataError(f"{folder}: nshards.txt says {declared[0]} tar files; missing: {', '.join(missing) or 'all'}")
    return shards


def _shard_order(shard: Path) -> tuple[list[int], str]:
    """By the numbers in its name, then by the name: 2.tar before 10.tar, and never the file system's order."""
    return [int(number) for number in re.findall(r"\d+", shard.name)], shard.name


def _read_shard(shard: Path, members: list[Member], labels: list[int], ignored: list[str]) -> None:
    """Append the samples of one tar, in order."""
    images: dict[str, Member] = {}
    classes: dict[str, int] = {}
    where = f"{shard.parent.name}/{shard.name}"
    try:
        with tarfile.open(shard, "r:") as tar:
            for entry in tar:
                if not entry.isfile():
                    continue
                path = PurePosixPath(entry.name)
                key = str(path.parent / path.name.split(".")[0])  # webdataset: the key ends at the first dot
                if is_image(path.name):
                    if key in images:
                        raise DataError(f"{where}: sample '{key}' has two images")
                    images[key] = Member(shard, path.name, entry.offset_data, entry.size)
                elif path.suffix == ".cls":
                    file = tar.extractfile(entry)
                    assert file is not None
                    classes[key] = _label(file.read(), f"{where}: sample '{key}'")
                else:
                    ignored.append(path.name)
    except (tarfile.TarError, OSError, EOFError) as problem:
        raise DataError(f"{where} is not a readable tar file ({problem})") from problem
    for key in dict.fromkeys([*images, *classes]):
        if key not in images or key not in classes:
            raise DataError(f"{where}: sample '{key}' has no {'.cls label' if key in images else 'image'}")
        members.append(images[key])
        labels.append(classes[key])


def _label(content: bytes, where: str) -> int:
    text = content.decode("utf-8", errors="replace").strip()
    if not re.fullmatch(r"-?\d+", text):
        raise DataError(f"{where} has the label {text[:40]!r}; expected a whole number")
    return int(text)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
