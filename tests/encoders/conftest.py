from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.encoders.small import save_clip, save_siglip

from zsrobust.encoders.huggingface import HuggingFaceEncoder, from_folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("checkpoints") / "small-clip")


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_siglip(tmp_path_factory.mktemp("checkpoints") / "small-siglip")


@pytest.fixture
def clip(clip_folder: Path) -> HuggingFaceEncoder:
    return from_folder(clip_folder)


@pytest.fixture
def siglip(siglip_folder: Path) -> HuggingFaceEncoder:
    return from_folder(siglip_folder)


@pytest.fixture(params=["clip", "siglip"])
def base(request: pytest.FixtureRequest) -> HuggingFaceEncoder:
    """The small model of each family in turn."""
    found: HuggingFaceEncoder = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def broken(clip_folder: Path, tmp_path: Path) -> Callable[[], Path]:
    """A private copy of the small CLIP checkpoint, to be damaged."""
    return lambda: Path(shutil.copytree(clip_folder, tmp_path / "damaged"))
