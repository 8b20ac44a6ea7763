"""The projection on a hyperplane inside the box, against independent solvers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.fab_projections import projection_l2, projection_linf
from scipy.optimize import linprog
from torch import Tensor

from zsrobust.attacks.hyperplanes import onto_hyperplane

seeds = st.integers(0, 2**16)
norms = st.sampled_from(["linf", "l2"])


def case(seed: int, rows: int = 12, width: int = 30) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points with coordinates on the border, slopes of many sizes and zeros, values on both sides, some out of reach.

    Returns:
        points (rows, width), slopes (rows, width), values (rows,), reachable (rows,) bool.
    """
    draw = torch.Generator().manual_seed(seed)
    points = (torch.rand(rows, width, generator=draw) * 1.6 - 0.3).clamp(0, 1)
    slopes = torch.randn(rows, width, generator=draw) * 10.0 ** torch.randint(-2, 2, (rows, width), generator=draw)
    slopes[torch.rand(rows, width, generator=draw) < 0.2] = 0
    side = torch.randint(0, 2, (rows,), generator=draw) * 2.0 - 1
    share = torch.tensor([0.0, 1e-3, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 1.05, 3.0])[
        torch.randint(0, 10, (rows,), generator=draw)
    ]
    room = torch.where(-side[:, None] * slopes > 0, 1 - points, points)
    values = side * share * (slopes.abs() * room).sum(1)
    return points, slopes, values, share < 1


def bisected(points: Tensor, slopes: Tensor, values: Tensor, norm: str) -> Tensor:
    """The same by bisection on the logarithm of the multiplier, in float64."""
    x, w, lack = points.double(), slopes.double(), values.double().abs()
    aim = -values.double().sign()[:, None] * (w.sign() if norm == "linf" else w)

    def moved(multiplier: Tensor) -> Tensor:
        return (x + multiplier[:, None] * aim).clamp(0, 1) - x

    low, high = (torch.full((len(x),), power, dtype=torch.float64) for power in (-12.0, 8.0))
    for _ in range(60):
        middle = (low + high) / 2
        short = (w * moved(10**middle)).sum(1).abs() < lack
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return moved(10**high)


@given(seeds, norms)
@settings(max_examples=25)
def test_it_equals_a_bisection_on_the_multiplier(seed: int, norm: str) -> None:
    points, slopes, values, reachable = case(seed)
    found = onto_hyperplane(points, slopes, values, norm)
    torch.testing.assert_close(found.double(), bisected(points, slopes, values, norm), rtol=1e-4, atol=1e-5)
    inside = points + found
    assert bool(((inside >= -1e-6) & (inside <= 1 + 1e-6)).all())
    left = values + (slopes * found).sum(1)
    assert bool((left.abs() <= 1e-5 * slopes.abs().sum(1))[reachable].all())


@given(seeds)
@settings(max_examples=4)
def test_in_linf_no_shorter_way_exists_says_a_linear_program(seed: int) -> None:
    points, slopes, values, reachable = case(seed, rows=6)
    size = onto_hyperplane(points, slopes, values, "linf").abs().amax(1)
    for x, w, value, ours in zip(points[reachable], slopes[reachable], values[reachable], size[reachable], strict=True):
        eye, ones = np.eye(len(x)), np.ones((len(x), 1))
        solution = linprog(
            [0.0] * len(x) + [1.0],
            A_ub=np.block([[eye, -ones], [-eye, -ones]]), b_ub=np.zeros(2 * len(x)),
            A_eq=np.append(w.numpy(), 0.0)[None], b_eq=[-float(value)],
            bounds=[(-low, 1 - low) for low in x.tolist()] + [(0, 1)],
        )  # fmt: skip
        assert float(ours) == pytest.approx(solution.fun, rel=1e-4, abs=1e-5)


@given(seeds)
@settings(max_examples=15)
def test_in_l2_the_optimality_conditions_hold(seed: int) -> None:
    # δ is the shortest exactly where, away from the box's border, it is one multiple of w, and at the border no longer.
    points, slopes, values, reachable = case(seed)
    delta = onto_hyperplane(points, slopes, values, "l2")
    moves = slopes.abs() > 1e-3
    free = moves & (points + delta > 1e-5) & (points + delta < 1 - 1e-5)
    factor = delta / slopes
    for row in reachable.nonzero().squeeze(1).tolist():
        if bool(free[row].any()):
            multiple = factor[row][free[row]].mean()
            torch.testing.assert_close(delta[row][free[row]], multiple * slopes[row][free[row]], rtol=1e-3, atol=2e-6)
            assert bool((factor[row][moves[row]].abs() <= multiple.abs() * 1.001 + 2e-3).all())


@given(seeds, norms)
@settings(max_examples=10)
def test_it_equals_the_published_projection(seed: int, norm: str) -> None:
    points, slopes, values, _ = case(seed, width=75)
    published = {"linf": projection_linf, "l2": projection_l2}[norm]
    theirs = published(points, slopes, (slopes * points).sum(1) - values)
    torch.testing.assert_close(onto_hyperplane(points, slopes, values, norm), theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_hyperplane_that_misses_the_box_is_met_at_the_nearest_corner(norm: str) -> None:
    points, slopes = torch.tensor([[0.2, 0.5, 0.0, 1.0]]), torch.tensor([[1.0, -3.0, 0.0, 0.001]])
    corner = onto_hyperplane(points, slopes, torch.tensor([100.0]), norm)
    torch.testing.assert_close(points + corner, torch.tensor([[0.0, 1.0, 0.0, 0.0]]))
    other = onto_hyperplane(points, slopes, torch.tensor([-100.0]), norm)
    torch.testing.assert_close(points + other, torch.tensor([[1.0, 0.0, 0.0, 1.0]]))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("value", [0.0, 2.0])
def test_without_a_slope_nothing_moves(norm: str, value: float) -> None:
    points = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    delta = onto_hyperplane(points, torch.zeros_like(points), torch.full((2,), value), norm)
    assert torch.equal(delta, torch.zeros_like(points))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e20])
def test_the_scale_of_a_function_does_not_matter(norm: str, scale: float) -> None:
    points, slopes, values, _ = case(3)
    expected = onto_hyperplane(points, slopes, values, norm)
    torch.testing.assert_close(onto_hyperplane(points, slopes * scale, values * scale, norm), expected)


@given(seeds, norms)
@settings(max_examples=10)
def test_a_row_does_not_depend_on_the_others(seed: int, norm: str) -> None:
    points, slopes, values, _ = case(seed)
    whole = onto_hyperplane(points, slopes, values, norm)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(onto_hyperplane(points[order], slopes[order], values[order], norm), whole[order])
    alone = onto_hyperplane(points[:1], slopes[:1], values[:1], norm)
    assert torch.equal(alone, whole[:1])
