"""The threat's geometry: projection, steepest direction, random start, and how ε is written."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zsrobust.errors import ConfigError, UnknownName
from zsrobust.threat import Threat, format_eps, parse_eps

SHAPE = (5, 3, 4, 6)
ROUNDING = 1e-6
seeds = st.integers(0, 2**32)
norms = st.sampled_from(["linf", "l2"])
radii = st.one_of(st.just(0.0), st.floats(1e-4, 3.0), st.sampled_from([1.0, 4 / 255, 1 / 255]))
written = st.one_of(
    st.integers(0, 254).map(lambda k: k / 255),
    st.integers(0, 2540).map(lambda k: k / 2550),
    st.floats(0, 1e6, allow_nan=False),
)


def images(seed: int) -> Tensor:
    """(5, 3, 4, 6) in [0, 1], with many pixels on the border of the box."""
    draw = torch.Generator().manual_seed(seed)
    return (torch.rand(SHAPE, generator=draw) * 1.6 - 0.3).clamp(0, 1)


def noise(seed: int, spread: float = 1.0) -> Tensor:
    return spread * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed + 1))


def allowed(threat: Threat, points: Tensor, pixels: Tensor) -> bool:
    in_box = bool(((points >= 0) & (points <= 1)).all())
    return in_box and bool((threat.size(points - pixels) <= threat.eps * (1 + 1e-5) + ROUNDING).all())


@given(norms, radii, seeds, st.sampled_from([0.01, 1.0, 100.0]))
def test_a_projection_is_in_the_ball_and_the_box(norm: str, eps: float, seed: int, spread: float) -> None:
    pixels, threat = images(seed), Threat(norm, float(eps))
    assert allowed(threat, threat.project(pixels + noise(seed, spread), pixels), pixels)


@given(norms, radii, seeds)
def test_a_projection_is_idempotent(norm: str, eps: float, seed: int) -> None:
    pixels, threat = images(seed), Threat(norm, float(eps))
    once = threat.project(pixels + noise(seed), pixels)
    twice = threat.project(once, pixels)
    if norm == "linf":
        assert torch.equal(once, twice)
    torch.testing.assert_close(once, twice, atol=ROUNDING, rtol=0)


@given(norms, radii, seeds, st.floats(0, 0.999))
def test_what_is_allowed_already_is_unchanged(norm: str, eps: float, seed: int, fraction: float) -> None:
    pixels, threat = images(seed), Threat(norm, float(eps))
    inside = (pixels + fraction * threat.eps * threat.steepest(noise(seed))).clamp(0, 1)
    if bool((threat.size(inside - pixels) <= threat.eps * 0.9999).all()):  # else rounding alone may be outside
        assert torch.equal(threat.project(inside, pixels), inside)


@given(radii, seeds)
def test_the_linf_projection_is_the_nearest_allowed_point(eps: float, seed: int) -> None:
    pixels, threat = images(seed), Threat("linf", float(eps))
    candidate = pixels + noise(seed)
    lower, upper = (pixels.double() - eps).clamp_min(0), (pixels.double() + eps).clamp_max(1)
    nearest = candidate.double().clamp(lower, upper)  # each channel on its own: nearest in every norm
    torch.testing.assert_close(threat.project(candidate, pixels).double(), nearest, atol=1e-6, rtol=0)


@given(seeds, st.floats(1e-3, 0.2))
def test_the_l2_projection_is_the_nearest_point_while_the_box_is_inactive(seed: int, eps: float) -> None:
    pixels = 0.4 + 0.2 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))
    threat, delta = Threat("l2", eps), noise(seed)
    shrunk = delta.double() * (eps / delta.double().flatten(1).norm(dim=1)).clamp_max(1).view(-1, 1, 1, 1)
    torch.testing.assert_close(threat.project(pixels + delta, pixels), (pixels + shrunk).float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_nothing_may_change_at_eps_0(norm: str) -> None:
    pixels = images(0)
    assert torch.equal(Threat(norm, 0).project(pixels + noise(0), pixels), pixels)
    assert torch.equal(Threat(norm, "0").random_start(pixels, torch.rand(SHAPE)), pixels)


def test_at_eps_1_every_image_of_the_box_is_allowed() -> None:
    pixels, other = images(0), images(1)
    assert torch.equal(Threat("linf", 1.0).project(other, pixels), other)
    assert torch.equal(Threat("l2", math.sqrt(pixels[0].numel())).project(other, pixels), other)


@given(norms, seeds, st.sampled_from([1e-30, 1e-6, 1.0, 1e30]))
def test_the_steepest_direction_has_unit_size_and_no_better_one_exists(norm: str, seed: int, scale: float) -> None:
    threat, gradient = Threat(norm, 1.0), noise(seed) * scale
    direction = threat.steepest(gradient)
    torch.testing.assert_close(threat.size(direction), torch.ones(5))
    unit = gradient.double() / scale
    gain = (direction * unit).flatten(1).sum(1)
    rival = noise(seed + 7)
    rival = rival / threat.size(rival).view(-1, 1, 1, 1)
    assert bool((gain >= (rival * unit).flatten(1).sum(1)).all())
    dual = unit.flatten(1).abs().sum(1) if norm == "linf" else unit.flatten(1).norm(dim=1)
    torch.testing.assert_close(gain, dual, rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_without_a_gradient_there_is_no_direction(norm: str) -> None:
    gradient = noise(0)
    gradient[2] = 0
    direction = Threat(norm, 1.0).steepest(gradient)
    assert torch.equal(direction[2], torch.zeros(SHAPE[1:]))
    assert torch.equal(direction[:2], Threat(norm, 1.0).steepest(gradient[:2]))


@given(norms, radii, seeds)
def test_a_random_start_is_allowed(norm: str, eps: float, seed: int) -> None:
    pixels, threat = images(seed), Threat(norm, float(eps))
    start = threat.random_start(pixels, torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)))
    assert allowed(threat, start, pixels)


def test_random_starts_fill_the_linf_ball_and_the_l2_sphere() -> None:
    pixels = torch.full((200, 3, 4, 6), 0.5)
    draw = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(0))
    cube = Threat("linf", 0.1).random_start(pixels, draw) - pixels
    assert abs(float(cube.mean())) < 2e-3
    assert float(cube.abs().max()) > 0.099
    assert float(cube.abs().mean()) == pytest.approx(0.05, abs=1e-3)
    sphere = Threat("l2", 0.1).random_start(pixels, draw) - pixels
    torch.testing.assert_close(sphere.flatten(1).norm(dim=1), torch.full((200,), 0.1), atol=1e-5, rtol=0)
    assert float(sphere.mean(0).flatten().norm()) < 0.1 * 3 / math.sqrt(200)


def test_random_starts_are_finite_for_the_extreme_random_numbers() -> None:
    pixels = images(0)
    for value in (0.0, 1 - 2**-24):
        assert bool(Threat("l2", 1.0).random_start(pixels, torch.full(SHAPE, value)).isfinite().all())


@given(norms, written, st.sampled_from(["native", "model"]))
def test_a_threat_reads_back_from_its_description(norm: str, eps: float, space: str) -> None:
    threat = Threat(norm, eps, space)
    assert Threat.parse(threat.describe()) == threat
    assert parse_eps(format_eps(eps)) == eps


@pytest.mark.parametrize(
    ("text", "value", "shown"),
    [
        ("4/255", 4 / 255, "4/255"),
        (" 4 / 255 ", 4 / 255, "4/255"),
        ("0.5/255", 0.5 / 255, "0.5/255"),
        ("8/510", 8 / 510, "4/255"),
        ("0", 0.0, "0"),
        (0, 0.0, "0"),
        (0.0, 0.0, "0"),
        ("1.0", 1.0, "1.0"),
        (4 / 255, 4 / 255, "4/255"),
        (np.float64(4 / 255), 4 / 255, "4/255"),
        ("1e-3", 1e-3, "0.001"),
        ("0.0157", 0.0157, "0.0157"),
    ],
)
def test_eps_is_read_and_shown(text: str | float, value: float, shown: str) -> None:
    assert parse_eps(text) == value
    assert format_eps(value) == shown
    assert Threat("linf", text).describe() == f"linf:{shown}:native"


@pytest.mark.parametrize("text", ["4", 4, "+4", np.int64(4)])
def test_a_bare_integer_is_a_question(text: str | float) -> None:
    with pytest.raises(ConfigError, match=r"ambiguous: did you mean \+?4/255\?"):
        parse_eps(text)


@pytest.mark.parametrize(
    "text", ["", "four", "4/0", "4/255/2", "nan", "inf", "-1/255", "-0.1", "1e999/255", "²", "+-5", "/", "1/", True]
)
def test_what_is_no_eps_is_refused_in_one_line(text: str | float) -> None:
    with pytest.raises(ConfigError, match="ε") as caught:
        parse_eps(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("eps", [None, [1], {"linf": 1}, (0.1, 0.2)])
def test_what_no_number_can_be_made_of_is_refused_in_one_line(eps: Any) -> None:
    with pytest.raises(ConfigError, match=r"^ε must be written like 4/255 or 0\.0157, not .*$"):
        Threat("linf", eps)


@pytest.mark.parametrize("given", [None, 4, ["linf"], {"linf": 1}])
def test_a_name_that_is_no_text_is_unknown(given: Any) -> None:
    with pytest.raises(UnknownName, match=r"^unknown norm '.*known: l2, linf, patch"):
        Threat(given)
    with pytest.raises(UnknownName, match=r"^unknown threat space '.*known: model, native"):
        Threat(space=given)


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UnknownName, match="norm 'Linf'; did you mean 'linf'"):
        Threat("Linf", "1/255")
    with pytest.raises(UnknownName, match="threat space 'nativ'; did you mean 'native'"):
        Threat("l2", "1/255", "nativ")


@pytest.mark.parametrize("text", ["linf", "linf:1/255:native:x", ""])
def test_another_form_of_a_threat_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="NORM:EPS"):
        Threat.parse(text)


def test_size_is_the_norm_over_all_channels() -> None:
    delta = torch.zeros(2, 3, 2, 2)
    delta[0, 0, 0, 0], delta[0, 2, 1, 1] = 3.0, -4.0
    assert Threat("linf", 1.0).size(delta).tolist() == [4.0, 0.0]
    assert Threat("l2", 1.0).size(delta).tolist() == [5.0, 0.0]


# Patches


def patched(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Images, and the same with ``count`` pixels of each anywhere set to something else."""
    pixels, draw = images(seed), torch.Generator().manual_seed(seed + 3)
    places = torch.rand(5, 24, generator=draw).argsort(1)[:, :count]
    where = torch.zeros(5, 24, dtype=torch.bool).scatter(1, places, True).view(5, 1, 4, 6)
    return pixels, torch.where(where, 3 * torch.rand(SHAPE, generator=draw) - 1, pixels)


