"""Parquet files in the Hugging Face layout: an image column of {bytes, path} and a label column.

Labels are read at once; images stay in their row groups, of which the recently used ones are kept (up to
``GROUP_CACHE_BYTES`` of encoded images). Files larger than that work, but random access re-reads row groups.
"""

from __future__ import annotations

import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zsrobust.errors import DataError
from zsrobust.tasks.columns import encode_labels, pick_image, pick_label
from zsrobust.tasks.source import UNDIVIDED, Source, check_undivided, hidden, no_split, split_of, split_of_folder

GROUP_CACHE_BYTES = 2 * 2**30
"""Encoded bytes of row groups kept in memory."""
_DIVIDE = (
    "name the files after their splits (train.parquet, test.parquet), or divide the rows in a TOML: "
    '[splits] train = { from = "all", rows = "0:800" }'
)


@dataclass
class ParquetSource(Source):
    """Rows of one split, file after file in the order of their names."""

    files: tuple[Path, ...] = ()
    image_column: str = "image"
    groups: tuple[tuple[int, int], ...] = ()
    starts: tuple[int, ...] = ()
    _cache: OrderedDict[int, Any] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Without the row groups in memory: another process reads its own."""
        return {key: value for key, value in self.__dict__.items() if key not in ("_cache", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _cache=OrderedDict(), _lock=threading.Lock())

    def name(self, row: int) -> str:
        """File and row within the split."""
        file, _ = self.groups[self._group(row)]
        return f"{self.files[file].name} row {row}"

    def content(self, row: int) -> bytes:
        """The bytes of the image column."""
        number = self._group(row)
        value = self._read(number)[row - self.starts[number]].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise DataError(f"{self.name(row)}: cannot be read as an image (column '{self.image_column}' has no bytes)")
        return content

    def _group(self, row: int) -> int:
        return bisect_right(self.starts, row) - 1

    def _read(self, number: int) -> Any:
        """The image column of one row group, from memory where it was used before; one thread reads at a time."""
        with self._lock:
            if number not in self._cache:
                file, group = self.groups[number]
                self._cache[number] = _column(self.files[file], self.image_column, group)
                while len(self._cache) > 1 and sum(c.nbytes for c in self._cache.values()) > GROUP_CACHE_BYTES:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(number)
            return self._cache[number]


def open_parquet(
    path: Path, split: str, *, image_column: str | None = None, label_column: str | None = None
) -> ParquetSource:
    """Open one split of a parquet file or of a folder of them.

    A file's split is what its name, or its folder's, says (``test-00000-of-00002.parquet``,
    ``val/0.parquet``); files that say nothing are the test split.

    Raises:
        DataError: no such split, unreadable files, columns that cannot be told apart, or labels that are not.
    """
    splits = files_by_split(path, split, _DIVIDE)
    files = splits[split]
    schema = _open(files[0]).schema_arrow
    features = _features(schema)
    where = str(path)
    image = pick_image(where, schema.names, _typed_images(schema, features), image_column)
    named = {name: f["names"] for name, f in features.items() if f.get("_type") == "ClassLabel" and f.get("names")}
    label = pick_label(where, schema.names, list(named), label_column)
    values = [value for file in files for value in _column(file, label).to_pylist()]
    others = {v for name, group in splits.items() if name != split and _textual(schema, label) for f in group
              for v in _column(f, label).to_pylist()}  # fmt: skip
    labels, names = encode_labels(values, where, {*values, *others} if others else None)
    groups, starts = _row_groups(files)
    return ParquetSource(
        where=where,
        kind="parquet",
        labels=labels,
        data_classes=tuple(named[label]) if label in named else names,
        files=tuple(files),
        image_column=image,
        groups=groups,
        starts=starts,
    )


def parquet_files(root: Path) -> list[Path]:
    """Parquet files in a folder, at most two folders deep, by name."""
    found = [p for depth in ("*", "*/*", "*/*/*") for p in root.glob(f"{depth}.parquet")]
    return sorted((p for p in found if not hidden(p)), key=lambda p: p.relative_to(root).as_posix())


def files_by_split(path: Path, split: str, divide: str) -> dict[str, list[Path]]:
    """Split → its parquet files, with the split asked for among them.

    Args:
        path: A file, or a folder of files.
        split: The split that is wanted.
        divide: How such data is divided into splits, said where it is not and a split is wanted.

    Raises:
        NoSplit: there is no such split.
        DataError: some files name a split, others none.
    """
    files = [path] if path.is_file() else parquet_files(path)
    found: dict[str, list[Path]] = {}
    for file in files:
        said = split_of(file.stem) or (split_of_folder(file.parent.name) if path.is_dir() else None)
        found.setdefault(said or "", []).append(file)
    if set(found) == {""}:
        check_undivided(str(path), split, divide)
        return {split: files}
    if "" in found:
        raise DataError(f"{path}: {found[''][0].name} names no split, but other files do; rename it or move it away")
    if split == UNDIVIDED:
        return {split: files}
    if split not in found:
        raise no_split(str(path), split, list(found))
    return found


def _open(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as problem:
        raise DataError(f"{path} is not a readable parquet file ({str(problem).splitlines()[0]})") from problem


def _column(path: Path, name: str, group: int | None = None) -> Any:
    import pyarrow

    with _open(path) as file:
        try:
            groups = range(file.metadata.num_row_groups) if group is None else [group]
            return file.read_row_groups(list(groups), columns=[name], use_threads=False).column(name)
        except (pyarrow.ArrowException, OSError, KeyError) as problem:
            raise DataError(f"{path}: column '{name}' cannot be read ({str(problem).splitlines()[0]})") from problem


def _row_groups(files: Sequence[Path]) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """((file, row group) of every group, first row of every group)."""
    groups: list[tuple[int, int]] = []
    starts: list[int] = []
    start = 0
    for number, path in enumerate(files):
        with _open(path) as file:
            for group in range(file.metadata.num_row_groups):
                groups.append((number, group))
                starts.append(start)
                start += file.metadata.row_group(group).num_rows
    return tuple(groups), tuple(starts)


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Hugging Face's feature types from the file's metadata; empty where there are none."""
    raw = (schema.metadata or {}).get(b"huggingface")
    if raw is None:
        return {}
    features = json.loads(raw).get("info", {}).get("features", {})
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _typed_images(schema: Any, features: dict[str, dict[str, Any]]) -> list[str]:
    import pyarrow

    typed = [name for name in schema.names if features.get(name, {}).get("_type") == "Image"]
    return typed or [
        entry.name
        for entry in schema
        if pyarrow.types.is_struct(entry.type) and entry.type.get_field_index("bytes") >= 0
    ]


def _textual(schema: Any, column: str) -> bool:
    import pyarrow

    kind = schema.field(column).type
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))
