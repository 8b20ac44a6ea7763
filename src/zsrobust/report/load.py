"""A run folder, read: ``run.json``, ``records.jsonl`` and the pictures."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zsrobust.errors import RunError
from zsrobust.records import Cell, Record, RecordFile

RUN_FORMAT = "zsrobust.run/1"
PICTURES_FORMAT = "zsrobust.pictures/1"
STRENGTHS = ("proved", "measured", "suspected")
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Model:
    """A model of a run; ``adapted_on`` is empty for one that was not adapted."""

    name: str
    adapted_on: tuple[str, ...]
    fingerprint: str
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """A task of a run; ``n`` is how many examples were to be evaluated."""

    name: str
    split: str
    n: int
    class_names: tuple[str, ...]
    follows_from: tuple[str, ...]
    fingerprint: str
    geometry: str
    bad_images: tuple[str, ...]
    templates: tuple[str, ...] = ()


@dataclass(frozen=True)
class Flag:
    """An alarm about rows; of ``model``, ``task``, ``threat`` and ``seed``, those that are None hold for any.

    ``name`` and ``strength`` (one of ``STRENGTHS``) are None in runs of older versions.
    """

    text: str
    model: str | None = None
    task: str | None = None
    threat: str | None = None
    seed: int | None = None
    name: str | None = None
    strength: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def fits(self, cell: Cell, threat: str) -> bool:
        """Whether it is about this cell under this threat."""
        wanted = (self.model, self.task, self.seed, self.threat)
        return all(w is None or w == a for w, a in zip(wanted, (*cell, threat), strict=True))


@dataclass(frozen=True)
class ModelPicture:
    """What one model made of one image: PNG data URIs or None, and (class, probability) in ``*_top``."""

    model: str
    adversarial: str | None
    perturbation: str | None
    magnification: float
    clean_top: tuple[tuple[str, float], ...]
    adversarial_top: tuple[tuple[str, float], ...]
    size: float
    verdict: str
    verdict_8bit: str


@dataclass(frozen=True)
class Picture:
    """One example, shown."""

    task: str
    example: int
    label: str
    threat: str
    clean: str
    models: tuple[ModelPicture, ...]


@dataclass(frozen=True)
class Run:
    """One evaluation: what was asked (``run.json``) and what was measured (``records.jsonl``)."""

    path: Path
    kind: str
    created: str
    versions: Mapping[str, Any]
    device: str
    precision: str
    models: tuple[Model, ...]
    tasks: tuple[Task, ...]
    attacks: tuple[Mapping[str, Any], ...]
    threats: tuple[str, ...]
    seeds: tuple[int, ...]
    records: tuple[Record, ...]
    flags: tuple[Flag, ...] = ()
    pictures: tuple[Picture, ...] = ()

    def __str__(self) -> str:
        return str(self.path)


def load_run(path: str | Path) -> Run:
    """Read a run folder.

    Raises:
        RunError: not a run, of a format this version does not know, broken, or without records.
    """
    folder = Path(path).expanduser()
    if not (folder / "run.json").is_file():
        what = "has no run.json" if folder.is_dir() else "is not a folder"
        raise RunError(f"{folder} is not a run: it {what}")
    description = _Fields(_json(folder / "run.json"), str(folder / "run.json"))
    _check_format(description, RUN_FORMAT)
    records = RecordFile(folder / "records.jsonl").read()
    if not records:
        raise RunError(f"{folder} has no records: the evaluation stopped before its first batch was finished")
    run = Run(
        path=folder,
        kind=description.take("kind", str),
        created=description.take("created", str),
        versions=description.take("versions", dict, {}),
        device=description.take("device", str),
        precision=description.take("precision", str),
        models=tuple(_model(fields) for fields in description.each("models")),
        tasks=tuple(_task(fields) for fields in description.each("tasks")),
        attacks=tuple(_attack(fields) for fields in description.each("attacks")),
        threats=description.strings("threats"),
        seeds=tuple(description.take("seeds", list)),
        records=tuple(records),
        flags=tuple(_flag(fields) for fields in description.each("flags", optional=True)),
        pictures=_pictures(folder / "pictures"),
    )
    _check_names(run)
    return run


class _Fields:
    """A JSON object whose keys are taken one by one, with errors that name the place."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise RunError(f"{where} is not a JSON object")
        self.values: dict[str, Any] = values
        self.where = where

    def take(self, key: str, kind: type, default: Any = ...) -> Any:
        value = self.values.get(key, default)
        if value is ...:
            raise RunError(f"{self.where} has no '{key}'")
        if kind is float and isinstance(value, int):
            value = float(value)
        if value is not default and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise RunError(f"{self.where}: '{key}' is {value!r}, not {kind.__name__}")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        values = self.take(key, list)
        if not all(isinstance(value, str) for value in values):
            raise RunError(f"{self.where}: '{key}' is not a list of strings")
        return tuple(values)

    def each(self, key: str, *, optional: bool = False) -> list[_Fields]:
        values = self.take(key, list, []) if optional else self.take(key, list)
        return [_Fields(value, f"{self.where}: {key}[{i}]") for i, value in enumerate(values)]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON: {error}") from None