@given(seeds, st.integers(0, 24), st.sampled_from([0.0, 0.05, 4 / 24, 9 / 24, 0.5, 1.0]))
def test_a_projected_patch_fits_into_one_square_and_undoes_as_little_as_possible(
    seed: int, count: int, part: float
) -> None:
    pixels, candidate = patched(seed, count)
    threat = Threat("patch", part)
    side = int((part * 24 + 1e-6) ** 0.5)
    found = threat.project(candidate, pixels)
    assert bool(((found >= 0) & (found <= 1)).all())
    assert torch.equal(threat.project(found, pixels), found)
    assert bool(threat.allows(threat.size(found - pixels)).all())
    boxed = candidate.clamp(0, 1)
    corners = [(i, j) for i in range(4 - side + 1) for j in range(6 - side + 1)] if side else []
    for image, all_, own in zip(found, boxed, pixels, strict=True):
        kept = [torch.where(square(i, j, side), all_, own) for i, j in corners] or [own]
        undone = [float((all_.double() - one).abs().sum()) for one in kept]
        assert any(torch.equal(image, one) for one in kept)
        assert float((all_.double() - image).abs().sum()) == pytest.approx(min(undone), abs=1e-9)


def square(i: int, j: int, side: int) -> Tensor:
    inside = torch.zeros(4, 6, dtype=torch.bool)
    inside[i : i + side, j : j + side] = True
    return inside


