"""The real CIFAR-10 photographs, where the machine has them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from zsrobust.tasks import task

FOLDER = os.environ.get("ZSROBUST_DATA", "")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not Path(FOLDER or "/nonexistent", "cifar10-test.parquet").is_file(),
        reason="ZSROBUST_DATA names no folder with cifar10-train.parquet and cifar10-test.parquet",
    ),
]


def test_cifar10_has_its_splits_apart():
    train, validation, test = (task("cifar10", split=split) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (45_000, 5_000, 10_000)
    assert not set(train.ids) & set(validation.ids)
    assert test.class_names[0] == "airplane"
    assert test.templates == ("This is a photo of a {}",)
    assert np.bincount(test.labels).tolist() == [1000] * 10


def test_cifar10_pixels_and_fingerprint():
    test = task("cifar10", limit=1000)
    images = test.images(range(1000))
    assert images.shape == (1000, 32, 32, 3)
    assert 100 < images.mean() < 140
    assert test.fingerprint == task("cifar10", limit=1000).fingerprint
    assert np.bincount(test.labels).tolist() == [100] * 10


def test_half_of_cifar10():
    some = task("cifar10", split="train", select=["airplane", "bird", "deer", "frog", "ship"], limit=50)
    assert some.class_names == ("airplane", "bird", "deer", "frog", "ship")
    assert np.bincount(some.labels).tolist() == [10] * 5
