"""An evaluation into a run folder: one model, its tasks and attacks, going on where it stopped."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict
from functools import cached_property
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import torch
from tqdm import tqdm

from zsrobust.alarms.base import Alarm
from zsrobust.alarms.checkup import quick
from zsrobust.alarms.claims import refuted
from zsrobust.alarms.subject import Subject
from zsrobust.attacks.base import Attack, Model
from zsrobust.attacks.binding import Asked, check_classes, expand
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.declarations import declare
from zsrobust.declarations import describe_model as describe_model
from zsrobust.distributed import Watch, World, broadcast, store, translated, wait_for, world
from zsrobust.encoders.base import Encoder
from zsrobust.encoders.switches import compiled
from zsrobust.errors import ConfigError, RunError, UnreadableImage
from zsrobust.evaluation import (
    BATCH_SIZE,
    Claims,
    Watcher,
    classifier_for,
    device_of,
    evaluate_task,
    in_space,
    unfinished,
)
from zsrobust.passes import within_memory
from zsrobust.pixels import to_pixels
from zsrobust.records import Cell, Done, Record
from zsrobust.run_folder import ReadOnly, RunFolder
from zsrobust.sharing import Collector, Exchange, Part, Piece, pieces
from zsrobust.tasks import Task
from zsrobust.threat import widest

CHECKED = 16
"""Examples of the check-up before an evaluation."""
REFUTED = "claims-refuted"
"""The alarm that counts over the whole run, so that more images may take it back."""


def settings(
    attacks: Sequence[Asked], *, rows: int, device: torch.device, encoders: Sequence[Encoder] = ()
) -> dict[str, object]:
    """What must not change within a run; of the encoders, where they are given, whether passes are compiled.

    Raises:
        ConfigError: threats of both spaces: their clean images differ, so they are two runs.
    """
    spaces = sorted({attack.threat.space for attack in attacks})
    if len(spaces) != 1:
        raise ConfigError(
            f"one run has one threat space, not {' and '.join(spaces)}: their images differ; make two runs"
        )
    # A suite's scout does not count: what it cannot break meets every other member in float32.
    rough = sorted({str(getattr(attack, "precision", "float32")) for attack in attacks} - {"float32"})
    precision = f"{', '.join(rough)} (breaks verified in float32)" if rough else "float32"
    # Attention is each model's own: see describe_model.
    rounding = {"compile": compiled(encoders)} if encoders else {}
    return {"space": spaces[0], "precision": precision, "rows": rows, "device": device.type, **rounding}


def evaluate_into(
    run: RunFolder,
    encoder: Encoder,
    tasks: Sequence[Task],
    attacks: Sequence[Asked],
    *,
    seed: int,
    batch_size: int = BATCH_SIZE,
    watch: Watcher | None = None,
) -> None:
    """Evaluates one model on some tasks into a run folder, going on where it stopped.

    In a job of several processes every one of them calls this, with the same arguments. The records are those of one
    process; only the order of their lines is another one, which says nothing once the run is complete.

    Args:
        run: Where the records go, of all but the first process a :class:`~zsrobust.run_folder.ReadOnly`; its settings
            say space and rows.
        encoder: The model.
        tasks: In their own geometry; ``model`` space is applied here.
        attacks: Attack × threat, each with its budget; suites are expanded for each task. Sources of transfer attacks
            are encoders.
        seed: Key of the attacks' random numbers.
        batch_size: Examples in flight.
        watch: Called with each attacked batch of this process.

    Raises:
        ConfigError: an attack cannot run on one of the tasks.
        RunError: the run is another one's, or cannot be written, or a process of the job is gone; what is there is
            kept.
    """
    check_classes(attacks, {task.name: len(task.class_names) for task in tasks})
    me = world()
    if not (me.main or isinstance(run, ReadOnly)):
        raise ConfigError("this cannot be shared by several processes: start it without torchrun")
    seen = [in_space(task, encoder, str(run.header["space"])) for task in tasks]
    declare(run, encoder, seen, attacks, seed=seed)  # first: the report of a run that stops early says what is missing
    header, done = broadcast((run.header, run.records.done()) if me.main else ({}, {}))
    if isinstance(run, ReadOnly):
        run.compare(header)

    def cell(task: Task) -> _Cell:
        known = done.get(Cell(encoder.name, task.name, seed), Done())
        return _Cell(encoder, task, attacks, seed, int(run.header["rows"]), known)

    if not me.alone:
        _together(run, [cell(task) for task in seen], me, batch_size=batch_size, watch=watch)
        return
    for task in seen:
        _alone(run, cell(task), batch_size=batch_size, watch=watch)


class _Cell:
    """A model on a task with a seed: what is known of it, and what has to be done."""

    def __init__(
        self, encoder: Encoder, task: Task, attacks: Sequence[Asked], seed: int, rows: int, done: Done
    ) -> None:
        self.encoder, self.task, self.seed, self.rows, self.done = encoder, task, seed, rows, done
        self.claims = Claims()
        self._asked = attacks

    @cached_property
    def classifier(self) -> ZeroShotClassifier:
        """Built when the task's turn comes."""
        return classifier_for(self.encoder, self.task, rows=self.rows)

    @cached_property
    def attacks(self) -> list[Attack]:
        """Suites are expanded, transfers have their source."""
        source = _source(self.task, self.rows)
        return [search for one in self._asked for search in expand(one, len(self.task.class_names), source)]

    @property
    def verdicts(self) -> int:
        """How many there are to be, at most."""
        return len(self.task) * (1 + len(self.attacks))

    def settled(self) -> int:
        """Verdicts that need no more work."""
        wrong = len(self.done.clean) - len(self.done.correct)
        each = (len(self.done.settled(attack.name, attack.threat.describe())) for attack in self.attacks)
        return len(self.done.clean) + sum(wrong + settled for settled in each)

    def work(self, bar: tqdm[Any], *, done: Done, claims: Claims, **how: Any) -> Iterator[list[Record]]:
        """Records of what is not ``done``, in parts; the bar says which attack is at work."""
        what = f"{self.encoder.name} on {self.task.name}"
        bar.set_description_str(what)

        def begin(attack: Attack, images: int) -> None:  # a long attack finishes its first example late
            bar.set_description_str(f"{what}: {attack.name}, {images} images")

        with within_memory(self.rows):
            yield from evaluate_task(
                self.classifier, self.task, self.attacks, model=self.encoder.name, seed=self.seed, done=done,
                claims=claims, begin=begin, **how,
            )  # fmt: skip