def test_the_size_of_a_patch_is_the_area_of_the_smallest_square_around_it() -> None:
    delta = torch.zeros(4, 3, 4, 6)
    delta[1, 2, 3, 5] = 1e-30
    delta[2, 0, 0, 0] = delta[2, 1, 1, 2] = -1.0
    delta[3, 0, 0, 0] = delta[3, 0, 0, 5] = 1.0
    torch.testing.assert_close(Threat("patch", 0.5).size(delta), torch.tensor([0, 1, 9, 36]) / 24)


@pytest.mark.parametrize(
    ("part", "height", "width", "side"),
    [
        (0.05, 32, 32, 7),
        (0.05, 8, 8, 1),
        (0.25, 8, 8, 4),
        (0.0, 8, 8, 0),
        (1.0, 8, 8, 8),
        (1.0, 4, 6, 4),
        (0.09, 10, 10, 3),
    ],
)
def test_the_side_of_a_patch_is_rounded_down(part: float, height: int, width: int, side: int) -> None:
    assert Threat("patch", part).side(height, width) == side


def test_a_patch_starts_at_random_and_climbs_in_the_heaviest_square() -> None:
    pixels, threat = images(0), Threat("patch", 4 / 24)
    start = threat.random_start(pixels, torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)))
    assert bool(threat.allows(threat.size(start - pixels)).all())
    gradient = 0.01 * noise(0)
    gradient[:, :, 1:3, 2:4] = 5.0
    expected = torch.zeros(SHAPE)
    expected[:, :, 1:3, 2:4] = 1.0
    assert torch.equal(threat.steepest(gradient), expected)


def test_a_patch_is_written_as_its_part_of_the_area() -> None:
    threat = Threat.parse("patch:0.1")
    assert threat.describe() == "patch:0.1:native"  # and not 25.5/255
    assert Threat.parse(threat.describe()) == threat
    assert Threat("patch", 0).describe() == "patch:0:native"
    with pytest.raises(ConfigError, match=r"more than the whole image.*patch:0\.1"):
        Threat("patch", 1.5)
