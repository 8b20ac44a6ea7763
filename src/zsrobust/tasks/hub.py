"""Data sets of the Hugging Face hub, through ``datasets``; images stay encoded until they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsrobust.errors import DataError
from zsrobust.tasks.columns import encode_labels, pick_image, pick_label
from zsrobust.tasks.source import NoSplit, Source
from zsrobust.tasks.webdataset import TEMPLATES

_OTHER_NAMES = {"validation": ("valid", "val", "dev"), "train": ("training",), "test": ("testing",)}


@dataclass
class HubSource(Source):
    """Rows of one split, in the hub's order."""

    table: Any = None
    image_column: str = "image"

    def name(self, row: int) -> str:
        """Data set, split and row."""
        return f"{self.where} row {row}"

    def content(self, row: int) -> bytes:
        """The bytes of the image column, or of the file it names (repositories of plain image files)."""
        value = self.table[row][self.image_column]
        content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, None)
        if content is None and path and Path(path).is_file():
            return Path(path).read_bytes()
        if not isinstance(content, bytes):
            raise DataError(f"{self.name(row)}: cannot be read as an image (column '{self.image_column}' has no bytes)")
        return content


def open_hub(
    repository: str,
    split: str,
    *,
    revision: str | None = None,
    config: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> HubSource:
    """Download, or find in the cache, one split of a hub data set.

    Raises:
        NoSplit: it has no such split.
        DataError: it cannot be reached or does not exist, or its columns cannot be told apart.
    """
    import datasets

    where = f"hub:{repository}"
    table = _load(repository, config, split, revision)
    features = table.features
    typed = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    image = pick_image(where, table.column_names, typed, image_column)
    named = {n: tuple(f.names) for n, f in features.items() if isinstance(f, datasets.ClassLabel) and f.names}
    label = pick_label(where, table.column_names, list(named), label_column)
    table = table.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
    values = list(table[label])
    labels, names = encode_labels(values, where, _labels_of_all_splits(repository, config, revision, label, values))
    names = named.get(label, names)
    return HubSource(
        where=where,
        kind="hub",
        labels=labels,
        data_classes=names or tuple(_lines(repository, "classnames.txt", revision)) or None,
        templates=() if names else tuple(_lines(repository, TEMPLATES, revision)),
        table=table,
        image_column=image,
    )


def _labels_of_all_splits(
    repository: str, config: str | None, revision: str | None, label: str, values: list[object]
) -> set[object] | None:
    """Where labels are names: all names of all splits, so that every split numbers its classes alike."""
    if not values or not all(isinstance(value, str) for value in values):
        return None
    return {*values, *(name for part in _load(repository, config, None, revision).values() for name in part[label])}


def _load(repository: str, config: str | None, split: str | None, revision: str | None) -> Any:
    """One split, by any of its names; every split (name → table) where ``split`` is None."""
    import datasets

    names = (split, *_OTHER_NAMES.get(split or "", ()))
    for number, name in enumerate(names):
        try:
            return datasets.load_dataset(repository, config, split=name, revision=revision)
        except Exception as problem:  # the hub client has dozens of kinds; every one means: not to be had
            text = str(problem).split("\n")[0]
            if "split" in text.lower() and isinstance(problem, ValueError):
                if number + 1 < len(names):
                    continue
                raise NoSplit(f"hub:{repository} has no '{split}' split ({text})") from problem
            raise DataError(
                f"hub:{repository} cannot be loaded ({text}); "
                "check the name and the network, or use a local copy (a .parquet file or a folder)"
            ) from problem
    raise AssertionError("unreachable")


def _lines(repository: str, name: str, revision: str | None) -> list[str]:
    """Lines of a small text file beside the data (clip-benchmark has class names there), or none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        path = hf_hub_download(repository, name, repo_type="dataset", revision=revision)
    except (HfHubHTTPError, LocalEntryNotFoundError):
        return []
    with open(path, encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip()]
