"""A run that goes on: what it must not mix up, what it must not refuse, and alarms that are still true afterwards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from tests.fakes import Arrays, Toy, images, labelled_by, predicted, task

from zsrobust import recording
from zsrobust.api import Evaluation, evaluate
from zsrobust.attacks import suites
from zsrobust.attacks.apgd import APGD
from zsrobust.attacks.base import Outcome
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.suites import Member, Suite
from zsrobust.errors import ConfigError, RunError
from zsrobust.tasks import Task
from zsrobust.threat import Threat

WEAK = {"attacks": "pgd:1", "rows": 4}


@pytest.fixture
def encoder() -> Toy:
    return Toy(scale=50.0)


@pytest.fixture
def blobs(encoder: Toy) -> Task:
    return labelled_by(encoder, task(8))


def header(run: Path) -> Any:
    return json.loads((run / "run.json").read_text())


def names(found: Evaluation) -> dict[str, list[str | None]]:
    return {row.threat: [alarm.name for alarm in row.flags] for row in found.summary.rows}


class Switched(Toy):
    """With a switch for its attention, which changes nothing."""

    compiled, attention = "none", "sdpa"

    def set_attention(self, attention: str) -> None:
        self.attention = attention

    def set_compiled(self, passes: str) -> None:
        raise AssertionError("not asked for")

    def forget_lowered(self) -> None:
        """There is none."""


def test_records_without_a_run_json_belong_to_nobody(encoder: Toy, blobs: Task, tmp_path: Path) -> None:
    evaluate(encoder, blobs, run=tmp_path, **WEAK)
    records = (tmp_path / "records.jsonl").read_bytes()
    (tmp_path / "run.json").unlink()
    with pytest.raises(RunError, match=r"has records but no run\.json, which says of what: name another folder"):
        evaluate(Toy(seed=7, scale=50.0), blobs, run=tmp_path, **WEAK)
    assert (tmp_path / "records.jsonl").read_bytes() == records
    assert not (tmp_path / "run.json").exists()
    (tmp_path / "records.jsonl").write_bytes(records[:20])  # what a kill tore off is no record
    assert evaluate(encoder, blobs, run=tmp_path, **WEAK).summary.rows[0].n == 8


def test_a_second_process_is_refused_before_it_reads_anything(
    encoder: Toy, blobs: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def meanwhile(subject: Any) -> list[Any]:  # in the check-up, when no record is written yet
        before = (tmp_path / "run.json").read_bytes()
        with pytest.raises(RunError, match=r"is being written by another process; wait for it$"):
            evaluate(encoder, blobs, attacks="fgsm", run=tmp_path, rows=4)
        assert (tmp_path / "run.json").read_bytes() == before
        tried.append(subject)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recording, "quick", meanwhile)
        with pytest.raises(KeyboardInterrupt):
            evaluate(encoder, blobs, run=tmp_path, **WEAK)
    assert len(tried) == 1
    evaluate(encoder, blobs, run=tmp_path, **WEAK)  # whoever ends, as it may, lets go
    evaluate(encoder, blobs, attacks="fgsm", run=tmp_path, rows=4)
    assert [attack["name"] for attack in header(tmp_path)["attacks"]] == ["pgd:1", "fgsm"]


def test_each_budget_has_its_own_alarm(encoder: Toy, blobs: Task, tmp_path: Path) -> None:
    assert names(evaluate(encoder, blobs, threat="linf:1/255", run=tmp_path, **WEAK)) == {"linf:1/255:native": []}
    twice = f"linf:{4 / 255 / 255!r}:native"
    for _ in range(2):
        found = names(evaluate(encoder, blobs, threat=twice, run=tmp_path, **WEAK))
        assert ("budget-unit" in found[twice], "budget-unit" in found["linf:1/255:native"]) == (True, False)
    others = ["linf:1/255", "linf:200/255", "l2:100.0", "l2:0.5"]
    found = names(evaluate(encoder, blobs, threat=others, run=tmp_path, **WEAK))
    doubted = {threat for threat, told in found.items() if told.count("budget-unit") == 1}
    assert doubted == {twice, "linf:200/255:native", "l2:100.0:native"}


def test_an_alarm_on_all_budgets_of_a_model_gives_way_to_that_on_each(
    encoder: Toy, blobs: Task, tmp_path: Path
) -> None:
    evaluate(encoder, blobs, threat=["linf:1/255", "linf:200/255"], run=tmp_path, **WEAK)
    told = header(tmp_path)
    told["flags"] = [{"name": "budget-unit", "model": encoder.name, "text": "of an earlier version"}]
    (tmp_path / "run.json").write_text(json.dumps(told))
    found = names(evaluate(encoder, blobs, threat=["linf:1/255", "linf:200/255"], run=tmp_path, **WEAK))
    assert found == {"linf:1/255:native": [], "linf:200/255:native": ["budget-unit"]}


def test_an_l2_budget_is_judged_by_the_images_of_the_task(encoder: Toy, tmp_path: Path) -> None:
    small, large = (labelled_by(encoder, task(4, size=size, name=f"of {size}")) for size in (6, 40))
    evaluate(encoder, [large, small], threat="l2:3.0", run=tmp_path, **WEAK)
    flags = [flag for flag in header(tmp_path)["flags"] if flag["name"] == "budget-unit"]
    assert [(flag["task"], flag["threat"]) for flag in flags] == [("of 6", "l2:3.0:native")]


def test_a_run_begun_with_a_scout_is_finished_without_one(
    encoder: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recipe(suite: Suite, classes: int) -> list[Member]:
        scout = Member(PGD(suite.threat, 1), suite.name, "scout")
        return [*([scout] if suite.mode == "exact" else []), Member(APGD(suite.threat, 3), suite.name)]

    monkeypatch.setattr(suites, "SUITES", MappingProxyType({**suites.SUITES, "autoattack-few": recipe}))
    blobs = labelled_by(encoder, task(40))
    asked: dict[str, Any] = {"attacks": "autoattack-few", "threat": "linf:2/255", "rows": 4}
    begun = evaluate(encoder, blobs, run=tmp_path / "run", limit=20, **asked)
    found = evaluate(encoder, blobs, run=tmp_path / "run", limit=30, mode="float32", **asked)
    whole = evaluate(encoder, blobs, limit=30, mode="float32", **asked)
    assert any(not record.correct for record in begun.run.records if record.attack.endswith("/scout"))
    assert 0 < whole.summary.rows[0].robust < 1
    (row,), (other,) = found.summary.rows, whole.summary.rows
    assert (row.n, row.robust) == (other.n, other.robust) == (30, row.robust)
    assert "incomplete" not in [alarm.name for alarm in row.flags]


class Claiming:
    """Breaks every image with one from elsewhere, and claims to have broken the first two, which stay as they were."""

    name, threat = "claiming", Threat("linf", 1.0)

    def describe(self) -> dict[str, object]:
        return {"name": self.name}

    def search(self, model: Any, pixels: Any, labels: Any, *, seed: int, examples: Sequence[int]) -> Outcome:
        others = images(16, shape=pixels.shape[1:])
        classes = predicted(model, others)
        found = torch.stack([others[int((classes != label).nonzero()[0])] for label in labels])
        lies = torch.tensor([example < 102 for example in examples])
        found[lies] = pixels[lies]
        zero = torch.zeros(len(pixels), dtype=torch.int64)
        return Outcome(found, zero, zero, torch.ones(len(pixels), dtype=torch.bool))


def test_an_alarm_of_few_images_is_taken_back_when_more_speak_against_it(encoder: Toy, tmp_path: Path) -> None:
    blobs = labelled_by(encoder, task(60))

    def refuted(ids: int) -> list[str]:
        few = blobs.take(60)
        few = replace(few, ids=few.ids[:ids], labels=few.labels[:ids], limit=None if ids == 60 else (ids, 0))
        with pytest.MonkeyPatch.context() as patch:  # the first ones, not some of each class
            patch.setattr(Task, "extends", lambda self, described: len(self) > described["n"])
            evaluate(encoder, few, attacks=Claiming(), run=tmp_path, rows=4)
        return [flag["text"][:12] for flag in header(tmp_path)["flags"] if flag["name"] == "claims-refuted"]

    assert refuted(4) == ["2 of 4 image"]
    assert refuted(10) == ["2 of 10 imag"]
    told = header(tmp_path)
    del told["claims"]  # as runs of earlier versions
    (tmp_path / "run.json").write_text(json.dumps(told))
    assert refuted(10) == ["2 of 10 imag"]
    assert refuted(60) == []
    assert header(tmp_path)["claims"] == [{"model": "toy", "task": "blobs", "seed": 0, "made": 60, "refuted": 2}]


def test_attention_is_each_models_own(encoder: Toy, blobs: Task, tmp_path: Path) -> None:
    switched = Switched(name="switched", seed=1)
    evaluate(switched, blobs, run=tmp_path, **WEAK)
    evaluate([switched, encoder], blobs, run=tmp_path, **WEAK)
    evaluate(encoder, blobs, run=tmp_path, **WEAK)
    told = header(tmp_path)
    assert [(model["name"], model["attention"]) for model in told["models"]] == [("switched", "sdpa"), ("toy", "own")]
    assert told["attention"] == "sdpa"
    switched.attention = "eager"
    with pytest.raises(RunError, match='attention of model \'switched\' was "sdpa", now "eager"'):
        evaluate(switched, blobs, run=tmp_path, **WEAK)
    evaluate(switched, blobs, run=tmp_path, attention="auto", **WEAK)  # what the run has


@pytest.mark.parametrize("before", ["own, sdpa", "own, eager", None])
def test_runs_of_earlier_versions_say_attention_of_all_models_at_once(
    before: str | None, encoder: Toy, blobs: Task, tmp_path: Path
) -> None:
    switched = Switched(name="switched", seed=1)
    evaluate([switched, encoder], blobs, run=tmp_path, **WEAK)
    told = header(tmp_path)
    for model in told["models"]:
        del model["attention"]
    told |= {"attention": before}
    if before is None:
        del told["attention"]
    (tmp_path / "run.json").write_text(json.dumps(told))
    evaluate(encoder, blobs, run=tmp_path, **WEAK)
    if before == "own, eager":
        with pytest.raises(RunError, match=r'attention of model \'switched\' was "own, eager", now "sdpa"'):
            evaluate(switched, blobs, run=tmp_path, **WEAK)
        return
    evaluate([switched, encoder], blobs, run=tmp_path, **WEAK)
    assert [model["attention"] for model in header(tmp_path)["models"]] == ["sdpa", "own"]


def test_the_same_images_in_another_place_are_the_same(encoder: Toy, blobs: Task, tmp_path: Path) -> None:
    def at(where: str, given: Task) -> Task:
        source: Any = given.source
        return replace(given, source=Arrays(where, "folder", source.labels, pixels=source.pixels))

    evaluate(encoder, at("photos", blobs), run=tmp_path, limit=4, **WEAK)
    evaluate(encoder, at("/home/me/photos", blobs), run=tmp_path, limit=4, **WEAK)
    found = evaluate(encoder, at("../photos", blobs), run=tmp_path, limit=6, **WEAK)
    assert found.summary.rows[0].n == 6
    other = at("photos", labelled_by(encoder, task(8, seed=1)))
    with pytest.raises(RunError, match="fingerprint of task 'blobs'"):
        evaluate(encoder, other, run=tmp_path, limit=6, **WEAK)


class Rounds(Toy):
    """A step without a gradient."""

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().encode_pixels((pixels * 15).round() / 15)


class Declared(Rounds):
    """The same model with a stand-in: the weights and the answers are the same ones."""

    def encode_differentiable(self, pixels: torch.Tensor) -> torch.Tensor:
        return Toy.encode_pixels(self, pixels)


class Averaged(Rounds):
    samples = 2


@pytest.mark.parametrize(
    ("other", "told"), [(Declared, "surrogate of .* was false, now true"), (Averaged, "samples of .* was 1, now 2")]
)
def test_what_a_defence_declares_makes_it_another_model(
    other: type[Toy], told: str, blobs: Task, tmp_path: Path
) -> None:
    evaluate(Rounds(scale=50.0), blobs, run=tmp_path, **WEAK)
    with pytest.raises(RunError, match=told):
        evaluate(other(scale=50.0), blobs, run=tmp_path, **WEAK)
    evaluate(Rounds(scale=50.0), blobs, run=tmp_path, **WEAK)
    before = header(tmp_path)
    for model in before["models"]:  # as runs of earlier versions
        del model["samples"], model["surrogate"]
    (tmp_path / "run.json").write_text(json.dumps(before))
    evaluate(other(scale=50.0), blobs, run=tmp_path, **WEAK)
    with pytest.raises(RunError, match="now"):
        evaluate(Rounds(scale=50.0), blobs, run=tmp_path, **WEAK)


class Told(Claiming):
    """An attack that says of itself what it is given."""

    def __init__(self, told: Any) -> None:
        self.told = told

    def describe(self) -> Any:
        return self.told


@pytest.mark.parametrize("told", [{}, {"name": "another"}], ids=["none", "another"])
def test_an_attack_is_stored_under_the_name_of_its_records(
    told: dict[str, Any], encoder: Toy, blobs: Task, tmp_path: Path
) -> None:
    for _ in range(2):
        found = evaluate(encoder, blobs, attacks=Told(told), run=tmp_path, rows=4)
        assert [row.attack for row in found.summary.rows] == ["claiming"]
    assert [attack["name"] for attack in header(tmp_path)["attacks"]] == ["claiming"]


@pytest.mark.parametrize("told", [None, {"eps": torch.ones(1)}, {"eps": float("nan")}], ids=["none", "tensor", "nan"])
def test_what_json_cannot_hold_is_refused_before_the_first_pass(
    told: Any, encoder: Toy, blobs: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "quick", None)
    with pytest.raises(ConfigError, match=r"^attack 'claiming': describe\(\) cannot be stored as JSON: .*$"):
        evaluate(encoder, blobs, attacks=Told(told), run=tmp_path, rows=4)
    assert not (tmp_path / "records.jsonl").exists()
