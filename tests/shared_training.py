"""Runs of adaptation that two processes share; the test compares them with runs of one process.

Usage: ``python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.shared_training FOLDER``, or with
``die`` after the folder: then the second process dies in the fifth step.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.fakes import Toy, task
from torch import Tensor, nn

from zsrobust.adaptation import adapt
from zsrobust.attacks.pgd import PGD
from zsrobust.distributed import joined, world
from zsrobust.encoders.huggingface import from_folder
from zsrobust.methods.dual import Dual
from zsrobust.methods.tecoa import TeCoA
from zsrobust.threat import Threat
from zsrobust.training_step import Step
from zsrobust.tuning.lora import LoRA


class Idle(TeCoA):
    """Brings along what no loss depends on."""

    def extra(self, width: int, classes: int, seed: int) -> nn.Module:
        return nn.Linear(2, 2)


STOPPED_AT = 5
CLIP = "random-clip"

RUNS: dict[str, dict[str, Any]] = {
    # 17 images in batches of 5: parts of 2 and 3, and the last batch has 2. 7 in batches of 3: the last has 1, which
    # leaves one process without an image.
    "tecoa": {"images": 17, "batch_size": 5, "held_out": 7, "optimizer": "adamw", "lr": 0.01},
    "one left": {"images": 7, "batch_size": 3, "epochs": 3},
    "head": {"images": 17, "batch_size": 5, "method": "standard", "ema": 0.9},
    "compared": {"images": 17, "batch_size": 5, "method": "imgcoadv"},
    "related": {"images": 17, "batch_size": 5, "method": Dual(relations=0.5, patches=0.0)},
    "pieces": {"images": 17, "batch_size": 9, "method": "trades", "micro_batch": 2},
    "idle": {"images": 17, "batch_size": 5, "method": Idle()},
    "found": {"images": 17, "batch_size": "auto"},
    "adapters": {"images": 11, "batch_size": 4, "encoder": CLIP, "tuning": LoRA(2), "method": "dual", "lr": 0.1},
    "spared": {"images": 11, "batch_size": 4, "encoder": CLIP, "checkpoint_activations": True, "lr": 1e-3},
}
HALVES = {"stopped": RUNS["tecoa"], "stopped for one": RUNS["tecoa"], "begun by one": RUNS["tecoa"]}


class Stop(BaseException):
    """As Ctrl-C."""


def trained(folder: Path, name: str, *, stop: bool = False, **options: Any) -> dict[str, Tensor]:
    """The weights after a run in ``folder / name``."""
    given: dict[str, Any] = {
        "epochs": 2,
        "lr": 0.1,
        "log_every": 1,
        "checkpoint_every": 2,
        "progress": False,
        **options,
    }
    kind, images = given.pop("encoder", None), given.pop("images")
    size = 6 if kind is None else 32
    encoder: Any = Toy() if kind is None else from_folder(folder / kind)
    if "held_out" in given:
        given["held_out"] = task(given["held_out"], size=size, seed=5)
    attack = PGD(Threat("l2", 0.5), 2)
    with pytest.MonkeyPatch.context() as patch:
        if stop:
            learn, count = Step.learn, itertools.count(1)

            def stopping(step: Step, points: Tensor, batch: Any) -> Tensor:
                if next(count) == STOPPED_AT:
                    raise Stop
                return learn(step, points, batch)

            patch.setattr(Step, "learn", stopping)
        try:
            found: Any = adapt(encoder, task=task(images, size=size), attack=attack, run=folder / name, **given)
        except Stop:
            return {}
    return {name: tensor.contiguous() for name, tensor in found.state_dict().items()}


def dying(step: Step, *given: Any, learn: Any = Step.learn, count: Any = itertools.count(1)) -> Tensor:  # noqa: B008
    if next(count) == STOPPED_AT and not world().main:
        os._exit(9)
    found: Tensor = learn(step, *given)
    return found


def main(folder: Path, *, die: bool) -> None:
    with joined():
        if die:
            Step.learn = dying  # type: ignore[method-assign, assignment]
            trained(folder, "died", **RUNS["tecoa"])
        for name, options in RUNS.items():
            keep(folder, name, trained(folder, name, **options))
        for name in ("stopped", "stopped for one"):
            trained(folder, name, stop=True, **RUNS["tecoa"])
        keep(folder, "stopped", trained(folder, "stopped", **RUNS["tecoa"]))
        keep(folder, "begun by one", trained(folder, "begun by one", **RUNS["tecoa"]))


def keep(folder: Path, name: str, weights: dict[str, Tensor]) -> None:
    save_file(weights, folder / f"{name} {world().rank}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), die="die" in sys.argv)
