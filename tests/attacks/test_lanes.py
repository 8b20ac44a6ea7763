"""The scheduler: who sits in which lane must not show in anything but the time it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.fakes import Bumpy
from torch import Tensor

from zsrobust.attacks import lanes as engine
from zsrobust.attacks.lanes import Key, LaneAttack, Runs, gather, nearest_rivals, stream
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.probe import Lanes, Probe
from zsrobust.threat import Threat

SHAPE = (3, 2, 2)
NEVER = 99
THREAT = Threat("linf", 1.0)


class Threshold:
    """Two classes, told apart by whether the first channel's mean is above a half; one shape of pass."""

    def __init__(self, rows: int | None) -> None:
        if rows is not None:
            self.rows = rows
        self.shapes: set[int] = set()

    def __call__(self, pixels: Tensor) -> Tensor:
        self.shapes.add(len(pixels))
        level = pixels[:, 0].mean((1, 2)) - 0.5
        return torch.stack([level, -level], 1)


@dataclass(frozen=True)
class Scripted(LaneAttack):
    """Example e's run p succeeds in round script[e][p]; a run has 6 rounds."""

    script: tuple[tuple[int, ...], ...]
    threat: Threat = THREAT
    precision: str = "float32"
    key: str = "scripted"

    def rivals(self, clean: Callable[[], Tensor], labels: Tensor, aims: Tensor) -> Tensor:
        return torch.arange(len(self.script[0])).expand(len(labels), -1)

    def runs(self, lanes: Lanes) -> Runs:
        return ScriptedRuns(self.script, lanes)


class ScriptedRuns(Runs):
    def __init__(self, script: Sequence[Sequence[int]], lanes: Lanes) -> None:
        self.script, self.lanes = script, lanes
        self.count = torch.zeros_like(lanes.labels)
        self.due = torch.full_like(lanes.labels, NEVER)

    def enter(self, index: Tensor, keys: Sequence[Key]) -> None:
        self.count[index] = 0
        for lane, (_, example, _, run) in zip(index.tolist(), keys, strict=True):
            assert int(self.lanes.rivals[lane]) == run
            self.due[lane] = self.script[int(example)][int(run)]

    def round(self, probe: Probe) -> Tensor:
        self.count += 1
        # The run's number is in the second channel, so that it can be seen which point was reported.
        points = self.lanes.pixels.clone()
        points[:, 1] = (0.1 * (self.lanes.rivals + 1).float()).view(-1, 1, 1)
        won = (self.count >= self.due).view(-1, 1, 1)
        points[:, 0] = torch.where(won, 0.2, 0.9 - 0.01 * self.lanes.rivals.view(-1, 1, 1))
        probe.look(points)
        return self.count >= 6


SCRIPT = (
    (NEVER, 5, 1),  # the third run would succeed first, the second is the first in order
    (NEVER, NEVER, NEVER),
    (2, 1, 1),
    (NEVER, NEVER, 6),
    (6, 1, NEVER),
)


def attacked(rows: int | None, order: Sequence[int] = range(5)) -> tuple[Any, Threshold]:
    model, pixels = Threshold(rows), torch.full((len(order), *SHAPE), 0.9)
    labels = torch.zeros(len(order), dtype=torch.int64)
    return gather(stream(Scripted(SCRIPT), model, pixels, labels, seed=0, examples=order), pixels), model


@pytest.mark.parametrize("rows", [None, 1, 2, 3, 8, 32])
def test_the_first_run_in_order_that_succeeds_is_the_one_reported(rows: int | None) -> None:
    outcome, model = attacked(rows)
    assert outcome.claimed.tolist() == [True, False, True, True, True]
    # rounds of the runs up to and with the reported one, whatever ran beside them
    assert outcome.forwards.tolist() == [6 + 5, 18, 2, 18, 6]
    reported = (outcome.pixels[:, 1, 0, 0] * 10).round().int().tolist()
    assert reported == [2, 3, 1, 3, 1]  # the survivor: the run that came closest
    assert model.shapes == ({rows} if rows is not None else model.shapes)


@pytest.mark.parametrize("order", [[4, 3, 2, 1, 0], [1, 0], [3], [2, 4, 1]])
def test_order_and_company_change_nothing(order: list[int]) -> None:
    whole, _ = attacked(4)
    part, _ = attacked(4, order)
    for name in ("pixels", "forwards", "backwards", "claimed"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[order])


def test_idle_lanes_run_ahead_and_save_rounds() -> None:
    def rounds(rows: int) -> int:
        model = Threshold(rows)
        count = [0]
        original = model.__class__.__call__

        class Counting(Threshold):
            def __call__(self, pixels: Tensor) -> Tensor:
                count[0] += 1
                return original(self, pixels)

        pixels = torch.full((1, *SHAPE), 0.9)
        survivor = Scripted((SCRIPT[1],))
        gather(
            stream(survivor, Counting(rows), pixels, torch.zeros(1, dtype=torch.int64), seed=0, examples=[0]), pixels
        )
        return count[0]

    assert rounds(1) == 18
    assert rounds(3) == 6


def test_examples_are_handed_out_as_they_finish_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SECONDS", 0.0)
    pixels, labels = torch.full((5, *SHAPE), 0.9), torch.zeros(5, dtype=torch.int64)
    parts = [
        index.tolist() for index, _ in stream(Scripted(SCRIPT), Threshold(2), pixels, labels, seed=0, examples=range(5))
    ]
    assert sorted(position for part in parts for position in part) == [0, 1, 2, 3, 4]
    assert len(parts) >= 4


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.005), ("l2", 0.03)])
def test_leaving_early_changes_no_verdict(norm: str, eps: float) -> None:
    shape = (3, 4, 5)
    model = Bumpy(shape, 4)
    pixels = torch.rand(60, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = model(pixels).argmax(1)
    attack = PGD(Threat(norm, eps), 8, step_size=eps / 8, restarts=2)
    early, late = (
        gather(stream(attack, model, pixels, labels, seed=3, examples=range(60), leave=leave), pixels)
        for leave in (True, False)
    )
    assert 5 < int(early.claimed.sum()) < 55
    assert torch.equal(early.claimed, late.claimed)
    assert torch.equal(early.pixels, late.pixels)
    assert int(early.backwards.sum()) < int(late.backwards.sum())


def test_rivals_are_the_nearest_classes_or_the_aim() -> None:
    logits = torch.tensor([[5.0, 1.0, 3.0, 2.0], [0.0, 9.0, 1.0, 2.0]])
    labels, none = torch.tensor([0, 2]), torch.tensor([-1, -1])
    assert nearest_rivals(lambda: logits, labels, none, 2).tolist() == [[2, 3], [1, 3]]
    assert nearest_rivals(lambda: logits, labels, none, 9).tolist() == [[2, 3, 1], [1, 3, 0]]
    assert nearest_rivals(lambda: logits, labels, torch.tensor([3, 0]), 9).tolist() == [[3], [0]]
