"""What each alarm goes by: units, ranges, modes, and the edges on which it must keep silent."""

from __future__ import annotations

import json

import pytest
import torch
from tests import planted
from tests.alarms.test_checkup import SIZE, classifier, images, names, subject
from tests.fakes import Linear, Toy
from torch import Tensor, nn

from zsrobust.alarms import (
    budget,
    bypassed,
    half_precision,
    inner_loop,
    inputs,
    preprocessing,
    randomised,
    saturated,
    shattered_gradient,
    training_mode,
    wrong_gradient,
    zero_gradient,
)
from zsrobust.alarms.base import Alarm
from zsrobust.alarms.subject import Subject
from zsrobust.errors import ConfigError
from zsrobust.threat import Threat


def test_a_flag_is_json_and_says_where() -> None:
    flag = Alarm("randomised", "proved", "a text", {"images": 3}).to_flag(model="tiny", task="digits", seed=1)
    assert json.loads(json.dumps(flag)) == {
        "name": "randomised", "strength": "proved", "text": "a text", "evidence": {"images": 3}, "model": "tiny",
        "task": "digits", "seed": 1,
    }  # fmt: skip


def test_a_subject_has_examples_and_a_label_for_each() -> None:
    model = Linear.random(3, (3, SIZE, SIZE))
    for count, labels in ((0, 0), (65, 65), (4, 3)):
        with pytest.raises(ConfigError, match="1 to 64 examples"):
            Subject(model, images(count), torch.zeros(labels, dtype=torch.int64), Threat())


@pytest.mark.parametrize(
    ("threat", "raised"),
    [
        ("linf:4/255", False), ("linf:0", False), ("linf:0.3", False), ("linf:0.25/255", False),
        ("linf:8.0", True), ("linf:0.5", True), ("linf:0.00001", True),
        ("l2:0.5", False), ("l2:0.1", False), ("l2:127.5", True), ("l2:0.0005", True),
    ],
)  # fmt: skip
def test_a_budget_in_the_wrong_unit_is_suspected(threat: str, raised: bool) -> None:
    found = budget.check(subject(Linear.random(3, (3, SIZE, SIZE)), images(4), threat=threat))
    assert [(alarm.name, alarm.strength) for alarm in found] == [("budget-unit", "suspected")] * raised


@pytest.mark.parametrize(
    ("change", "strength"), [(lambda p: p * 255, "proved"), (lambda p: (p - 0.5) / 0.25, "proved"),
                             (lambda p: p / 255, "suspected"), (lambda p: p, None), (lambda p: p * 0.1, None)]
)  # fmt: skip
def test_inputs_outside_the_box(change, strength: str | None) -> None:
    found = inputs.check(subject(Linear.random(3, (3, SIZE, SIZE)), change(images(4))))
    assert [alarm.strength for alarm in found] == [strength] * (strength is not None)


# Gradients


def test_a_constant_model_has_no_gradient_and_no_fault() -> None:
    class Constant(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return torch.tensor([3.0, 1.0, 0.0]) + 0 * pixels.sum((1, 2, 3))[:, None]

    target = subject(Constant(), images())
    for alarm in (zero_gradient, wrong_gradient, shattered_gradient, saturated):
        assert alarm.check(target) == []


@pytest.mark.parametrize(("frequency", "height"), [(200.0, 0.02), (500.0, 0.02), (1600.0, 0.02), (3000.0, 0.01)])
def test_ripples_of_any_length_are_found(frequency: float, height: float) -> None:
    encoder = planted.Shattered(Toy(size=SIZE))
    encoder.frequency, encoder.height = frequency, height
    assert len(shattered_gradient.check(subject(classifier(encoder), images()))) == 1


@pytest.mark.parametrize(("frequency", "height"), [(20.0, 0.01), (200.0, 0.0002)])
def test_a_wave_that_does_not_lead_astray_is_no_ripple(frequency: float, height: float) -> None:
    encoder = planted.Shattered(Toy(size=SIZE))
    encoder.frequency, encoder.height = frequency, height
    target = subject(classifier(encoder), images())
    assert shattered_gradient.check(target) == wrong_gradient.check(target) == []


def test_a_straight_through_gradient_that_leads_somewhere_is_accepted() -> None:
    class StraightThrough(planted.Quantised):
        levels = 256

        def encode_pixels(self, pixels: Tensor) -> Tensor:
            rounded = (pixels * (self.levels - 1)).round() / (self.levels - 1)
            return planted.Wrapped.encode_pixels(self, pixels + (rounded - pixels).detach())

    target = subject(classifier(StraightThrough(Toy(size=SIZE))), images())
    assert zero_gradient.check(target) == wrong_gradient.check(target) == []


def test_a_declared_surrogate_has_to_lead_somewhere() -> None:
    class Useless(planted.Quantised):
        def encode_differentiable(self, pixels: Tensor) -> Tensor:
            return planted.Wrapped.encode_pixels(self, pixels.roll(5, -1).flip(1))

    found = wrong_gradient.check(subject(classifier(Useless(Toy(size=SIZE))), images()))
    assert ["surrogate" in alarm.text for alarm in found] == [True]


def test_a_declared_surrogate_without_the_prompt_is_suspected() -> None:
    class Unprompted(planted.Prompted):
        def encode_differentiable(self, pixels: Tensor) -> Tensor:
            return planted.Wrapped.encode_pixels(self, pixels)

    found = bypassed.check(subject(classifier(Unprompted(Toy(size=SIZE))), images()))
    assert [(alarm.name, alarm.strength) for alarm in found] == [("bypassed", "suspected")]


# Logits


@pytest.mark.parametrize(("factor", "raised"), [(1.0, False), (1e2, True), (1e6, True)])
def test_saturation_begins_where_the_loss_has_no_gradient(factor: float, raised: bool) -> None:
    # margins of about 0.6 × factor × 10
    encoder = Toy(size=SIZE, scale=10 * factor)
    found = saturated.check(subject(classifier(encoder), images()))
    assert [alarm.name for alarm in found] == ["saturated-logits"] * raised


def test_cosines_and_signed_pairs_are_no_probabilities() -> None:
    assert saturated.check(subject(classifier(Toy(size=SIZE, scale=1.0)), images())) == []
    weight = Linear.random(1, (3, SIZE, SIZE)).weight.detach()
    assert saturated.check(subject(Linear(torch.cat([weight, -weight]), torch.zeros(2)), images())) == []


def test_few_or_whole_logits_are_no_half_precision() -> None:
    whole = Linear(torch.ones(2, 3 * SIZE * SIZE).tril(), torch.zeros(2))
    assert half_precision.check(subject(whole, torch.ones(16, 3, SIZE, SIZE))) == []


# Modes and loops


def test_training_mode_is_of_no_account_without_a_module_that_cares() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 8), nn.GELU(), nn.Linear(8, 3)).train()
    assert training_mode.check(subject(model, images())) == []


