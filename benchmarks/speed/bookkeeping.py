"""What everything around the passes costs: records, reports and the planning of studies, on made-up results."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

from benchmarks.speed.clock import seconds
from benchmarks.speed.figure import Figure, curve

from zsrobust.records import CLEAN, NO_THREAT, Record, RecordFile
from zsrobust.report import load_run, summarise, write
from zsrobust.run_folder import FORMAT, versions
from zsrobust.study.bench import Bench
from zsrobust.study.estimate import Clock
from zsrobust.study.plan import Plan
from zsrobust.study.recipe import StudyRecipe, parse
from zsrobust.study.runner import study
from zsrobust.study.store import Job, Outcome, Store

THREAT = "linf:4/255:native"
MEMBERS = ("autoattack/apgd:ce", "autoattack/square")
TASKS = tuple(f"task {i}" for i in range(10))
MODELS = ("plain", "adapted")
SEEDS = (0, 1, 2, 3, 4)
BATCH = 256


def curves(growth: Mapping[str, Sequence[float]], folder: Path) -> list[Figure]:
    """Curves over so many records, cells that are planned and found done, and cells that are worked through."""
    records, cells, worked = ([int(x) for x in growth[name]] for name in ("records", "cells", "worked_cells"))
    return [*_records(records, folder), *_studies(cells, worked, folder)]


def run_of(count: int, folder: Path) -> Path:
    """A run folder with about so many made-up records: two models, ten tasks, a suite of two attacks."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    images = max(count // (len(MODELS) * len(TASKS) * 2), 4)
    models = [
        {"name": m, "provenance": {}, "adapted_on": [TASKS[0]] if m == "adapted" else [], "fingerprint": m}
        for m in MODELS
    ]
    tasks = [
        {"name": t, "split": "test", "n": images, "class_names": ["a", "b", "c"], "follows_from": [],
         "fingerprint": t, "geometry": "as is", "bad_images": []}
        for t in TASKS
    ]  # fmt: skip
    attacks = [{"name": name, "suite": "autoattack", "threat": THREAT, "steps": 100} for name in MEMBERS]
    described = {
        "format": FORMAT, "kind": "evaluate", "created": "2026-01-01T00:00:00+00:00", "versions": versions(),
        "device": "cpu", "precision": "float32", "space": "native", "rows": 32, "models": models, "tasks": tasks,
        "attacks": attacks, "threats": [THREAT], "seeds": [0],
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(described))
    with RecordFile(folder / "records.jsonl") as file:
        for model in MODELS:
            for task in TASKS:
                made = list(_made(model, task, images))
                for first in range(0, len(made), BATCH):
                    file.append(made[first : first + BATCH])
    return folder


def _made(model: str, task: str, images: int) -> Iterator[Record]:
    luck = random.Random(f"{model} {task}")
    right = [luck.random() < 0.8 for _ in range(images)]
    open_ = [i for i in range(images) if right[i]]
    yield from (_record(model, task, i, CLEAN, NO_THREAT, right[i]) for i in range(images))
    for attack in MEMBERS:
        stands = {i: luck.random() < 0.7 for i in open_}
        yield from (_record(model, task, i, attack, THREAT, stands[i]) for i in open_)
        open_ = [i for i in open_ if stands[i]]


def _record(model: str, task: str, i: int, attack: str, threat: str, right: bool) -> Record:
    label, size = i % 3, 0.0 if attack == CLEAN else 4 / 255
    return Record(
        model=model, task=task, example=i, image=f"{task}:{i}", label=label, seed=0, attack=attack, threat=threat,
        prediction=label if right else (label + 1) % 3, correct=right, margin=1.0 if right else -1.0, size=size,
        forwards=1, backwards=0,
    )  # fmt: skip


def _records(counts: Sequence[int], folder: Path) -> list[Figure]:
    reports, resumes = [], []
    _report(run_of(counts[0], folder / "records"))  # the first report also compiles its template
    for count in counts:
        run = run_of(count, folder / "records")
        held = len(RecordFile(run / "records.jsonl").read())
        reports.append((held, seconds(partial(_report, run)), held))
        resumes.append((held, seconds(partial(_resume, run)), held))
    work = "records"
    return [
        curve("growth_report_in_records", reports, x="records", y="seconds", work=work),
        curve("growth_resume_in_records", resumes, x="records", y="seconds", work=work),
    ]


