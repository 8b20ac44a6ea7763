"""Every test is offline, on one thread and repeatable."""

from __future__ import annotations

import os

# Before torch is imported, and inherited by the processes that tests start. One thread: the suite's models are small,
# and sums split over threads would round differently from machine to machine.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("zsrobust", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("zsrobust")


@pytest.fixture(scope="session")
def random_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP of a few kilobytes, as a Hugging Face folder."""
    from tests.encoders.small import save_clip

    return save_clip(tmp_path_factory.mktemp("core") / "random-clip")
