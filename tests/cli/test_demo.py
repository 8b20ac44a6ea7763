from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.cli.conftest import Zsrobust


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
