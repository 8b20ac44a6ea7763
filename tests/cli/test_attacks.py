"""Attacks on the command line: options, modes, suites and transfers, and one image under each kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Refused, Zsrobust

from zsrobust.records import CLEAN

Command = list[object]


def attacks_of(run: str) -> dict[str, dict[str, Any]]:
    """Name → description of the attacks in ``run.json``."""
    return {attack["name"]: attack for attack in json.loads(Path(run, "run.json").read_text())["attacks"]}


def ran(run: str) -> set[str]:
    """Attacks that have records."""
    lines = Path(run, "records.jsonl").read_text().splitlines()
    return {json.loads(line)["attack"] for line in lines} - {CLEAN}


def test_options_of_attacks(zsrobust: Zsrobust, evaluate_command: Command) -> None:
    command = [word for word in evaluate_command if word not in ("--attacks", "pgd:2")]
    result = zsrobust(
        *command, "--attacks", "pgd:2,pgd:2:step_size=2/255,apgd:margin-t,cw,square", "--steps", 3, "--targets", 1,
        "--queries", 4, "--restarts", 2, "--limit", 3, "--run", "e",
    )  # fmt: skip
    assert (result.status, result.error) == (0, "")
    names = {
        "pgd:2:restarts=2", "pgd:2:step_size=2/255:restarts=2", "apgd:margin-t:steps=3:restarts=2:targets=1",
        "cw:3:restarts=2", "square:queries=4:restarts=2",
    }  # fmt: skip
    assert set(attacks_of("e")) == names
    assert ran("e") <= names


@pytest.mark.parametrize(("mode", "precision"), [("exact", "float32"), ("float32", "float32"), ("fast", "bfloat16")])
def test_modes(zsrobust: Zsrobust, evaluate_command: Command, mode: str, precision: str) -> None:
    assert zsrobust(*evaluate_command, "--mode", mode, "--limit", 3, "--run", "e").status == 0
    assert attacks_of("e")["pgd:2"]["precision"] == precision


def test_a_suite_for_few_classes_says_so_and_runs(zsrobust: Zsrobust, evaluate_command: Command) -> None:
    command = [word for word in evaluate_command if word not in ("--attacks", "pgd:2", "--threat", "linf:4/255")]
    said = "'autoattack' is for 10 classes or more; on pets: 'autoattack-few'"
    with pytest.warns(UserWarning, match=said):
        result = zsrobust(*command, "--attacks", "autoattack", "--threat", "linf:1.0", "--limit", 3, "--run", "e")
    assert (result.status, result.error) == (0, "")
    members = [f"autoattack-few/{one}" for one in ("scout", "apgd:ce", "apgd:dlr", "apgd:margin-t", "fab:t", "square")]
    assert list(attacks_of("e")) == members
    assert attacks_of("e")[members[0]]["precision"] == "bfloat16"
    assert members[0] in ran("e")
    assert ran("e") <= set(members)


def test_a_transfer_from_another_model(
    zsrobust: Zsrobust, evaluate_command: Command, random_clip_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(random_clip_folder, tmp_path / "other")
    result = zsrobust(*evaluate_command, "--attacks", "transfer:./other:steps=2", "--limit", 3, "--run", "e")
    assert (result.status, result.error) == (0, "")
    described = attacks_of("e")["transfer:./other:steps=2"]
    assert (described["transfer"], described["source"], described["gradient"]) == (True, "./other", False)
    assert "transfer:./other:steps=2" in ran("e")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--attacks", "apgd:dlrt"], "unknown attack 'apgd:dlrt'; did you mean 'apgd:dlr-t'?"),
        (["--attacks", "pgd:2:step=1/255"], "unknown option of attack 'pgd' 'step'; did you mean 'steps'?"),
        (["--attacks", "pgd:2:step_size=4"], "step_size = 4 is ambiguous: did you mean 4/255?"),
        (["--attacks", "transfer:nowhere"], "unknown model 'nowhere'"),
        (["--attacks", "autoattack", "--steps", "5"], "steps was given, but 'autoattack' cannot take it"),
        (["--attacks", "pgd", "--restarts", "0"], "PGD needs at least 1 run (restarts ≥ 1), not 0"),
        (["--attacks", "paper", "--threat", "l2:1.0"], "attack 'paper' is the paper's code, which has only linf"),
        (["--mode", "quick"], "option --mode must be one of exact, fast, float32, not 'quick'"),
        (["--steps", "many"], "option --steps must be a whole number or null, not 'many'"),
    ],
)
def test_what_is_refused(refused: Refused, evaluate_command: Command, options: list[str], line: str) -> None:
    words = [word for word in evaluate_command if word not in ("--attacks", "pgd:2", "--threat", "linf:4/255")]
    assert refused(*words, *options).startswith(line)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["evaluate", "tiny", "--tasks", "digits"], "the attack pgd:20 has its own in its name; write --attacks pgd:5"),
        (["attack", "x.png", "--labels", "a,b"], "the attack pgd:50 has its own in its name; write --attack pgd:5"),
        (
            ["demo", "--evaluate.limit", "9"],
            "the attack pgd:20 has its own in its name; write --evaluate.attacks pgd:5",
        ),
    ],
    ids=["evaluate", "attack", "demo"],
)
def test_steps_beside_the_default_attack_are_told_what_to_write(refused: Refused, words: list[str], line: str) -> None:
    option = "--evaluate.steps" if words[0] == "demo" else "--steps"
    assert refused(*words, option, "5") == f"steps 5: {line}"


def test_attacks_are_listed_with_their_options(zsrobust: Zsrobust, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = {line.split()[0]: line for line in zsrobust("ls", "attacks").out.splitlines() if line}
    assert lines["pgd"].endswith("[steps, step_size, restarts]")
    assert lines["apgd:dlr-t"].endswith("[steps, targets, restarts]")
    assert lines["transfer"].endswith("[model, steps, restarts]")
    assert lines["autoattack"].endswith("needs 10 classes.")


# One image


@pytest.fixture
def one_image(photos: Path, random_clip_folder: Path) -> Command:
    return [
        "attack", photos / "cat" / "0.png", "--labels", "cat,dog,fox,cow", "--template", "{}",
        "--model", random_clip_folder, "--label", "cat", "--threat", "linf:1.0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "attack", ["pgd:50", "cw", "apgd:ce", "apgd:dlr", "apgd:margin-t", "fab:t", "square", "autoattack-few"]
)
def test_every_attack_can_aim_at_a_target(zsrobust: Zsrobust, one_image: Command, attack: str) -> None:
    result = zsrobust(*one_image, "--target", "fox", "--attack", attack)
    assert (result.status, result.error) == (0, "")
    assert "Verdict  target reached: the model says 'fox'" in result.out
    assert ("Found    by autoattack-few/scout" in result.out) == (attack == "autoattack-few")


def test_a_suite_on_one_image_stops_at_the_first_success(zsrobust: Zsrobust, one_image: Command) -> None:
    result = zsrobust(*one_image, "--attack", "autoattack", "--mode", "float32")
    assert "Note     autoattack is not defined for 4 labels: autoattack-few takes its place" in result.out
    assert "Found    by autoattack-few/apgd:ce" in result.out
    assert "Verdict  broken: the model says" in result.out


def test_what_came_closest_is_shown_where_a_suite_fails(zsrobust: Zsrobust, one_image: Command) -> None:
    unlabelled = one_image[:-4]
    result = zsrobust(*unlabelled, "--threat", "linf:0.00001", "--attack", "paper:aa")
    assert result.status == 0
    assert "survived this attack" in result.out
    assert "Closest  by paper:aa/apgd:" in result.out


def test_a_transfer_on_one_image(zsrobust: Zsrobust, one_image: Command, random_clip_folder: Path) -> None:
    shutil.copytree(random_clip_folder, "other")
    result = zsrobust(*one_image, "--attack", "transfer:./other")
    assert (result.status, result.error) == (0, "")
    assert "Attack   transfer:./other within" in result.out


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--attack", "paper:pgd", "--target", "fox"], "attack 'paper:pgd:100' cannot aim at a target"),
        (["--attack", "pgd,fgsm"], "one image, one attack: --attack 'pgd,fgsm' is 2"),
        (["--attack", "cw-l2"], "attack 'cw-l2' measures in L2"),
        (["--attack", "fab:x"], "unknown attack 'fab:x'; did you mean 'fab:t'?"),
        (["--attack", "square", "--steps", "3"], "steps was given, but 'square' cannot take it"),
        (["--attack", "transfer:nowhere"], "unknown model 'nowhere'"),
    ],
)
def test_what_is_refused_for_one_image(refused: Refused, one_image: Command, options: list[str], line: str) -> None:
    assert refused(*one_image, *options).startswith(line)