def _report(run: Path) -> None:
    write(summarise([load_run(run)]), run)


def _resume(run: Path) -> None:
    """What a resumed evaluation does before its first pass."""
    with RecordFile(run / "records.jsonl") as file:
        file.done()
        file.append([])


def recipe_of(cells: int) -> StudyRecipe:
    """A study of the embedded model with so many cells, a multiple of five: learning rates × seeds."""
    levels = {f"rate {i}": {"lr": (i + 1) * 1e-6} for i in range(cells // len(SEEDS))}
    content = {
        "title": "Made up", "seeds": list(SEEDS), "unadapted": False, "axes": {"rate": levels},
        "adapt": {"model": "tiny", "task": "world-shape", "limit": 8, "batch_size": 8, "threat": THREAT},
        "evaluate": {"tasks": ["world-shape"], "limit": 8, "threat": [THREAT], "attacks": ["fgsm"]},
    }  # fmt: skip
    return parse(content, name=f"made-up-{cells}")


class _Still(Clock):
    """A clock that times no model: that takes as long for one cell as for a thousand."""

    def _seconds(self, *_: object) -> float:
        return 1.0


class _Study:
    """A study on made-up results, with its model and tasks open: they are opened once, however many cells there are."""

    def __init__(self, cells: int, folder: Path) -> None:
        self.recipe, self.folder = recipe_of(cells), folder
        shutil.rmtree(folder, ignore_errors=True)
        self.bench = Bench(Store(folder / "store"), "cpu")
        first = self.plan().cells[0]
        assert first.combination is not None
        self.bench.model("tiny", "sdpa")

    def plan(self) -> Plan:
        """The plan with the jobs of every cell."""
        plan = Plan(
            self.recipe, self.folder / "planned", bench=self.bench, clock=_Still(1), threads=1,
            wanted=lambda _: True, overrides={},
        )  # fmt: skip
        for cell in plan.cells:
            plan.resolve(cell, lambda _: None)
        return plan

    def finish(self) -> None:
        """Puts a result for every job into the store, without waiting for the disk."""
        with patch("os.fsync"):
            for job in {job.key: job for job in self._jobs()}.values():
                _at_once(self.bench, job)

    def _jobs(self) -> Iterator[Job]:
        plan = self.plan()
        for cell in plan.cells:
            resolved = plan.resolve(cell, lambda _: None)
            yield from resolved.jobs if resolved is not None else ()

    def run(self) -> None:
        """All of it; what is not in the store costs nothing."""
        with (
            patch("zsrobust.study.runner.Clock", _Still),
            patch("zsrobust.study.runner.Bench", lambda *_: self.bench),
            patch.object(Bench, "do", _at_once),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            failed = study(
                [self.recipe], run=self.folder / "studies", store=self.bench.store.path, jobs=1, device="cpu"
            )
        if failed:
            raise RuntimeError(f"a made-up study failed: {failed[0]}")


def _studies(counts: Sequence[int], worked: Sequence[int], folder: Path) -> list[Figure]:
    planned, found, through = [], [], []
    for cells in counts:
        one = _Study(cells, folder / "study")
        planned.append((cells, seconds(one.plan), cells))
        one.finish()
        found.append((cells, seconds(one.run), cells))
    for cells in worked:
        one = _Study(cells, folder / "study")
        through.append((cells, seconds(one.run), cells))
    x, y, work = "cells", "seconds", "cells"
    return [
        curve("growth_study_plan_in_cells", planned, x=x, y=y, work=work),
        curve("growth_study_all_done_in_cells", found, x=x, y=y, work=work),
        curve("growth_study_worked_through_in_cells", through, x=x, y=y, work=work, jobs="cost nothing themselves"),
    ]


def _at_once(bench: Bench, job: Job) -> Outcome:
    """A job that is done as soon as it is begun."""
    bench.store.folder(job.kind, job.key).mkdir(parents=True, exist_ok=True)
    outcome = Outcome(1.0)
    bench.store.finish(job, outcome)
    return outcome
