"""Peak memory above the weights of one thing, in a process of its own: ``python -m benchmarks.speed.memory WHAT …``."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.speed.machine import peak_rise
from benchmarks.speed.workload import FULL, Workload

KINDS = ("attack", "reference", "training")


def measured(
    what: str,
    workload: Workload,
    *,
    classes: int = 10,
    batch: int | None = None,
    way: str = "float32",
    options: dict[str, Any] | None = None,
) -> int:
    """Bytes: what the process needed at most, over what it had with the model loaded.

    Args:
        what: One of :data:`KINDS`: our attack step, the reference's, or two optimizer steps of adaptation.
        workload: Model and device.
        classes: In the head.
        batch: Images; None: the workload's.
        way: Of :data:`benchmarks.speed.attack.PRECISIONS`.
        options: Of adapt.
    """
    training = what == "training"
    command = [
        sys.executable, "-m", "benchmarks.speed.memory", what,
        "--shape", workload.adapt_model if training else workload.shape,
        "--batch", str(batch or (workload.adapt_batch if training else workload.batch)),
        "--device", workload.device, "--threads", str(torch.get_num_threads()),
        "--classes", str(classes), "--way", way, "--options", json.dumps(options or {}),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": _paths()})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} ended with {done.returncode}: {done.stderr[-2000:]}")
    return int(json.loads(done.stdout.splitlines()[-1])["bytes"])


def _paths() -> str:
    return os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])


def _attack(given: argparse.Namespace) -> Callable[[], object]:
    from benchmarks.speed import attack, models
    from benchmarks.speed.reference import perturbed

    shape = models.SHAPES[given.shape]
    encoder = models.random_encoder(shape, given.device).requires_grad_(True)
    pixels, labels = models.images(given.batch, shape.size, given.classes, given.device)
    if given.what == "attack":
        model = models.classifier(encoder, given.classes)
        return lambda: attack.ours(model, pixels, labels, steps=2, way=given.way, device=given.device)
    tokens = models.prompts(encoder, given.classes)
    eps = attack.THREAT.eps
    return lambda: perturbed(encoder, tokens, pixels, labels, start=pixels, eps=eps, step_size=eps, steps=2)


def _training(given: argparse.Namespace, folder: Path) -> Callable[[], object]:
    from dataclasses import replace

    from benchmarks.speed import adapt

    workload = replace(
        FULL, adapt_model=given.shape, adapt_batch=given.batch, device=given.device, photographs=2 * given.batch
    )
    loop = adapt.Loop(workload, folder)
    return lambda: loop.run(given.options, steps=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=KINDS)
    parser.add_argument("--shape", default="vit-b-32")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--way", default="float32")
    parser.add_argument("--options", type=json.loads, default={})
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        work = _training(given, Path(folder)) if given.what == "training" else _attack(given)
        print(json.dumps({"bytes": peak_rise(work, given.device)}))


if __name__ == "__main__":
    main()
