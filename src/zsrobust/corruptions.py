"""Clean accuracy under natural corruptions: a defence that loses it is no gain.

Every task is evaluated as it is and under each corruption at each strength, without an adversary, into a run folder of
records like any other. Each model is compared with the first on the same images.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from zsrobust.distributed import world
from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError, RunError
from zsrobust.evaluation import BATCH_SIZE, device_of
from zsrobust.passes import ROWS
from zsrobust.recording import describe_model, evaluate_into
from zsrobust.records import CLEAN, Record
from zsrobust.run_folder import RunFolder, claimed, write_atomically
from zsrobust.statistics import (
    Interval,
    Outcomes,
    bootstrap_difference,
    bootstrap_mean,
    holm,
    mcnemar,
    wilson,
)
from zsrobust.tasks import Task
from zsrobust.tasks.corruptions import NAMES, STRENGTHS, Corruption

FORMAT = "zsrobust.corruptions/1"
ALL = "all"


@dataclass(frozen=True)
class Difference:
    """A model's accuracy less the first model's, on the same images.

    Attributes:
        value: In [−1, 1].
        interval: 95 %, by resampling images.
        p: Of "there is none": McNemar's exact test for one cell, resampled images for a mean.
        p_holm: With Holm's correction over the ``family`` of cells or means of the same model (and task).
        family: Comparisons in it.
    """

    value: float
    interval: Interval
    p: float
    p_holm: float
    family: int


@dataclass(frozen=True)
class Cell:
    """A model on a task under a corruption.

    Attributes:
        model: Its name.
        task: Its name without the corruption; ``all``: the mean over several tasks, each weighing the same.
        corruption: One of the corruptions; ``clean``; ``all``: the mean over corruptions and strengths.
        strength: 1 to 5, 0 for clean; None: the mean over the strengths that were measured.
        n: Examples of each corruption and strength.
        accuracy: In [0, 1].
        interval: 95 %; Wilson's for one corruption at one strength, by resampling images for a mean.
        difference: From the first model; None for the first.
    """

    model: str
    task: str
    corruption: str
    strength: int | None
    n: int
    accuracy: float
    interval: Interval
    difference: Difference | None = None


@dataclass(frozen=True)
class CorruptionTable:
    """Accuracies under corruptions, in the order of models, tasks, corruptions and strengths.

    Attributes:
        models: Names; the others are compared with the first.
        tasks: Names without corruptions.
        corruptions: Names.
        strengths: Those measured.
        cells: For each model and task clean, every corruption at every strength, each corruption's mean and the mean
            of all; with several tasks also the last for all of them.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    corruptions: tuple[str, ...]
    strengths: tuple[int, ...]
    cells: tuple[Cell, ...]

    def cell(self, model: str, task: str, corruption: str, strength: int | None) -> Cell:
        """The one cell of this name.

        Raises:
            KeyError: there is none.
        """
        for cell in self.cells:
            if (cell.model, cell.task, cell.corruption, cell.strength) == (model, task, corruption, strength):
                return cell
        raise KeyError((model, task, corruption, strength))

    def to_json(self) -> str:
        """What is written as ``corruptions.json``."""
        return json.dumps({"format": FORMAT} | asdict(self), indent=1, ensure_ascii=False)


def corrupted_accuracy(
    models: Sequence[Encoder],
    tasks: Sequence[Task],
    *,
    run: str | Path,
    corruptions: Sequence[str] = NAMES,
    strengths: Sequence[int] = STRENGTHS,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    rows: int = ROWS,
) -> CorruptionTable:
    """Evaluates models on tasks as they are and under corruptions.

    Args:
        models: The first is what the others are compared with.
        tasks: Uncorrupted ones, in their own geometry.
        run: Folder of the records and of ``corruptions.json``; a run that was interrupted goes on.
        corruptions: Names; see :data:`zsrobust.tasks.corruptions.NAMES`.
        strengths: Of 1 to 5.
        seed: Of the noises.
        batch_size: Examples in flight.
        rows: Rows of one forward pass; part of the result.

    Raises:
        ZSRobustError: one line that says what is wrong; what was computed is kept.
    """
    check(corruptions=corruptions, strengths=strengths, seed=seed, batch_size=batch_size, rows=rows)
    names, levels = list(dict.fromkeys(corruptions)), sorted(set(strengths))
    if not (models and tasks):
        raise ConfigError("corruptions need at least one model and task")
    called = [encoder.name for encoder in models]
    if twice := [name for name in called if called.count(name) > 1]:
        raise ConfigError(
            f"two models are called '{twice[0]}': a table could not tell them apart; rename a folder or file"
        )
    views = [
        view
        for task in tasks
        for view in (task, *(task.corrupted(Corruption(name, k, seed)) for name in names for k in levels))
    ]
    device = device_of(models[0])
    fixed = {"space": "native", "precision": "float32", "rows": rows, "device": device.type}
    if not world().alone:
        raise ConfigError("this cannot be shared by several processes: start it without torchrun")
    with claimed(Path(run), kind="corruptions"):
        folder = RunFolder(run, kind="corruptions", settings=fixed)
        for encoder in models:  # all are compared with the run before the first is measured
            describe_model(folder, encoder)
        with folder.records:
            for encoder in models:
                evaluate_into(folder, encoder, views, [], seed=seed, batch_size=batch_size)
        table = tabulate(folder.records.read(), called, [task.name for task in tasks], names, levels, seed=seed)
        write_atomically(folder.path / "corruptions.json", table.to_json().encode())
    return table


