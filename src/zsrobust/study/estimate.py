"""How long jobs will take: passes through the model, times what one takes here, corrected by jobs that are done."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from zsrobust.attacks.ascent import gradient_of
from zsrobust.attacks.binding import Asked
from zsrobust.attacks.suites import Suite
from zsrobust.encoders import Encoder
from zsrobust.evaluation import device_of
from zsrobust.methods.base import Method
from zsrobust.passes import frozen
from zsrobust.recipe import HELD_OUT_STEPS
from zsrobust.study.store import Job, Outcome
from zsrobust.tasks import Task

FORWARD = 1 / 3
"""A forward pass in units of a forward and a backward pass."""
ATTACKED = 0.75
"""Of the passes that an evaluation may need: images that are wrong already, or fall early, save the others."""
_CHECK_UP = 250
"""Forward and backward passes that an evaluation spends on looking at the model before it begins."""
_BATCH = 32


class Clock:
    """Measures once what a forward and backward pass takes, for each model, kernel, precision and image size.

    Args:
        threads: To measure with: those of a worker.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._known: dict[tuple[object, ...], float] = {}

    def adaptation(
        self, model: Encoder, settings: Mapping[str, Any], method: Method, task: Task, held_out: Task | None
    ) -> float:
        """Seconds."""
        passes = 1.0 + (settings["steps"] if method.adversarial else 0) + (FORWARD if method.anchor else 0)
        images = settings["epochs"] * len(task) * passes
        images += 0 if held_out is None else len(held_out) * (HELD_OUT_STEPS + 2 * FORWARD)  # once, at the end
        return float(images * self._seconds(model, settings["attention"], settings["precision"], task))

    def evaluation(
        self, model: Encoder, settings: Mapping[str, Any], attacks: Sequence[Asked], tasks: Iterable[Task]
    ) -> float:
        """Seconds, for one seed."""
        total, opened = 0.0, list(tasks)
        total += _CHECK_UP * self._seconds(model, settings["attention"], "float32", opened[0])
        for task in opened:
            needed = FORWARD + ATTACKED * sum(_passes(attack, len(task.class_names)) for attack in attacks)
            total += len(task) * needed * self._seconds(model, settings["attention"], "float32", task)
        return total

    def _seconds(self, model: Encoder, attention: str, precision: str, task: Task) -> float:
        """An image, forward and backward."""
        height, width = task.images([0]).shape[1:3]
        key = (id(model), attention, precision, height, width)
        if key not in self._known:
            self._known[key] = self._measured(model, precision, (height, width))
        return self._known[key]

    def _measured(self, model: Encoder, precision: str, size: tuple[int, int]) -> float:
        before, device = torch.get_num_threads(), device_of(model)

        def lengths(pixels: Tensor) -> Tensor:
            return model.encode_pixels(pixels).float().square().sum(1)

        torch.set_num_threads(self._threads)
        try:
            times = []
            for _ in range(4):  # the first is slower
                pixels = torch.rand((_BATCH, 3, *size), device=device)
                start = time.perf_counter()
                with frozen(model), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    slope = gradient_of(lengths, pixels)
                float(slope.sum())  # waits for the device
                times.append(time.perf_counter() - start)
            return min(times) / _BATCH
        finally:
            torch.set_num_threads(before)


class Forecast:
    """Seconds that jobs will take, corrected by the median of those that are done.

    A job of one kind says little about the other: each kind is corrected by itself.
    """

    def __init__(self) -> None:
        self._ratios: dict[str, list[float]] = {}

    def learn(self, job: Job, outcome: Outcome) -> None:
        """Takes note of a job that is done."""
        if outcome.seconds is not None and outcome.failure is None and job.units > 0:
            self._ratios.setdefault(job.kind, []).append(outcome.seconds / job.units)

    @property
    def learnt(self) -> int:
        """Number of jobs that it is based on."""
        return sum(map(len, self._ratios.values()))

    def seconds(self, jobs: Iterable[Job]) -> float:
        """One after the other."""
        typical = {kind: median(ratios) for kind, ratios in self._ratios.items()}
        return sum(job.units * typical.get(job.kind, 1.0) for job in jobs)


def _passes(attack: Asked, classes: int) -> float:
    """Forward and backward passes for an image that withstands to the end."""
    if isinstance(attack, Suite):
        return sum(_passes(member, classes) for member in attack.for_classes(classes).members(classes))
    if attack.threat.eps == 0:
        return FORWARD
    told: Any = attack.describe()
    towards = min(told.get("targets") or 1, classes - 1)
    each = told.get("steps") or FORWARD * (told.get("queries") or 1)
    return float(each * towards * (told.get("restarts") or 1))


def in_words(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
