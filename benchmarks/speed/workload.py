"""How much is measured: all of it (25 minutes on two quiet cores), or quickly (two minutes).

In full, in minutes: floor ½, attack 6½, adapt 9, autoattack 7, growth 3½.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Workload:
    """Sizes of everything that is measured.

    Attributes:
        name: What results call it.
        device: ``"cpu"`` or ``"cuda"``.
        shape: Key of :data:`benchmarks.speed.models.SHAPES`.
        batch: Images in a step.
        classes: Of the attack step, ascending.
        reference_classes: The reference is run with at most so many.
        repeats: Turns of what is fast.
        slow_repeats: Turns where the reference takes part.
        steps: PGD steps in a timed call.
        adapt_model: Key of the shapes, or ``"tiny"``: what is adapted.
        adapt_batch: Images in an optimizer step.
        adapt_steps: Optimizer steps of a timed run; metrics are written at the middle one, a checkpoint after it.
        adapt_rounds: Bare passes and loop take so many turns; with options one.
        adapt_options: Options of adapt, beside float32 as it comes, that are timed likewise.
        photographs: JPEG files of the training task.
        photograph: (width, height) of each.
        adapted: Folder of an adapted model; None: one is made by the demo's recipe where it is needed.
        ensemble: Whether the whole ensemble is run, or APGD-CE alone.
        examples: Of the ensemble.
        growth_images: Images of an evaluation.
        growth_steps: Steps of its PGD.
        growth: Curve → values of x.
        starts: Repetitions of a command.
        folder: Where the adapted model and other files are kept; None: a folder that is removed afterwards.
    """

    name: str
    device: str = "cpu"
    shape: str = "vit-b-32"
    batch: int = 16
    classes: tuple[int, ...] = (10, 100, 1000)
    reference_classes: int = 100
    repeats: int = 5
    slow_repeats: int = 3
    steps: int = 2
    adapt_model: str = "vit-b-32"
    adapt_batch: int = 16
    adapt_steps: int = 8
    adapt_rounds: int = 2
    adapt_options: tuple[dict[str, Any], ...] = (
        {"precision": "bf16"},
        {"precision": "bf16", "attack_precision": "bfloat16"},
        {"precision": "bf16", "checkpoint_activations": True},
        {"precision": "bf16", "micro_batch": 8},
    )
    photographs: int = 160
    photograph: tuple[int, int] = (500, 375)
    adapted: Path | None = None
    ensemble: bool = True
    examples: int = 8
    growth_images: int = 32
    growth_steps: int = 10
    growth: dict[str, tuple[float, ...]] = field(
        default_factory=lambda: {
            "eps": (0.25, 0.5, 1, 2, 4, 8),
            "classes": (10, 100, 1000),
            "templates": (1, 4, 16, 40),
            "model_size": (32, 64, 128, 224),
            "native_size": (32, 64, 128, 224),
            "tasks": (1, 2, 4, 8),
            "memory_classes": (10, 100, 1000),
            "memory_batch": (4, 16, 32),
            "cells": (250, 500, 1000, 2000),
            "worked_cells": (25, 50, 100, 200),
            "records": (12_500, 25_000, 50_000),
        }
    )
    starts: int = 5
    folder: Path | None = None


FULL = Workload("full")
QUICK = Workload(
    "quick",
    classes=(10, 100),
    reference_classes=10,
    repeats=2,
    slow_repeats=1,
    steps=1,
    adapt_model="tiny",
    adapt_batch=32,
    adapt_rounds=1,
    adapt_options=({"precision": "bf16"},),
    photographs=64,
    ensemble=False,
    examples=32,
    growth_images=16,
    growth_steps=5,
    growth={
        "eps": (0.5, 2, 8),
        "classes": (10, 1000),
        "templates": (1, 16),
        "model_size": (32, 128),
        "native_size": (32, 128),
        "tasks": (1, 4),
        "memory_classes": (10, 1000),
        "memory_batch": (4, 16),
        "cells": (50, 200),
        "worked_cells": (10, 40),
        "records": (2_000, 8_000),
    },
    starts=1,
)
