from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from zsrobust.losses import cross_entropy, margin


def some(batch: int = 50, classes: int = 7, scale: float = 5.0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(classes)
    return scale * torch.randn(batch, classes, generator=draw), torch.randint(classes, (batch,), generator=draw)


@pytest.mark.parametrize("classes", [2, 3, 1000])
@pytest.mark.parametrize("scale", [0.1, 5.0, 100.0])
def test_cross_entropy_is_that_of_torch_with_its_gradient(classes: int, scale: float) -> None:
    logits, labels = some(classes=classes, scale=scale)
    logits.requires_grad_()
    exact = logits.detach().double().requires_grad_()
    found, expected = cross_entropy(logits, labels), functional.cross_entropy(exact, labels, reduction="none")
    assert found.shape == (50,)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-15)  # where torch's own rounds
    (slope,), (exact_slope,) = torch.autograd.grad(found.sum(), logits), torch.autograd.grad(expected.sum(), exact)
    torch.testing.assert_close(slope.double(), exact_slope, rtol=1e-4, atol=1e-7)


def test_cross_entropy_keeps_the_direction_of_its_gradient_where_a_softmax_saturates() -> None:
    logits = torch.tensor([[60.0, 0.0, -3.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(cross_entropy(logits, torch.tensor([0])).sum(), logits)
    others = torch.tensor([0.0, -3.0], dtype=torch.float64).softmax(0)
    expected = torch.tensor([[-1.0, *others.tolist()]])
    torch.testing.assert_close(slope / slope.abs().max(), expected, rtol=1e-5, atol=0)


def test_cross_entropy_is_computed_in_float32() -> None:
    logits, labels = some()
    assert cross_entropy(logits.bfloat16(), labels).dtype == torch.float32
    torch.testing.assert_close(
        cross_entropy(logits.bfloat16(), labels), cross_entropy(logits.bfloat16().float(), labels)
    )


def test_margin_is_positive_exactly_where_the_label_is_predicted() -> None:
    logits, labels = some(classes=3)
    found = margin(logits, labels)
    assert torch.equal(found > 0, logits.argmax(1) == labels)
    pairs = zip(logits.tolist(), labels.tolist(), strict=True)
    by_hand = [row[label] - max(v for c, v in enumerate(row) if c != label) for row, label in pairs]
    assert found.tolist() == pytest.approx(by_hand, rel=1e-6)


def test_margin_of_a_tie_and_of_a_single_class() -> None:
    assert margin(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([1])).item() == 0
    assert margin(torch.tensor([[1.0]]), torch.tensor([0])).item() == float("inf")


def test_a_loss_and_its_gradient_do_not_depend_on_the_place_in_the_batch() -> None:
    for seed in range(20):
        row = 3 * torch.randn(1, 10, generator=torch.Generator().manual_seed(seed))
        logits = row.expand(45, -1).clone().requires_grad_(True)
        values = cross_entropy(logits, torch.zeros(45, dtype=torch.int64))
        (gradient,) = torch.autograd.grad(values.sum(), logits)
        assert bool((values == values[0]).all())
        assert bool((gradient == gradient[0]).all())
