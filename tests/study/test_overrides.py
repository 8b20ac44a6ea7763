"""What the command line gives for every cell is not set by a level as well."""

from __future__ import annotations

from typing import Any

import pytest

from zsrobust.errors import ConfigError
from zsrobust.study.overrides import check_heeded
from zsrobust.study.recipe import parse, read

TWO: dict[str, Any] = {
    "evaluate": {"tasks": ["digits"]},
    "adapt": {"tuning": "lora", "epochs": 3},  # that levels have another is how levels work
    "axes": {
        "loss": {"TeCoA": {"method": "tecoa"}, "standard": {"method": "standard", "method_options": {"head_lr": 0.1}}},
        "way": {"all": {"tuning": "full"}, "few": {"tuning": "token-prompt", "tuning_options": {"count": 4}}},
    },
    "also": [{"levels": {"loss": "TeCoA", "way": "long"}, "adapt": {"epochs": 9}}],
}


def heed(given: dict[str, Any], **only: str) -> None:
    recipe = parse(TWO | {"adapt": TWO["adapt"] | given}, name="two")
    check_heeded(recipe, given, only)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"method": "coadv"}, "two: --adapt.method: level TeCoA of axis loss sets it"),
        ({"method": "tecoa"}, "two: --adapt.method: level standard of axis loss sets it"),
        ({"tuning": "lora"}, "two: --adapt.tuning: level all of axis way sets it"),
        (
            {"method_options": {"scale": 20}},
            "two: --adapt.method_options.scale: level standard of axis loss has its own method_options",
        ),
        ({"limit": 5, "epochs": 2}, "two: --adapt.epochs: also: TeCoA, long sets it"),
    ],
)
def test_what_a_level_sets_is_refused(given: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        heed(given)
    assert str(caught.value) == line


def test_what_reaches_every_wanted_cell_is_taken() -> None:
    heed({})
    heed({"limit": 5, "lr": 1, "steps": 3})
    heed({"epochs": 9})
    heed({"method_options": {"scale": 20}}, loss="TeCoA")
    heed({"method": "standard", "method_options": {"head_lr": 0.1}}, loss="standard")
    heed({"tuning_options": {"count": 4}, "tuning": "token-prompt"}, way="few")
    with pytest.raises(ConfigError, match=r"--adapt\.tuning_options\.count: level few of axis way sets it"):
        heed({"tuning_options": {"count": 8}, "tuning": "token-prompt"}, way="few")


@pytest.mark.parametrize("name", ["main-table", "labels", "methods"])
def test_shipped_studies_take_what_their_levels_leave(name: str) -> None:
    given = {"limit": 30, "batch_size": 10}
    check_heeded(read(name, adapt=given), given, {})
