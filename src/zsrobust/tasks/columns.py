"""Which column of a table is the image and which the label; shared by parquet files and the hub."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from zsrobust.errors import DataError, UnknownName
from zsrobust.tasks.source import as_labels

IMAGE_NAMES = ("image", "img", "webp", "jpg", "jpeg", "png")
LABEL_NAMES = ("label", "labels", "cls", "class", "target")


def pick_image(where: str, columns: Sequence[str], typed: Collection[str], asked: str | None) -> str:
    """The image column: the one asked for, the only one typed as images, or one with a usual name.

    A typed column with an unusual name and an untyped one with a usual name are told apart by nobody.

    Args:
        where: The data, for messages.
        columns: Every column.
        typed: Columns whose type says they hold images.
        asked: ``image_column`` of the TOML.
    """
    return _pick(where, columns, list(typed), IMAGE_NAMES, asked, "image")


def pick_label(where: str, columns: Sequence[str], typed: Collection[str], asked: str | None) -> str:
    """The label column, in the same way; ``typed`` are the columns that carry class names."""
    return _pick(where, columns, list(typed), LABEL_NAMES, asked, "label")


def _pick(
    where: str, columns: Sequence[str], typed: list[str], usual: Sequence[str], asked: str | None, what: str
) -> str:
    if asked is not None:
        if asked not in columns:
            raise UnknownName(f"{what}_column of {where}", asked, columns)
        return asked
    called = [name for name in columns if name in usual]
    odd = bool(typed) and not set(typed) & set(usual)
    candidates = typed + called if odd else typed or called
    exact = [] if odd else [name for name in candidates if name == what]
    if len(candidates) == 1 or exact:
        return (exact or candidates)[0]
    problem = "several" if candidates else "no"
    raise DataError(
        f"{where} has {problem} {what} columns (columns: {', '.join(columns)}); "
        f'name one in a TOML: [source] {what}_column = "…"'
    )


def encode_labels(
    values: Sequence[object], where: str, vocabulary: Collection[object] | None = None
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Label values → ((n,) int64 labels, class names where the values are names themselves, sorted).

    Args:
        values: Whole numbers from 0, or strings.
        where: The data, for messages.
        vocabulary: All values over all splits, so that every split numbers its classes alike; by default
            ``values``.
    """
    if len(values) and all(isinstance(value, str) for value in values):
        # A split without labels has nulls or empty texts: nobody's class.
        named = {value for value in vocabulary or () if isinstance(value, str) and value.strip()}
        names = tuple(sorted({str(value) for value in values} | named))
        number: Mapping[object, int] = {name: i for i, name in enumerate(names)}
        return np.array([number[value] for value in values], dtype=np.int64), names
    return as_labels(values, where), None
