"""A short adaptation of a toy, and what a test asks of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tests.fakes import Toy, task
from torch import nn

from zsrobust.adaptation import adapt
from zsrobust.attacks.pgd import PGD
from zsrobust.threat import Threat

THREAT = Threat("linf", "8/255")


def run(encoder: Any | None = None, **options: Any) -> Toy:
    """A short adaptation of a toy: 5 steps, the last of 2 images."""
    given: dict[str, Any] = {
        "task": task(18), "attack": PGD(THREAT, 2), "epochs": 1, "batch_size": 4, "lr": 0.1, "progress": False,
    }  # fmt: skip
    return adapt(encoder or Toy(), **(given | options))  # type: ignore[return-value]


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
