"""Adaptation: the loop against a plain one, what changes and what stays, options, and the folder of a run."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes import CLASSES, Toy, task
from tests.toy_runs import THREAT, metrics, run, same
from torch import Tensor, nn

from zsrobust import checkpoint
from zsrobust.adaptation import adapt
from zsrobust.attacks.pgd import PGD
from zsrobust.errors import ConfigError, ModelError, RunError, UnknownName
from zsrobust.losses import cross_entropy
from zsrobust.methods.base import Batch, Learner, Method
from zsrobust.methods.dual import Dual
from zsrobust.methods.tecoa import TeCoA
from zsrobust.pixels import to_pixels
from zsrobust.randomness import generator
from zsrobust.recipe import OPTIMIZERS, Recipe
from zsrobust.tasks import Task
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat


def weights(encoder: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in encoder.state_dict().items()}


# The loop against a plain one


def plain(
    encoder: Toy, examples: Task, attack: PGD, *, epochs: int, batch_size: int, lr: float, warm: int, decay: float
) -> Toy:
    """Adversarial training with SGD written out, with its own momentum and schedule."""
    student = encoder.copy()
    parameters = [p.requires_grad_(True) for _, p in sorted(student.visual_parameters())]
    momentum = [torch.zeros_like(p) for p in parameters]
    text = TextHead.build(encoder, examples.class_names, examples.templates).embeddings
    steps = epochs * math.ceil(len(examples) / batch_size)

    def loss(points: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(nn.functional.normalize(student.encode_pixels(points)) @ text.T * 10.0, labels)

    step = 0
    for epoch in range(epochs):
        order = torch.randperm(len(examples), generator=generator(0, "order", epoch)).tolist()
        for chosen in (order[i : i + batch_size] for i in range(0, len(order), batch_size)):
            pixels, labels = to_pixels(examples.images(chosen)), torch.from_numpy(examples.labels[chosen])
            keys = [(0, int(examples.ids[i]), "adapt", step) for i in chosen]
            points = attack.perturb(lambda p: loss(p, labels), pixels, keys=keys)  # noqa: B023
            rate = lr * min(1.0, (step + 1) / warm)
            if step >= warm:
                rate = lr * (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2
            grads = torch.autograd.grad(loss(points, labels).mean(), parameters)
            with torch.no_grad():
                for p, v, g in zip(parameters, momentum, grads, strict=True):
                    v.mul_(0.9).add_(g + decay * p)
                    p.sub_(rate * v)
            step += 1
    return student


def test_the_loop_is_plain_adversarial_training_with_momentum_warm_up_and_cosine() -> None:
    encoder, examples, attack = Toy(), task(18), PGD(THREAT, 2)
    found = adapt(
        encoder,
        task=examples,
        attack=attack,
        epochs=2,
        batch_size=4,
        lr=0.1,
        warmup=0.3,
        weight_decay=0.01,
        progress=False,
    )
    expected = plain(encoder, examples, attack, epochs=2, batch_size=4, lr=0.1, warm=3, decay=0.01)
    for name, tensor in weights(expected).items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)  # type: ignore[attr-defined]
    assert not same(expected, encoder)


def test_adaptation_makes_a_toy_robust() -> None:
    # Two kinds of images that a perturbation of this size can hardly confuse, but an unadapted model does.
    examples = task(48, classes=CLASSES[:2])

    def losses(encoder: Any) -> float:
        learner = Learner(encoder, encoder, TextHead.build(encoder, examples.class_names, examples.templates))
        pixels, labels = to_pixels(examples.images(range(48))), torch.from_numpy(examples.labels)
        batch, keys = Batch(pixels, labels), [(i,) for i in range(48)]
        points = PGD(THREAT, 5).perturb(lambda p: TeCoA().inner(learner, p, batch), pixels, keys=keys)
        return float(TeCoA().outer(learner, points, batch).mean())

    before = Toy()
    after = run(before, task=examples, epochs=12, batch_size=8, lr=0.02)
    assert losses(after) < 0.6 * losses(before)


# What changes and what does not


def test_only_a_copy_of_the_visual_tower_changes() -> None:
    encoder = Toy()
    before = weights(encoder)
    adapted = run(encoder)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(encoder).items())
    changed = {name for name, tensor in weights(adapted).items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name, _ in encoder.visual_parameters()}
    assert not any(p.requires_grad for p in adapted.parameters())
    assert all(p.grad is None for p in [*adapted.parameters(), *encoder.parameters()])
    assert not adapted.training
    assert encoder.text_calls == 1, "the text tower ran for the head and never again"


def test_the_adapted_model_says_what_it_was_adapted_on() -> None:
    once = run()
    assert once.name == "toy+tecoa"
    assert once.provenance["source"] == "tests"
    assert once.provenance["adapted_on"] == ["blobs"]
    story: Any = once.provenance["adaptation"]
    assert (story["threat"], story["lr"], story["attack"]["steps"]) == ("linf:8/255:native", 0.1, 2)
    twice = run(once, task=task(8, name="others"))
    assert twice.provenance["adapted_on"] == ["blobs", "others"]
    assert once.provenance["adapted_on"] == ["blobs"]
    json.dumps(twice.provenance)


def test_the_adversary_computes_no_gradient_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    needed: list[bool] = []

    class Watching(TeCoA):
        def inner(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
            assert isinstance(learner.encoder, nn.Module)
            needed.append(any(p.requires_grad for p in learner.encoder.parameters()))
            return super().inner(learner, points, batch)

        def outer(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
            return TeCoA().inner(learner, points, batch)

    run(method=Watching())
    assert needed == [False] * (2 * 5)  # K steps in each of 5, and no pass more


def test_every_example_is_seen_once_an_epoch_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []

    class Watching(TeCoA):
        def outer(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
            seen.append([int(p.flatten()[0] * 255 + 0.5) for p in batch.pixels])
            return super().outer(learner, points, batch)

    examples = task(18)
    marks = sorted(int(image[0, 0, 0]) for image in examples.images(range(18)))
    run(task=examples, method=Watching(), epochs=2)
    assert [len(batch) for batch in seen] == [4, 4, 4, 4, 2] * 2
    first, second = (list(itertools.chain(*half)) for half in (seen[:5], seen[5:]))
    assert sorted(first) == sorted(second) == marks
    assert first != second


def test_a_seed_gives_the_same_model_and_another_seed_another() -> None:
    one = run()
    torch.manual_seed(123)  # the state of torch's own generator does not matter
    assert same(run(), one)
    assert not same(run(seed=1), one)


def test_bf16_keeps_the_weights_in_float32() -> None:
    mixed, exact = run(precision="bf16"), run()
    assert {p.dtype for p in mixed.parameters()} == {torch.float32}
    assert not same(mixed, exact)
    for name, tensor in weights(exact).items():
        torch.testing.assert_close(mixed.state_dict()[name], tensor, rtol=0.1, atol=0.1)


def test_the_models_own_resolution_is_attacked_in_the_model_space() -> None:
    sizes: set[tuple[int, ...]] = set()

    class Watching(TeCoA):
        def inner(self, learner: Learner, points: Tensor, batch: Batch) -> Tensor:
            sizes.add(tuple(points.shape[1:]))
            return super().inner(learner, points, batch)

    large = task(8, size=12)
    run(task=large, method=Watching())
    assert sizes == {(3, 12, 12)}
    run(task=large, method=Watching(), attack=PGD(Threat("linf", "1/255", "model"), 1))
    assert sizes == {(3, 12, 12), (3, 6, 6)}


# Options


def test_the_defaults_are_the_papers() -> None:
    recipe = Recipe()
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.epochs, recipe.batch_size) == (
        "sgd",
        1e-5,
        0,
        10,
        256,
    )
    (group,) = OPTIMIZERS["sgd"]([nn.Parameter(torch.zeros(1))], 1e-5, 0.0).param_groups
    assert (group["momentum"], group["weight_decay"], group["nesterov"], group["dampening"]) == (0.9, 0, False, 0)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_the_learning_rate_warms_up_and_follows_a_cosine_to_0(warmup: float, steps: int) -> None:
    recipe = Recipe(lr=0.4, warmup=warmup)
    rates = [recipe.learning_rate(step, steps) for step in range(steps)]
    warm = max(1, round(warmup * steps)) if warmup else 0
    for step, rate in enumerate(rates):
        if step < warm:
            expected = 0.4 * (step + 1) / warm
        else:
            expected = 0.4 * math.cos(math.pi / 2 * (step - warm) / (steps - warm)) ** 2
        assert rate == pytest.approx(expected, rel=1e-9)
    assert all(rate > 0 for rate in rates), "no step is wasted"
    assert max(rates) == pytest.approx(0.4)


def test_the_measured_learning_rate_is_the_one_in_force(tmp_path: Path) -> None:
    run(run=tmp_path, log_every=1, warmup=0.4)
    recipe = Recipe(lr=0.1, warmup=0.4)
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["lr"] for line in lines] == [recipe.learning_rate(step, 5) for step in range(5)]
    assert all(0 <= line["robust_accuracy"] <= 1 and line["images_per_second"] > 0 for line in lines)


@pytest.mark.parametrize(
    ("method", "attacked"),
    [("tecoa", True), ("clean", False), (Dual(patches=0.0), True), (Dual(patches=0.0, mixed=0.5), False)],
)
def test_images_that_nobody_attacked_have_no_robust_accuracy(
    method: str | Method, attacked: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(run=tmp_path, method=method, log_every=1, progress=True)
    assert [("clean_accuracy" in line, "robust_accuracy" in line) for line in metrics(tmp_path)] == 5 * [
        (True, attacked)
    ]
    bar = capsys.readouterr().err
    assert "clean " in bar
    assert ("robust" in bar) is attacked


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"optimiser": "sgd"}, "option of adapt 'optimiser'; did you mean 'optimizer'"),
        ({"optimizer": "adam"}, "optimizer 'adam'; did you mean 'adamw'"),
        ({"precision": "fp16"}, "precision 'fp16'"),
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"micro_batch": 0}, "micro_batch must be at least 1, or null, not 0"),
        ({"attack_precision": "bf16"}, "attack_precision 'bf16'; did you mean 'bfloat16'"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lr": math.nan}, "lr must be above 0"),
        ({"warmup": 1.0}, r"warmup in \[0, 1\)"),
        ({"weight_decay": -1.0}, "weight_decay not negative"),
        ({"method": "tekoa"}, "method 'tekoa'; did you mean 'tecoa'"),
    ],
)
def test_an_option_that_is_not_allowed_is_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(**option)


def test_what_cannot_be_adapted_is_refused() -> None:
    class Frozen:
        name, geometry, encode_pixels = "frozen", None, None

    with pytest.raises(ModelError, match="'frozen' cannot be adapted"):
        run(Frozen())
    with pytest.raises(ConfigError, match="has one class"):
        run(task=task(8, classes=["cat"]))
    with pytest.raises(UnknownName):
        run(method="nope")


# The folder of a run


def test_a_run_folder_is_of_one_job_at_a_time(tmp_path: Path) -> None:
    with checkpoint.claimed(tmp_path / "run"), pytest.raises(RunError, match="being adapted in by another process"):
        run(run=tmp_path / "run")
    run(run=tmp_path / "run")
    run(run=tmp_path / "run")


def test_tensorboard_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match="need a run folder"):
        run(tensorboard=True)


def test_a_run_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write .*file"):
        run(run=tmp_path / "file" / "run")


def test_without_a_run_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run()
    assert list(tmp_path.iterdir()) == []
