"""Task names, TOML files, folders, files and hub ids → tasks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from zsrobust.errors import ConfigError, DataError, UnknownName
from zsrobust.geometry import Geometry
from zsrobust.tasks.base import Task, frozen
from zsrobust.tasks.catalogue import catalogue
from zsrobust.tasks.corruptions import taken_apart
from zsrobust.tasks.layouts import looks_like_path, open_path, open_source
from zsrobust.tasks.naming import by_name, check_words, rename, resolve_classes, resolve_templates
from zsrobust.tasks.source import SPLITS, Source, shown_names
from zsrobust.tasks.spec import SourceSpec, Split, TaskSpec, read_spec
from zsrobust.tasks.suites import SUITES

NATIVE_SIDE = 224
"""Images no larger than this, all of one size, keep it where no geometry is given."""
_PROBED = 16


def task(
    spec: str | Path,
    *,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    classes: Sequence[str] | Mapping[str, str] | None = None,
    templates: str | Sequence[str] | None = None,
    select: Sequence[str] | None = None,
    geometry: Geometry | None = None,
    data: str | Path | None = None,
    tasks_dir: str | Path | None = None,
    on_bad_image: str = "stop",
) -> Task:
    """Open a task.

    Args:
        spec: A task's name; a ``.toml`` file; a ``.parquet`` file; a folder of class folders, of parquet
            files or of tars (clip-benchmark's layout), optionally divided into train, validation and test;
            or ``hub:owner/name``. Any of them with ``@CORRUPTION-STRENGTH`` at its end is that task under a natural
            corruption, for example ``digits@noise-3``; see :mod:`zsrobust.tasks.corruptions`.
        split: Which split. Data that is not divided is all ``test``.
        limit: A stratified subset of so many examples; see ``Task.take``.
        seed: For the limit, and for a corruption with noise.
        classes: Names to use in the prompts: one for every class, in the TOML's order, without a TOML in the data's
            (for a folder: the sorted folders), or ``{data's name: name}`` for some of them, also written
            ``"folder=name"``.
        templates: Prompt templates with one ``{}`` each; a word without braces is a template set of the TOML, such as
            ``"openai"``.
        select: Only these classes (by the names in use), and only their names; they keep the data's order. The
            task is then called ``NAME[class+class]``.
        geometry: In place of the task's own.
        data: Folder where a TOML's ``local`` files are looked up; else ``ZSROBUST_DATA``, else ``data`` here.
        tasks_dir: A folder with further TOMLs.
        on_bad_image: ``"stop"`` raises when an unreadable image is met; ``"skip"`` decodes every image now
            and leaves unreadable ones out, so that fewer than ``limit`` may remain.

    Raises:
        UnknownName: no such task, split, class or template set.
        ConfigError: an argument or the TOML is not allowed.
        DataError: the data is missing, broken, or not what the TOML says: in size or in the names of its classes, which
            are matched by name.
    """
    if on_bad_image not in ("stop", "skip"):
        raise UnknownName("on_bad_image", str(on_bad_image), ("stop", "skip"))
    spec, corruption = (spec, None) if Path(spec).exists() else taken_apart(str(spec), seed)
    given = find(spec, tasks_dir=tasks_dir)
    source, rows = _open_split(given, split, data)
    source = by_name(given, source)
    names = resolve_classes(given, source)
    if classes is not None:
        names = rename(names, source, classes)
    elif not given.classes:
        check_words(names, source)
    asked = (templates,) if isinstance(templates, str) else tuple(templates or ())
    opened = Task(
        name=given.name,
        version=given.version,
        description=given.description,
        split=split,
        class_names=names,
        templates=resolve_templates(given, source, asked),
        follows_from=given.follows_from,
        geometry=geometry or given.geometry or Geometry(),
        ids=frozen(rows),
        labels=frozen(source.labels[rows]),
        source=source,
        of=len(rows),
    )
    opened = _selected(opened, tuple(select) if select is not None else given.select)
    if select:
        # Another set of classes is another task: a model adapted on five classes was not adapted on the other five.
        opened = replace(opened, name=f"{opened.name}[{'+'.join(opened.class_names)}]")
    _check_labels(opened)
    if geometry is None and given.geometry is None:
        opened = opened.with_geometry(_guess_geometry(opened))
    opened = opened if limit is None else opened.take(limit, seed=seed)
    opened = opened if corruption is None else opened.corrupted(corruption)
    return opened.without_unreadable() if on_bad_image == "skip" else opened


def find(spec: str | Path, *, tasks_dir: str | Path | None = None) -> TaskSpec:
    """The description of a task, without opening its data; the same ``spec`` as for ``task``.

    Raises:
        UnknownName: no such task.
        ConfigError: a broken TOML, or a suite's name.
        DataError: a path that does not exist.
    """
    text = str(spec)
    if text.startswith("hub:"):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text[4:]):
            raise ConfigError(f"'{text}' is not of the form hub:owner/name")
        return TaskSpec(name=text[4:], source=SourceSpec(kind="hub", hub=text[4:]))
    known = catalogue(tasks_dir)
    if text in known:
        return read_spec(known[text])
    path = Path(spec).expanduser()
    if path.suffix == ".toml" and (path.exists() or looks_like_path(text)):
        return read_spec(path)
    if text and path.exists():
        name = path.stem if path.suffix == ".parquet" else path.resolve().name
        return TaskSpec(name=name, source=SourceSpec(path=str(path)))
    if isinstance(spec, Path) or looks_like_path(text):
        like_hub = re.fullmatch(r"\w[\w.-]*/\w[\w-]*", text)
        hint = f"; for the Hugging Face hub write hub:{text}" if like_hub else ""
        raise DataError(f"no such file or folder: {text}{hint}")
    if text in SUITES:
        raise ConfigError(
            f"'{text}' is a suite of tasks, and one task is wanted here ('zsrobust ls suites' lists them)"
        )
    raise UnknownName("task", text, known, also=f"suites: {', '.join(SUITES)}; there is no file or folder of that name")


def names(tasks_dir: str | Path | None = None) -> list[str]:
    """Names of the known tasks: ours, those of installed packages, and those in ``tasks_dir``; sorted."""
    return sorted(catalogue(tasks_dir))


def _open_split(spec: TaskSpec, split: str, data: str | Path | None) -> tuple[Source, np.ndarray]:
    """(the data's split, the rows of it that make up ours), with sizes checked."""
    declared = declared_split(spec, split)
    if spec.file is None and spec.source.path is not None:
        source = open_path(Path(spec.source.path), split, spec.source)
    else:
        source = open_source(spec, declared.sources, data)
    called = " or ".join(declared.sources)
    if declared.size is not None and len(source) != declared.size:
        raise DataError(
            f"task '{spec.name}': {source.where} has {len(source):,} examples in its '{called}' split, "
            f"but its TOML says {declared.size:,}"
        )
    if len(source) == 0:
        raise DataError(f"{source.where} has no examples in its '{called}' split")
    first, end = declared.rows or (0, len(source))
    if end > len(source):
        raise DataError(f"task '{spec.name}': rows {first}:{end} of {source.where}, which has only {len(source):,}")
    return source, np.arange(first, end)


def declared_split(spec: TaskSpec, split: str) -> Split:
    """What a TOML says about one of its splits.

    Raises:
        UnknownName: it has no such split.
    """
    if spec.splits is None:
        if split not in SPLITS:
            raise UnknownName("split", split, SPLITS)
        return Split(None, (split,))
    if split not in spec.splits:
        raise UnknownName(f"split of task '{spec.name}'", split, spec.splits)
    return spec.splits[split]


def _selected(opened: Task, wanted: Sequence[str]) -> Task:
    if not wanted:
        return opened
    for name in wanted:
        if name not in opened.class_names:
            raise UnknownName(f"class of task '{opened.name}'", name, opened.class_names)
    kept = [label for label, name in enumerate(opened.class_names) if name in set(wanted)]
    mask = np.isin(opened.labels, kept)
    return replace(
        opened,
        class_names=tuple(opened.class_names[label] for label in kept),
        ids=frozen(opened.ids[mask]),
        labels=frozen(np.searchsorted(kept, opened.labels[mask])),
        of=int(mask.sum()),
    )


def _check_labels(opened: Task) -> None:
    """Every label has a name and every name an image: what is measured is then over the classes it says."""
    if not opened.class_names:
        where = opened.source.where
        raise DataError(f"{where} has no class names; give them with --classes, or as classes in a TOML")
    counts = np.bincount(opened.labels, minlength=len(opened.class_names))
    if len(counts) > len(opened.class_names):
        first = int(np.argmax(opened.labels >= len(opened.class_names)))
        raise DataError(
            f"{opened.source.where}: row {opened.ids[first]} has the label {opened.labels[first]}, "
            f"but there are only {len(opened.class_names)} class names"
        )
    empty = [name for name, count in zip(opened.class_names, counts, strict=True) if count == 0]
    if empty:
        told = shown_names([f"class '{name}'" for name in empty], 3)
        raise DataError(
            f"{opened.source.where}: no images of {told} in the "
            f"'{opened.split}' split; select the classes that have some, or correct the class names"
        )


def _guess_geometry(opened: Task) -> Geometry:
    """Images of one size, none larger than ``NATIVE_SIDE``, keep it; otherwise the paper's 256/224.

    Looks at a few images spread over the whole split, so that a limit does not change the answer.
    """
    probed: Iterable[int] = np.unique(np.linspace(0, len(opened) - 1, _PROBED).astype(int))
    sizes: set[tuple[int, int]] = set()
    for i in probed:
        with suppress(DataError):  # reported where it is used, with its name
            image = opened.source.image(int(opened.ids[i]))
            sizes.add((image.height, image.width))
    if len(sizes) == 1 and max(max(size) for size in sizes) <= NATIVE_SIDE:
        return Geometry(size=sizes.pop())
    return Geometry(resize=256, crop=224)
