"""What a study says of its tuning: how many values were tried."""

from __future__ import annotations

import pytest

from zsrobust.study import wording


def said(**tune: object) -> str:
    results = {
        "recipe": {"tune": tune}, "tasks": [{"name": "digits", "tier": "all", "n": 1}], "attacks": {}, "threats": [],
        "seeds": [0], "seconds": {"adapt": 0, "tune": 0, "evaluate": 0, "at_least": []},
    }  # fmt: skip
    return dict(wording.settings(results))["Tuning"]


def by_level(*counts: int) -> dict[str, dict[str, list[float]]]:
    return {"loss": {f"level {i}": [0.1] * count for i, count in enumerate(counts)}}


@pytest.mark.parametrize(
    ("values", "words"),
    [([0.1, 0.2, 0.3], "lr: 3 values for every combination"), (by_level(3, 3), "lr: 3 values for every combination"),
     (by_level(3, 1, 3), "lr: 1 to 3 values for every combination")],
)  # fmt: skip
def test_the_values_that_were_tried_are_counted(values: object, words: str) -> None:
    text = said(option="lr", images=200, values=values)
    assert text.startswith(words)
    assert "200 held-out images" in text


@pytest.mark.parametrize("values", [[0.1], by_level(1, 1)])
def test_where_each_had_one_value_nothing_was_chosen(values: object) -> None:
    assert said(option="lr", values=values) == "lr: one value for every combination, nothing was chosen here"
