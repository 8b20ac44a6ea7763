"""Tiny data sets in every layout, each image another colour; and what tests of tasks share besides."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zsrobust.tasks import Task

PAPER = ("This is a photo of a {}",)


def png(number: int, size: tuple[int, int] = (8, 8)) -> bytes:
    """A PNG of (H, W) whose pixels depend on the number."""
    rng = np.random.default_rng(number)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def pixels(number: int, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    """What ``png`` of the same number decodes to."""
    return np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)


def write_folder(root: Path, counts: dict[str, int], *, size: tuple[int, int] = (8, 8), first: int = 0) -> Path:
    """One folder a class; image k of the whole folder is ``png(first + k)``."""
    number = first
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i:03}.png").write_bytes(png(number, size))
            number += 1
    return root


def write_parquet(
    path: Path,
    labels: list,
    *,
    names: list[str] | None = None,
    row_group_size: int = 3,
    first: int = 0,
    **columns,
) -> Path:
    """The Hugging Face layout; row k is ``png(first + k)``."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(first + i), "path": f"{i}.png"} for i in range(len(labels))]
    table = pa.table({"image": images, "label": labels, **columns})
    features: dict = {"image": {"_type": "Image"}}
    if names is not None:
        features["label"] = {"_type": "ClassLabel", "names": names}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    """A tar of these members, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def write_webdataset(root: Path, shards: list[list[int]], names: list[str], *, split: str = "test") -> Path:
    """clip-benchmark's layout; sample k over all shards is ``png(k)``."""
    number = 0
    for shard, labels in enumerate(shards):
        files = {}
        for label in labels:
            files[f"s{number:07}.cls"] = f"{label}\n".encode()
            files[f"s{number:07}.png"] = png(number)
            number += 1
        write_tar(root / split / f"{shard}.tar", files)
    (root / split / "nshards.txt").write_text(f"{len(shards)}\n")
    (root / "classnames.txt").write_text("\n".join(names) + "\n")
    (root / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\nart of {c}\n")
    return root


def table(labels: list[int], names: Sequence[str] = ("owl", "wren"), first: int = 0) -> Any:
    """What ``datasets`` gives, its columns called otherwise than usual; row k is ``png(first + k)``."""
    import datasets

    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=list(names)), "more": datasets.Value("string")}
    )
    rows = {
        "picture": [{"bytes": png(first + i), "path": None} for i in range(len(labels))],
        "kind": labels,
        "more": ["x"] * len(labels),
    }
    return datasets.Dataset.from_dict(rows, features=features)


def edit(file: Path, *changes: tuple[str, str]) -> Path:
    """Replace text in a TOML."""
    text = file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    return file


def shows(opened: Task, numbers: Iterable[int]) -> None:
    """The task's images are these of the tiny pictures, in order."""
    np.testing.assert_array_equal(opened.images(range(len(opened))), np.stack([pixels(k) for k in numbers]))
