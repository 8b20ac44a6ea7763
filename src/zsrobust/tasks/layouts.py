"""A place → an opened source: which layout a path has, and which of a TOML's alternatives is there."""

from __future__ import annotations

import os
from pathlib import Path

from zsrobust.errors import DataError
from zsrobust.tasks.folder import LAYOUT, open_folder
from zsrobust.tasks.generated import open_digits, open_world
from zsrobust.tasks.hub import open_hub
from zsrobust.tasks.parquet import open_parquet, parquet_files
from zsrobust.tasks.source import Source
from zsrobust.tasks.spec import SourceSpec, TaskSpec
from zsrobust.tasks.webdataset import is_webdataset, open_webdataset


def looks_like_path(text: str) -> bool:
    """True for what nobody would call a task: it has a slash, a leading dot or a file's suffix."""
    return "/" in text or os.sep in text or text.startswith((".", "~")) or text.endswith((".parquet", ".toml", ".tar"))


def data_folder(data: str | Path | None) -> Path:
    """Where a TOML's ``local`` files are looked up: ``data``, else ZSROBUST_DATA, else ``./data``."""
    return Path(data or os.environ.get("ZSROBUST_DATA") or "data").expanduser()


def open_source(spec: TaskSpec, split: str, data: str | Path | None) -> Source:
    """Open the first of a TOML's alternatives that is there.

    Raises:
        DataError: none is; every place that was looked at is named.
    """
    source = spec.source
    if source.kind == "world":
        return open_world(source.view or "", split)
    if source.kind == "digits":
        return open_digits(split)
    looked: list[str] = []
    for place in _places(spec, split, data):
        if place.exists():
            return open_path(place, split, source)
        looked.append(str(place))
    if source.hub is None:
        raise DataError(
            f"task '{spec.name}': no data; looked for {', '.join(looked)} (--data or ZSROBUST_DATA say where)"
        )
    try:
        return open_hub(
            source.hub,
            split,
            revision=source.revision,
            config=source.config,
            image_column=source.image_column,
            label_column=source.label_column,
        )
    except DataError as problem:
        if not looked:
            raise
        raise DataError(
            f"task '{spec.name}': {problem}; looked before for {', '.join(looked)} (--data or ZSROBUST_DATA say where)"
        ) from problem


def open_path(path: Path, split: str, source: SourceSpec) -> Source:
    """Open a file or folder by its layout, or as ``source.kind`` says.

    Raises:
        DataError: it has none of the layouts, is not what ``kind`` says, or may not be read.
    """
    try:
        return _open_path(path, split, source)
    except OSError as problem:
        raise DataError(f"{path} cannot be read ({problem.strerror}: {problem.filename})") from problem


def _open_path(path: Path, split: str, source: SourceSpec) -> Source:
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


def _places(spec: TaskSpec, split: str, data: str | Path | None) -> list[Path]:
    source = spec.source
    beside = spec.file.parent if spec.file is not None else Path()
    places = [beside / _filled(source.path, split)] if source.path else []
    return places + [data_folder(data) / _filled(text, split) for text in source.local]


def _filled(text: str, split: str) -> str:
    return str(Path(text.replace("{split}", split)).expanduser())
