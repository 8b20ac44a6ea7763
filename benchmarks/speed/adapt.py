"""Adaptation through the real loop, against the same passes alone: what data, metrics and checkpoints cost."""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.speed import memory
from benchmarks.speed.clock import Times, seconds
from benchmarks.speed.figure import Figure
from benchmarks.speed.machine import GIB
from benchmarks.speed.models import SHAPES, random_encoder
from benchmarks.speed.reference import BareTraining
from benchmarks.speed.workload import Workload
from PIL import Image
from torch import Tensor

import zsrobust as zr
from zsrobust.attacks.pgd import PGD
from zsrobust.pixels import to_pixels
from zsrobust.recipe import Recipe
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat

THREAT = Threat("linf", "1/255")
STEPS = 2
CLASSES = 10
USUAL: dict[str, Any] = {name: Recipe.__dataclass_fields__[name].default for name in ("log_every", "checkpoint_every")}
"""How often a run measures and saves unless it is told otherwise."""


def photographs(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """JPEG files with something in them, in one folder for each of ten classes, as a training set lies on disk."""
    numbers = np.random.default_rng(0)
    for i in range(count):
        home = folder / "train" / f"class {i % CLASSES}"
        home.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(numbers.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(home / f"{i}.jpg", quality=90)
    return folder


@dataclass(frozen=True)
class Watched(PGD):
    """PGD that notes when it begins: the loop calls it once a step, or once for each part of a step."""

    begun: list[float] = field(default_factory=list, compare=False)

    def perturb(self, objective: Callable[[Tensor], Tensor], pixels: Tensor, **keys: Any) -> Tensor:
        """As PGD does."""
        if pixels.is_cuda:
            torch.cuda.synchronize()
        self.begun.append(time.perf_counter())
        return super().perturb(objective, pixels, **keys)


@dataclass(frozen=True)
class Measured:
    """A run of the loop.

    Attributes:
        plain: Seconds of the steps that wrote nothing.
        metrics: What measuring and writing metrics adds to a step.
        checkpoint: Likewise, a checkpoint.
        waiting: Share of the time in which the loop waited for data; None: the loop does not say.
    """

    plain: list[float]
    metrics: float
    checkpoint: float
    waiting: float | None

    @property
    def step(self) -> float:
        """Seconds of a step, with its part of metrics and checkpoints as often as a run writes them by default."""
        extra = self.metrics / USUAL["log_every"] + self.checkpoint / USUAL["checkpoint_every"]
        return statistics.median(self.plain) + float(extra)


class Loop:
    """The real loop on a folder of photographs.

    Args:
        workload: Model and sizes.
        folder: Where photographs and runs are.
    """

    def __init__(self, workload: Workload, folder: Path) -> None:
        self.workload, self.folder = workload, folder
        name, device = workload.adapt_model, workload.device
        self.encoder: Any = (
            zr.load("tiny", device=device)
            if name == "tiny"
            else random_encoder(SHAPES[name], device, attention="eager")
        )
        self.task = zr.task(
            str(photographs(folder / "photographs", workload.photographs, workload.photograph)), split="train"
        )

    def run(self, options: dict[str, Any], *, steps: int) -> Measured:
        """So many optimizer steps with a run folder; metrics in the middle, a checkpoint at the next step."""
        size, middle = self.workload.adapt_batch, max(steps // 2, 1)
        epochs = -(-steps * size // len(self.task))
        begun: list[float] = []
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        task = self.task.take(steps * size) if steps * size < len(self.task) else self.task
        zr.adapt(
            self.encoder, task=task, attack=Watched(THREAT, STEPS, step_size=THREAT.eps, begun=begun), method="tecoa",
            run=self.folder / "run", epochs=epochs, batch_size=size, lr=1e-5, progress=False,
            log_every=middle, checkpoint_every=middle + 1, **options,
        )  # fmt: skip
        parts, rest = divmod(len(begun), steps)
        if rest or not parts:
            raise RuntimeError(f"{len(begun)} attacks in {steps} optimizer steps")
        starts = begun[::parts]
        periods = [later - earlier for earlier, later in itertools.pairwise(starts)]
        return _taken_apart(periods, middle, _waiting(self.folder / "run" / "metrics.jsonl"))

    def bare(self, options: dict[str, Any]) -> Callable[[], None]:
        """A step of the same passes alone, on the first images, in memory."""
        model, device = self.encoder.copy(), self.workload.device
        weights = [weight for _, weight in model.visual_parameters()]
        head = TextHead.build(self.encoder, self.task.class_names, self.task.templates)
        bf16 = options.get("precision") == "bf16"

        def training() -> Any:
            return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16)

        attack = model.lowered if options.get("attack_precision") == "bfloat16" else training
        bare = BareTraining(
            model.encode_pixels, weights, head.embeddings, model.logit_scale, eps=THREAT.eps, steps=STEPS,
            training=training, attack=attack,
        )  # fmt: skip
        first = list(range(self.workload.adapt_batch))
        pixels = to_pixels(self.task.images(first)).to(device)
        labels = torch.from_numpy(self.task.labels[first]).to(device)
        bare.step(pixels, labels)
        return lambda: bare.step(pixels, labels)


def _taken_apart(periods: list[float], middle: int, waiting: float | None) -> Measured:
    """Period i, from 0, lasts from the attack of step i to that of the next; step ``middle`` is i = ``middle`` − 1."""
    writes = {middle - 1: "metrics", middle: "checkpoint"}
    # The first step also warms up.
    plain = [time for i, time in enumerate(periods) if i not in writes and i > 0] or periods
    usual = statistics.median(plain)
    extra = {what: max(periods[i] - usual, 0.0) if i < len(periods) else 0.0 for i, what in writes.items()}
    return Measured(plain, extra["metrics"], extra["checkpoint"], waiting)


def _word(option: str, value: object) -> str:
    """An option in the name of a figure: ``bf16``, ``attack_bfloat16``, ``micro_batch``."""
    return f"{option.removesuffix('precision')}{value}" if option.endswith("precision") else option


def _waiting(path: Path) -> float | None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    shares = [line["waiting"] for line in lines if "waiting" in line]
    return float(shares[-1]) if shares else None


def part(workload: Workload, folder: Path) -> list[Figure]:
    """Float32 as it comes, then other options; those that this version does not know are left out."""
    loop, found = Loop(workload, folder), []
    asked: list[dict[str, Any]] = [{}, *workload.adapt_options]
    for options in [one for one in asked if all(name in Recipe.__dataclass_fields__ for name in one)]:
        found += _compared(loop, options)
    return found


def _compared(loop: Loop, options: dict[str, Any]) -> list[Figure]:
    """Bare passes and the loop take turns; speed does not depend on the weights."""
    workload, bare = loop.workload, loop.bare(options)
    passes: list[float] = []
    runs: list[Measured] = []
    for _ in range(1 if options else workload.adapt_rounds):
        half = max(workload.adapt_steps // 4, 1)
        before = [seconds(bare, workload.device) for _ in range(half)]
        runs.append(loop.run(options, steps=workload.adapt_steps))
        after = [seconds(bare, workload.device) for _ in range(half)]
        passes.append(statistics.median(before + after))
    steps, alone = Times([run.step for run in runs]), Times(passes)
    name = "_".join(["adapt_tecoa_pgd2", *itertools.starmap(_word, options.items())])
    waits = [run.waiting for run in runs if run.waiting is not None]
    model = workload.adapt_model
    settings = {
        "model": SHAPES[model].name if model in SHAPES else model,
        "batch": workload.adapt_batch,
        "photographs": f"{workload.photographs} JPEG files of {workload.photograph[0]} × {workload.photograph[1]}",
        "options": options,
        "passes_alone_images_per_second": round(workload.adapt_batch / alone.median, 3),
        "seconds_to_measure": round(statistics.median(run.metrics for run in runs), 3),
        "seconds_to_save": round(statistics.median(run.checkpoint for run in runs), 3),
        "counted": f"metrics every {USUAL['log_every']} steps, a checkpoint every {USUAL['checkpoint_every']}",
        "waiting_for_data": round(statistics.median(waits), 4) if waits else None,
        "spread_of_the_steps": Times([time for run in runs for time in run.plain]).spread,
    }
    figure = Figure(
        name, workload.adapt_batch / steps.median, "images/s", {"ratio_to_passes": steps.faster_than(alone)},
        steps.spread, steps.n, settings,
    )  # fmt: skip
    taken = memory.measured("training", workload, options=options) / GIB
    about = {key: settings[key] for key in ("model", "batch", "options")}
    return [figure, Figure(f"{name}_memory", taken, "GiB above the weights", settings=about)]
