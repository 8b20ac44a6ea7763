"""A place → an opened source: which layout a path has, and which of a TOML's alternatives is there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from zsrobust.errors import DataError
from zsrobust.tasks.archives import open_archive
from zsrobust.tasks.folder import LAYOUT, open_folder
from zsrobust.tasks.generated import open_digits, open_world
from zsrobust.tasks.hub import open_hub
from zsrobust.tasks.parquet import open_parquet, parquet_files
from zsrobust.tasks.source import NoSplit, Source
from zsrobust.tasks.spec import SourceSpec, TaskSpec
from zsrobust.tasks.webdataset import is_webdataset, open_webdataset

_ELSEWHERE = (
    "(--data or ZSROBUST_DATA say where; 'zsrobust data check', with the tasks or the suite, lists all that is missing "
    "and how to get it)"
)


def looks_like_path(text: str) -> bool:
    """True for what nobody would call a task: it has a slash, a leading dot or a file's suffix."""
    return "/" in text or os.sep in text or text.startswith((".", "~")) or text.endswith((".parquet", ".toml", ".tar"))


def data_folder(data: str | Path | None) -> Path:
    """Where a TOML's ``local`` files are looked up: ``data``, else ZSROBUST_DATA, else ``./data``."""
    return Path(data or os.environ.get("ZSROBUST_DATA") or "data").expanduser()


def open_source(spec: TaskSpec, splits: Sequence[str], data: str | Path | None) -> Source:
    """Open the first of a TOML's alternatives that is there.

    Args:
        spec: The TOML.
        splits: What the data may call the split; the first that it has.
        data: See ``data_folder``.

    Raises:
        NoSplit: data is there, but with none of the splits.
        DataError: no data is there; every place that was looked at is named.
    """
    source = spec.source
    if source.kind == "world":
        return open_world(source.view or "", splits[0])
    if source.kind == "digits":
        return open_digits(splits[0])
    without: NoSplit | None = None
    for split, place in local_places(spec, splits, data):
        if place.exists():
            try:
                return open_path(place, split, source)
            except NoSplit as problem:
                without = without or problem
    if without is not None:
        raise without
    looked = ", ".join(dict.fromkeys(str(place) for _, place in local_places(spec, splits, data)))
    if source.hub is None:
        raise DataError(f"task '{spec.name}': no data; looked for {looked} {_ELSEWHERE}")
    try:
        return _open_hub(source.hub, splits, source)
    except DataError as problem:
        if not looked:
            raise
        raise DataError(f"task '{spec.name}': {problem}; looked before for {looked} {_ELSEWHERE}") from problem


def local_places(spec: TaskSpec, splits: Sequence[str], data: str | Path | None) -> list[tuple[str, Path]]:
    """(split, file or folder) of every place of the TOML on this machine, in the order they are tried."""
    beside = spec.file.parent if spec.file is not None else Path()
    names = [(beside, spec.source.path)] if spec.source.path else []
    names += [(data_folder(data), text) for text in spec.source.local]
    return [(split, folder / _filled(text, split)) for folder, text in names for split in splits]


def _open_hub(repository: str, splits: Sequence[str], source: SourceSpec) -> Source:
    for split in splits:
        try:
            return open_hub(
                repository,
                split,
                revision=source.revision,
                config=source.config,
                image_column=source.image_column,
                label_column=source.label_column,
            )
        except NoSplit:
            if split == splits[-1]:
                raise
    raise AssertionError("unreachable")


def open_path(path: Path, split: str, source: SourceSpec) -> Source:
    """Open a file or folder by its layout: the archive of ``source.layout``, else as ``source.kind`` says.

    Raises:
        DataError: it has none of the layouts, is not what ``kind`` says, or may not be read.
    """
    try:
        return _open_path(path, split, source)
    except OSError as problem:
        raise DataError(f"{path} cannot be read ({problem.strerror}: {problem.filename})") from problem


def _open_path(path: Path, split: str, source: SourceSpec) -> Source:
    if source.layout is not None and path.is_dir():
        unpacked = open_archive(source.layout, path, split)
        if unpacked is not None:
            return unpacked
    kind = _layout(path)
    if source.kind is not None and source.kind != kind:
        raise DataError(f"{path} looks like {kind}, but its TOML says kind = '{source.kind}'")
    if kind == "parquet":
        return open_parquet(path, split, image_column=source.image_column, label_column=source.label_column)
    return open_webdataset(path, split) if kind == "webdataset" else open_folder(path, split)


def _layout(path: Path) -> str:
    if path.is_file():
        if path.suffix == ".parquet":
            return "parquet"
        raise DataError(f"{path} is a file of no known kind; give a .parquet file, a .toml or a folder ({LAYOUT})")
    if not path.exists():
        raise DataError(f"no such file or folder: {path}")
    if is_webdataset(path):
        return "webdataset"
    return "parquet" if parquet_files(path) else "folder"


def _filled(text: str, split: str) -> str:
    return str(Path(text.replace("{split}", split)).expanduser())
