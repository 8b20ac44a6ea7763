"""``zsrobust interpolate``: what is written, what it says, and what it will not overwrite."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from tests.cli.conftest import Refused, Zsrobust

from zsrobust.encoders.huggingface import from_folder


@pytest.fixture
def pair(random_clip_folder: Path, tmp_path: Path) -> list[str]:
    """A model, and a run folder whose model has other weights in its visual tower."""
    adapted = from_folder(random_clip_folder)
    for _, weight in adapted.visual_parameters():
        weight.mul_(1.5)
    story = {"adapted_on": ["pets"], "adaptation": {"method": "tecoa", "threat": "linf:2/255:native"}}
    adapted.save_pretrained(tmp_path / "run" / "model", provenance=story)
    return [str(random_clip_folder), "run"]


def test_one_alpha_is_one_folder(zsrobust: Zsrobust, pair: list[str]) -> None:
    result = zsrobust("interpolate", *pair, "--alpha", "0.5", "--out", "half")
    assert (result.status, result.error) == (0, "")
    first, mixed, second = from_folder(Path(pair[0])), from_folder(Path("half")), from_folder(Path("run/model"))
    weights = [dict(encoder.visual_parameters())["visual_projection.weight"] for encoder in (first, mixed, second)]
    assert ((weights[0] + weights[2]) / 2 - weights[1]).abs().max() < 1e-6
    assert mixed.provenance["interpolation"]["adapted"]["name"] == "run"  # type: ignore[index]
    lines = result.out.splitlines()
    assert lines[0] == "Mix    (1 - alpha) random-clip + alpha run"
    assert lines[1] == "Model  half"
    assert lines[-1].endswith(f"zsrobust evaluate {pair[0]} half run --tasks A,B --threat linf:2/255:native")


def test_another_model_is_not_replaced(zsrobust: Zsrobust, refused: Refused, pair: list[str]) -> None:
    for _ in range(2):  # the same again is no loss
        assert zsrobust("interpolate", *pair, "--alpha", "0.5", "--out", "half").status == 0
    for words in ((*pair, "--alpha", "0.25"), (pair[1], pair[0], "--alpha", "0.5")):
        assert refused("interpolate", *words, "--out", "half").startswith("'half' already holds another model")
    assert from_folder(Path("half")).provenance["interpolation"]["alpha"] == 0.5  # type: ignore[index]


def test_several_alphas_are_a_frontier_that_evaluate_takes(zsrobust: Zsrobust, pair: list[str], pets: Path) -> None:
    result = zsrobust("interpolate", *pair, "--alpha", "0,0.5,1", "--out", "frontier")
    assert (result.status, result.error) == (0, "")
    assert {folder.name for folder in Path("frontier").iterdir()} == {"alpha-0", "alpha-0.5", "alpha-1"}
    for alpha, end in ((0, pair[0]), (1, "run/model")):
        assert from_folder(Path(f"frontier/alpha-{alpha}")).fingerprint() == from_folder(Path(end)).fingerprint()
    command = shlex.split(result.out.splitlines()[-1])[1:]
    assert command[:4] == ["evaluate", "frontier/alpha-0", "frontier/alpha-0.5", "frontier/alpha-1"]
    command[command.index("A,B")] = str(pets)
    assert zsrobust(*command, "--attacks", "pgd:1", "--limit", "3", "--run", "e").status == 0
    models = json.loads(Path("e/run.json").read_text())["models"]
    assert [(model["name"], model["adapted_on"]) for model in models] == [
        ("alpha-0", []), ("alpha-0.5", ["pets"]), ("alpha-1", ["pets"]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--alpha", "0.5"], "no folder given: --out FOLDER"),
        (["--out", "x"], "no alpha given: --alpha 0.5"),
        (
            ["--out", "x", "--alpha", "1.5"],
            "alpha must be a number in 0..1 (0 is the original, 1 the adapted model), n",
        ),
        (
            ["--out", "x", "--alpha", "half"],
            "alpha must be a number in 0..1 (0 is the original, 1 the adapted model), n",
        ),
        (["--out", "x", "--alpha", "0.5,0.50"], "the same alpha twice: 0.5, 0.5"),
        (["--out", "run/model", "--alpha", "0.5"], "'run/model' is one of the models to be mixed"),
        (
            ["--out", "run/model", "--alpha", "0,1"],
            "'run/model' holds a model; several alphas need a folder of their own",
        ),
        (["--out", "run", "--alpha", "0.5"], "'run' is one of the models to be mixed"),
        (["third", "--out", "x", "--alpha", "0.5"], "two models are mixed, not 3"),
    ],
)
def test_it_refuses(refused: Refused, pair: list[str], options: list[str], line: str) -> None:
    before = from_folder(Path("run/model")).fingerprint()
    assert refused("interpolate", *pair, *options).startswith(line)
    assert not Path("x").exists()
    assert from_folder(Path("run/model")).fingerprint() == before


def test_models_that_do_not_fit_are_one_line(refused: Refused, pair: list[str]) -> None:
    line = refused("interpolate", "tiny", pair[1], "--alpha", "0.5", "--out", "x")
    assert line.startswith("'tiny' and 'run' are not of the same base and cannot be mixed: ")
    assert not Path("x").exists()