def _check_format(fields: _Fields, known: str) -> None:
    found = fields.take("format", str, "none")
    if found != known:
        raise RunError(f"{fields.where} has format '{found}'; this version of zsrobust reads '{known}'")


def _check_names(run: Run) -> None:
    """Every record belongs to a model, task and seed of ``run.json``, and models and tasks are named once."""
    if not run.attacks or not run.threats:
        raise RunError(f"{run} has no attack: there is no robust accuracy to report")
    models, tasks = [model.name for model in run.models], [task.name for task in run.tasks]
    for kind, names in (("model", models), ("task", tasks)):
        if len(set(names)) != len(names):
            raise RunError(f"{run}: run.json names a {kind} twice ({', '.join(names)})")
    for cell in {record.cell for record in run.records}:
        for kind, name, names in (("model", cell.model, models), ("task", cell.task, tasks)):
            if name not in names:
                raise RunError(f"{run}: a record of {kind} '{name}', which run.json does not have")
        if cell.seed not in run.seeds:
            raise RunError(f"{run}: a record of seed {cell.seed}, which run.json does not have")


def _model(fields: _Fields) -> Model:
    return Model(
        name=fields.take("name", str),
        adapted_on=fields.strings("adapted_on"),
        fingerprint=fields.take("fingerprint", str),
        provenance=fields.take("provenance", dict, {}),
    )


def _task(fields: _Fields) -> Task:
    return Task(
        name=fields.take("name", str),
        split=fields.take("split", str),
        n=fields.take("n", int),
        class_names=fields.strings("class_names"),
        follows_from=fields.strings("follows_from"),
        fingerprint=fields.take("fingerprint", str),
        geometry=fields.take("geometry", str, ""),
        bad_images=tuple(map(str, fields.take("bad_images", list, []))),
        templates=tuple(map(str, fields.take("templates", list, []))),
    )


def _attack(fields: _Fields) -> Mapping[str, Any]:
    """All that ``run.json`` says of it; what the report relies on is checked."""
    fields.take("name", str)
    fields.take("suite", str, None)
    if "tasks" in fields.values:
        fields.strings("tasks")
    for key in ("gradient", "transfer"):
        fields.take(key, bool, False)
    return fields.values


def _flag(fields: _Fields) -> Flag:
    strength = fields.take("strength", str, None)
    if strength not in (None, *STRENGTHS):
        raise RunError(f"{fields.where}: 'strength' is '{strength}', not one of {', '.join(STRENGTHS)}")
    return Flag(
        text=fields.take("text", str),
        model=fields.take("model", str, None),
        task=fields.take("task", str, None),
        threat=fields.take("threat", str, None),
        seed=fields.take("seed", int, None),
        name=fields.take("name", str, None),
        strength=strength,
        evidence={key: _plain(value) for key, value in fields.take("evidence", dict, {}).items()},
    )


def _plain(value: Any) -> str | int | float | None:
    """A value that every JSON reader and every table can hold."""
    if value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return json.dumps(value, ensure_ascii=False)


def _pictures(folder: Path) -> tuple[Picture, ...]:
    if not (folder / "index.json").is_file():
        return ()
    index = _Fields(_json(folder / "index.json"), str(folder / "index.json"))
    _check_format(index, PICTURES_FORMAT)
    return tuple(_picture(item, folder) for item in index.each("items"))


def _picture(item: _Fields, folder: Path) -> Picture:
    return Picture(
        task=item.take("task", str),
        example=item.take("example", int),
        label=item.take("label", str),
        threat=item.take("threat", str),
        clean=_data_uri(folder, item.take("clean_png", str)),
        models=tuple(_model_picture(fields, folder) for fields in item.each("models")),
    )


def _model_picture(fields: _Fields, folder: Path) -> ModelPicture:
    adversarial, perturbation = (
        None if (name := fields.take(key, str, None)) is None else _data_uri(folder, name)
        for key in ("adversarial_png", "perturbation_png")
    )
    return ModelPicture(
        model=fields.take("model", str),
        adversarial=adversarial,
        perturbation=perturbation,
        magnification=fields.take("magnification", float),
        clean_top=_top(fields, "clean_top"),
        adversarial_top=_top(fields, "adversarial_top"),
        size=fields.take("size", float),
        verdict=fields.take("verdict", str),
        verdict_8bit=fields.take("verdict_8bit", str),
    )


def _top(fields: _Fields, key: str) -> tuple[tuple[str, float], ...]:
    try:
        return tuple((str(name), float(probability)) for name, probability in fields.take(key, list))
    except (TypeError, ValueError):
        raise RunError(f"{fields.where}: '{key}' is not a list of [class, probability]") from None


def _data_uri(folder: Path, name: str) -> str:
    # A run folder may come from someone else: only PNG files that lie in it get into the page.
    if Path(name).name != name:
        raise RunError(f"{folder / 'index.json'}: '{name}' is not a file name in that folder")
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {folder / name}: {error.strerror}") from None
    if not data.startswith(_PNG):
        raise RunError(f"{folder / name} is not a PNG picture")
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def load_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Read several run folders; the same folder given twice is read once.

    Raises:
        RunError: as :func:`load_run`, or no path at all.
    """
    if not paths:
        raise RunError("no run given: name at least one run folder")
    return [load_run(path) for path in {Path(p).expanduser().resolve(): p for p in paths}.values()]
