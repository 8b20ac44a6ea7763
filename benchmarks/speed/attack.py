"""The attack step on CLIP: ours in three precisions, the plain reference, and the floor, taking turns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from benchmarks.speed import memory
from benchmarks.speed.clock import Times, in_turns
from benchmarks.speed.figure import Figure
from benchmarks.speed.floor import DTYPES
from benchmarks.speed.machine import GIB
from benchmarks.speed.models import SHAPES, classifier, images, prompts, random_encoder
from benchmarks.speed.operations import Floor, operations, reference_products, step_products
from benchmarks.speed.reference import perturbed, plain
from benchmarks.speed.workload import Workload
from torch import Tensor

from zsrobust.attacks.pgd import PGD
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.losses import cross_entropy
from zsrobust.passes import frozen
from zsrobust.threat import Threat

THREAT = Threat("linf", "1/255")
PRECISIONS = {"float32": "float32", "autocast": "bf16", "lowered": "bf16"}
"""Our ways to compute a step, and the precision of the floor that each is compared with."""


def part(workload: Workload) -> list[Figure]:
    """Steps with each number of classes, then memory."""
    found: list[Figure] = []
    for classes in workload.classes:
        found += _steps(workload, classes)
    return found + _memory(workload)


def inside(model: ZeroShotClassifier, way: str, device: str) -> AbstractContextManager[object]:
    """What a pass is computed in: float32, autocast, or the encoder's bfloat16 copy (what ``fast`` attacks run)."""
    if way == "lowered":
        return model.lowered()
    return nullcontext() if way == "float32" else torch.autocast(torch.device(device).type, torch.bfloat16)


def ours(model: ZeroShotClassifier, pixels: Tensor, labels: Tensor, *, steps: int, way: str, device: str) -> Tensor:
    """PGD as adaptation runs it: texts were encoded before, weights are frozen."""
    attack = PGD(THREAT, steps, step_size=THREAT.eps)
    with frozen(model), inside(model, way, device):
        return attack.perturb(lambda points: cross_entropy(model(points), labels), pixels, keys=keys(len(pixels)))


def keys(count: int) -> list[tuple[str | int, ...]]:
    """Of the random starts."""
    return [(0, i) for i in range(count)]


def _steps(workload: Workload, classes: int) -> list[Figure]:
    device, batch, shape = workload.device, workload.batch, SHAPES[workload.shape]
    encoder = random_encoder(shape, device).requires_grad_(True)
    tokens = prompts(encoder, classes)
    model = classifier(encoder, tokens)
    pixels, labels = images(batch, shape.size, classes, device)
    products = step_products(encoder.model.config, batch, classes)
    works: dict[str, Callable[[], object]] = {
        f"floor {name}": Floor(products, "attack", dtype, device) for name, dtype in DTYPES.items()
    }
    for way in PRECISIONS:
        works[way] = lambda w=way: ours(model, pixels, labels, steps=workload.steps, way=w, device=device)  # type: ignore[misc]
    compared = classes <= workload.reference_classes
    if compared:
        start, published = PGD(THREAT, 1).start(pixels, keys(batch)), plain(encoder)
        works["reference"] = lambda: perturbed(
            published, tokens, pixels, labels, start=start, eps=THREAT.eps, step_size=THREAT.eps, steps=1
        )
    repeats = workload.slow_repeats if compared else workload.repeats
    times = in_turns(
        works,
        repeats=repeats,
        device=device,
        cold=["reference"] if repeats == 1 or classes > workload.classes[0] else [],
    )
    steps = {way: Times([t / workload.steps for t in times[way].values]) for way in PRECISIONS}
    return _compared(workload, classes, times, steps, encoder.model.config)


def _compared(
    workload: Workload, classes: int, times: dict[str, Times], steps: dict[str, Times], config: Any
) -> list[Figure]:
    batch, name = workload.batch, f"attack_step_{classes}_classes"
    about = {"model": SHAPES[workload.shape].name, "batch": batch, "classes": classes, "weights": "random"}
    found = []
    for way, time in steps.items():
        ratios = {"ratio_to_floor": time.faster_than(times[f"floor {PRECISIONS[way]}"])}
        if "reference" in times:
            ratios["ratio_to_reference"] = time.faster_than(times["reference"])
        settings = {**about, "precision": way, "floor": PRECISIONS[way]}
        found.append(
            Figure(f"{name}_{way}", batch / time.median, "images/s", ratios, time.spread, time.n, settings)
        )  # fmt: skip
    best = max(found, key=lambda figure: figure.value or 0)
    work = operations(reference_products(config, batch, classes), "reference") / operations(
        step_products(config, batch, classes), "attack"
    )
    settings = {**best.settings, "operations_of_the_reference": round(work, 2)}
    head = Figure(name, best.value, best.unit, best.ratios, best.spread, best.n, settings)
    if "reference" not in times:
        why = "not run: it would not fit in memory; see reference_memory"
        return [head, *found, Figure(f"{name}_reference", None, "images/s", settings={**about, "why": why})]
    other = times["reference"]
    settings = {**about, "precision": "float32", "what": "text tower in every step, weight gradients on"}
    return [
        head, *found,
        Figure(f"{name}_reference", batch / other.median, "images/s", {}, other.spread, other.n, settings),
    ]  # fmt: skip


def _memory(workload: Workload) -> list[Figure]:
    """Above the weights, each of a process of its own; the reference's where it is not run, from where it was."""
    most, about = max(workload.classes), {"model": SHAPES[workload.shape].name, "batch": workload.batch}
    found = [
        Figure(
            f"attack_step_{most}_classes_memory" + ("" if way == "float32" else f"_{way}"),
            memory.measured("attack", workload, classes=most, way=way) / GIB, "GiB above the weights",
            settings={**about, "classes": most, "precision": way},
        )
        for way in PRECISIONS
    ]  # fmt: skip
    run = [classes for classes in workload.classes if classes <= workload.reference_classes]
    points = [(classes, memory.measured("reference", workload, classes=classes) / GIB) for classes in run]
    for classes, taken in points:
        settings = {**about, "classes": classes, "precision": "float32"}
        found.append(Figure(f"reference_memory_{classes}_classes", taken, "GiB above the weights", settings=settings))
    if len(points) > 1 and most > run[-1]:
        (low, least), (high, taken) = points[0], points[-1]
        guess = taken + (taken - least) / (high - low) * (most - high)
        settings = {**about, "classes": most, "precision": "float32", "estimated": f"a line through {low} and {high}"}
        found.append(Figure(f"reference_memory_{most}_classes", guess, "GiB above the weights", settings=settings))
    return found
