"""Places → captioned images: the rendered world, parquet files, and tars (webdataset, clip-benchmark's retrieval).

    world           480 test renders, one for each of the world's compositions, each with one caption
    X.parquet       or a folder of them: an image column, and a column of a text or a list of texts
    X.tar           or a folder of them: samples KEY.jpg with KEY.txt (one caption a line) or KEY.json
    clip-benchmark  {test}/{0..n-1}.tar with nshards.txt and dataset_type.txt = retrieval; captions in KEY.txt

clip-benchmark splits KEY.txt into lines, one caption each (LAION-AI/CLIP_benchmark,
clip_benchmark/datasets/builder.py); a .txt of one line is then an image with one caption.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from zsrobust.errors import DataError, UnknownName
from zsrobust.retrieval.captions import CaptionSet, caption_set
from zsrobust.tasks.columns import pick_image
from zsrobust.tasks.generated import open_world
from zsrobust.tasks.images import is_image
from zsrobust.tasks.parquet import ParquetSource, files_by_split, parquet_files
from zsrobust.tasks.source import SPLITS, check_undivided, hidden, no_split, split_of_folder
from zsrobust.tasks.webdataset import Member, WebDataset
from zsrobust.tasks.world import captions as wording
from zsrobust.tasks.world import scene as world
from zsrobust.tasks.world.views import VIEWS

CAPTION_NAMES = ("caption", "captions", "text", "texts")
"""Columns, and keys of a .json, that hold captions."""
WORLD = "world"
_VIEW = "shape"  # any view of single objects: all show the same renders
_TOLD = {"shape", "colour", "texture"}
_WORDING = 1
_DRAWS = 1_000


def open_captions(given: str | Path, *, split: str = "test") -> CaptionSet:
    """A set of captioned images.

    Args:
        given: ``"world"``, a parquet file, a tar file, or a folder of either.
        split: ``test``, ``validation`` or ``train``; a set that is not divided is all test.

    Raises:
        UnknownName: no such split, or a bare word that is neither ``world`` nor a path.
        DataError: nothing is there, or it cannot be read; what and why.
    """
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
    if str(given) == WORLD:
        return world_captions(split)
    path = Path(given).expanduser()
    try:
        if not path.exists():
            if not path.suffix and len(path.parts) == 1 and not str(given).startswith((".", "~")):
                raise UnknownName("set of captions", str(given), [WORLD], also="or a parquet file, a tar or a folder")
            raise DataError(f"no such file or folder: {path}")
        if path.suffix == ".parquet" or (path.is_dir() and parquet_files(path)):
            return parquet_captions(path, split)
        if path.suffix == ".tar" or (path.is_dir() and (any(path.glob("*.tar")) or any(path.glob("*/*.tar")))):
            return tar_captions(path, split)
    except OSError as problem:
        raise DataError(f"{path} cannot be read ({problem.strerror}: {problem.filename})") from problem
    raise DataError(f"{path} is no set of captions: give 'world', a .parquet file, a .tar file, or a folder of either")


def world_captions(split: str = "test") -> CaptionSet:
    """The world's own: one render of each composition, with a caption that names its shape, colour and texture.

    The captions come from the generator that captioned the embedded model's training renders (whose scenes are
    others); of its draws the first is taken that mentions all three, so that no caption is true of two images.
    """
    source = open_world(_VIEW, split)
    chosen: dict[tuple[int, int, int], int] = {}
    said: dict[int, str] = {}
    for row in range(len(source)):
        scene = VIEWS[_VIEW].scene(split, row)
        if (composition := (scene.shape, scene.colour, scene.texture)) not in chosen:
            chosen[composition] = row
            said[row] = _told(scene)
        if len(chosen) == len(world.COMPOSITIONS):
            break
    last = max(chosen.values()) + 1
    if last != len(chosen):
        raise DataError("the world's first scenes do not show every composition once")  # the strata promise it
    source.where, source.labels = WORLD, source.labels[:last]
    return caption_set(WORLD, source, [[said[row]] for row in range(last)], split=split)


def _told(scene: world.Scene) -> str:
    rng = world.generator(scene.stream, scene.seed, scene.index, _WORDING)
    for _ in range(_DRAWS):
        found = wording.caption(scene, rng)
        if found.mentioned >= _TOLD:
            return found.text
    raise DataError(f"scene {scene.index} of the world got no full caption in {_DRAWS} draws")


# parquet


def parquet_captions(path: Path, split: str) -> CaptionSet:
    """An image column ({bytes, path} or bytes) and one of the columns ``CAPTION_NAMES``: a text or a list of texts.

    Raises:
        DataError: unreadable, no such columns, or a row whose captions are neither.
    """
    files = files_by_split(path, split, "name the files after their splits (train.parquet, test.parquet)")[split]
    groups: list[tuple[int, int]] = []
    starts = [0]
    captions: list[Sequence[str]] = []
    images: set[str] = set()
    for number, file in enumerate(files):
        image, column, sizes, values = _read_parquet(file)
        images.add(image)
        groups += [(number, group) for group in range(len(sizes))]
        starts += [starts[-1] + rows for rows in accumulate(sizes)]
        captions += [_texts(value, f"{file.name} row {row}, column '{column}'") for row, value in enumerate(values)]
    if len(images) != 1:
        raise DataError(f"{path}: its files call the image column differently: {', '.join(sorted(images))}")
    source = ParquetSource(
        where=str(path), kind="parquet", labels=np.zeros(len(captions), dtype=np.int64), files=tuple(files),
        image_column=images.pop(), groups=tuple(groups), starts=tuple(starts[:-1]),
    )  # fmt: skip
    return caption_set(path.stem if path.is_file() else path.resolve().name, source, captions, split=split)


def _read_parquet(path: Path) -> tuple[str, str, list[int], list[Any]]:
    """Image column, caption column, rows of each row group, and the captions."""
    import pyarrow
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            typed = [f.name for f in schema if pyarrow.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
            image = pick_image(str(path), schema.names, typed, None)
            column = next((name for name in CAPTION_NAMES if name in schema.names), None)
            if column is None:
                raise DataError(
                    f"{path} has no column of captions (columns: {', '.join(schema.names)}); "
                    f"one of {', '.join(CAPTION_NAMES)} is expected"
                )
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
            return image, column, sizes, file.read(columns=[column], use_threads=False).column(column).to_pylist()
    except (pyarrow.ArrowException, OSError) as problem:
        raise DataError(f"{path} is not a readable parquet file ({str(problem).splitlines()[0]})") from problem


def _texts(value: object, where: str) -> list[str]:
    if value is None:
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: captions are a text or a list of texts, not {str(value)[:40]!r}")
    return texts


# tars


def tar_captions(path: Path, split: str) -> CaptionSet:
    """Samples of tars in order; KEY.txt goes before KEY.json, which repeats it in the usual sets.

    Raises:
        DataError: a shard is missing or damaged, or the folder says that it is another kind of set.
    """
    kind = _lines(path / "dataset_type.txt")
    if kind and kind[0] != "retrieval":
        raise DataError(f"{path} is a {kind[0]} data set (dataset_type.txt); retrieval needs captions")
    members: list[Member] = []
    captions: list[Sequence[str]] = []
    for shard in _shards(path, split):
        _read_tar(shard, members, captions)
    if not members:
        raise DataError(f"{path} has no images with captions (KEY.jpg with KEY.txt or KEY.json)")
    source = WebDataset(
        where=str(path), kind="webdataset", labels=np.zeros(len(members), dtype=np.int64), members=tuple(members)
    )
    return caption_set(path.stem if path.is_file() else path.resolve().name, source, captions, split=split)


def _shards(path: Path, split: str) -> list[Path]:
    if path.is_file():
        check_undivided(str(path), split, "give a folder with train/, validation/ and test/")
        return [path]
    folders = {name: p for p in sorted(path.iterdir()) if p.is_dir() and (name := split_of_folder(p.name))}
    if folders and split not in folders:
        raise no_split(str(path), split, list(folders))
    if not folders:
        check_undivided(str(path), split, "put the tar files under train/, validation/ and test/")
    folder = folders.get(split, path)
    found = [tar for tar in folder.glob("*.tar") if not hidden(tar)]
    declared = _lines(folder / "nshards.txt")
    if declared and (not declared[0].isdigit() or len(found) != int(declared[0])):
        raise DataError(f"{folder}: nshards.txt says {declared[0]} tar files; there are {len(found)}")
    if not found:
        raise DataError(f"{folder} has no tar files")
    return sorted(found, key=lambda tar: ([int(n) for n in re.findall(r"\d+", tar.name)], tar.name))


def _read_tar(shard: Path, members: list[Member], captions: list[Sequence[str]]) -> None:
    """Append the samples of one tar, in order."""
    images: dict[str, Member] = {}
    said: dict[str, dict[str, list[str]]] = {}
    where = f"{shard.parent.name}/{shard.name}"
    try:
        with tarfile.open(shard, "r:") as tar:
            for entry in tar:
                path = PurePosixPath(entry.name)
                key = str(path.parent / path.name.split(".")[0])  # webdataset: the key ends at the first dot
                if entry.isfile() and is_image(path.name):
                    if key in images:
                        raise DataError(f"{where}: sample '{key}' has two images")
                    images[key] = Member(shard, path.name, entry.offset_data, entry.size)
                elif entry.isfile() and path.suffix in (".txt", ".json"):
                    file = tar.extractfile(entry)
                    assert file is not None
                    said.setdefault(key, {})[path.suffix] = _read_captions(file.read(), path, f"{where}: {path}")
    except (tarfile.TarError, OSError, EOFError) as problem:
        raise DataError(f"{where} is not a readable tar file ({problem})") from problem
    for key, member in images.items():
        found = said.get(key, {})
        members.append(member)
        captions.append(found.get(".txt") or found.get(".json") or [])


def _read_captions(content: bytes, path: PurePosixPath, where: str) -> list[str]:
    try:
        text = content.decode("utf-8")
        if path.suffix == ".txt":
            return text.splitlines()
        values = json.loads(text)
    except ValueError as problem:
        raise DataError(f"{where} cannot be read ({problem})") from problem
    key = next((name for name in CAPTION_NAMES if name in values), None) if isinstance(values, dict) else None
    return [] if key is None else _texts(values[key], f"{where}, '{key}'")


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
