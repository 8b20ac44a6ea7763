"""zsrobust study: what a person sees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.cli.conftest import Refused, Zsrobust
from tests.study import small

from zsrobust.study.bench import Bench


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    claim = {"claim": "it helps", "higher": {"loss": "TeCoA"}, "lower": "unadapted", "tier": "adapted"}
    return small.write(tmp_path, claims=[claim], seeds=[0], interpolate=[])


def test_plan_then_results_then_nothing_to_do(zsrobust: Zsrobust, recipe: Path) -> None:
    plan = zsrobust("study", recipe, "--dry-run", "--jobs", "1")
    assert (plan.status, plan.error) == (0, "")
    assert "3 cells to have, 0 of them there: 2 combinations (2 loss), seeds 0, the unadapted model" in plan.out
    assert "lr chosen by 3 runs of seed 0 on 6 held-out images, 0 of them there" in plan.out
    assert "To do    3 adaptations and 3 evaluations, by this process" in plan.out
    assert not Path("runs").exists()
    result = zsrobust("study", recipe, "--jobs", "1", "--document", "study.md")
    assert result.status == 0
    assert [line.partition("  ")[0] for line in result.error.splitlines()] == [f"{i}/6" for i in range(1, 7)]
    assert "Results  runs/studies/small\nPage     runs/studies/index.html\nDocument study.md\n" in result.out
    # It is no shipped study: what is to be run again is this file.
    assert f"\nzsrobust study {recipe} --document FILE\n" in Path("study.md").read_text()
    assert f"<code>zsrobust study {recipe}</code>" in Path("runs/studies/index.html").read_text()
    cells = json.loads(Path("runs/studies/small/cells.json").read_text())
    assert [cell["levels"] for cell in cells["cells"]] == [{}, {"loss": "TeCoA"}, {"loss": "clean"}]
    assert all((Path("runs/studies/small") / cell["run"] / "records.jsonl").exists() for cell in cells["cells"])
    assert all(
        cell["model"] is None or (Path("runs/studies/small") / cell["model"]).is_dir() for cell in cells["cells"]
    )
    assert [row["chosen"] for row in cells["tuning"] if row["levels"] == {"loss": "TeCoA"}].count(True) == 1
    assert Path("runs/studies/small/results.json").exists()
    assert not list(Path("runs/store").rglob("checkpoints"))
    again = zsrobust("study", recipe, "--jobs", "1")
    assert (again.status, again.error) == (0, "")
    assert "Time     nothing is left to compute" in again.out
    # A part of a study that is there does not take the rest out of its results.
    whole = Path("runs/studies/small/cells.json").read_bytes()
    part = zsrobust("study", recipe, "--jobs", "1", "--only", "loss=TeCoA")
    assert "lr chosen by 2 runs of seed 0 on 6 held-out images, 2 of them there" in part.out
    assert Path("runs/studies/small/cells.json").read_bytes() == whole


def test_a_part_and_then_the_rest(zsrobust: Zsrobust, recipe: Path) -> None:
    command = ("study", recipe, "--jobs", "1", "--only", "loss=clean", "--evaluate.on_bad_image", "skip")
    part = zsrobust(*command, "--seeds", "2")
    assert part.status == 0
    cells = json.loads(Path("runs/studies/small/cells.json").read_text())
    assert [(cell["levels"], cell["seed"]) for cell in cells["cells"]] == [({"loss": "clean"}, 2)]
    rest = zsrobust(*command, "--dry_run")
    assert "1 cells to have, 0 of them there" in rest.out
    assert "1 runs of seed 0 on 6 held-out images, 1 of them there" in rest.out
    assert "To do    0 adaptations and 1 evaluation, by this process" in rest.out
    # A seed that is not the recipe's stays in the results: nothing else is computed for it, or missed.
    assert zsrobust(*command).status == 0
    cells = json.loads(Path("runs/studies/small/cells.json").read_text())
    assert [(cell["levels"]["loss"], cell["seed"]) for cell in cells["cells"]] == [("clean", 0), ("clean", 2)]
    assert cells["planned"] == 3 + 1
    assert cells["adapted_on"] == ["pets"]


def test_interrupted(zsrobust: Zsrobust, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bench, "_evaluate", stop)
    result = zsrobust("study", recipe, "--jobs", "1")
    assert result.status == 130
    assert result.error.endswith("interrupted; what is finished is kept; the same command goes on where it stopped\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["mian-table"], "unknown study 'mian-table'"),
        (["none/at/all.yaml"], "study none/at/all.yaml cannot be read: No such file or directory"),
        (["small.yaml", "--only", "los=clean"], "--only: unknown axis 'los'; did you mean 'loss'?"),
        (["small.yaml", "--only", "loss"], "--only loss is not of the form AXIS=LEVEL"),
        (["small.yaml", "--adapt.epoch", "3"], "small: adapt: unknown option of adapt 'epoch'; did you mean 'epochs'?"),
        (["small.yaml", "--adapt.method", "coadv"], "small: --adapt.method: level TeCoA of axis loss sets it"),
        (["small.yaml", "--adapt.lr", "1e-4"], "small: adapt, or --adapt.lr, sets lr, which tune chooses: leave one"),
        (["small.yaml", "--evaluate.rows", "0"], "small: evaluate: rows must be at least 1, not 0"),
        (["small.yaml", "--evaluate.batch_size", "-2"], "small: evaluate: batch_size must be at least 1, not -2"),
        (
            ["small.yaml", "--only", "loss=clean", "--only", " loss = TeCoA"],
            "--only names the axis 'loss' twice (clean, TeCoA): a command takes one level of an axis",
        ),
        (["small.yaml", "--document", "."], "--document . is a folder; name a file in it"),
        (["small.yaml", "--document", "small.yaml/a.md"], "--document small.yaml/a.md cannot be written: "),
        (["small.yaml", "--jobs", "0"], "jobs must be at least 1, not 0"),
        (["small.yaml", "small.yaml"], "study 'small' is given twice"),
        ([], "no study given: zsrobust study RECIPE"),
    ],
)
def test_refuses(refused: Refused, recipe: Path, words: list[str], line: str) -> None:
    assert refused("study", *words).startswith(line)
    assert not Path("runs").exists()


def test_broken_yaml(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("title: [a\n")
    assert refused("study", "bad.yaml").startswith("bad.yaml, line 2: not YAML")
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump([1]))
    assert refused("study", "bad.yaml").startswith("bad.yaml: must hold a study")
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    assert refused("study", "bad.yaml") == "study bad.yaml is not a text file"
