"""A study from its recipe to its figures: plan, estimate, jobs in their order, cells.json, results."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from zsrobust.errors import ConfigError
from zsrobust.jobs import Say, silent
from zsrobust.models import choose_device
from zsrobust.report.words import plural
from zsrobust.study.agenda import Agenda
from zsrobust.study.bench import Bench
from zsrobust.study.cells import Failure, failures, is_done, seeds_before, write_cells, write_plan
from zsrobust.study.estimate import Clock, Forecast, in_words
from zsrobust.study.grid import Cell
from zsrobust.study.order import Order
from zsrobust.study.plan import Known, Plan
from zsrobust.study.progress import Progress
from zsrobust.study.recipe import StudyRecipe
from zsrobust.study.store import Job, Store
from zsrobust.study.workers import Alone, Several, Workers

MOST_WORKERS = 4


def study(
    recipes: Sequence[StudyRecipe],
    *,
    run: str | Path = "runs/studies",
    store: str | Path = "runs/store",
    jobs: int | None = None,
    seeds: Sequence[int] = (),
    only: Mapping[str, str] | None = None,
    device: str = "auto",
    dry_run: bool = False,
    overrides: Mapping[str, Any] | None = None,
    say: Say = silent,
) -> list[Failure]:
    """Runs studies, and writes ``RUN/NAME`` for each and ``RUN/index.html`` for all.

    Args:
        recipes: Of different names.
        run: Folder for the studies.
        store: Folder for the models and evaluations that studies share.
        jobs: Worker processes; None: one on a GPU, else one a core up to four. One works in this process.
        seeds: Only these; empty: the recipes' own. Results keep the seeds of earlier calls.
        only: Only cells with these levels.
        device: ``"auto"``, or torch's name.
        dry_run: Only say what would be done.
        overrides: What replaced options of adapt when the recipes were read; a study that tuning is taken from is
            read with the same.
        say: Called with lines for people.

    Returns:
        What has no result; empty: all is well.

    Raises:
        ZSRobustError: one line that says what is wrong with a recipe; nothing was computed then.
        KeyboardInterrupt: Ctrl-C, or SIGTERM; what is finished is kept, and the same call goes on.
    """
    count, threads = _crew(jobs, device)
    shared = Store(Path(store))
    bench, clock = Bench(shared, device), Clock(threads)
    plans = [
        Plan(
            recipe.with_seeds(seeds), Path(run) / recipe.name, bench=bench, clock=clock, threads=threads,
            wanted=_wanted(recipe, seeds, only or {}), overrides=overrides or {},
            further=seeds_before(Path(run) / recipe.name),
        )
        for recipe in recipes
    ]  # fmt: skip
    agenda, forecast = Agenda(shared), Forecast()
    order = Order(plans, agenda)
    for plan in plans:
        _learn(plan, agenda.known, forecast)
    for plan in plans:
        _tell(plan, agenda.known, say)
    _tell_time(order, forecast, count, threads, say)
    if dry_run:
        return []
    for plan in plans:
        write_plan(plan, agenda.known, count, threads)
        write_cells(plan, agenda.known)
    with _terminable(), _crew_of(count, threads, bench, Path(store), device) as workers:
        _work_through(plans, agenda, order, forecast, workers, count)
    return [failure for plan in plans for failure in failures(plan, agenda.known)]


def _crew(jobs: int | None, device: str) -> tuple[int, int]:
    """(worker processes, threads of each)."""
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs must be at least 1, not {jobs}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = jobs or (min(cores, MOST_WORKERS) if choose_device(device) == "cpu" else 1)
    return count, max(1, torch.get_num_threads() // count)


@contextmanager
def _crew_of(count: int, threads: int, bench: Bench, store: Path, device: str) -> Iterator[Workers]:
    if count == 1:
        yield Alone(bench)
        return
    several = Several(count, threads=threads, store=store, device=device)
    try:
        yield several
    finally:
        several.dismiss()


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a study as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wanted(recipe: StudyRecipe, seeds: Sequence[int], only: Mapping[str, str]) -> Callable[[Cell], bool]:
    levels = recipe.selection(only, "--only")

    def wanted(cell: Cell) -> bool:
        if cell.combination is None:
            return not levels
        right = all(cell.levels[axis] == level for axis, level in levels.items())
        return right and cell.seed in (seeds or recipe.seeds)

    return wanted


def _learn(plan: Plan, known: Known, forecast: Forecast) -> None:
    done: dict[str, Job] = {}
    for search in plan.wanted_searches.values():
        done |= {job.key: job for job in search.trials.values()}
    for cell in plan.wanted:
        found = plan.resolve(cell, known)
        done |= {job.key: job for job in found.jobs} if found is not None else {}
    for job in done.values():
        outcome = known(job)
        if outcome is not None:
            forecast.learn(job, outcome)


def _work_through(
    plans: Sequence[Plan], agenda: Agenda, order: Order, forecast: Forecast, workers: Workers, count: int
) -> None:
    notes = _Notes(plans, agenda)
    with Progress(len(order.remaining())) as progress, notes:
        while True:
            while workers.free() and (job := agenda.next()) is not None:
                agenda.started.add(job.key)
                workers.start(job)
            if not workers.busy():
                return
            job, outcome = workers.next()
            agenda.end(job, outcome)
            forecast.learn(job, outcome)
            order.ended(job)
            notes.refresh()
            remaining = order.remaining()
            progress.ended(
                job, outcome, order.name(job), left=len(remaining), seconds=forecast.seconds(remaining) / count
            )


class _Notes:
    """Keeps ``cells.json`` of every study up to date, for a tenth of the time at most; at the end it is complete."""

    def __init__(self, plans: Sequence[Plan], agenda: Agenda) -> None:
        self._plans, self._agenda, self._next = plans, agenda, 0.0

    def refresh(self) -> None:
        """Writes, unless the last time is not long ago for what it took."""
        if (begun := time.monotonic()) >= self._next:
            self._write()
            self._next = begun + 10 * (time.monotonic() - begun)

    def _write(self) -> None:
        for plan in self._plans:
            write_cells(plan, self._agenda.known)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._agenda.look_again()
        self._write()


def _tell(plan: Plan, known: Known, say: Say) -> None:
    recipe = plan.recipe
    say(f"Study    {recipe.name}: {recipe.title}")
    axes = " × ".join(f"{len(levels)} {axis}" for axis, levels in recipe.axes.items())
    counts = [plural(len(plan.combinations), "combination") + (f" ({axes})" if axes else "")]
    counts.append(f"seeds {', '.join(map(str, recipe.seeds))}")
    counts += [f"α {', '.join(f'{alpha:g}' for alpha in recipe.interpolate)}"] if recipe.interpolate else []
    counts += ["the unadapted model"] if recipe.unadapted else []
    done = sum(is_done(plan, cell, known) for cell in plan.wanted)
    say(f"         {len(plan.wanted)} cells to have, {done} of them there: {', '.join(counts)}")
    if searches := list(plan.wanted_searches.values()):
        trials = {job.key: job for search in searches for job in search.trials.values()}
        first = searches[0]
        source = f", as in {first.source}" if first.source else ""
        there = sum(known(job) is not None for job in trials.values())
        say(
            f"         {first.option} chosen by {len(trials)} runs of seed {first.seed} on {first.images} held-out "
            f"images{source}, {there} of them there"
        )


def _tell_time(order: Order, forecast: Forecast, count: int, threads: int, say: Say) -> None:
    remaining = order.remaining()
    if not remaining:
        say("Time     nothing is left to compute")
        return
    adaptations = sum(job.kind == "adapted" for job in remaining)
    who = plural(count, "worker") if count > 1 else "this process"
    basis = f"{plural(forecast.learnt, 'job')} done before" if forecast.learnt else "a timing of the model"
    what = f"{plural(adaptations, 'adaptation')} and {plural(len(remaining) - adaptations, 'evaluation')}"
    say(f"To do    {what}, by {who} ({plural(threads, 'thread')})")
    say(f"Time     about {in_words(forecast.seconds(remaining) / count)}, from {basis}")
