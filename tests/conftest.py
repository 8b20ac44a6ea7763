"""Every test is offline, on one thread and repeatable."""

from __future__ import annotations

import os

# Before torch is imported, and inherited by the processes that tests start. One thread: the suite's models are small,
# and sums split over threads would round differently from machine to machine.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
# Fixtures that tests share come before any test has a folder.
os.environ["ZSROBUST_CACHE"] = "off"

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from zsrobust.encoders.huggingface import HuggingFaceEncoder

settings.register_profile("zsrobust", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("zsrobust")

_numbers = itertools.count()


@pytest.fixture(scope="session")
def random_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP of a few kilobytes, as a Hugging Face folder."""
    from tests.encoders.small import save_clip

    return save_clip(tmp_path_factory.mktemp("core") / "random-clip")


@pytest.fixture
def clip(random_clip_folder: Path) -> HuggingFaceEncoder:
    from zsrobust.encoders.huggingface import from_folder

    return from_folder(random_clip_folder)


@pytest.fixture(autouse=True)
def _own_random_numbers() -> None:
    """Each test begins with the same global random numbers, alone or after any other."""
    import random

    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of each test's own, also for the processes that it starts. It is made when something is kept."""
    folder = tmp_path_factory.getbasetemp() / f"zsrobust-cache-{next(_numbers)}"
    monkeypatch.setenv("ZSROBUST_CACHE", str(folder))
    monkeypatch.delenv("ZSROBUST_CACHE_BYTES", raising=False)
    return folder
