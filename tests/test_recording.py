"""Suites, transfers, claims and the check-up, from the attack's name to the run folder."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.fakes import CLASSES, Toy, labelled_by, task

from zsrobust import recording
from zsrobust.alarms.base import Alarm
from zsrobust.alarms.claims import refuted
from zsrobust.api import evaluate
from zsrobust.attacks import lanes, parse, suites
from zsrobust.attacks.apgd import APGD
from zsrobust.attacks.base import Outcome
from zsrobust.attacks.binding import Asked
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.square import Square
from zsrobust.attacks.suites import Member, Suite
from zsrobust.attacks.transfer import Transfer
from zsrobust.defences import wrapped
from zsrobust.distributed import World
from zsrobust.errors import ConfigError, RunError
from zsrobust.recording import evaluate_into, settings
from zsrobust.records import CLEAN, Record, RecordFile, suite_of
from zsrobust.run_folder import RunFolder
from zsrobust.sharing import Exchange, Part
from zsrobust.tasks import Task
from zsrobust.threat import Threat

THREAT = Threat("linf", "4/255")
SHORT = ("weak", "apgd:ce:steps=5", "square:queries=20")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard suite, with budgets for a test, and a weak member ahead."""

    def recipe(suite: Suite, classes: int) -> list[Member]:
        return [
            Member(PGD(suite.threat, 1, step_size=suite.threat.eps / 2), suite.name, "weak"),
            Member(APGD(suite.threat, 5), suite.name),
            Member(Square(suite.threat, 20), suite.name),
        ]

    short = {**suites.SUITES, "autoattack": recipe, "autoattack-few": recipe}
    monkeypatch.setattr(suites, "SUITES", MappingProxyType(short))


@pytest.fixture
def encoder() -> Toy:
    return Toy(scale=50.0)


def evaluated(
    path: Path, encoder: Any, tasks: Sequence[Task], attacks: Sequence[Asked], **options: Any
) -> list[Record]:
    fixed = settings(attacks, rows=4, device=torch.device("cpu"))
    run = RunFolder(path, kind="evaluate", settings=fixed)
    with run.records:
        evaluate_into(run, encoder, tasks, attacks, seed=0, **options)
    return RecordFile(path / "records.jsonl").read()


def header(path: Path) -> Any:
    return json.loads((path / "run.json").read_text())


