"""How costs grow: each curve beside its work. What grows faster than its work is a defect."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.speed import bookkeeping, memory
from benchmarks.speed.clock import seconds
from benchmarks.speed.figure import Figure, curve
from benchmarks.speed.machine import GIB
from benchmarks.speed.models import SHAPES, VIT_B_32, classifier, images, random_encoder
from benchmarks.speed.operations import operations, step_products
from benchmarks.speed.workload import Workload

import zsrobust as zr
from zsrobust.attacks.pgd import PGD
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.evaluation import classifier_for, evaluate_task
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat

Points = list[tuple[float, float, float]]
TASKS = (
    "world-shape", "world-texture", "world-position", "world-background", "world-count", "world-glyph",
    "world-compositions", "digits",
)  # fmt: skip
HARMLESS = Threat("linf", "0.001/255")
"""A ball in which nothing breaks: every image gets every step."""
_fresh = itertools.count()


def part(workload: Workload, folder: Path) -> list[Figure]:
    """All curves."""
    found = [make(workload) for make in (_survivors, _classes, _templates, _model_size, _native_size, _tasks)]
    return [*found, *_memory(workload), *bookkeeping.curves(workload.growth, folder)]


def _twice(work: Callable[[], Any], device: str) -> float:
    """The faster of two calls: growth is of the work, not of what else the machine did."""
    return min(seconds(work, device) for _ in range(2))


def _survivors(workload: Workload) -> Figure:
    """Evaluation of the embedded model at growing ε: what breaks early saves its other steps."""
    encoder: Any = zr.load("tiny", device=workload.device)
    task = zr.task(TASKS[0], limit=workload.growth_images)
    model = classifier_for(encoder, task)
    points: Points = []
    shares = []
    for eps in workload.growth["eps"]:
        attack = PGD(Threat("linf", f"{eps:g}/255"), workload.growth_steps)
        records: list[Any] = []

        def evaluate(attack: PGD = attack, records: list[Any] = records) -> None:
            records[:] = itertools.chain(*evaluate_task(model, task, [attack], model="tiny", seed=0))

        taken = _twice(evaluate, workload.device)
        attacked = [record for record in records if record.attack != "clean"]
        passes = sum(record.forwards + 2 * record.backwards for record in records)
        shares.append(round(sum(not record.correct for record in attacked) / max(len(attacked), 1), 3))
        points.append((passes, taken, passes))
    return curve(
        "growth_evaluation_in_passes", points, x="passes of the images (a backward counts two)", y="seconds",
        work="passes", fraction_broken=shares, images=workload.growth_images, attack=f"pgd:{workload.growth_steps}",
    )  # fmt: skip


def _search(model: ZeroShotClassifier, size: int, workload: Workload) -> float:
    """Seconds of an attack in which no image breaks: the labels are what the model predicts."""
    pixels, _ = images(workload.growth_images, size, 2, workload.device)
    with torch.no_grad():
        labels = model(pixels).argmax(1)
    attack = PGD(HARMLESS, workload.growth_steps)
    return _twice(lambda: attack.search(model, pixels, labels, seed=0, examples=range(len(pixels))), workload.device)


def _classes(workload: Workload) -> Figure:
    encoder: Any = zr.load("tiny", device=workload.device)
    points: Points = []
    for count in map(int, workload.growth["classes"]):
        work = operations(step_products(encoder.model.config, 1, count), "attack")
        points.append((count, _search(classifier(encoder, count), encoder.input_size[0], workload), work))
    return curve("growth_evaluation_in_classes", points, x="classes", y="seconds", work="matrix products")


def _templates(workload: Workload) -> Figure:
    encoder: Any = zr.load("tiny", device=workload.device)
    points: Points = []
    for count in map(int, workload.growth["templates"]):
        templates = [f"a photo of a {{}} number {i}" for i in range(count)]

        def build(templates: list[str] = templates) -> None:
            run = next(_fresh)  # other names each time: a head that was built before is found again
            TextHead.build(encoder, [f"thing {run} {i}" for i in range(100)], templates)

        points.append((count, _twice(build, workload.device), count))
    return curve("growth_text_head_in_templates", points, x="templates of 100 classes", y="seconds", work="texts")


def _model_size(workload: Workload) -> Figure:
    points: Points = []
    for size in map(int, workload.growth["model_size"]):
        shape = replace(VIT_B_32, name=f"CLIP at {size}", size=size, layers=2, text_layers=1)
        encoder = random_encoder(shape, workload.device)
        work = operations(step_products(encoder.model.config, 1, 10), "attack")
        points.append((size, _search(classifier(encoder, 10), size, workload), work))
    return curve(
        "growth_evaluation_in_model_size", points, x="pixels on a side, model space", y="seconds",
        work="matrix products", model="ViT-B/32's width, 2 blocks",
    )  # fmt: skip


def _native_size(workload: Workload) -> Figure:
    encoder: Any = zr.load("tiny", device=workload.device)
    points: Points = []
    for size in map(int, workload.growth["native_size"]):
        points.append((size, _search(classifier(encoder, 10), size, workload), size**2))
    return curve(
        "growth_evaluation_in_native_size", points, x="pixels on a side, native space, model input fixed",
        y="seconds", work="pixels",
    )  # fmt: skip


def _tasks(workload: Workload) -> Figure:
    encoder: Any = zr.load("tiny", device=workload.device)
    points: Points = []
    opened = [zr.task(name, limit=max(workload.growth_images // 4, 4)) for name in TASKS]
    opened = [opened[i % len(opened)] for i in range(len(TASKS))]
    for count in map(int, workload.growth["tasks"]):

        def evaluate(count: int = count) -> None:
            zr.evaluate(encoder, tasks=opened[:count], attacks="pgd:5", threat="linf:0.001/255")

        points.append((count, _twice(evaluate, workload.device), count))
    return curve("growth_evaluation_in_tasks", points, x="tasks", y="seconds", work="tasks")


def _memory(workload: Workload) -> list[Figure]:
    about = {"model": SHAPES[workload.shape].name, "precision": "float32"}
    classes: Points = []
    for count in map(int, workload.growth["memory_classes"]):
        taken = memory.measured("attack", workload, classes=count) / GIB
        classes.append((count, taken, 1))
    batches: Points = []
    for batch in map(int, workload.growth["memory_batch"]):
        batches.append((batch, memory.measured("attack", workload, batch=batch) / GIB, batch))
    return [
        curve(
            "growth_memory_in_classes", classes, x="classes", y="GiB above the weights",
            work="none: the head is small beside the tower", batch=workload.batch, **about,
        ),
        curve("growth_memory_in_batch", batches, x="images", y="GiB above the weights", work="images", **about),
    ]  # fmt: skip
