"""Averages of weights over a run: what they are, and that a killed run ends with the same."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes import Toy, task
from torch import nn

from zsrobust.adaptation import adapt
from zsrobust.attacks.pgd import PGD
from zsrobust.averaging import Average
from zsrobust.errors import ConfigError, RunError
from zsrobust.held_out import Examiner
from zsrobust.recipe import Recipe
from zsrobust.threat import Threat


def walked(how: Recipe, steps: int) -> tuple[float, Average]:
    """The average of a weight that is 0 before the first step and t after step t."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    average = Average(how, steps, {"w": weight})
    for step in range(1, steps + 1):
        with torch.no_grad():
            weight.fill_(step)
        average.update(step)
    average.settle()
    return float(weight.detach()), average


def test_a_soup_is_the_mean_of_evenly_spaced_steps_of_the_second_half() -> None:
    assert walked(Recipe(soup=4), 80)[0] == pytest.approx((50 + 60 + 70 + 80) / 4)
    assert walked(Recipe(soup=2), 10)[0] == pytest.approx((8 + 10) / 2)
    assert walked(Recipe(soup=9), 5)[0] == pytest.approx((2 + 3 + 4 + 5) / 4)


@pytest.mark.parametrize("count", [2, 3, 4, 9])
def test_the_weights_before_the_first_step_are_in_no_soup(count: int) -> None:
    assert walked(Recipe(soup=count), 1)[0] == 1
    assert 1 < walked(Recipe(soup=count), 2)[0] <= 2


def test_a_moving_average_follows_its_equation() -> None:
    expected = 0.0
    for step in range(1, 31):
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert walked(Recipe(ema=0.8), 30)[0] == pytest.approx(expected)


def test_without_an_average_the_last_weights_stay() -> None:
    last, average = walked(Recipe(), 7)
    assert last == 7
    assert average.named() == {}


@pytest.mark.parametrize("options", [{"ema": 0.9}, {"soup": 2}])
def test_a_run_goes_on_with_its_average(options: dict[str, Any], tmp_path: Path) -> None:
    common: dict[str, Any] = {
        "task": task(12), "attack": PGD(Threat("linf", "8/255"), 1), "epochs": 4, "batch_size": 4, "lr": 0.5,
        "checkpoint_every": 3, **options,
    }  # fmt: skip
    whole: Any = adapt(Toy(), **common)
    plain: Any = adapt(Toy(), **{**common, **dict.fromkeys(options)})
    assert any(not torch.equal(w, plain.state_dict()[n]) for n, w in whole.state_dict().items())

    run = tmp_path / "run"
    adapt(Toy(), run=run, **common)
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    again: Any = adapt(Toy(), run=run, **common)
    assert all(torch.equal(w, again.state_dict()[n]) for n, w in whole.state_dict().items())
    with pytest.raises(RunError, match="another configuration"):
        adapt(Toy(), run=run, **{**common, **dict.fromkeys(options)})


@pytest.mark.parametrize("options", [{"ema": 0.9}, {"soup": 2}, {}])
def test_held_out_images_are_scored_with_what_comes_out(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def scores(examiner: Any) -> dict[str, float]:
        seen.append(copy.deepcopy(examiner.learner.encoder.state_dict()))
        return {}

    monkeypatch.setattr(Examiner, "scores", scores)
    common: dict[str, Any] = {"task": task(12), "attack": PGD(Threat(), 1), "epochs": 2, "batch_size": 4, "lr": 1.0}
    adapted: Any = adapt(Toy(), held_out=task(12), **common, **options)
    assert all(torch.equal(w, seen[0][n]) for n, w in adapted.state_dict().items())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"ema": 1.0}, "ema must be between 0 and 1"), ({"soup": 1}, "soup must be at least 2"),
        ({"ema": 0.9, "soup": 2}, "two ways to average"),
    ],
)  # fmt: skip
def test_what_no_average_can_be_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Recipe(**options)


def test_an_option_that_is_off_leaves_no_trace() -> None:
    assert not {"ema", "soup", "log_every"} & Recipe().deciding().keys()
    assert Recipe(ema=0.5).deciding()["ema"] == 0.5
