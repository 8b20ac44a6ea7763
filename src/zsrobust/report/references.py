"""Published numbers as data: the TOML files in ``references/``, one for each source.

A number of somebody else is never measured again here, and never enters a mean or an interval of ours. What a source
does not say is empty, and what was read in a copy, a README or a note says so (``seen``).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from zsrobust.errors import RunError, UnknownName
from zsrobust.report.words import parse_threat, plural

Kind = Literal["clean", "robust"]
SEEN = ("paper", "secondary")
SPACES = ("native", "model", "unknown")
EXTERNAL = ("tiny-imagenet",)
"""Data sets of published tables that zsrobust has no task for."""

_SOURCE_KEYS = ("title", "where", "seen", "note", "models", "attacks", "spaces", "splits", "tables")
_TABLE_KEYS = ("kind", "attack", "norm", "eps", "n", "tasks", "over", "values", "means", "notes")


@dataclass(frozen=True)
class Source:
    """Where numbers come from.

    Attributes:
        name: Short, the file's name.
        title: The paper or repository.
        where: Where the numbers were read.
        seen: ``"paper"``, or ``"secondary"``: a copy, a README or somebody's note.
        note: How they were measured, as far as it was seen, and what contradicts them.
    """

    name: str
    title: str
    where: str
    seen: str
    note: str


@dataclass(frozen=True)
class PublishedModel:
    """A model that numbers are about.

    Attributes:
        name: As people call it.
        bases: Hub ids of the model it was adapted from; of an unadapted model, its own.
        weights: Hub ids under which these very weights were released.
        input: Side of the images it takes, in pixels.
        method: What it was adapted with; empty: it was not.
        options: The method's own settings, by our names; what is not among them is left to the model: unset.
        tuning: What of it was trained, ``"full"`` for the whole visual tower; empty: not stated.
        labels: ``"true"``, or ``"none"`` for a method that reads no labels.
        adapted_on: The task.
        eps: Radius of the training attack in L∞, as written, ``"1/255"``; empty: not stated.
        training: Length and optimizer, where stated.
    """

    name: str
    bases: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    input: int = 224
    method: str = ""
    options: Mapping[str, float] = field(default_factory=dict, hash=False)
    tuning: str = ""
    labels: str = "true"
    adapted_on: str = ""
    eps: str = ""
    training: str = ""


@dataclass(frozen=True)
class PublishedAttack:
    """An attack of a source.

    Attributes:
        words: What the source says of it.
        ours: Names of our attacks that are the same one, ``+`` between several that run one after the other.
        two_classes: The same for tasks with two classes, where that is another one.
    """

    words: str
    ours: tuple[str, ...] = ()
    two_classes: tuple[str, ...] = ()

    def is_ours(self, attack: str, classes: int) -> bool:
        """Whether what a row names, say ``apgd:ce:restarts=5+apgd:dlr-t``, is this attack on so many classes."""
        same = self.two_classes if self.two_classes and classes == 2 else self.ours
        return any(sorted(attack.split("+")) == sorted(name.split("+")) for name in same)


@dataclass(frozen=True)
class Published:
    """One published accuracy.

    Attributes:
        source: Where it comes from.
        model: Of which model.
        tasks: The task, or those that a mean is over, in our names; empty: the source does not list them.
        over: In words, what a mean without ``tasks`` is over.
        mean: Whether it is a mean.
        spaces: Where the perturbation lives, for each of ``tasks``: ``"native"``, ``"model"`` or ``"unknown"``.
        splits: The split, for each of ``tasks``; empty: not stated.
        n: Images of each task; None: not stated.
        kind: ``"clean"`` or ``"robust"``.
        norm: ``"linf"``; empty for clean accuracies.
        eps: As written, ``"1/255"``; empty: clean, or not one value, or not stated.
        attack: None for clean accuracies.
        value: In percent.
        note: What has to be said of this number.
    """

    source: Source
    model: PublishedModel
    tasks: tuple[str, ...]
    over: str
    mean: bool
    spaces: tuple[str, ...]
    splits: tuple[str, ...]
    n: int | None
    kind: Kind
    norm: str
    eps: str
    attack: PublishedAttack | None
    value: float
    note: str

    @property
    def radius(self) -> float | None:
        """ε as a number in pixel range [0, 1]; None where there is none."""
        return eps_of(self.eps) if self.eps else None


def eps_of(text: str) -> float:
    """``"1/255"`` as a number."""
    return parse_threat(f"linf:{text}:native").eps


def sources() -> list[tuple[str, str]]:
    """(name, one line) of each source, by name."""
    found = []
    for name, rows in _all().items():
        source = rows[0].source
        seen = "" if source.seen == "paper" else f", from {source.where}"
        found.append((name, f"{source.title}: {plural(len(rows), 'number')}{seen}"))
    return found


def published(
    *,
    source: str | None = None,
    task: str | None = None,
    method: str | None = None,
    base: str | None = None,
    kind: Kind | None = None,
    eps: str | None = None,
) -> list[Published]:
    """Published accuracies; what is None may be anything.

    Args:
        source: A name of :func:`sources`.
        task: Numbers of this task alone, no means over several.
        method: What the model was adapted with; ``""`` for models that were not.
        base: Hub id of the model, or of the one it was adapted from.
        kind: ``"clean"`` or ``"robust"``.
        eps: Radius of the attack, ``"1/255"``.

    Raises:
        UnknownName: there is no such source.
    """
    if source is not None and source not in _all():
        raise UnknownName("source", source, _all())
    rows = [row for name, rows in _all().items() if source in (None, name) for row in rows]
    radius = None if eps is None else eps_of(eps)
    return [
        row
        for row in rows
        if (task is None or (not row.mean and row.tasks == (task,)))
        and method in (None, row.model.method)
        and (base is None or base in row.model.bases)
        and kind in (None, row.kind)
        and (radius is None or row.radius == radius)
    ]


@cache
def _all() -> Mapping[str, tuple[Published, ...]]:
    folder = files("zsrobust").joinpath("references")
    found = sorted((file.name, file) for file in folder.iterdir() if file.name.endswith(".toml"))
    texts = {name.removesuffix(".toml"): file.read_text("utf-8") for name, file in found}
    return {name: tuple(read(name, tomllib.loads(text))) for name, text in texts.items()}


def read(name: str, data: Mapping[str, Any]) -> Iterator[Published]:
    """The numbers of one source, from its TOML.

    Raises:
        RunError: a key or value that is not allowed, or a list of values that is not as long as that of its tasks.
    """
    _known(data, _SOURCE_KEYS, name)
    source = Source(name, data["title"], data["where"], data["seen"], data.get("note", ""))
    if source.seen not in SEEN:
        raise RunError(f"{name}: 'seen' is '{source.seen}', not one of {', '.join(SEEN)}")
    models = {key: _make(PublishedModel, values, f"{name}: model {key}") for key, values in data["models"].items()}
    attacks = {
        key: _make(PublishedAttack, values, f"{name}: attack {key}") for key, values in data.get("attacks", {}).items()
    }
    for number, table in enumerate(data["tables"], start=1):
        where = f"{name}: table {number}"
        _known(table, _TABLE_KEYS, where)
        tasks = tuple(table.get("tasks", ()))
        if not tasks and not table.get("over"):
            raise RunError(f"{where} says neither 'tasks' nor what its means are 'over'")
        if (table["kind"] == "robust") != ("attack" in table):
            raise RunError(f"{where}: a robust accuracy needs an attack, and a clean one has none")
        for model, value, shown, mean in _numbers(table, tasks, where):
            spaces, splits = data.get("spaces", {}), data.get("splits", {})
            yield Published(
                source=source,
                model=models[model],
                tasks=shown,
                over=table.get("over", ""),
                mean=mean,
                spaces=tuple(_space(spaces, task, where) for task in shown),
                splits=tuple(splits.get(task, splits.get("default", "")) for task in shown),
                n=table.get("n"),
                kind=table["kind"],
                norm=table.get("norm", ""),
                eps=table.get("eps", ""),
                attack=attacks[table["attack"]] if "attack" in table else None,
                value=value,
                note=table.get("notes", {}).get(model, ""),
            )


def _numbers(
    table: Mapping[str, Any], tasks: tuple[str, ...], where: str
) -> Iterator[tuple[str, float, tuple[str, ...], bool]]:
    """(model, percent, tasks, whether it is a mean) of a table."""
    for model, values in table.get("values", {}).items():
        if len(values) != len(tasks):
            raise RunError(f"{where}: {model} has {len(values)} values for {len(tasks)} tasks")
        for task, value in zip(tasks, values, strict=True):
            yield model, _percent(value, where), (task,), False
    for model, value in table.get("means", {}).items():
        yield model, _percent(value, where), tasks, True


def _percent(value: float, where: str) -> float:
    if not 0 <= value <= 100:
        raise RunError(f"{where}: {value} is no accuracy in percent")
    return float(value)


def _space(spaces: Mapping[str, str], task: str, where: str) -> str:
    space = spaces.get(task, spaces.get("default", "unknown"))
    if space not in SPACES:
        raise RunError(f"{where}: space '{space}' is not one of {', '.join(SPACES)}")
    return space


def _make(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    _known(values, [field.name for field in fields(kind)], where)
    return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})


def _known(values: Mapping[str, Any], allowed: Any, where: str) -> None:
    if unknown := sorted(values.keys() - set(allowed)):
        raise RunError(f"{where} has unknown keys: {', '.join(unknown)}")
