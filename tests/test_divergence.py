"""Adaptation that diverges: it stops, says where, and leaves no checkpoint that is not finite."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.toy_runs import run
from torch import Tensor

from zsrobust import checkpoint
from zsrobust.divergence import DivergenceGuard
from zsrobust.errors import DivergedError
from zsrobust.methods.base import Batch, Learner
from zsrobust.methods.tecoa import TeCoA


class Failing(TeCoA):
    """Its loss is spoilt from a step on."""

    def __init__(self, at: int, factor: float) -> None:
        super().__init__()
        object.__setattr__(self, "at", at)
        object.__setattr__(self, "factor", factor)
        object.__setattr__(self, "count", itertools.count(1))

    def outer(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
        loss = super().outer(learner, points, batch)
        return loss * self.factor if next(self.count) >= self.at else loss  # type: ignore[attr-defined]


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_that_is_nan_stops_with_the_last_good_checkpoint(factor: float, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"the loss of step 4 is .*step-00000002.*smaller lr") as caught:
        run(run=tmp_path, method=Failing(4, factor), checkpoint_every=2)
    last = checkpoint.latest(tmp_path / "checkpoints")
    assert str(last) in str(caught.value)
    assert last is not None
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(last / "weights.safetensors").values())


def test_without_a_checkpoint_the_message_says_so() -> None:
    with pytest.raises(DivergedError, match="the loss of step 1 is nan; there is no checkpoint yet"):
        run(method=Failing(1, math.nan))


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(tmp_path: Path) -> None:
    class Cliff(TeCoA):
        """At the third step the loss is 0 and its gradient infinite."""

        def outer(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
            loss = super().outer(learner, points, batch)
            return (loss * 0).sqrt() if next(steps) == 3 else loss

    steps = itertools.count(1)
    with pytest.raises(DivergedError, match="the loss of step 3 is nan"):
        run(run=tmp_path, method=Cliff(), checkpoint_every=1)
    last = checkpoint.latest(tmp_path / "checkpoints")
    assert last is not None
    assert last.name == "step-00000002"


@pytest.mark.parametrize("every", [1, 5])
def test_weights_that_overflow_are_never_a_good_checkpoint(every: int, tmp_path: Path) -> None:
    # Loss and gradient are finite, the step is not; at the last step no next loss would notice.
    class Steep(TeCoA):
        def outer(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
            loss = super().outer(learner, points, batch)
            return loss.detach() + (loss - loss.detach()) * (1e15 if next(steps) == 5 else 1e-30)

    steps = itertools.count(1)
    with pytest.raises(DivergedError, match="NaN or infinite after step 5"):
        run(run=tmp_path, method=Steep(), lr=1e25, warmup=0.0, checkpoint_every=every)
    last = checkpoint.latest(tmp_path / "checkpoints")
    assert (last.name if last else None) == ("step-00000004" if every == 1 else None)


def test_a_loss_that_runs_away_stops_the_run() -> None:
    guard = DivergenceGuard({}, None)
    for step in range(60):
        guard.check(1.0, step)

    def run_away() -> None:
        for step in range(60, 160):
            guard.check(20.0, step)

    with pytest.raises(DivergedError, match="runs away: 1 at its best"):
        run_away()
    assert guard.state["lowest"] == pytest.approx(1.0)


@pytest.mark.parametrize("losses", [[30.0] * 200, [0.01, 4.0] * 100, [1.0] * 50 + [50.0] * 3 + [1.0] * 100])
def test_a_high_start_a_small_loss_and_a_few_bad_steps_are_no_divergence(losses: list[float]) -> None:
    guard = DivergenceGuard({}, None)
    for step, loss in enumerate(losses):
        guard.check(loss, step)
