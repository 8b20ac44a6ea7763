"""The harness: what is recorded, that attacks are not believed, and that a run goes on where it stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes import CLASSES, Toy, labelled_by, task
from torch import Tensor

from zsrobust.attacks.base import Attack, Model, Outcome
from zsrobust.attacks.oblivious import ToTheEnd
from zsrobust.attacks.pgd import PGD, fgsm
from zsrobust.attacks.square import Square
from zsrobust.defences import wrapped
from zsrobust.encoders.base import Encoder
from zsrobust.encoders.huggingface import from_folder
from zsrobust.errors import ConfigError, ModelError, RunError
from zsrobust.evaluation import classifier_for, evaluate_task, fingerprint_of
from zsrobust.recording import evaluate_into, settings
from zsrobust.records import CLEAN, Done, Record, RecordFile
from zsrobust.run_folder import RunFolder
from zsrobust.tasks import Task
from zsrobust.threat import Threat

THREAT = Threat("linf", "4/255")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def encoder() -> Toy:
    return Toy(scale=50.0)


@pytest.fixture
def blobs(encoder: Toy) -> Task:
    """24 examples; the encoder is wrong on positions 3 and 10 and right on the others."""
    return labelled_by(encoder, task(24), wrong=[3, 10])


def records_of(encoder: Any, examples: Task, attacks: Sequence[Attack], **options: Any) -> list[Record]:
    classifier = classifier_for(encoder, examples, rows=4)
    return [r for batch in evaluate_task(classifier, examples, attacks, model="m", seed=0, **options) for r in batch]


class Lying:
    """Does no search and returns what it is told to."""

    name, threat = "lying", THREAT

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def describe(self) -> dict[str, object]:
        return {"name": self.name}

    def search(self, model: Model, pixels: Tensor, labels: Tensor, *, seed: int, examples: Sequence[int]) -> Outcome:
        zero = torch.zeros(len(pixels), dtype=torch.int64)
        return Outcome(self.answer(pixels), zero, zero)


# Records


def test_every_example_is_recorded_clean_and_the_right_ones_under_each_attack(encoder: Toy, blobs: Task) -> None:
    attacks = [PGD(THREAT, 3), PGD(Threat("linf", "1/255"), 3), fgsm(THREAT), PGD(Threat("l2", 0.5), 3)]
    found = records_of(encoder, blobs, attacks, batch_size=7)
    clean = {r.example: r for r in found if r.attack == CLEAN}
    assert sorted(clean) == blobs.ids.tolist()
    assert [i for i in range(24) if not clean[100 + i].correct] == [3, 10]
    right = {100 + i for i in range(24) if i not in (3, 10)}
    for attack in attacks:
        mine = [r for r in found if (r.attack, r.threat) == (attack.name, attack.threat.describe())]
        assert sorted(r.example for r in mine) == sorted(right)
        assert all(0 < r.size <= attack.threat.eps * 1.0001 for r in mine)
    assert len(found) == 24 + 4 * 22
    for r in found:
        position = r.example - 100
        assert (r.model, r.task, r.seed, r.label) == ("m", "blobs", 0, int(blobs.labels[position]))
        assert r.image == blobs.image_id(position)
        assert r.correct == (r.margin > 0)
    assert all((r.size, r.forwards, r.backwards) == (0, 1, 0) for r in clean.values())
    survivors = [r for r in found if r.attack == "pgd:3" and r.correct]
    assert 0 < len(survivors) < 3 * 22
    assert {(r.forwards, r.backwards) for r in survivors} == {(3 + 1 + 1, 3)}  # K steps, the last point, the verdict


def test_examples_that_are_wrong_when_clean_are_not_attacked(encoder: Toy, blobs: Task) -> None:
    seen: list[int] = []

    class Watching(Lying):
        def search(
            self, model: Model, pixels: Tensor, labels: Tensor, *, seed: int, examples: Sequence[int]
        ) -> Outcome:
            seen.extend(examples)
            return super().search(model, pixels, labels, seed=seed, examples=examples)

    records_of(encoder, blobs, [Watching(lambda pixels: pixels)], batch_size=5)
    assert seen == [100 + i for i in range(24) if i not in (3, 10)]


def test_at_eps_0_robust_is_clean(encoder: Toy, blobs: Task) -> None:
    found = records_of(encoder, blobs, [PGD(Threat("linf", 0), 3), PGD(Threat("l2", 0), 3)])
    clean = {r.example: r for r in found if r.attack == CLEAN}
    attacked = [r for r in found if r.attack != CLEAN]
    assert len(attacked) == 2 * 22
    assert all(r.correct and r.size == 0 and r.margin == clean[r.example].margin for r in attacked)


@pytest.fixture
def random_encoder() -> Encoder:
    """Of its verdicts on noise, another draw would change a good part."""
    return wrapped(Toy(scale=50.0), "resizing:samples=5:noise=0.3")


def test_at_eps_0_robust_is_clean_for_a_random_model_too(random_encoder: Encoder) -> None:
    nothing = Threat("linf", 0)
    attacks = [fgsm(nothing), PGD(nothing, 1, restarts=2), Square(nothing, 1)]
    blobs = labelled_by(random_encoder, task(40), wrong=[3])
    found = records_of(random_encoder, blobs, attacks)
    clean = {r.example: r for r in found if r.attack == CLEAN}
    right = [r for r in clean.values() if r.correct]
    assert 10 < len(right) < 40
    attacked = [r for r in found if r.attack != CLEAN]
    assert len(attacked) == 3 * len(right)
    assert all((r.prediction, r.margin) == (clean[r.example].prediction, clean[r.example].margin) for r in attacked)


def test_an_evaluation_of_a_random_model_comes_out_the_same_again(random_encoder: Encoder) -> None:
    class Far(Lying):
        def __init__(self) -> None:
            super().__init__(lambda pixels: pixels + 0.1 * torch.sin(1e4 * pixels))

    blobs = labelled_by(random_encoder, task(20))
    before = torch.get_rng_state()
    found = [records_of(random_encoder, blobs, [PGD(THREAT, 2), Far()]) for _ in range(2)]
    assert found[0] == found[1]
    assert torch.equal(torch.get_rng_state(), before)
    # the points that PGD finds go by the draws of its batch; what the model makes of given points does not
    whole = {r.key: r for r in found[0] if r.attack in (CLEAN, "lying")}
    for examples, batch_size in ((blobs, 3), (blobs.take(9), 4)):
        part = records_of(random_encoder, examples, [Far()], batch_size=batch_size)
        assert all(whole[r.key] == r for r in part)


def test_between_two_parts_of_an_attack_the_generators_are_the_callers(random_encoder: Encoder) -> None:
    blobs = labelled_by(random_encoder, task(20))
    before = torch.get_rng_state()
    classifier = classifier_for(random_encoder, blobs, rows=4)
    parts = evaluate_task(classifier, blobs, [PGD(THREAT, 2)], model="m", seed=0)
    assert sum(torch.equal(torch.get_rng_state(), before) for _ in parts) > 3


def test_a_random_encoder_keeps_its_fingerprint() -> None:
    class Random(Toy):
        fingerprint = None  # type: ignore[assignment]

        def encode_pixels(self, pixels: Tensor) -> Tensor:
            return super().encode_pixels(pixels) + torch.randn(1)

    encoder = Random()
    for subject in (encoder, wrapped(encoder, "resizing")):
        assert fingerprint_of(subject) == fingerprint_of(subject)


@pytest.mark.parametrize("kind", ["toy", "clip"])
def test_verdicts_do_not_depend_on_batch_size_order_or_limit(kind: str, encoder: Toy, random_clip_folder: Path) -> None:
    model = encoder if kind == "toy" else from_folder(random_clip_folder)
    blobs = labelled_by(model, task(20, size=10), wrong=[3])
    attacks = [PGD(Threat("linf", "8/255"), 2, restarts=2), PGD(Threat("l2", 0.6), 2)]
    whole = {r.key: r for r in records_of(model, blobs, attacks, batch_size=64)}
    assert {r.correct for r in whole.values() if r.attack != CLEAN} == {True, False}
    backwards = replace(blobs, ids=blobs.ids[::-1].copy(), labels=blobs.labels[::-1].copy())
    for examples, batch_size in ((blobs, 1), (blobs, 7), (backwards, 64), (backwards, 6), (blobs.take(9), 64)):
        part = {r.key: r for r in records_of(model, examples, attacks, batch_size=batch_size)}
        ids = set(examples.ids.tolist())
        assert part == {key: r for key, r in whole.items() if r.example in ids}


def test_verdicts_of_an_attack_do_not_depend_on_the_others(encoder: Toy, blobs: Task) -> None:
    one, other = PGD(THREAT, 2), PGD(Threat("linf", "1/255"), 2)
    both = records_of(encoder, blobs, [other, one])
    alone = records_of(encoder, blobs, [one])
    assert [r for r in both if r.threat != other.threat.describe()] == alone


def test_the_model_is_left_as_it_was(encoder: Toy, blobs: Task) -> None:
    encoder.train()
    encoder.requires_grad_(True)
    before = encoder.fingerprint()
    records_of(encoder, blobs, [PGD(THREAT, 2)])
    assert encoder.fingerprint() == before
    assert encoder.training
    assert all(p.requires_grad and p.grad is None for p in encoder.parameters())


def test_the_text_tower_runs_once_for_a_task(encoder: Toy, blobs: Task) -> None:
    before = encoder.text_calls
    records_of(encoder, blobs, [PGD(THREAT, 2), fgsm(THREAT)], batch_size=4)
    assert encoder.text_calls == before + 1


# Attacks are not believed


def test_an_attack_that_leaves_the_ball_is_put_back(encoder: Toy, blobs: Task) -> None:
    for answer in (lambda p: 1 - p, lambda p: p + 5, lambda p: p * 0 - 1e6):
        found = [r for r in records_of(encoder, blobs, [Lying(answer)]) if r.attack != CLEAN]
        assert len(found) == 22
        assert all(r.size == pytest.approx(THREAT.eps, rel=1e-4) for r in found)


def test_an_attack_that_found_nothing_breaks_nothing(encoder: Toy, blobs: Task) -> None:
    found = records_of(encoder, blobs, [Lying(lambda pixels: pixels)])
    assert sum(not r.correct for r in found) == 2
    assert all(r.forwards == 1 for r in found), "the harness's own pass is counted whatever the attack says"


def test_nan_and_wrong_shapes_from_an_attack_are_errors(encoder: Toy, blobs: Task) -> None:
    with pytest.raises(ModelError, match="NaN or outside the budget"):
        records_of(encoder, blobs, [Lying(lambda pixels: pixels * float("nan"))])
    with pytest.raises(ModelError, match="returned shape"):
        records_of(encoder, blobs, [Lying(lambda pixels: pixels[:1])])


def test_nan_logits_are_an_error_not_a_prediction(encoder: Toy, blobs: Task) -> None:
    with torch.no_grad():
        encoder.visual[3].bias[0] = float("nan")
    with pytest.raises(ModelError, match="logits that are NaN"):
        records_of(encoder, blobs, [])


def test_a_task_of_one_class_cannot_be_evaluated(encoder: Toy) -> None:
    with pytest.raises(ConfigError, match="task 'blobs' has 1 class: there is nothing to tell apart"):
        classifier_for(encoder, task(4, classes=["cat"]))


# Going on


def test_what_is_known_is_not_computed_again(encoder: Toy, blobs: Task) -> None:
    attacks = [PGD(THREAT, 2), PGD(Threat("linf", "1/255"), 2), fgsm(THREAT)]
    whole = records_of(encoder, blobs, attacks, batch_size=5)
    for known in (whole[:0], whole[:3], whole[:31], [r for r in whole if r.attack == CLEAN], whole[40:], whole):
        done = Done()
        for record in known:
            done.add(record)
        calls = encoder.pixel_calls
        rest = records_of(encoder, blobs, attacks, batch_size=6, done=done)
        assert sorted(r.key for r in rest) == sorted({r.key for r in whole} - {r.key for r in known})
        assert {r.key: r for r in rest}.items() <= {r.key: r for r in whole}.items()
        assert known is not whole or encoder.pixel_calls == calls


def folder(path: Path, attacks: Sequence[Attack], **options: int) -> RunFolder:
    fixed = settings(attacks, rows=options.get("rows", 4), device=torch.device("cpu"))
    return RunFolder(path, kind="evaluate", settings=fixed)


def evaluated(path: Path, encoder: Toy, tasks: Sequence[Task], attacks: Sequence[Attack], **options: Any) -> list[str]:
    run = folder(path, attacks, **{k: v for k, v in options.items() if k == "rows"})
    with run.records:
        evaluate_into(run, encoder, tasks, attacks, seed=0, **{k: v for k, v in options.items() if k != "rows"})
    return sorted((path / "records.jsonl").read_text().splitlines())


class Stop(BaseException):
    """As Ctrl-C."""


def test_a_run_that_stopped_goes_on_and_counts_nothing_twice(encoder: Toy, tmp_path: Path) -> None:
    tasks = [labelled_by(encoder, task(15, name=name, seed=seed), wrong=[2]) for seed, name in enumerate("ab")]
    attacks = [PGD(THREAT, 2), PGD(Threat("linf", "1/255"), 2)]
    whole = evaluated(tmp_path / "whole", encoder, tasks, attacks, batch_size=4)
    assert len(whole) == len(set(whole)) == 2 * (15 + 2 * 14)
    for stop_at in (1, 2, 9):
        seen = [0]

        def watch(_: object) -> None:
            seen[0] += 1  # noqa: B023
            if seen[0] == stop_at:  # noqa: B023
                raise Stop

        with pytest.raises(Stop):
            evaluated(tmp_path / "stopped", encoder, tasks, attacks, batch_size=4, watch=watch)
    assert evaluated(tmp_path / "stopped", encoder, tasks, attacks, batch_size=5) == whole
    assert evaluated(tmp_path / "stopped", encoder, tasks, attacks) == whole  # nothing left to do


def test_a_run_that_stopped_early_knows_all_its_tasks(encoder: Toy, tmp_path: Path) -> None:
    def watch(_: object) -> None:
        raise Stop

    tasks = [labelled_by(encoder, task(8, name=name, seed=seed)) for seed, name in enumerate("ab")]
    with pytest.raises(Stop):
        evaluated(tmp_path, encoder, tasks, [PGD(THREAT, 2)], watch=watch)
    assert [one["name"] for one in json.loads((tmp_path / "run.json").read_text())["tasks"]] == ["a", "b"]


def test_an_attack_a_task_and_a_seed_can_be_added_later(encoder: Toy, tmp_path: Path) -> None:
    a, b = (labelled_by(encoder, task(8, name=name, seed=seed)) for seed, name in enumerate("ab"))
    weak, strong = PGD(Threat("linf", "1/255"), 2), PGD(THREAT, 2)
    evaluated(tmp_path / "grown", encoder, [a], [weak])
    evaluated(tmp_path / "grown", encoder, [a], [weak, strong])
    grown = evaluated(tmp_path / "grown", encoder, [a, b], [strong, weak])
    assert grown == evaluated(tmp_path / "whole", encoder, [a, b], [weak, strong])


def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_records(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed_runs", "evaluate", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    whole, killed = (RecordFile(tmp_path / name / "records.jsonl").read() for name in ("whole", "killed"))
    assert len(whole) == 2 * (20 + 4 * 18)
    assert sorted(whole, key=lambda r: r.key) == sorted(killed, key=lambda r: r.key)


def test_another_configuration_is_refused_and_named(encoder: Toy, blobs: Task, tmp_path: Path) -> None:
    attack = PGD(THREAT, 2)
    before = evaluated(tmp_path, encoder, [blobs], [attack])
    relabelled = replace(blobs, class_names=(*CLASSES[:3], "shark"))
    for message, change in (
        ("judged of attack 'pgd:2' was null, now", {"attacks": [ToTheEnd(THREAT, 2, step_size=None)]}),
        ("fingerprint of model 'toy' was", {"encoder": Toy(seed=1)}),
        ("class_names of task 'blobs' was", {"tasks": [relabelled]}),
        ("rows was 4, now 8", {"rows": 8}),
        ('space was "native", now "model"', {"attacks": [PGD(Threat("linf", "4/255", "model"), 2)]}),
    ):
        arguments: dict[str, Any] = {"encoder": encoder, "tasks": [blobs], "attacks": [attack]} | change
        with pytest.raises(RunError, match=message):
            evaluated(tmp_path, **arguments)
    assert evaluated(tmp_path, encoder, [blobs], [attack]) == before


def test_one_run_has_one_space() -> None:
    with pytest.raises(ConfigError, match="model and native"):
        settings([PGD(THREAT), PGD(Threat("linf", "4/255", "model"))], rows=4, device=torch.device("cpu"))


def test_the_model_space_attacks_the_resized_image(encoder: Toy, tmp_path: Path) -> None:
    large = labelled_by(encoder, task(4, size=12))
    seen: list[tuple[int, ...]] = []
    for space in ("native", "model"):
        attack = PGD(Threat("linf", "4/255", space), 1)
        watch = lambda attacked: seen.append(tuple(attacked.pixels.shape[1:]))  # noqa: E731
        evaluated(tmp_path / space, encoder, [large], [attack], watch=watch)
    assert set(seen) == {(3, 12, 12), (3, 6, 6)}


def test_a_fingerprint_tells_weights_apart_also_without_the_encoders_help() -> None:
    class Plain:
        name, input_size = "plain", (6, 6)

        def __init__(self, visual: int = 0, textual: int = 0, logit_scale: float = 10.0) -> None:
            self.logit_scale = logit_scale
            self.encode_pixels = Toy(seed=visual).encode_pixels
            self.encode_texts = Toy(seed=textual).encode_texts

    class Module(Toy):
        fingerprint = None  # type: ignore[assignment]

    assert fingerprint_of(Toy(seed=0)) == Toy(seed=0).fingerprint()
    plain: list[Any] = [Plain(), Plain(), Plain(visual=1), Plain(textual=1), Plain(logit_scale=11.0)]
    prints = [fingerprint_of(one) for one in plain]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4
    knows_its_classes_alone: Any = Plain()
    knows_its_classes_alone.encode_texts = {}.__getitem__
    assert fingerprint_of(knows_its_classes_alone) not in prints
    module = Module()
    module.words = torch.nn.Parameter(torch.zeros(2))  # no answer to the fixed text depends on it
    before = fingerprint_of(module)
    assert fingerprint_of(module) == before
    module.words.data[1] = 1
    assert fingerprint_of(module) != before


def test_weights_that_are_sharded_are_refused_before_the_first_pass() -> None:
    encoder = Toy()
    next(encoder.parameters()).device_mesh = "as FSDP2's parameters have"  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=r"the weights of 'toy' are sharded \(FSDP2\)"):
        fingerprint_of(encoder)