class _Gauge:
    """Keeps a bar up to date. Counting takes time that grows with the examples, so it gets a fiftieth of all time."""

    def __init__(self, bar: tqdm[Any], cells: Sequence[_Cell]) -> None:
        self._bar, self._cells, self._next = bar, cells, 0.0
        self.refresh()

    def refresh(self) -> None:
        """Counts and shows, unless the last time is not long ago for what it took."""
        if (begun := time.monotonic()) >= self._next:
            self._bar.update(sum(cell.settled() for cell in self._cells) - self._bar.n)
            self._next = begun + 50 * (time.monotonic() - begun)


class _Tally:
    """Keeps in ``run.json`` what attacks claimed of each cell, so that a run that goes on counts on.

    Writing takes time that grows with the header, so it gets a fiftieth of all time; what a kill loses is as little.
    """

    def __init__(self, run: RunFolder, cells: Sequence[_Cell]) -> None:
        known: list[dict[str, Any]] = run.header.setdefault("claims", [])
        self._run, self._next, self._saved = run, 0.0, True
        self._kept: list[tuple[_Cell, dict[str, Any]]] = []
        for cell in cells:
            about: dict[str, Any] = {"model": cell.encoder.name, "task": cell.task.name, "seed": cell.seed}
            entry = next((one for one in known if one.items() >= about.items()), None)
            if entry is None:
                known.append(entry := about | asdict(_told_before(run, about)))
            cell.claims = Claims(entry["made"], entry["refuted"])
            self._kept.append((cell, entry))

    def keep(self) -> None:
        """Counts what was claimed of records that are on the disk now."""
        for cell, entry in self._kept:
            if cell.claims.made != entry["made"]:  # what is refuted was made
                entry.update(asdict(cell.claims))
                self._saved = False
        if not self._saved and (begun := time.monotonic()) >= self._next:
            self._save()
            self._next = begun + 51 * (time.monotonic() - begun)

    def _save(self) -> None:
        self._run.save()
        self._saved = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._saved:
            return
        with nullcontext() if error is None else suppress(RunError):  # the first error is the one to tell
            self._save()


def _alone(run: RunFolder, cell: _Cell, *, batch_size: int, watch: Watcher | None) -> None:
    _check_up(run, cell)
    with _Tally(run, [cell]) as tally, tqdm(total=cell.verdicts, unit="verdict", disable=None, leave=False) as bar:
        gauge = _Gauge(bar, [cell])
        for records in cell.work(bar, done=cell.done, claims=cell.claims, batch_size=batch_size, watch=watch):
            run.records.append(records)
            tally.keep()
            gauge.refresh()
    _tell_of_claims(run, cell)