def test_training_mode_is_suspected_where_it_could_matter_and_does_not() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.0), nn.Linear(3 * SIZE * SIZE, 3)).train()
    assert [alarm.strength for alarm in training_mode.check(subject(model, images()))] == ["suspected"]


def test_a_dropped_rate_in_a_functional_call_is_found() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(3 * SIZE * SIZE, 3)

        def forward(self, pixels: Tensor) -> Tensor:
            return self.last(nn.functional.dropout(pixels.flatten(1), 0.1, self.training))  # type: ignore[no-any-return]

    assert [alarm.strength for alarm in training_mode.check(subject(Functional().train(), images()))] == ["proved"]
    assert training_mode.check(subject(Functional().eval(), images())) == []


def test_a_model_that_splits_its_batch_or_averages_a_few_views_is_no_loop() -> None:
    class Split(planted.Wrapped):
        def encode_pixels(self, pixels: Tensor) -> Tensor:
            whole = super().encode_pixels
            return torch.cat([whole(one) + whole(one.flip(-1)) for one in pixels.split(1)])

    assert inner_loop.check(subject(classifier(Split(Toy(size=SIZE))), images())) == []


def test_a_hidden_backward_pass_is_found_whatever_it_is_called() -> None:
    class Hidden(planted.Wrapped):
        def encode_pixels(self, pixels: Tensor) -> Tensor:
            inner = super().encode_pixels
            slope = torch.func.grad(lambda points: inner(points).square().sum())(pixels.detach())
            return inner(pixels + 0.01 * slope.sign())

    found = inner_loop.check(subject(classifier(Hidden(Toy(size=SIZE))), images()))
    assert [alarm.strength for alarm in found] == ["proved"]


def test_rounding_is_no_randomness_and_a_little_noise_is() -> None:
    class Unsteady(planted.Wrapped):
        size = 0.0

        def encode_pixels(self, pixels: Tensor) -> Tensor:
            features = super().encode_pixels(pixels)
            return features * (1 + self.size * torch.randn_like(features))

    encoder = Unsteady(Toy(size=SIZE))
    for size, raised in ((1e-7, False), (1e-2, True)):
        encoder.size = size
        assert bool(randomised.check(subject(classifier(encoder), images()))) is raised


# Preprocessing


def first_layer(mean: float, std: float, times: int, *, flat: bool) -> nn.Module:
    """Normalises ``times`` times before a convolution, or before a linear layer."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            width = 3 * SIZE * SIZE
            self.first = nn.Linear(width, 8) if flat else nn.Conv2d(3, 8, SIZE)
            self.last = nn.Linear(8, 3)

        def forward(self, pixels: Tensor) -> Tensor:
            for _ in range(times):
                pixels = (pixels - mean) / std
            return self.last(self.first(pixels.flatten(1) if flat else pixels).flatten(1).tanh())  # type: ignore[no-any-return]

    return Model()


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("std", [0.2, 0.27, 0.31])
def test_twice_is_told_from_once_without_a_declared_std(std: float, flat: bool) -> None:
    for times, expected in ((0, set()), (1, set()), (2, {"preprocessed-twice"})):
        assert names(preprocessing.check(subject(first_layer(0.45, std, times, flat=flat), images()))) == expected


def test_twice_half_is_told_by_the_declared_std() -> None:
    class Declared(planted.Normalised):
        def __init__(self, inner: Toy, times: int) -> None:
            super().__init__(inner)
            self.std, self.times = torch.full((1, 3, 1, 1), 0.5), times

        def encode_pixels(self, pixels: Tensor) -> Tensor:
            for _ in range(self.times):
                pixels = self.normalise(pixels)
            return self.inner.encode_pixels(pixels)  # type: ignore[no-any-return]

    for times, expected in ((0, {"wrong-preprocessing"}), (1, set()), (2, {"preprocessed-twice"})):
        encoder = Declared(Toy(size=SIZE), times)
        assert names(preprocessing.check(subject(classifier(encoder), images()))) == expected


def test_what_a_model_without_layers_is_given_cannot_be_known() -> None:
    assert preprocessing.check(subject(lambda pixels: 900 * pixels.flatten(1)[:, :3], images())) == []
