"""Does jobs one after the other, and keeps models and decoded tasks open between them."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zsrobust.api import resolve_tasks
from zsrobust.encoders import Encoder
from zsrobust.errors import ConfigError, DivergedError, ZSRobustError
from zsrobust.evaluation import device_of, fingerprint_of, in_space
from zsrobust.jobs import adapt_job, evaluate_job
from zsrobust.models import MODEL, load_model
from zsrobust.run_folder import write_atomically
from zsrobust.study.store import Job, Outcome, Store
from zsrobust.tasks import Task
from zsrobust.tasks import task as open_task
from zsrobust.threat import Threat
from zsrobust.tuning.base import Tuning

HELD_OUT = ("held_out_clean_accuracy", "held_out_robust_accuracy")


class Bench:
    """A place of work.

    Args:
        store: Where results go.
        device: ``"auto"``, or torch's name.
    """

    def __init__(self, store: Store, device: str) -> None:
        self.store = store
        self.device = device
        self._open: dict[str, Any] = {}

    def do(self, job: Job) -> Outcome:
        """Does a job, goes on with it, or finds it done. Mistakes and bugs become an outcome, not an exception."""
        folder = self.store.folder(job.kind, job.key)
        try:
            with warnings.catch_warnings(record=True) as caught, _quiet(), self.store.claim(job):
                warnings.simplefilter("default")
                outcome = self.store.outcome(job.kind, job.key) or self._done(job, folder)
            notes = tuple(dict.fromkeys(str(warning.message) for warning in caught))
            return Outcome(outcome.seconds, outcome.held_out, outcome.diverged, notes=notes)
        except ZSRobustError as problem:
            return Outcome(error=str(problem))
        except Exception as bug:
            if isinstance(bug, MemoryError) or type(bug).__name__ == "OutOfMemoryError":
                return Outcome(error="out of memory; fewer --jobs, or a smaller batch_size, need less")
            with contextlib.suppress(ZSRobustError):
                write_atomically(folder / "error.txt", traceback.format_exc().encode())
            return Outcome(error=f"a bug: {type(bug).__name__}: {bug} ({folder / 'error.txt'} says where)")

    def model(self, name: str, attention: str) -> Encoder:
        """An encoder that stays as it is."""
        encoder: Encoder = self._kept(load_model, model=name, device=self.device, attention=attention)
        return encoder

    def fingerprint(self, model: Encoder) -> str:
        """Of a model that stays as it is: hashing the weights of a large one takes a while."""
        key = f"fingerprint {id(model)}"
        if key not in self._open:
            self._open[key] = fingerprint_of(model)
        return str(self._open[key])

    def fits(self, tuning: Tuning, model: Encoder) -> None:
        """Refuses a way of adapting that the model has no place for, before anything is computed.

        Raises:
            ZSRobustError: it cannot be prepared: a frame wider than the image, more blocks than there are.
        """
        key = f"fits {id(model)} {json.dumps(dict(tuning.describe()), sort_keys=True, default=str)}"
        if key not in self._open:
            tuning.prepare(model, seed=0)
            self._open[key] = True

    def training(self, settings: Mapping[str, Any]) -> Task:
        """The task that the settings adapt on."""
        whole: Task = self._kept(open_task, **_asked(settings), split=settings["split"])
        limit = settings["limit"]
        return whole if limit is None else self._limited(whole, limit)

    def held_out(self, settings: Mapping[str, Any]) -> Task | None:
        """The images that tuning looks at, if the settings name some."""
        images = settings["held_out"]
        if images is None:
            return None
        validation: Task = self._kept(open_task, **_asked(settings), split="validation")
        if len(validation) < images:
            raise ConfigError(
                f"{images:,} held-out images, but the validation split of '{validation.name}' has {len(validation):,}"
            )
        return self._limited(validation, images)

    def evaluation(self, settings: Mapping[str, Any]) -> list[Task]:
        """The tasks that the settings evaluate on."""
        seed = settings["seed"]
        tasks: list[Task] = self._kept(
            resolve_tasks, tasks=settings["tasks"], split=settings["split"], limit=settings["limit"],
            seed=seed if isinstance(seed, int) else next(iter(seed)), data=settings["data"],
            classes=settings["classes"], templates=settings["template"], select=settings["select"],
            on_bad_image=settings["on_bad_image"],
        )  # fmt: skip
        return tasks

    def _kept(self, make: Callable[..., Any], **how: Any) -> Any:
        key = f"{make.__name__} {json.dumps(how, sort_keys=True, default=str)}"
        if key not in self._open:
            self._open[key] = make(**how)
        return self._open[key]

    def _limited(self, whole: Task, limit: int) -> Task:
        """Shares the whole task's decoded pixels; kept for its fingerprint."""
        key = f"limited {id(whole)} {limit}"
        if key not in self._open:
            self._open[key] = whole.take(limit)
        task: Task = self._open[key]
        return task

    def _done(self, job: Job, folder: Path) -> Outcome:
        start = time.monotonic()
        if job.kind == "evaluated" and not folder.exists():
            self._begin(job, folder)
        resumed = folder.exists()
        diverged = None
        try:
            if job.kind == "adapted":
                self._adapt(job, folder)
            else:
                self._evaluate(job, folder)
        except DivergedError as problem:
            diverged = str(problem).split(";")[0]
        seconds = None if resumed else round(time.monotonic() - start, 2)
        held_out = _held_out(folder) if job.kind == "adapted" and job.settings["held_out"] is not None else {}
        outcome = Outcome(seconds, held_out, diverged)
        self.store.finish(job, outcome)
        if job.kind == "adapted":
            self.store.tidy(job)
        return outcome

    def _adapt(self, job: Job, folder: Path) -> None:
        shutil.rmtree(folder / MODEL, ignore_errors=True)  # of a job that was killed between saving and noting it
        opened = {
            "model": self.model(job.settings["model"], job.settings["attention"]),
            "task": self.training(job.settings),
            "held_out": self.held_out(job.settings),
        }
        adapt_job(run=folder, device=self.device, **{**job.settings, **opened})

    def _evaluate(self, job: Job, folder: Path) -> None:
        tasks = self.evaluation(job.settings)
        said = {"limit": None, "classes": (), "template": (), "select": (), "on_bad_image": "stop"}  # by opening them
        evaluate_job(
            models=[self._subject(job)], run=folder, kind="study", device=self.device,
            **{**job.settings, "tasks": tasks, **said},
        )  # fmt: skip

    def _begin(self, job: Job, folder: Path) -> None:
        """With what the same evaluation found under a smaller limit, if there is one."""
        space, model = Threat.parse(job.content["threats"][0]).space, self.model(job.base, job.settings["attention"])
        tasks = {task.name: in_space(task, model, space) for task in self.evaluation(job.settings)}
        fitting: list[tuple[int, Path, bytes]] = []
        for smaller in self.store.alike(job):
            with contextlib.suppress(OSError, ValueError, KeyError):
                header = (smaller / "run.json").read_bytes()
                told = json.loads(header)
                here = told["device"] == device_of(model).type
                if here and all(tasks[seen["name"]].extends(seen) for seen in told["tasks"]):
                    fitting.append((sum(seen["n"] for seen in told["tasks"]), smaller, header))
        if fitting:
            _, largest, header = max(fitting)
            write_atomically(folder / "run.json", header)
            write_atomically(folder / "records.jsonl", (largest / "records.jsonl").read_bytes())

    def _subject(self, job: Job) -> Encoder:
        attention = job.settings["attention"]
        original = self.model(job.base, attention)
        if job.adapted is None:
            return original
        saved = self.store.folder("adapted", job.adapted) / MODEL
        adapted = load_model(str(saved), device=self.device, attention=attention)
        if job.alpha is not None:
            from zsrobust.interpolation import interpolate

            adapted = interpolate(original, adapted, job.alpha)
        named: Any = adapted
        named.name = str(job.content["name"])
        return adapted


def _asked(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "spec": settings["task"],
        "data": settings["data"],
        "classes": list(settings["classes"]) or None,
        "templates": list(settings["template"]) or None,
        "select": list(settings["select"]) or None,
    }


def _held_out(folder: Path) -> dict[str, float]:
    """The scores after the last step."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    scored = [line for line in lines if HELD_OUT[1] in line]
    return {name: scored[-1][name] for name in HELD_OUT} if scored else {}


@contextlib.contextmanager
def _quiet() -> Any:
    """Bars of one job would run into each other, and into the grid's."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
