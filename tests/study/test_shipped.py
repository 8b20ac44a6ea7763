"""The studies that ship: each can be read, each level builds what it names, and the full ones are the same grids."""

from __future__ import annotations

import pytest

from zsrobust.api import resolve_attacks
from zsrobust.jobs import expand_threats, make_method, make_tuning, training_attack
from zsrobust.methods.targets import check
from zsrobust.recipe import Recipe
from zsrobust.study.grid import combinations
from zsrobust.study.recipe import read
from zsrobust.tasks import names
from zsrobust.tasks.suites import SUITES
from zsrobust.threat import Threat
from zsrobust.yaml_files import shipped

EMBEDDED = sorted(name for name in shipped("studies") if not name.endswith("-full"))


def test_every_study_of_the_issue_ships_in_two_sizes() -> None:
    assert EMBEDDED == [
        "attack-dial", "attack-strength", "dual", "interpolation", "labels", "learning-rate", "main-table", "methods",
        "methods-autoattack", "prompt-design",
        "training-size",
    ]  # fmt: skip
    assert sorted(shipped("studies")) == sorted([*EMBEDDED, *(f"{name}-full" for name in EMBEDDED)])


@pytest.mark.parametrize("name", sorted(shipped("studies")))
def test_everything_that_a_study_names_can_be_built(name: str) -> None:
    recipe = read(name)
    for combination in combinations(recipe):
        settings = combination.adapt
        method = make_method(settings["method"], settings["method_options"])
        make_tuning(settings["tuning"], settings["tuning_options"])
        how = Recipe(**{field: settings[field] for field in Recipe.__dataclass_fields__ if field != "seed"})
        check(method, how.labels)
        training_attack(Threat.parse(settings["threat"]), settings["steps"], settings["step_size"])
    given = recipe.evaluate
    threats = [given["threat"]] if isinstance(given["threat"], str) else given["threat"]
    resolve_attacks(given["attacks"], expand_threats(threats, given["eps"]), mode=given["mode"])
    assert set(given["tasks"]) <= {*names(), *SUITES}
    assert recipe.content["claims"]
    assert recipe.content["figures"]


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_full_version_asks_the_same_question(name: str) -> None:
    embedded, full = read(name), read(f"{name}-full")
    assert embedded.title == full.title
    assert list(embedded.axes) == list(full.axes)
    asked, repeated = ([claim["claim"] for claim in study.content["claims"]] for study in (embedded, full))
    assert asked == repeated
    for study in (embedded, full):
        header = shipped("studies")[study.name].partition("\ntitle:")[0]
        assert f"zsrobust study {study.name}" in header
    assert "Hardware" in shipped("studies")[f"{name}-full"]
    assert "Hours" in shipped("studies")[f"{name}-full"]


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_cell_is_as_large_as_it_says(name: str) -> None:
    recipe = read(name)
    assert recipe.evaluate["limit"] == {"attack-dial": 40, "methods-autoattack": 25}.get(name, 200)
    for combination in combinations(recipe):
        settings = combination.adapt
        assert settings["limit"] >= 2000 or name == "training-size"
        assert settings["model"] == "tiny"
