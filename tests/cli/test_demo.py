from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.cli.conftest import Refused, Zsrobust

from zsrobust.run_folder import FORMAT


@pytest.fixture
def command(random_clip_folder: Path, pets: Path) -> list[object]:
    """The demo with everything made small."""
    return [
        "demo", "--run", "d", "--adapt.model", random_clip_folder, "--adapt.task", pets, "--adapt.epochs", 1,
        "--adapt.batch_size", 6, "--evaluate.tasks", pets, "--evaluate.attacks", "pgd:1", "--evaluate.limit", 6,
    ]  # fmt: skip


def test_demo(zsrobust: Zsrobust, command: list[object]) -> None:
    result = zsrobust(*command)
    assert (result.status, result.error) == (0, "")
    assert "d/report.html" in result.out
    assert Path("d/report.html").exists()
    stored = yaml.safe_load(Path("d/config.yaml").read_text())
    assert (stored["run"], stored["adapt"]["epochs"], stored["evaluate"]["limit"]) == ("d", 1, 6)
    rows = json.loads(Path("d/summary.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["random-clip", "random-clip+tecoa"]


def test_demo_again_computes_nothing(zsrobust: Zsrobust, command: list[object]) -> None:
    zsrobust(*command)
    records = Path("d/records.jsonl").read_bytes()
    assert zsrobust("demo", "--config", "d/config.yaml").status == 0
    assert Path("d/records.jsonl").read_bytes() == records
    # The adaptation inside can be repeated by itself.
    assert "Finished before" in zsrobust("adapt", "d/adapted/config.yaml").out


def test_fresh_demo(zsrobust: Zsrobust, command: list[object]) -> None:
    zsrobust(*command)
    created = Path("d/metrics.jsonl")
    created.write_text("left over")
    result = zsrobust(*command, "--fresh", "--seed", "1")
    assert result.status == 0
    assert not created.exists()
    assert json.loads(Path("d/run.json").read_text())["seeds"] == [1]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--adapt.model", "nope"], "unknown model 'nope'"),
        (["--adapt.method", "tecao"], "unknown method 'tecao'; did you mean 'tecoa'?"),
        (["--adapt.task", "digts"], "unknown task 'digts'; did you mean 'digits'?"),
        (["--evaluate.tasks", "digts"], "unknown task 'digts'; did you mean 'digits'?"),
        (["--evaluate.attacks", "pgdd"], "unknown attack 'pgdd'; did you mean 'pgd'"),
        (["--adapt.steps", "0"], "PGD needs at least 1 step, not 0"),
        (["--evaluate.rows", "0"], "rows must be at least 1, not 0"),
        (["--evaluate.attacks", "transfer:nope"], "unknown model 'nope'"),
        (["--evaluate.attacks", "oblivious:pgd:1"], "attack 'oblivious:pgd:1'"),
    ],
)
def test_fresh_demo_with_a_mistake_removes_nothing(
    refused: Refused, command: list[object], words: list[str], line: str
) -> None:
    header = Path("d/run.json")
    header.parent.mkdir()
    header.write_text(json.dumps({"format": FORMAT, "kind": "demo"}))
    assert refused(*command, "--fresh", *words).startswith(line)
    assert json.loads(header.read_text()) == {"format": FORMAT, "kind": "demo"}


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ({"format": FORMAT, "kind": "corruptions"}, "d holds a run of 'corruptions', not a demo: it is not removed"),
        ({"format": FORMAT}, "d holds a run of 'None', not a demo"),
        ({"kind": "demo"}, "d is not a run folder of this program: it is not removed"),
        (["demo"], "d is not a run folder of this program: it is not removed"),
    ],
)
def test_fresh_demo_removes_only_a_demo(refused: Refused, command: list[object], header: object, line: str) -> None:
    Path("d").mkdir()
    Path("d/run.json").write_text(json.dumps(header))
    Path("d/found.jsonl").write_text("")
    assert refused(*command, "--fresh").startswith(line)
    assert Path("d/found.jsonl").exists()


@pytest.mark.parametrize("attention", ["eager", "auto"])
def test_demo_adapts_a_prompt_and_takes_any_attention(
    zsrobust: Zsrobust, command: list[object], attention: str
) -> None:
    way = ["--adapt.tuning", "token-prompt"] if attention == "eager" else ["--adapt.tuning", "full"]
    result = zsrobust(*command, *way, "--evaluate.attention", attention)
    assert (result.status, result.error) == (0, "")
    header = json.loads(Path("d/run.json").read_text())
    assert [model["name"] for model in header["models"]] == ["random-clip", "random-clip+tecoa"]
    assert header["attention"] in (["eager"] if attention == "eager" else ["eager", "sdpa"])


def test_demo_with_another_configuration(zsrobust: Zsrobust, refused, command: list[object]) -> None:  # type: ignore[no-untyped-def]
    zsrobust(*command)
    assert "d was started with another configuration" in refused(*command, "--evaluate.limit", "3")
