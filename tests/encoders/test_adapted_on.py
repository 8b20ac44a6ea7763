"""What somebody else adapted a model on: read as the command line reads it, and never lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.encoders import foreign_files as files

from zsrobust.encoders import load
from zsrobust.encoders.adapted_on import read
from zsrobust.errors import ConfigError
from zsrobust.models import load_model
from zsrobust.tasks import names


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), ()),
        ("imagenet", ("imagenet",)),
        ("imagenet, digits,", ("imagenet", "digits")),
        (["imagenet", " LAION-400M "], ("imagenet", "LAION-400M")),
        ("unknown", ("unknown",)),
        (names(), tuple(names())),
        (map(str, ["imagenet", "digits"]), ("imagenet", "digits")),
        ("Digits", ("Digits", "digits")),
        (["mine", "ImageNet_R"], ("mine", "ImageNet_R", "imagenet-r")),
        ("food-101", ("food-101", "food101")),
        ("Unknown", ("Unknown", "unknown")),
    ],
)
def test_a_text_is_names_with_commas(given: Any, expected: tuple[str, ...]) -> None:
    assert read(given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (" , ", "is no name of a task and no list of names"),
        ([""], "is no name of a task and no list of names"),
        ([1], "is no name of a task and no list of names"),
        (5, "adapted_on=5 is no name of a task"),
    ],
)
def test_what_is_no_name_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("tiny", adapted_on=given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_both_ways_of_writing_are_the_same_and_what_a_base_does_not_know_stays_unknown(tmp_path: Path) -> None:
    base: Any = load(files.save_wide_clip(tmp_path / "base"))
    torch.save(files.bare(base.model), tmp_path / "tower.pt")
    clean = load(tmp_path / "tower.pt", base=base, adapted_on="imagenet")
    assert clean.provenance["adapted_on"] == ["imagenet"]
    written = f"{tmp_path}/tower.pt:base={tmp_path}/base:adapted_on=imagenet,digits"
    assert load_model(written, device="cpu").provenance["adapted_on"] == ["imagenet", "digits"]
    untold: Any = load(tmp_path / "tower.pt", base=base)
    torch.save(files.visual_prompts(64), tmp_path / "prompts.pt")
    for file in ("tower.pt", "prompts.pt"):
        told: Any = load(tmp_path / file, base=untold, adapted_on=["imagenet"])
        assert told.provenance["adapted_on"] == ["unknown", "imagenet"]
    # A model that was saved before it was told is told afterwards.
    saved = untold.save_pretrained(tmp_path / "saved")
    assert load(saved, adapted_on="imagenet").provenance["adapted_on"] == ["imagenet"]
