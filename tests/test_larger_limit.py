"""More images later: a run, or a study, goes on from what it found under a smaller limit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes import Toy, labelled_by, task
from tests.study import small

from zsrobust import evaluation, recording
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.square import Square
from zsrobust.errors import RunError
from zsrobust.recording import evaluate_into, settings
from zsrobust.records import Record, RecordFile
from zsrobust.run_folder import RunFolder
from zsrobust.study.bench import Bench
from zsrobust.study.recipe import parse
from zsrobust.study.runner import study
from zsrobust.tasks import Task
from zsrobust.threat import Threat

THREAT = Threat("linf", "4/255")


@pytest.fixture
def encoder() -> Toy:
    return Toy(scale=50.0)


@pytest.fixture
def whole(encoder: Toy) -> Task:
    return labelled_by(encoder, task(40), wrong=[3, 17])


def evaluated(path: Path, encoder: Toy, *tasks: Task) -> list[Record]:
    attacks = [PGD(THREAT, 3), Square(THREAT, 20)]
    run = RunFolder(path, kind="evaluate", settings=settings(attacks, rows=4, device=torch.device("cpu")))
    with run.records:
        evaluate_into(run, encoder, tasks, attacks, seed=0)
    return RecordFile(path / "records.jsonl").read()


def facts(records: Sequence[Record]) -> list[tuple[Any, ...]]:
    return sorted((r.task, r.attack, r.example, r.correct, str(r.prediction)) for r in records)


def test_a_task_extends_what_it_was_under_a_smaller_limit(whole: Task) -> None:
    described = json.loads(json.dumps(whole.take(10, seed=3).describe()))
    assert whole.take(11, seed=3).extends(described)
    assert whole.extends(described)
    assert whole.take(99, seed=3).extends(json.loads(json.dumps(whole.take(60, seed=3).describe())))  # of 40, both
    for other in (
        whole.take(9, seed=3),
        whole.take(11, seed=4),
        whole.with_geometry(type(whole.geometry)(size=(8, 8))).take(11, seed=3),
    ):
        assert not other.extends(described)
    assert not whole.extends(whole.describe())
    assert not whole.extends(described | {"class_names": ["one", "two", "three"]})


def test_a_run_goes_on_under_a_larger_limit(
    encoder: Toy, whole: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = evaluated(tmp_path / "run", encoder, whole.take(10))
    seen: list[list[int]] = []
    work = evaluation.evaluate_task

    def watched(*given: Any, **how: Any) -> Any:
        seen.append(sorted(how["done"].clean))
        return work(*given, **how)

    monkeypatch.setattr(recording, "evaluate_task", watched)
    more = evaluated(tmp_path / "run", encoder, whole.take(25))
    assert [len(known) for known in seen] == [10]
    assert more[: len(few)] == few
    assert len({r.example for r in more}) == 25
    assert facts(more) == facts(evaluated(tmp_path / "at once", encoder, whole.take(25)))
    (entry,) = json.loads((tmp_path / "run" / "run.json").read_text())["tasks"]
    assert (entry["n"], entry["limit"]) == (25, {"limit": 25, "seed": 0})
    # and not back, nor to other images of the same name
    for other in (whole.take(10), whole.take(30, seed=1)):
        with pytest.raises(RunError, match=r"another configuration: limit of task 'blobs' was .*25"):
            evaluated(tmp_path / "run", encoder, other)
    assert facts(evaluated(tmp_path / "run", encoder, whole)) == facts(evaluated(tmp_path / "all", encoder, whole))


def test_tasks_with_fewer_images_than_the_limits_go_on_too(encoder: Toy, whole: Task, tmp_path: Path) -> None:
    few = labelled_by(encoder, task(7, name="few"))
    evaluated(tmp_path / "run", encoder, whole.take(10), few.take(10))
    more = evaluated(tmp_path / "run", encoder, whole.take(20), few.take(20))
    assert facts(more) == facts(evaluated(tmp_path / "at once", encoder, whole.take(20), few.take(20)))


def test_a_run_that_refuses_one_task_is_as_it_was(encoder: Toy, whole: Task, tmp_path: Path) -> None:
    other = labelled_by(encoder, task(30, name="other"))
    evaluated(tmp_path, encoder, whole.take(10), other.take(10))
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(RunError, match="limit of task 'other'"):
        evaluated(tmp_path, encoder, whole.take(20), other.take(20, seed=5))
    assert (tmp_path / "run.json").read_bytes() == before
    evaluated(tmp_path, encoder, whole.take(10), other.take(10))


def test_a_study_goes_on_under_a_larger_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = small.content(small.save_clip(tmp_path / "clip"), small.images(tmp_path))
    del content["tune"], content["interpolate"]
    content |= {"seeds": [0], "axes": {}, "adapt": content["adapt"] | {"method": "clean"}}
    begun: list[int] = []
    evaluate = Bench._evaluate

    def watched(self: Bench, job: Any, folder: Path) -> None:
        begun.append(len(examples(folder)))
        evaluate(self, job, folder)

    def examples(folder: Path) -> set[int]:
        return {r.example for r in RecordFile(folder / "records.jsonl").read()}

    def of(limit: int, store: str) -> tuple[list[int], list[Any]]:
        begun.clear()
        found = parse(content | {"evaluate": content["evaluate"] | {"limit": limit}}, name="a")
        assert study([found], run=tmp_path / "runs" / store, store=tmp_path / store, jobs=1) == []
        made = [folder for folder in (tmp_path / store / "evaluated").iterdir() if len(examples(folder)) == limit]
        return [*begun], sorted(facts(RecordFile(folder / "records.jsonl").read()) for folder in made)

    monkeypatch.setattr(Bench, "_evaluate", watched)
    assert of(4, "store")[0] == [0, 0]
    assert of(6, "store")[0] == [4, 4]
    assert of(9, "store")[0] == [6, 6]
    assert of(9, "store")[0] == []
    starts, records = of(9, "another")
    assert starts == [0, 0]
    assert records == of(9, "store")[1]
    assert len(records) == 2
    for told in (tmp_path / "store" / "evaluated").glob("*/run.json"):  # what another device found is left alone
        told.write_text(told.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    assert of(11, "store")[0] == [0, 0]