def by_attack(records: Sequence[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.attack, []).append(record)
    return found


def test_a_member_of_a_suite_is_given_what_the_ones_before_left_standing(encoder: Toy, tmp_path: Path) -> None:
    blobs = labelled_by(encoder, task(40), wrong=[3])
    found = by_attack(evaluated(tmp_path, encoder, [blobs], [Suite("autoattack", THREAT)]))
    names = [f"autoattack-few/{name}" for name in SHORT]
    assert list(found) == [CLEAN, *names]
    standing = {r.example for r in found[CLEAN] if r.correct}
    assert len(standing) == 39
    for name in names:
        assert {r.example for r in found[name]} == standing
        standing -= {r.example for r in found[name] if not r.correct}
    assert 0 < len(standing) < 38
    assert sum(not r.correct for r in found[names[0]]) > 0
    assert sum(not r.correct for r in found[names[1]]) > 0
    # what they say of themselves is in run.json, and for which tasks
    described = {entry["name"]: entry for entry in header(tmp_path)["attacks"]}
    assert list(described) == names
    assert all(entry["suite"] == "autoattack-few" and entry["tasks"] == ["blobs"] for entry in described.values())
    assert described[names[2]]["gradient"] is False


def test_a_suite_for_many_classes_keeps_its_name_and_both_can_be_in_a_run(encoder: Toy, tmp_path: Path) -> None:
    assert len(CLASSES) < 10
    ten = [*CLASSES, *(f"thing {i}" for i in range(10 - len(CLASSES)))]
    tasks = [labelled_by(encoder, task(6, name="few")), labelled_by(encoder, task(6, name="many", classes=ten))]
    records = evaluated(tmp_path, encoder, tasks, [Suite("autoattack", THREAT)])
    assert {(r.task, suite_of(r.attack)) for r in records if r.attack != CLEAN} == {
        ("few", "autoattack-few"),
        ("many", "autoattack"),
    }
    entries = header(tmp_path)["attacks"]
    assert {(entry["suite"], *entry["tasks"]) for entry in entries} == {
        ("autoattack-few", "few"),
        ("autoattack", "many"),
    }
    # one more task of the first kind is no other configuration
    evaluated(
        tmp_path, encoder, [*tasks, labelled_by(encoder, task(6, name="also few"))], [Suite("autoattack", THREAT)]
    )
    assert {tuple(entry["tasks"]) for entry in header(tmp_path)["attacks"]} == {("few", "also few"), ("many",)}


def ten() -> list[str]:
    return [*CLASSES, *(f"thing {i}" for i in range(10 - len(CLASSES)))]


def test_an_oblivious_suite_for_few_classes_has_its_own_name_and_tasks(encoder: Toy, tmp_path: Path) -> None:
    defended = wrapped(encoder, "jpeg")
    few, many = labelled_by(encoder, task(6, name="few")), labelled_by(encoder, task(6, name="many", classes=ten()))
    attacks = [parse("oblivious:autoattack", THREAT)]
    evaluated(tmp_path, defended, [many], attacks)
    content = header(tmp_path)
    assert content["attacks"][0].pop("tasks") == ["many"]
    (tmp_path / "run.json").write_text(json.dumps(content))  # as earlier versions wrote it
    records = evaluated(tmp_path, defended, [many, few], attacks)
    assert evaluated(tmp_path, defended, [many], attacks) == records
    assert {(r.task, r.attack) for r in records if r.attack != CLEAN} == {
        ("few", "oblivious:autoattack-few"), ("many", "oblivious:autoattack"),
    }  # fmt: skip
    assert {(entry["name"], *entry["tasks"]) for entry in header(tmp_path)["attacks"]} == {
        ("oblivious:autoattack-few", "few"), ("oblivious:autoattack", "many"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("attack", "classes", "message"),
    [
        ("apgd:dlr-t", 3, "the targeted DLR loss needs at least 4 classes, not 3: use apgd:margin-t"),
        ("apgd:dlr", 2, "the DLR loss needs at least 3 classes, not 2: use apgd:margin"),
        ("oblivious:apgd:dlr", 2, "the DLR loss needs at least 3 classes, not 2: use apgd:margin"),
        ("fab", 101, "attack 'fab' takes a gradient for each of 101 classes at every step .at most 100.; use fab:t"),
    ],
)
def test_what_a_later_task_makes_impossible_is_refused_before_the_first(
    encoder: Toy, tmp_path: Path, attack: str, classes: int, message: str
) -> None:
    first = labelled_by(encoder, task(4))
    second = replace(task(4, name="later", seed=1), class_names=tuple(f"thing {i}" for i in range(classes)))
    calls = encoder.pixel_calls, encoder.text_calls
    defended = wrapped(encoder, "jpeg")
    with pytest.raises(ConfigError, match=f"^task 'later': {message}"):
        evaluated(tmp_path / "run", defended, [first, second], [parse(attack, THREAT)])
    with pytest.raises(ConfigError, match=f"^task 'later': {message}"):
        evaluate(defended, [first, second], attacks=attack, threat=THREAT, run=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert (encoder.pixel_calls, encoder.text_calls) == calls


class Stop(BaseException):
    """As Ctrl-C."""


@pytest.mark.parametrize("stop_at", [1, 2, 4, 6])
def test_a_suite_that_was_stopped_goes_on_to_the_same_records(
    encoder: Toy, tmp_path: Path, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "SECONDS", 0.0)  # examples are handed out one by one
    blobs, attacks = labelled_by(encoder, task(14), wrong=[3]), [Suite("autoattack", THREAT)]
    whole = sorted(r.to_json() for r in evaluated(tmp_path / "whole", encoder, [blobs], attacks, batch_size=8))
    seen = [0]

    def watch(_: object) -> None:
        seen[0] += 1
        if seen[0] == stop_at:
            raise Stop

    with pytest.raises(Stop):
        evaluated(tmp_path / "run", encoder, [blobs], attacks, batch_size=8, watch=watch)
    kept = RecordFile(tmp_path / "run" / "records.jsonl").read()
    assert 0 < len(kept) < len(whole)
    again = evaluated(tmp_path / "run", encoder, [blobs], attacks, batch_size=8)
    assert sorted(r.to_json() for r in again) == whole


def test_a_transfer_comes_from_its_source_and_is_judged_by_the_model(encoder: Toy, tmp_path: Path) -> None:
    blobs = labelled_by(encoder, task(30))
    twin = copy.deepcopy(encoder)
    twin.name = "twin"
    stranger = Toy(name="stranger", seed=5, scale=50.0)
    found = by_attack(
        evaluated(tmp_path, encoder, [blobs], [Transfer(twin, THREAT, 10), Transfer(stranger, THREAT, 10)])
    )
    broken = {name: sum(not r.correct for r in records) for name, records in found.items()}
    assert broken["transfer:twin:steps=10"] > broken["transfer:stranger:steps=10"]
    entry = header(tmp_path)["attacks"][0]
    assert (entry["source"], entry["transfer"], entry["gradient"]) == ("twin", True, False)
    retrained = Toy(name="twin", seed=9, scale=50.0)
    with pytest.raises(RunError, match="source_fingerprint of attack 'transfer:twin:steps=10' was"):
        evaluated(tmp_path, encoder, [blobs], [Transfer(retrained, THREAT, 10)])


def test_claims_that_verdicts_refute_are_an_alarm() -> None:
    assert refuted(100, 1) is None
    assert refuted(100, 4) is None
    alarm = refuted(20, 2)
    assert alarm is not None
    assert (alarm.name, alarm.evidence) == ("claims-refuted", {"refuted": 2, "claimed": 20})


class Unsteady(Toy):
    """Answers every other pass at random."""

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        features = super().encode_pixels(pixels)
        return features + 0.3 * torch.randn_like(features)


def test_a_model_that_changes_its_mind_is_flagged_in_the_run(tmp_path: Path) -> None:
    steady = Toy(name="toy", scale=50.0)
    blobs = labelled_by(steady, task(30))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        evaluated(tmp_path, Unsteady(name="unsteady", scale=50.0), [blobs], [PGD(THREAT, 5)])
    flags = {flag["name"]: flag for flag in header(tmp_path)["flags"]}
    assert flags["claims-refuted"]["model"] == "unsteady"
    assert flags["claims-refuted"]["task"] == "blobs"


class Boasting:
    """Gives the images back, and may say that each of them is broken."""

    name, threat = "boasting", THREAT

    def __init__(self, boasts: bool) -> None:
        self.boasts = boasts

    def describe(self) -> dict[str, object]:
        return {"name": self.name}

    def search(self, model: Any, pixels: torch.Tensor, labels: torch.Tensor, **_: Any) -> Outcome:
        zero = torch.zeros_like(labels)
        return Outcome(pixels, zero, zero, torch.full_like(labels, self.boasts, dtype=torch.bool))


def test_claims_of_a_run_that_stopped_are_counted_on(encoder: Toy, tmp_path: Path) -> None:
    blobs, parts = labelled_by(encoder, task(40)), []

    class Stop(Exception): ...

    def watch(attacked: Any) -> None:
        parts.append(attacked)
        if len(parts) == 3:
            raise Stop

    with pytest.raises(Stop):
        evaluated(tmp_path, encoder, [blobs], [Boasting(True)], watch=watch, batch_size=10)
    about = {"model": "toy", "task": "blobs", "seed": 0}
    assert header(tmp_path)["claims"] == [about | {"made": 20, "refuted": 20}]  # those of records that are there
    assert "claims-refuted" not in {flag["name"] for flag in header(tmp_path).get("flags", [])}
    evaluated(tmp_path, encoder, [blobs], [Boasting(False)], batch_size=10)
    assert header(tmp_path)["claims"] == [about | {"made": 20, "refuted": 20}]
    (flag,) = [flag for flag in header(tmp_path)["flags"] if flag["name"] == "claims-refuted"]
    assert flag["evidence"] == {"claimed": 20, "refuted": 20}


def test_claims_of_records_that_could_not_be_kept_do_not_count(
    encoder: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = RecordFile.append

    def full(self: RecordFile, records: Sequence[Record]) -> None:
        if records[0].attack != CLEAN:
            raise RunError("disk full")
        original(self, records)

    monkeypatch.setattr(RecordFile, "append", full)
    with pytest.raises(RunError, match="disk full"):
        evaluated(tmp_path, encoder, [labelled_by(encoder, task(20))], [PGD(THREAT, 3)])
    assert not any(entry["made"] for entry in header(tmp_path).get("claims", []))


def test_counts_of_claims_are_written_seldom(encoder: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves, appends = [], []
    save, append = RunFolder.save, RecordFile.append
    monkeypatch.setattr(RunFolder, "save", lambda self: (saves.append(time.sleep(0.01)), save(self))[1])
    monkeypatch.setattr(RecordFile, "append", lambda self, some: (appends.append(len(some)), append(self, some))[1])
    evaluated(tmp_path / "few", encoder, [labelled_by(encoder, task(4))], [PGD(THREAT, 2)])
    few, saves[:], appends[:] = len(saves), [], []
    evaluated(tmp_path / "many", encoder, [labelled_by(encoder, task(120))], [PGD(THREAT, 2)])
    assert len(appends) > 20
    assert len(saves) < few + 5


def test_claims_of_other_processes_are_kept_with_the_run(
    encoder: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, me, examples = dist.HashStore(), World(0, 2, 0), labelled_by(encoder, task(12))
    other = Exchange(store, World(1, 2, 1))
    other.send(Part(0, [], 400, 200))
    other.finish()

    def wait_for(ready: Any) -> None:
        until = time.monotonic() + 20
        while not ready():
            assert time.monotonic() < until
            time.sleep(0.01)

    with monkeypatch.context() as patch:
        for name, fake in (("world", lambda: me), ("broadcast", lambda value: value), ("wait_for", wait_for)):
            patch.setattr(recording, name, fake)
        patch.setattr(recording, "store", lambda *_: store)
        evaluated(tmp_path, encoder, [examples], [PGD(THREAT, 3)])
    (entry,) = header(tmp_path)["claims"]
    assert (entry["made"] > 400, entry["refuted"]) == (True, 200)
    more = labelled_by(encoder, task(12, name="more"))
    evaluated(tmp_path, encoder, [examples, more], [PGD(THREAT, 3)])
    assert [(e["task"], e["refuted"]) for e in header(tmp_path)["claims"]] == [("blobs", 200), ("more", 0)]
    assert header(tmp_path)["claims"][0] == entry


def test_the_check_up_runs_once_a_model_and_its_alarms_are_kept(
    encoder: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def quick(subject: Any) -> list[Alarm]:
        asked.append((len(subject.pixels), subject.threat))
        return [Alarm("test-alarm", "suspected", "a sentence", {"share": 0.5})]

    monkeypatch.setattr(recording, "quick", quick)
    tasks = [labelled_by(encoder, task(20, name=name)) for name in "ab"]
    attacks = [PGD(THREAT, 2), PGD(Threat("linf", "8/255"), 2)]
    for _ in range(2):
        evaluated(tmp_path, encoder, tasks, attacks)
    assert asked == [(16, Threat("linf", "8/255"))]
    (flag,) = header(tmp_path)["flags"]
    assert flag == {
        "name": "test-alarm",
        "strength": "suspected",
        "text": "a sentence",
        "evidence": {"share": 0.5},
        "model": "toy",
    }


def test_fast_says_so_and_so_does_an_attack_made_by_hand() -> None:
    fixed = [
        settings([Suite("autoattack", THREAT, mode)], rows=4, device=torch.device("cpu"))["precision"]
        for mode in ("exact", "float32", "fast")
    ]
    assert fixed == ["float32", "float32", "bfloat16 (breaks verified in float32)"]
    by_hand = [PGD(THREAT), PGD(THREAT, 3, precision="bfloat16")]
    assert settings(by_hand, rows=4, device=torch.device("cpu"))["precision"] == fixed[2]