def check(
    *, corruptions: Sequence[str], strengths: Sequence[int], seed: int, batch_size: int, rows: int = ROWS
) -> None:
    """Whether :func:`corrupted_accuracy` takes these arguments; before there are models or tasks.

    Raises:
        ConfigError: no corruption or strength, one that does not exist, or a number out of range.
    """
    if not (corruptions and strengths):
        raise ConfigError("corruptions need at least one corruption and strength")
    for name in corruptions:
        for strength in strengths:
            Corruption(name, strength)
    for name, value, least in (("seed", seed, 0), ("batch_size", batch_size, 1), ("rows", rows, 1)):
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, not {value}")


def tabulate(
    records: Sequence[Record],
    models: Sequence[str],
    tasks: Sequence[str],
    corruptions: Sequence[str],
    strengths: Sequence[int],
    *,
    seed: int = 0,
) -> CorruptionTable:
    """The table of clean records on corrupted tasks; other records are ignored.

    Raises:
        RunError: a model lacks records of a task, or two models were shown different examples.
    """
    found = _outcomes(records, seed)
    cells: list[Cell] = []
    for model in models:
        for task in tasks:
            cells += _cells(found, model, models[0], task, corruptions, strengths)
        if len(tasks) > 1:
            groups = [(ALL, "clean", 0, list(tasks)), (ALL, ALL, None, _views(tasks, corruptions, strengths))]
            cells += _means(found, model, models[0], groups)
    return CorruptionTable(tuple(models), tuple(tasks), tuple(corruptions), tuple(strengths), tuple(cells))


Group = tuple[str, str, int | None, list[str]]
"""Task, corruption and strength of a cell, and the names of the corrupted tasks it is the mean of."""
Found = Mapping[tuple[str, str], Outcomes]


def _outcomes(records: Sequence[Record], seed: int) -> dict[tuple[str, str], Outcomes]:
    """(model, task) → outcomes in the order of the examples."""
    rows: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.attack == CLEAN and record.seed == seed:
            rows.setdefault((record.model, record.task), []).append(record)
    return {
        key: Outcomes([r.image for r in ordered], np.array([float(r.correct) for r in ordered]))
        for key, some in rows.items()
        for ordered in [sorted(some, key=lambda record: record.example)]
    }


def _views(tasks: Sequence[str], corruptions: Sequence[str], strengths: Sequence[int]) -> list[str]:
    return [f"{task}@{Corruption(name, k)}" for task in tasks for name in corruptions for k in strengths]


def _cells(
    found: Found, model: str, first: str, task: str, corruptions: Sequence[str], strengths: Sequence[int]
) -> Iterator[Cell]:
    """Clean and every corruption at every strength (one family of tests); then the means (another)."""
    single: list[Group] = [(task, CLEAN, 0, [task])]
    single += [(task, name, k, _views([task], [name], [k])) for name in corruptions for k in strengths]
    means: list[Group] = [(task, name, None, _views([task], [name], strengths)) for name in corruptions]
    means += [(task, ALL, None, _views([task], corruptions, strengths))]
    yield from _means(found, model, first, single)
    yield from _means(found, model, first, means)


def _means(found: Found, model: str, first: str, groups: Sequence[Group]) -> list[Cell]:
    """A cell for each group, compared with the first model, corrected for the number of groups."""
    changes = [_change(found, model, first, views) if model != first else None for *_, views in groups]
    corrected = holm([change[2] for change in changes if change is not None])
    cells = []
    for i, (task, name, strength, views) in enumerate(groups):
        outcomes = [_of(found, model, view) for view in views]
        n = len(outcomes[0].values)
        if len(outcomes) == 1:
            right = float(outcomes[0].values.sum())
            accuracy, interval = right / n, wilson(right, n)
        else:
            mean = bootstrap_mean(outcomes)
            accuracy, interval = mean.value, mean.interval
        change = changes[i]
        difference = None if change is None else Difference(*change, p_holm=corrected[i], family=len(groups))
        size = sum(len(_of(found, model, view).values) for view in views) // len(views) if task == ALL else n
        cells.append(Cell(model, task, name, strength, size, accuracy, interval, difference))
    return cells


def _change(found: Found, model: str, first: str, views: Sequence[str]) -> tuple[float, Interval, float]:
    """Difference, interval and p-value, paired."""
    before, after = ([_of(found, name, view) for view in views] for name in (first, model))
    if any(list(b.images) != list(a.images) for b, a in zip(before, after, strict=True)):
        raise RunError(f"'{first}' and '{model}' were not shown the same examples of {views[0]}")
    change = bootstrap_difference(before, after)
    if len(views) > 1:
        return change.value, change.interval, change.p
    signs = after[0].values - before[0].values
    return change.value, change.interval, mcnemar(int((signs < 0).sum()), int((signs > 0).sum()))


def _of(found: Found, model: str, task: str) -> Outcomes:
    if (model, task) not in found:
        raise RunError(f"there are no records of '{model}' on {task}")
    return found[model, task]