def _together(run: RunFolder, cells: Sequence[_Cell], me: World, *, batch_size: int, watch: Watcher | None) -> None:
    """The same records by several processes; see :mod:`zsrobust.sharing`."""
    name = cells[0].encoder.name
    if me.main and int(getattr(cells[0].encoder, "samples", 1)) > 1:
        warnings.warn(f"{name} is random: what attacks find depends on how the images are shared out", stacklevel=2)
    left = [unfinished(cell.done, cell.attacks, cell.task) for cell in cells]
    todo = pieces(left, rows=cells[0].rows, most=batch_size, processes=me.size)
    place = broadcast(uuid4().hex)
    total = sum(cell.verdicts for cell in cells)
    with translated(), tqdm(total=total, unit="verdict", disable=None if me.main else True, leave=False) as bar:
        gauge = _Gauge(bar, cells)
        exchange, lookout = Exchange(store(place), me), Watch(store(), me)
        parts = _parts(cells, [copy.deepcopy(cell.done) for cell in cells], todo, exchange, bar, watch)
        if not me.main:
            for part in parts:
                exchange.send(part)
                lookout.look()
            exchange.finish()
            return

        tally = _Tally(run, cells)

        def keep(part: Part) -> None:
            cell = cells[part.task]
            run.records.append(part.records)
            for record in part.records:
                cell.done.add(record)
            cell.claims.made += part.made
            cell.claims.refuted += part.refuted
            tally.keep()
            gauge.refresh()

        with tally, Collector(store(place), me, keep, lookout) as collector:
            _check_up(run, cells[0], collector.lock)
            for part in parts:
                collector.keep(part)
            wait_for(collector.complete)
    for cell in cells:
        _tell_of_claims(run, cell)


def _parts(
    cells: Sequence[_Cell],
    known: Sequence[Done],
    todo: Sequence[Piece],
    exchange: Exchange,
    bar: tqdm[Any],
    watch: Watcher | None,
) -> Iterator[Part]:
    """What this process finds out, of the pieces that it gets."""
    while (number := exchange.take()) < len(todo):
        task, positions = todo[number]
        claims = Claims()
        for records in cells[task].work(
            bar, done=known[task], claims=claims, positions=positions, batch_size=len(positions), watch=watch
        ):
            yield Part(task, records, claims.made, claims.refuted)
            claims.made = claims.refuted = 0


def _told_before(run: RunFolder, about: Mapping[str, object]) -> Claims:
    """What runs of earlier versions say of claims in their alarm alone."""
    for flag in run.header.get("flags", []):
        if flag.items() >= {"name": REFUTED, **about}.items():
            return Claims(flag["evidence"]["claimed"], flag["evidence"]["refuted"])
    return Claims()


def _tell_of_claims(run: RunFolder, cell: _Cell) -> None:
    alarm = refuted(cell.claims.made, cell.claims.refuted)
    about: dict[str, Any] = {"model": cell.encoder.name, "task": cell.task.name, "seed": cell.seed}
    run.flag_again({"name": REFUTED, **about}, None if alarm is None else alarm.to_flag(**about))


def _source(task: Task, rows: int) -> Callable[[Encoder], Model]:
    """Encoder that a transfer attack comes from → its classifier for ``task``."""
    return lambda encoder: classifier_for(encoder, task, rows=rows)


def _check_up(run: RunFolder, cell: _Cell, lock: AbstractContextManager[object] | None = None) -> None:
    """Looks at the model once in a run, before hours are spent on a number that would lie.

    What it finds is written under the ``lock``, if another thread writes ``run.json`` too.
    """
    name = cell.encoder.name
    if name in run.header.get("checked", []) or not cell.attacks:
        return
    found = list(_alarms(cell.classifier, cell.task, cell.attacks, cell.seed))
    with lock or nullcontext():
        for alarm in found:
            run.flag(alarm.to_flag(model=name))
        run.header.setdefault("checked", []).append(name)
        run.save()


def _alarms(classifier: Any, task: Task, attacks: Sequence[Attack], seed: int) -> Iterator[Alarm]:
    some = task.take(CHECKED, seed=seed)
    try:
        pixels = to_pixels(some.images(range(len(some)))).to(device_of(classifier.encoder))
    except UnreadableImage:
        return  # the evaluation will come to that image, and say so
    labels = torch.tensor(some.labels.tolist(), device=pixels.device)
    threat = widest(attack.threat for attack in attacks)
    # Budgets are looked at one by one, when they are declared.
    found = quick(Subject(classifier, pixels, labels, threat, seed=seed))
    yield from (alarm for alarm in found if alarm.name != "budget-unit")
