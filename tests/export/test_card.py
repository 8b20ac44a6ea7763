"""The model card: numbers are those of the report, and only of the model that is exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from tests.report.fake_run import make_run

from zsrobust.encoders.huggingface import HuggingFaceEncoder, from_folder
from zsrobust.errors import RunError
from zsrobust.export import export
from zsrobust.report import load_runs, summarise


@pytest.fixture(scope="module")
def clip(random_clip_folder: Path) -> HuggingFaceEncoder:
    found = from_folder(random_clip_folder)
    found.provenance = {
        "source": "openai/clip-vit-base-patch32", "license": "mit", "adapted_on": ["world-compositions"],
        "adaptation": {"method": "tecoa", "threat": "linf:1/255:native"},
    }  # fmt: skip
    return found


@pytest.fixture
def evaluated(clip: HuggingFaceEncoder, tmp_path: Path) -> Path:
    """A run of two models, of which the second one is the exported one; one of its tasks comes from the hub."""
    run = tmp_path / "run"
    make_run(run, tasks=("cifar10", "world-shapes"), n=60)
    told: dict[str, Any] = json.loads((run / "run.json").read_text())
    told["models"][1]["fingerprint"] = clip.fingerprint()
    told["tasks"][0]["source"] = {"kind": "hub", "where": "hub:clip-benchmark/some-task"}
    told["flags"] = [
        {"name": "black-box-stronger", "strength": "measured", "text": "square beats it", "model": "tiny-tecoa"}
    ]
    (run / "run.json").write_text(json.dumps(told))
    return run


def test_the_card_says_what_the_report_says(clip: HuggingFaceEncoder, evaluated: Path, tmp_path: Path) -> None:
    done = export(clip, tmp_path / "out", format="hf", results=[evaluated], repo="me/robust")
    rows = [row for row in summarise(load_runs([evaluated])).rows if row.model == "tiny-tecoa"]
    assert done.results == len(rows) > 0
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert (card.data.license, card.data.base_model) == ("mit", "openai/clip-vit-base-patch32")
    assert card.data.model_name == "robust"
    found = {(e.dataset_name, e.metric_name, (e.metric_args or {})["seed"]): e for e in card.data.eval_results}
    for row in rows:
        robust = found[(row.task, f"Robust accuracy (%), {row.threat}, {row.attack}", row.seed)]
        assert robust.metric_value == round(100 * row.robust, 2)
        assert robust.metric_args["n"] == row.n
        assert robust.metric_args["alarms"] == ["black-box-stronger"]
        assert robust.metric_args["interval_95"] == [round(100 * end, 2) for end in row.robust_interval]
        clean = found[(row.task, "Clean accuracy (%)", row.seed)]
        assert clean.metric_value == round(100 * row.clean, 2)
        assert f"| {100 * row.robust:.1f}! (" in card.text
    assert "square beats it" in card.text
    assert "is an upper bound" in card.text


def test_rows_under_a_name_that_clashes_between_runs_are_on_the_card(
    clip: HuggingFaceEncoder, evaluated: Path, tmp_path: Path
) -> None:
    """In the second run the exported model has a name of its own, and its name of the first run is another model's."""
    second = make_run(tmp_path / "second", models=("tiny-tecoa", "mine"), tasks=("digits",), n=60)
    told: dict[str, Any] = json.loads((second / "run.json").read_text())
    told["models"][1]["fingerprint"] = clip.fingerprint()
    (second / "run.json").write_text(json.dumps(told))
    export(clip, tmp_path / "out", format="hf", results=[evaluated, second])
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert {entry.dataset_name for entry in card.data.eval_results} == {"cifar10", "world-shapes", "digits"}


def test_a_task_of_the_hub_gets_entries_and_no_other_does(
    clip: HuggingFaceEncoder, evaluated: Path, tmp_path: Path
) -> None:
    export(clip, tmp_path / "out", format="open_clip", results=[evaluated])
    files = sorted((tmp_path / "out" / ".eval_results").iterdir())
    entries = [entry for file in files for entry in parse_eval_result_entries(yaml.safe_load(file.read_text()))]
    assert {entry.dataset_id for entry in entries} == {"clip-benchmark/some-task"}
    assert any("threat linf:" in entry.notes and "an upper bound" in entry.notes for entry in entries)
    assert all("n = " in entry.notes for entry in entries)


def test_results_of_another_model_are_refused(clip: HuggingFaceEncoder, evaluated: Path, tmp_path: Path) -> None:
    other = clip.copy()
    other.name = "tiny-tecoa"  # a name proves nothing
    other.model.logit_scale.add_(1)
    with pytest.raises(RunError, match="has no results of this model: its weights are"):
        export(other, tmp_path / "out", format="hf", results=[evaluated])
    assert not (tmp_path / "out").exists()


def test_a_card_without_results_says_so(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    export(clip, tmp_path / "out", format="visual")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "No results came with this export" in text
    assert "model-index" not in text
    assert not (tmp_path / "out" / ".eval_results").exists()
