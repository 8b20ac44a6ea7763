"""A task: labelled images of one split, names and templates of its classes, the geometry of its pixels."""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from zsrobust.errors import ConfigError, DataError
from zsrobust.geometry import Geometry
from zsrobust.tasks.corruptions import Corruption
from zsrobust.tasks.images import decode
from zsrobust.tasks.pixel_cache import PixelCache, PixelFile
from zsrobust.tasks.source import Source

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """Labelled images of one split. Immutable: ``take`` and ``with_geometry`` return new tasks on the data.

    Pixels are decoded once and kept (see :mod:`zsrobust.tasks.pixel_cache`), for all tasks with the same images,
    geometry and corruption; threads may share a task.

    Attributes:
        name: The TOML's name, or the folder's, file's or hub id.
        version: The TOML's version; 1 without one.
        description: One sentence.
        split: ``train``, ``validation``, ``test`` or another that the TOML declares.
        class_names: Names for the prompts, in label order.
        templates: Prompt templates, each with one ``{}``.
        follows_from: Tasks whose adaptation makes this one a related one.
        geometry: Decoded image → pixels.
        ids: (n,) int64, ascending: each example's row in the data's split.
        labels: (n,) int64, indices into ``class_names``.
        source: The data.
        bad_images: Unreadable images left out (only with ``on_bad_image="skip"``), each with the reason.
        of: Number of examples before any limit.
        limit: The limit asked for, and its seed; None for all.
        corruption: What is done to the pixels after the geometry; None: nothing.
    """

    name: str
    version: int
    description: str
    split: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    follows_from: tuple[str, ...]
    geometry: Geometry
    ids: np.ndarray
    labels: np.ndarray
    source: Source = field(repr=False)
    bad_images: list[str] = field(default_factory=list)
    of: int = 0
    limit: tuple[int, int] | None = None
    corruption: Corruption | None = None
    _cache: PixelCache = field(default_factory=PixelCache, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def image_name(self, i: int) -> str:
        """What messages call example ``i``: a path, or file and row."""
        return self.source.name(int(self.ids[i]))

    def image_id(self, i: int) -> str:
        """Equal for examples, of any task, that show the same image; they are not independent."""
        return self.source.image_id(int(self.ids[i]))

    def images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Pixels of some examples, decoded now unless they are kept; bit-equal either way.

        Args:
            indices: B positions in this task, in any order, from 0 to ``len(task) - 1``.

        Returns:
            uint8 (B, H, W, 3) after the task's geometry.

        Raises:
            DataError: an image is unreadable, or its size is not the others'; it is named.
            IndexError: a position outside the task.
        """
        rows = [int(self.ids[_inside(int(i), len(self))]) for i in indices]
        pixels = {row: self._pixels(row) for row in sorted(set(rows))}  # in the data's order: fewer re-reads
        sizes = {array.shape for array in pixels.values()}
        if len(sizes) > 1:
            raise self._mixed(pixels)
        return np.stack([pixels[row] for row in rows]) if rows else np.zeros((0, 0, 0, 3), dtype=np.uint8)

    def take(self, limit: int, *, seed: int = 0) -> Task:
        """A stratified subset of at most ``limit`` examples, as balanced over classes as the data allows.

        With one seed, ``take(50)`` is a subset of ``take(100)``; ids stay ascending. A limit beyond
        ``len(self)`` gives everything.

        Raises:
            ConfigError: the limit is not at least 1, or the seed is negative.
        """
        try:
            limit = operator.index(limit)  # JSON knows none of numpy's
        except TypeError:
            raise ConfigError(f"limit = {limit!r} must be a whole number of at least 1") from None
        if limit < 1:
            raise ConfigError(f"limit = {limit} must be at least 1")
        if seed < 0:
            raise ConfigError(f"seed = {seed} must not be negative")
        kept = np.sort(stratified_order(self.ids, self.labels, seed)[:limit])
        return replace(self, ids=frozen(self.ids[kept]), labels=frozen(self.labels[kept]), limit=(limit, seed))

    def extends(self, described: Mapping[str, Any]) -> bool:
        """Whether this is the described task under a larger limit, so that its examples are all among these.

        Where the images lie does not matter: fingerprints say what they are. False where examples were left out after
        the limit, because their images cannot be read.

        Args:
            described: What :meth:`describe` gave for it, or a run folder stored.
        """
        smaller = described["limit"]
        if smaller is None or (self.limit is not None and self.limit[1] != smaller["seed"]):
            return False
        if self.limit is not None and self.limit[0] < smaller["limit"]:
            return False
        now = self.take(smaller["limit"], seed=smaller["seed"]).describe()
        return now == {**described, "source": now["source"]}

    def with_geometry(self, geometry: Geometry) -> Task:
        """The same examples under another geometry, applied to the decoded images, not to the pixels."""
        return replace(self, geometry=geometry, _cache=PixelCache())

    def corrupted(self, corruption: Corruption) -> Task:
        """The same examples under a natural corruption: another task, called for example ``digits@noise-3``.

        It is related to the task that it corrupts and to whatever that is related to. The ids of its images stay, since
        results on them are not independent of the clean ones.

        Raises:
            ConfigError: it is corrupted already.
        """
        if self.corruption is not None:
            raise ConfigError(f"task '{self.name}' is corrupted already, and a task takes one corruption")
        return replace(
            self, name=f"{self.name}@{corruption}", follows_from=(self.name, *self.follows_from), corruption=corruption,
            _cache=PixelCache(),
        )  # fmt: skip

    def without_unreadable(self) -> Task:
        """The task without the images that cannot be decoded; ``bad_images`` lists them. Reads every image.

        Raises:
            DataError: nothing is left, or a class has nothing left.
        """
        good = np.ones(len(self), dtype=bool)
        bad = list(self.bad_images)
        for i, row in enumerate(self.ids):
            try:
                self.source.image(int(row))
            except DataError as problem:
                good[i] = False
                bad.append(str(problem))
        for label in np.setdiff1d(self.labels, self.labels[good]):
            raise DataError(
                f"{self.name}: no image of class '{self.class_names[label]}' can be read; the first: {bad[0]}"
            )
        return replace(self, ids=frozen(self.ids[good]), labels=frozen(self.labels[good]), bad_images=bad)

    def check(self, indices: Sequence[int] | None = None) -> None:
        """Read and decode images anew, whatever is kept of them, so that a broken one stops a run before it starts.

        Args:
            indices: Positions in this task; None: all.

        Raises:
            DataError: an image is unreadable or of the wrong size; it is named.
        """
        for i in range(len(self)) if indices is None else indices:
            row = int(self.ids[_inside(int(i), len(self))])
            self._processed(row, self.source.image(row))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over name, version, split, class names, geometry, corruption, ids, labels and the images' content.

        Content is the encoded bytes (files, table cells). Above 50,000 images so many are read, in evenly spaced runs;
        of the rendered world the first and last four are drawn, the rest being code that the task's version
        stands for.
        """
        header = {
            "name": self.name,
            "version": self.version,
            "split": self.split,
            "class_names": self.class_names,
            "geometry": self.geometry.describe(),
        }
        if self.corruption is not None:
            header |= {"corruption": str(self.corruption), "corruption_seed": self.corruption.seed}
        content = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        content.update(self.ids.astype("<i8").tobytes() + self.labels.astype("<i8").tobytes())
        for row in self.source.fingerprint_rows(self.ids):
            content.update(self.source.digest(row))
        return content.hexdigest()

    def describe(self) -> dict[str, Any]:
        """What a run stores about the task, as JSON."""
        return {
            "name": self.name,
            "version": self.version,
            "split": self.split,
            "n": len(self),
            "of": self.of,
            "limit": self.limit and {"limit": self.limit[0], "seed": self.limit[1]},
            "class_names": list(self.class_names),
            "templates": list(self.templates),
            "follows_from": list(self.follows_from),
            "fingerprint": self.fingerprint,
            "fingerprint_images": len(self.source.fingerprint_rows(self.ids)),
            "geometry": self.geometry.describe() + ("" if self.corruption is None else f", then {self.corruption}"),
            "bad_images": list(self.bad_images),
            "ignored_files": len(self.source.ignored),
            "source": {"kind": self.source.kind, "where": self.source.where},
        }

    def _pixels(self, row: int) -> np.ndarray:
        kept = self._cache.get(row)
        if kept is not None:
            return kept
        file = self._cache.file(self.source, self.geometry, self.corruption)
        if file is not None:
            return self._through(file, row)
        pixels = self._processed(row, self.source.image(row))
        self._cache.put(row, pixels)
        return pixels

    def _through(self, file: PixelFile, row: int) -> np.ndarray:
        """A row's pixels from the file, or decoded and put there: the very bytes whose digest stands beside them."""
        digest, content = self.source.known_digest(row), None
        if digest is None:
            content, digest = self.source.read(row)
        kept = file.get(row, digest)
        if kept is not None:
            return kept
        if content is None:
            content, digest = self.source.read(row)
        pixels = self._processed(row, decode(content, name=self.source.name(row)))
        if not file.put(row, digest, pixels):
            self._cache.put(row, pixels)
        return pixels

    def _processed(self, row: int, image: Image) -> np.ndarray:
        """Geometry, then corruption."""
        try:
            pixels = self.geometry(image)
        except DataError as problem:
            raise DataError(f"{self.source.name(row)} {problem}") from problem
        if self.corruption is not None:
            pixels = self.corruption(pixels, self.source.image_id(row))
        return pixels

    def _mixed(self, pixels: dict[int, np.ndarray]) -> DataError:
        (first, one), *rest = pixels.items()
        second, other = next((row, array) for row, array in rest if array.shape != one.shape)
        shown = [f"{self.source.name(row)} is {a.shape[0]}x{a.shape[1]}" for row, a in ((first, one), (second, other))]
        geometry = self.geometry.describe()
        return DataError(f"{self.name}: {' and '.join(shown)} under the geometry '{geometry}'; set [geometry] crop")


def stratified_order(ids: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Positions in an order whose every prefix is as balanced over classes as the data allows.

    Each row has a key that depends on the seed and its id alone, so leaving examples out does not reorder
    the others. Within a class examples go by key; then the classes take turns, in an order that the seed
    gives.

    Args:
        ids: (n,) rows of the examples.
        labels: (n,) their classes.
        seed: At least 0.

    Returns:
        (n,) permutation of positions.
    """
    keys = _raw(seed, 0, int(ids.max(initial=-1)) + 1)[ids]
    turn = _raw(seed, 1, int(labels.max(initial=-1)) + 1)[labels]
    by_class = np.lexsort((ids, keys, labels))
    starts = np.searchsorted(labels[by_class], labels[by_class])
    round_of = np.empty(len(ids), dtype=np.int64)
    round_of[by_class] = np.arange(len(ids)) - starts
    return np.lexsort((labels, turn, round_of))


def frozen(array: np.ndarray) -> np.ndarray:
    """The array as int64, read-only."""
    array = np.array(array, dtype=np.int64)
    array.flags.writeable = False
    return array


def _raw(seed: int, stream: int, count: int) -> np.ndarray:
    """Raw 64-bit words: numpy promises this stream for every version, unlike that of Generator's methods."""
    return np.asarray(np.random.PCG64([seed, stream]).random_raw(count))


def _inside(i: int, n: int) -> int:
    if not 0 <= i < n:
        raise IndexError(f"example {i} of a task with {n}")
    return i
