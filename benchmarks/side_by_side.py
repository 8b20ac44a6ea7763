"""Two attack suites on the same examples: what each says and what each spends. Ours is run here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zsrobust.attacks.base import Attack
from zsrobust.attacks.checks import enforce, judge
from zsrobust.threat import Threat

Model = Callable[[Tensor], Tensor]


@dataclass
class Spent:
    """What was spent, in rows that were really passed: an image in a batch is one, and so is a row of padding.

    ``seconds`` is the wall clock, ``cpu`` the processor's time, which tells when the machine had other work.
    """

    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0
    cpu: float = 0.0

    def __sub__(self, other: Spent) -> Spent:
        return Spent(
            self.forwards - other.forwards,
            self.backwards - other.backwards,
            self.seconds - other.seconds,
            self.cpu - other.cpu,
        )

    def __iadd__(self, other: Spent) -> Spent:
        self.forwards += other.forwards
        self.backwards += other.backwards
        self.seconds += other.seconds
        self.cpu += other.cpu
        return self

    def each(self, count: int) -> dict[str, float]:
        """Per example, JSON-able."""
        return {
            "forwards": round(self.forwards / count, 1),
            "backwards": round(self.backwards / count, 1),
            "seconds": round(self.seconds / count, 4),
            "cpu": round(self.cpu / count, 4),
        }


class Counted:
    """A model that counts its rows. A backward pass is counted when a gradient arrives at the logits."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.forwards = self.backwards = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["model"], name)

    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, C)."""
        logits = self.model(pixels)
        self.forwards += len(pixels)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)

    def spent(self) -> Spent:
        """All so far, with the clock."""
        return Spent(self.forwards, self.backwards, time.perf_counter(), time.process_time())


@dataclass(frozen=True)
class Answer:
    """What a suite says of n examples.

    Attributes:
        broken: (n,) bool; wrong when clean counts as broken.
        pixels: (n, 3, H, W) its adversarial images.
        total: Everything, checks and clean passes included.
        members: The same for each attack by its name.
        given: How many examples each attack was given, by its name.
        needed: Passes of the attacks that were for an example: no padding, no run ahead of its turn that was not used.
    """

    broken: Tensor
    pixels: Tensor
    total: Spent
    members: Mapping[str, Spent]
    given: Mapping[str, int]
    needed: Spent

    @property
    def accuracy(self) -> float:
        """Share of the examples left standing."""
        return 1 - float(self.broken.double().mean())


def ours(model: Model, pixels: Tensor, labels: Tensor, attacks: Sequence[Attack], *, seed: int = 0) -> Answer:
    """Attacks one after the other, each on what the ones before left standing, judged as the evaluation does.

    Args:
        model: Pixels → logits.
        pixels: (n, 3, H, W) in [0, 1].
        labels: (n,) int64.
        attacks: Of one threat.
        seed: Key of the random numbers, with the positions as ids.
    """
    counted = Counted(model)
    before = counted.spent()
    found, members, given, needed = pixels.clone(), {}, {}, Spent()
    broken = judge(counted, pixels, labels).predictions != labels
    for attack in attacks:
        left = (~broken).nonzero().squeeze(1)
        start = counted.spent()
        if len(left):
            outcome = attack.search(counted, pixels[left], labels[left], seed=seed, examples=left.tolist())
            needed += Spent(int(outcome.forwards.sum()), int(outcome.backwards.sum()))
            found[left], _ = enforce(attack.threat, outcome.pixels, pixels[left])
            broken[left] = judge(counted, found[left], labels[left]).predictions != labels[left]
        members[attack.name] = counted.spent() - start
        given[attack.name] = len(left)
    return Answer(broken, found, counted.spent() - before, members, given, needed)


def unfounded(model: Model, answer: Answer, pixels: Tensor, labels: Tensor, threat: Threat) -> list[int]:
    """Positions of breaks that do not hold: put into the ball and judged anew in float32, the label is predicted."""
    allowed = threat.project(answer.pixels, pixels)
    kept = judge(model, allowed, labels).predictions == labels
    return torch.nonzero(answer.broken & kept).squeeze(1).tolist()


def keep(path: Path, row: Mapping[str, Any]) -> None:
    """Appends a finished measurement; half a line that a killed run left behind is closed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    with path.open("a") as stream:
        stream.write(("\n" if torn else "") + json.dumps(row) + "\n")


def kept(path: Path) -> list[dict[str, Any]]:
    """The finished measurements in a file, if there is one."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with suppress(ValueError):
            rows.append(json.loads(line))
    return rows
