"""PGD depends on nothing around it and changes nothing: the rest of the batch, the model, the images, torch's modes."""

from __future__ import annotations

import pytest
import torch
from tests.fakes import CLASSES, SHAPE, Bumpy, Linear, Toy, images, predicted
from torch import Tensor

from zsrobust.attacks.checks import judge
from zsrobust.attacks.pgd import PGD
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.encoders.huggingface import from_folder
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat

# What others are in the batch


def clip_classifier(folder: object) -> ZeroShotClassifier:
    encoder = from_folder(folder)  # type: ignore[arg-type]
    return ZeroShotClassifier(encoder, TextHead.build(encoder, CLASSES, ["a {}"]), rows=8)


def toy_classifier(_: object) -> ZeroShotClassifier:
    encoder = Toy(size=9, scale=200.0)
    return ZeroShotClassifier(encoder, TextHead.build(encoder, CLASSES, ["a {}"]), rows=8)


@pytest.mark.parametrize("build", [clip_classifier, toy_classifier])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.02), ("l2", 0.5)])
def test_batch_size_order_and_company_change_nothing(build, norm: str, eps: float, random_clip_folder) -> None:
    model, pixels = build(random_clip_folder), images(30, shape=(3, 12, 12))
    labels = judge(model, pixels, torch.zeros(30, dtype=torch.int64)).predictions
    attack = PGD(Threat(norm, eps), 3, restarts=2)
    whole = attack.search(model, pixels, labels, seed=5, examples=range(30))
    verdict = judge(model, whole.pixels, labels)
    assert 0 < int((verdict.predictions != labels).sum()) < 30
    shuffled = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    for batch_size in (1, 7, 64):
        for chosen in shuffled.split(batch_size)[:4]:
            part = attack.search(model, pixels[chosen], labels[chosen], seed=5, examples=chosen.tolist())
            again = judge(model, part.pixels, labels[chosen])
            assert torch.equal(part.pixels, whole.pixels[chosen])
            assert torch.equal(part.forwards, whole.forwards[chosen])
            assert torch.equal(part.backwards, whole.backwards[chosen])
            assert torch.equal(again.predictions, verdict.predictions[chosen])
            assert torch.equal(again.margins, verdict.margins[chosen])


def test_an_example_has_its_own_random_start() -> None:
    model, pixels = Linear.random(2, SHAPE), images(1).expand(4, -1, -1, -1)
    labels = predicted(model, pixels)
    attack = PGD(Threat("linf", 1e-3), 1, step_size=1e-9)
    one = attack(model, pixels, labels, examples=[0, 1, 0, 2])
    assert torch.equal(one[0], one[2])
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one, attack(model, pixels, labels, examples=[0, 1, 0, 2], seed=1))


def test_only_whole_chunks_are_passed_to_a_model_with_rows() -> None:
    model = Linear.random(3, SHAPE)
    model.rows, seen = 8, set()
    model.register_forward_hook(lambda module, args, output: seen.add(len(args[0])))
    pixels = images(11)
    PGD(Threat("linf", 0.1), 3, restarts=2)(model, pixels, predicted(model, pixels))
    seen.discard(11)  # the line above asked for the labels
    assert seen == {8}


def test_an_empty_batch_is_no_error() -> None:
    nothing = torch.zeros(0, *SHAPE)
    assert PGD(Threat(), 3)(Linear.random(3, SHAPE), nothing, torch.zeros(0, dtype=torch.int64)).shape == nothing.shape


# The model is left as it was


class Raising(Linear):
    def forward(self, pixels: Tensor) -> Tensor:
        if self.forwards == 1:
            raise ZeroDivisionError
        return super().forward(pixels)


@pytest.mark.parametrize("kind", [Linear, Raising])
@pytest.mark.parametrize("training", [True, False])
def test_an_attack_changes_nothing_of_the_model_also_when_the_model_raises(kind: type[Linear], training: bool) -> None:
    model, pixels = kind.random(3, SHAPE), images(6)
    labels = (pixels.flatten(1) @ model.weight.T + model.bias).argmax(1)
    model.train(training)
    model.bias.requires_grad_(False)
    model.weight.grad = kept = torch.full_like(model.weight, 7.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    needed: list[bool] = []
    model.register_forward_pre_hook(
        lambda module, args: needed.append(any(p.requires_grad for p in module.parameters()))
    )
    try:
        PGD(Threat("linf", 1e-3), 3)(model, pixels, labels)
    except ZeroDivisionError:
        assert kind is Raising
    else:
        assert kind is Linear
    assert needed
    assert not any(needed), "no weight gradient may be computed"
    assert model.training is training
    assert (model.weight.requires_grad, model.bias.requires_grad) == (True, False)
    assert model.weight.grad is kept
    assert torch.equal(kept, torch.full_like(kept, 7.0))
    assert model.bias.grad is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_images_are_left_as_they_were() -> None:
    model, pixels = Linear.random(3, SHAPE), images(6)
    before = pixels.clone()
    found = PGD(Threat("linf", 0.5), 3)(model, pixels, predicted(model, pixels))
    assert torch.equal(pixels, before)
    assert not pixels.requires_grad
    assert not found.requires_grad


def test_it_works_where_gradients_are_switched_off() -> None:
    model, pixels = Linear.random(2, SHAPE), images(6)
    labels, attack = predicted(model, pixels), PGD(Threat("linf", 0.1), 3)
    with torch.no_grad():
        assert torch.equal(attack(model, pixels, labels), attack(model, pixels, labels))
        assert not torch.equal(attack(model, pixels, labels), pixels)


def test_the_text_tower_never_runs_in_an_attack() -> None:
    encoder = Toy()
    model = ZeroShotClassifier(encoder, TextHead.build(encoder, CLASSES, ["a {}"]))
    before = encoder.text_calls
    PGD(Threat("linf", 0.1), 3, restarts=2)(model, images(5, shape=(3, 6, 6)), torch.zeros(5, dtype=torch.int64))
    assert before == encoder.text_calls == 1
    assert encoder.pixel_calls > 0


def test_autocast_around_an_evaluation_is_switched_off() -> None:
    model, pixels = Bumpy(SHAPE, 4), images(6)
    labels, attack = predicted(model, pixels), PGD(Threat("linf", 0.1), 3)
    expected = attack(model, pixels, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attack(model, pixels, labels), expected)
