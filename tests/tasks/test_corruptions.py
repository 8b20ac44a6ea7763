"""Corruptions: closed forms where there are some, the same result always, and a task like any other."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

import zsrobust as zr
from zsrobust.errors import ConfigError, UnknownName
from zsrobust.geometry import Geometry
from zsrobust.tasks.corruptions import CONSTANTS, NAMES, SIZES, Corruption, disc, gaussian, nearest_size, taken_apart


def picture(side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (side, side, 3)).astype(np.uint8)


def flat(level: int, side: int = 64) -> np.ndarray:
    return np.full((side, side, 3), level, dtype=np.uint8)


def test_five_constants_for_every_size() -> None:
    for table in CONSTANTS.values():
        assert tuple(table) == SIZES
        assert all(len(row) == 5 for row in table.values())
    assert [nearest_size(side) for side in (8, 32, 45, 46, 64, 119, 120, 224, 336)] == [32] * 3 + [64] * 3 + [224] * 3


@pytest.mark.parametrize("name", NAMES)
def test_the_same_image_always_gives_the_same_result_and_others_do_not(name: str) -> None:
    image, before = picture(), picture()
    once, again = (Corruption(name, 3)(image, "a") for _ in range(2))
    assert np.array_equal(once, again)
    assert np.array_equal(image, before)
    assert once.shape == image.shape
    assert once.dtype == np.uint8
    assert not np.array_equal(once, image)
    random = name in ("noise", "shot")
    assert np.array_equal(once, Corruption(name, 3)(image, "b")) != random
    assert np.array_equal(once, Corruption(name, 3, seed=1)(image, "a")) != random


@pytest.mark.parametrize("name", NAMES)
def test_a_higher_strength_moves_the_pixels_further(name: str) -> None:
    smooth = np.asarray(Image.fromarray(picture(8)).resize((64, 64)), dtype=np.uint8)
    moved = [np.abs(Corruption(name, k)(smooth, "a").astype(int) - smooth).mean() for k in (1, 2, 3, 4, 5)]
    assert moved == sorted(moved)
    assert moved[4] > 1.2 * moved[0]


def test_closed_forms() -> None:
    grey = flat(100)
    assert np.array_equal(Corruption("blur", 5)(grey, ""), grey)
    assert np.array_equal(Corruption("defocus", 5)(grey, ""), grey)
    assert np.array_equal(Corruption("contrast", 5)(grey, ""), grey)
    assert np.array_equal(Corruption("brightness", 1)(grey, ""), flat(126))  # 100 + 0.1 * 255, rounded to even
    assert np.array_equal(Corruption("brightness", 5)(flat(0), ""), flat(128))
    red = np.zeros((64, 64, 3), dtype=np.uint8)
    red[..., 0] = 100
    assert Corruption("brightness", 1)(red, "")[0, 0].tolist() == [126, 0, 0]  # hue and saturation stay
    halves = flat(0)
    halves[:32] = 200
    assert set(np.unique(Corruption("contrast", 3)(halves, ""))) == {80, 120}  # 100 -+ 0.2 * 100


def test_the_noises_have_the_spread_that_they_are_named_for() -> None:
    noise = Corruption("noise", 3)(flat(128, 224), "a") / 255
    assert noise.std() == pytest.approx(0.18, rel=0.03)
    shot = Corruption("shot", 1)(flat(64, 224), "a") / 255
    assert shot.mean() == pytest.approx(64 / 255, abs=2e-3)
    assert shot.std() == pytest.approx((64 / 255 / 60) ** 0.5, rel=0.02)


def test_a_bell_and_a_disc() -> None:
    point = flat(0, 64)
    point[32, 32] = 255
    bell = gaussian(4, 1.0)
    assert np.array_equal(Corruption("blur", 3)(point, "")[28:37, 28:37, 0], np.rint(255 * np.outer(bell, bell)))
    kernel = disc(3, 1e-3)  # an edge that is not softened
    assert int((kernel > 0).sum()) == 29
    assert kernel.sum() == pytest.approx(1)
    assert disc(10, 0.5).shape == (21, 21)


def test_jpeg_is_pillows() -> None:
    stream = io.BytesIO()
    Image.fromarray(picture()).save(stream, "JPEG", quality=58)
    assert np.array_equal(Corruption("jpeg", 3)(picture(), ""), np.asarray(Image.open(stream)))


def test_a_corrupted_task_is_a_task() -> None:
    clean, noisy = zr.task("digits", limit=6), zr.task("digits@noise-3", limit=6)
    assert noisy.name == "digits@noise-3"
    assert noisy.follows_from == ("digits",)
    assert [noisy.image_id(i) for i in range(6)] == [clean.image_id(i) for i in range(6)]
    one = noisy.images([4])[0]
    assert np.array_equal(one, Corruption("noise", 3)(clean.images([4])[0], clean.image_id(4)))
    assert np.array_equal(one, noisy.images([0, 4])[1])
    assert noisy.describe()["geometry"] == "8x8 as is, then noise-3"
    tasks = [clean, noisy, zr.task("digits@noise-4", limit=6), zr.task("digits@noise-3", limit=6, seed=1)]
    assert len({task.fingerprint for task in tasks}) == 4
    assert clean.corrupted(Corruption("noise", 3)).fingerprint == noisy.fingerprint


def test_the_geometry_of_a_model_comes_before_the_corruption() -> None:
    clean = zr.task("digits", limit=2).with_geometry(Geometry(resize=16))
    noisy = zr.task("digits@shot-2", limit=2).with_geometry(Geometry(resize=16))
    assert np.array_equal(noisy.images([0])[0], Corruption("shot", 2)(clean.images([0])[0], clean.image_id(0)))


def test_what_is_no_corruption_is_one_line() -> None:
    assert taken_apart("my@home") == ("my@home", None)
    with pytest.raises(UnknownName, match="unknown corruption 'nose'; did you mean 'noise'"):
        zr.task("digits@nose-3")
    with pytest.raises(ConfigError, match="1, 2, 3, 4 or 5, not 6"):
        zr.task("digits@noise-6")
    with pytest.raises(ConfigError, match="has two corruptions"):
        zr.task("digits@noise-1@blur-1")
    with pytest.raises(ConfigError, match="corrupted already"):
        zr.task("digits@noise-1").corrupted(Corruption("blur", 1))
    with pytest.raises(UnknownName, match="unknown task 'digit'"):
        zr.task("digit@noise-1")
