"""The harness believes no attack: budget, box, shape and verdict are its own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes import Linear
from torch import Tensor

from zsrobust.attacks.checks import enforce, judge
from zsrobust.errors import ModelError
from zsrobust.losses import margin
from zsrobust.threat import Threat

SHAPE = (4, 3, 4, 5)


def images(seed: int = 0) -> Tensor:
    return (torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) * 1.4 - 0.2).clamp(0, 1)


@given(st.sampled_from(["linf", "l2"]), st.floats(0, 2), st.integers(0, 1000), st.sampled_from([0.01, 1.0, 1e4]))
def test_whatever_is_returned_ends_up_in_the_budget(norm: str, eps: float, seed: int, spread: float) -> None:
    pixels, threat = images(seed), Threat(norm, eps)
    candidate = pixels + spread * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    allowed, sizes = enforce(threat, candidate, pixels)
    assert bool(((allowed >= 0) & (allowed <= 1)).all())
    assert bool((sizes <= eps * (1 + 1e-5) + 1e-6).all())
    torch.testing.assert_close(sizes, threat.size(allowed - pixels))
    again, _ = enforce(threat, allowed, pixels)
    torch.testing.assert_close(again, allowed, atol=1e-6, rtol=0)


def test_at_eps_1_any_image_of_the_box_counts_as_it_is() -> None:
    model, pixels, other = Linear.random(2, SHAPE[1:]), images(0), images(1)
    labels = judge(model, pixels, torch.zeros(4, dtype=torch.int64)).predictions
    labels[:2] = 1 - judge(model, other, labels).predictions[:2]  # these two are attacks, whatever they look like
    labels[2:] = judge(model, other, labels).predictions[2:]
    allowed, sizes = enforce(Threat("linf", 1.0), other, pixels)
    assert torch.equal(allowed, other)
    torch.testing.assert_close(sizes, (other - pixels).flatten(1).abs().amax(1))
    assert (judge(model, allowed, labels).predictions != labels).tolist() == [True, True, False, False]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_nan_is_refused(norm: str) -> None:
    candidate = images()
    candidate[2, 1, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="NaN or outside the budget"):
        enforce(Threat(norm, 0.1), candidate, images())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_infinite_pixels_never_pass(norm: str) -> None:
    candidate = images()
    candidate[0, 0, 0, 0] = float("inf")
    try:
        allowed, sizes = enforce(Threat(norm, 0.1), candidate, images())
    except ModelError:
        return
    assert bool(allowed.isfinite().all())
    assert float(sizes.max()) <= 0.1 + 1e-6


@pytest.mark.parametrize("change", [lambda x: x[:3], lambda x: x[:, :, :2], lambda x: x[:, :1], lambda x: x[0]])
def test_another_shape_is_refused(change) -> None:
    with pytest.raises(ModelError, match=r"returned shape \(.*\) for images of shape \(4, 3, 4, 5\)"):
        enforce(Threat(), change(images()), images())


def test_float64_and_a_gradient_are_no_problem() -> None:
    allowed, _ = enforce(Threat("linf", 0.1), (images(1).double()).requires_grad_(), images())
    assert allowed.dtype == torch.float32
    assert not allowed.requires_grad


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_are_an_error(value: float) -> None:
    def model(pixels: Tensor) -> Tensor:
        logits = pixels.flatten(1)[:, :3].clone()
        logits[1, 2] = value
        return logits

    with pytest.raises(ModelError, match="1 of 4 images have logits that are NaN or infinite"):
        judge(model, images(), torch.zeros(4, dtype=torch.int64))


def test_a_verdict_is_prediction_and_margin_of_the_model() -> None:
    model, labels = Linear.random(3, SHAPE[1:]), torch.tensor([0, 1, 2, 0])
    model.rows = 3
    verdict = judge(model, images(), labels)
    with torch.no_grad():
        logits = model(images())
    torch.testing.assert_close(verdict.logits, logits)
    assert torch.equal(verdict.predictions, logits.argmax(1))
    torch.testing.assert_close(verdict.margins, margin(logits, labels))
    assert model.rows_seen == 3 * 2 + 4
    assert torch.equal(verdict.pixels, images())


class Drawing(Linear):
    """Adds noise from torch's generator: its own for each row, and some that all rows share."""

    samples = 3

    def forward(self, pixels: Tensor) -> Tensor:
        logits = super().forward(pixels)
        return logits + 20 * torch.randn(logits.shape) + 20 * torch.randn(1, logits.shape[1])


def test_a_verdict_of_a_random_model_depends_on_seed_and_example_alone() -> None:
    model, labels, pixels = Drawing.random(3, SHAPE[1:]), torch.tensor([0, 1, 2, 0]), images()
    model.rows = 2
    before = torch.get_rng_state()
    whole = judge(model, pixels, labels, seed=5, examples=[7, 8, 9, 3])
    assert torch.equal(torch.get_rng_state(), before)
    assert model.rows_seen == model.forwards == 4 * 3
    for chosen in ([2], [3, 0], [1, 2, 3]):
        part = judge(model, pixels[chosen], labels[chosen], seed=5, examples=[[7, 8, 9, 3][i] for i in chosen])
        assert torch.equal(part.logits, whole.logits[chosen])
        assert torch.equal(part.predictions, whole.predictions[chosen])
        assert torch.equal(part.margins, whole.margins[chosen])
    assert not torch.equal(judge(model, pixels, labels, seed=6, examples=[7, 8, 9, 3]).logits, whole.logits)
    same = judge(model, pixels[:1].repeat(4, 1, 1, 1), labels, seed=5, examples=[7, 7, 8, 9])
    assert [torch.equal(same.logits[0], other) for other in same.logits] == [True, True, False, False]
    assert torch.equal(judge(model, pixels, labels).logits, judge(model, pixels, labels, examples=range(4)).logits)


def test_the_verdict_of_a_random_model_is_over_draws_that_differ() -> None:
    model, pixels, labels = Drawing.random(3, SHAPE[1:]), images(), torch.zeros(4, dtype=torch.int64)
    with torch.no_grad():
        plain = Linear.forward(model, pixels)
    model.samples = 400
    noise = judge(model, pixels, labels).logits - plain
    assert float(noise.abs().max()) < 5 * (2 * 20**2 / 400) ** 0.5


def test_a_verdict_ignores_autocast_and_leaves_the_model_alone() -> None:
    model, labels = Linear.random(3, SHAPE[1:]), torch.zeros(4, dtype=torch.int64)
    model.train()
    expected = judge(model, images(), labels).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(judge(model, images(), labels).logits, expected)
    assert model.training
    assert model.weight.requires_grad
    assert model.weight.grad is None
