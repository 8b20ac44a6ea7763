"""Numbers and words of a recipe that a program gives: of another kind, they are one line."""

from __future__ import annotations

from typing import Any

import pytest

from zsrobust.errors import ConfigError
from zsrobust.recipe import Recipe


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"epochs": 1.5}, "epochs must be a whole number of at least 1, not 1.5"),
        ({"epochs": True}, "epochs must be a whole number of at least 1, not True"),
        ({"epochs": None}, "epochs must be a whole number of at least 1, not None"),
        ({"batch_size": 2.5}, "batch_size must be a whole number of at least 1, or auto, not 2.5"),
        ({"micro_batch": "4"}, "micro_batch must be a whole number of at least 1, or null, not '4'"),
        ({"micro_batch": "auto"}, "micro_batch must be a whole number of at least 1, or null, not 'auto'"),
        ({"soup": 2.5}, "soup must be a whole number of at least 2, or null, not 2.5"),
        ({"soup": 1}, "soup must be at least 2, or null, not 1"),
        ({"seed": "0"}, "seed must be a whole number of at least 0, not '0'"),
        ({"checkpoint_every": 0.5}, "checkpoint_every must be a whole number of at least 1, not 0.5"),
        ({"log_every": None}, "log_every must be a whole number of at least 1, not None"),
        ({"lr": "1e-4"}, "lr must be a number, not '1e-4'"),
        ({"lr": True}, "lr must be a number, not True"),
        ({"warmup": None}, "warmup must be a number, not None"),
        ({"weight_decay": [0.1]}, "weight_decay must be a number, not [0.1]"),
        ({"ema": "0.9"}, "ema must be a number, or null, not '0.9'"),
        ({"checkpoint_activations": "no"}, "checkpoint_activations must be true or false, not 'no'"),
        ({"precision": 16}, "unknown precision '16'; did you mean 'fp16'? (known: bf16, float32, fp16)"),
        ({"optimizer": ["sgd"]}, "unknown optimizer '['sgd']'; did you mean 'sgd'? (known: adamw, sgd)"),
    ],
)
def test_what_is_of_another_kind_is_one_line(option: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as found:
        Recipe.of(option)
    assert str(found.value) == told


def test_whole_numbers_are_numbers() -> None:
    given: dict[str, Any] = {"lr": 1, "weight_decay": 0, "warmup": 0, "batch_size": "auto", "micro_batch": None}
    recipe = Recipe(**given)
    assert (recipe.lr, recipe.weight_decay, recipe.warmup, recipe.ema, recipe.soup) == (1, 0, 0, None, None)
