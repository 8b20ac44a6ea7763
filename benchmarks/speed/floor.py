"""The floor: how fast this machine multiplies matrices of the model's shapes, and what a step has to multiply."""

from __future__ import annotations

from typing import Any

import torch
from benchmarks.speed.clock import in_turns
from benchmarks.speed.figure import Figure
from benchmarks.speed.models import SHAPES, random_encoder
from benchmarks.speed.operations import Floor, Product, operations, step_products
from benchmarks.speed.workload import Workload

import zsrobust as zr

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
PGD_STEPS = 2
"""Of TeCoA's training step."""


def part(workload: Workload) -> list[Figure]:
    """Rates at the shapes of the attacked model and of the embedded one, and operations an image."""
    encoders: dict[str, Any] = {
        SHAPES[workload.shape].name: random_encoder(SHAPES[workload.shape]),
        "tiny": zr.load("tiny", device="cpu"),
    }
    found: list[Figure] = []
    for name, encoder in encoders.items():
        products = step_products(encoder.model.config, workload.batch, workload.classes[0])
        about = {"model": name, "batch": workload.batch, "classes": workload.classes[0]}
        short = "tiny" if name == "tiny" else workload.shape.replace("-", "_")
        found += _rates(short, products, workload, about) + _counts(short, products, workload, about)
    return found


def _rates(short: str, products: list[Product], workload: Workload, about: dict[str, Any]) -> list[Figure]:
    floors = {name: Floor(products, "attack", dtype, workload.device) for name, dtype in DTYPES.items()}
    times = in_turns(floors, repeats=workload.repeats, device=workload.device)
    return [
        Figure(
            f"matrix_products_{short}_{name}", floors[name].operations / time.median / 1e9, "GFLOP/s",
            spread=time.spread, n=time.n, settings={**about, "precision": name, "products": "of an attack step"},
        )
        for name, time in times.items()
    ]  # fmt: skip


def _counts(short: str, products: list[Product], workload: Workload, about: dict[str, Any]) -> list[Figure]:
    attack, training = operations(products, "attack"), operations(products, "training")
    counted = {
        "attack_step": (attack, "a forward pass, and a backward pass towards the pixels"),
        "training_step": (PGD_STEPS * attack + training, "TeCoA: two attack steps and a training pass"),
        "evaluation": (operations(products, "forward"), "a forward pass"),
    }
    return [
        Figure(
            f"operations_{what}_{short}", count / workload.batch / 1e9, "GFLOP an image",
            settings={**about, "what": words, "counted": "matrix products; 2 m k n each"},
        )
        for what, (count, words) in counted.items()
    ]  # fmt: skip
