"""Padded chunks, frozen weights, and float32 without autocast or TF32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from zsrobust.passes import float32_only, frozen, in_rows

CPU = torch.device("cpu")


@given(st.integers(1, 20), st.integers(1, 9))
def test_in_rows_gives_every_row_its_own_result_in_calls_of_one_shape(count: int, rows: int) -> None:
    shapes: list[int] = []

    def function(points: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        shapes.append(len(points))
        assert len(index) == len(points)
        return points * 2, index + points[:, 0].long()

    points, index = torch.arange(count * 2.0).view(count, 2), torch.arange(count) + 1000
    doubled, shifted = in_rows(function, rows)(points, index)
    assert torch.equal(doubled, points * 2)
    assert torch.equal(shifted, index + points[:, 0].long())
    assert shapes == [rows] * -(-count // rows)


def test_padding_repeats_rows_of_the_chunk_and_invents_none() -> None:
    seen: list[list[float]] = []

    def function(points: Tensor) -> tuple[Tensor]:
        seen.append(points.tolist())
        return (points,)

    in_rows(function, 4)(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    assert seen == [[1, 2, 3, 4], [5, 6, 5, 6]]


def test_frozen_weights_are_as_they_were_afterwards_also_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    model[1].weight.grad = gradient = torch.ones(2, 2)
    with frozen(model), frozen(model):
        assert not any(p.requires_grad for p in model.parameters())
        assert not model(torch.ones(1, 2)).requires_grad
    with pytest.raises(ZeroDivisionError), frozen(model):
        raise ZeroDivisionError
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    assert model[1].weight.grad is gradient


def test_what_has_no_weights_can_be_frozen() -> None:
    with frozen(lambda pixels: pixels):
        pass


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9")
def test_float32_only_also_where_tf32_was_set_by_place() -> None:
    place: Any = torch.backends.cuda.matmul
    before = place.fp32_precision
    try:
        place.fp32_precision = "tf32"
        with float32_only(CPU):
            assert place.fp32_precision == "ieee"
        assert place.fp32_precision == "tf32"
    finally:
        place.fp32_precision = before
    torch.get_float32_matmul_precision()  # as a whole it can be read again


def test_float32_only_switches_autocast_and_tf32_off_and_back() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    layer, points = nn.Linear(4, 4), torch.ones(1, 4)

    def inside() -> None:
        assert layer(points).dtype == torch.float32
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
        raise ZeroDivisionError

    try:
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.allow_tf32 = True
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(points).dtype == torch.bfloat16
            with pytest.raises(ZeroDivisionError), float32_only(CPU):
                inside()
            assert layer(points).dtype == torch.bfloat16
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
