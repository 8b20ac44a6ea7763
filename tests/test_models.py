"""Models as people write them: paths and names first, then options and defences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.encoders.foreign_files import bare, flat, save_wide_clip

from zsrobust.errors import ConfigError, UnknownName
from zsrobust.models import Written, load_model, read, what_was_found


@pytest.mark.parametrize(
    ("text", "model", "options", "defences"),
    [
        ("tiny", "tiny", {}, ()),
        ("tiny:size=96", "tiny", {"size": "96"}, ()),
        ("tiny+ttc:steps=2+jpeg", "tiny", {}, ("ttc:steps=2", "jpeg")),
        (
            "my/tower.pt:base=openai/clip-vit-base-patch32:size=336+ttc",
            "my/tower.pt",
            {"base": "openai/clip-vit-base-patch32", "size": "336"},
            ("ttc",),
        ),
        ("hf-hub:chs20/fare2-clip:size=336", "hf-hub:chs20/fare2-clip", {"size": "336"}, ()),
        ("tower.pt:adapted_on=imagenet,cifar10+ttc", "tower.pt", {"adapted_on": "imagenet,cifar10"}, ("ttc",)),
        (r"C:\models\a.pt:activation=gelu:base=D:\b", r"C:\models\a.pt", {"activation": "gelu", "base": r"D:\b"}, ()),
    ],
)
def test_the_grammar(text: str, model: str, options: dict[str, str], defences: tuple[str, ...]) -> None:
    assert read(text) == Written(model, options, defences)


def test_existing_paths_go_before_the_grammar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a+b:size=2", "a+b", "tiny:x"):
        Path(name).mkdir()
    assert read("a+b:size=2") == Written("a+b:size=2", {}, ())
    assert read("a+b:size=3+jpeg") == Written("a+b", {"size": "3"}, ("jpeg",))
    assert read("tiny:x:size=4") == Written("tiny:x", {"size": "4"}, ())


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("tiny:sise=96", UnknownName, "unknown model option 'sise'; did you mean 'size'?"),
        ("tiny:size", ConfigError, "':size' is not :option=value, with base, activation, size, adapted_on"),
        ("tiny:size=", ConfigError, "has the option 'size' empty"),
        ("tiny:size=96:size=64", ConfigError, "has the option 'size' twice"),
        ("tiny:size=big", ConfigError, "size=big is no number of pixels"),
        ("tiny+", ConfigError, "'+' stands before a defence, as in tiny+ttc"),
        ("tiny++ttc", ConfigError, "'+' stands before a defence"),
        ("tiny+tcc", UnknownName, "did you mean 'ttc'"),
        ("tinny:size=64", UnknownName, "unknown model 'tinny'; did you mean 'tiny'"),
        ("tiny:size=65", ConfigError, "size=65 is no multiple of the model's patches of 8 pixels"),
        ("tiny:base=tiny", ConfigError, "'tiny' is a whole model"),
    ],
)
def test_what_is_written_wrongly_is_one_line(text: str, kind: Any, message: str) -> None:
    with pytest.raises(kind) as caught:
        load_model(text, device="cpu")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_written_model_is_what_load_gives(tmp_path: Path) -> None:
    folder = save_wide_clip(tmp_path / "run" / "model")  # as adapt leaves a run: called after the run
    base: Any = load_model(str(tmp_path / "run"), device="cpu")
    assert base.name == "run"
    assert what_was_found(base) == ""
    torch.save(bare(base.model), tmp_path / "tower.pt")
    tower: Any = load_model(f"{tmp_path}/tower.pt:base={tmp_path}/run:size=48", device="cpu")
    assert tower.input_size == (48, 48)
    assert tower.name == "tower:size=48"
    assert what_was_found(tower).startswith("Read   tower:size=48: visual tower alone (bare); text tower, tokenizer")
    assert tower.provenance["base_model"] == "model"
    torch.save(flat(base.model), tmp_path / "full.pt")
    whole: Any = load_model(f"{tmp_path}/full.pt:activation=gelu:base={folder}", device="cpu")
    assert whole.fingerprint() == base.fingerprint()
    assert load_model(whole) is whole
    sized: Any = load_model(f"{tmp_path}/run:size=48", device="cpu")
    assert (sized.name, sized.input_size) == ("run:size=48", (48, 48))


def test_what_somebody_else_adapted_a_model_on_is_added_to_its_story(tmp_path: Path) -> None:
    assert load_model("tiny:adapted_on=imagenet, digits", device="cpu").provenance["adapted_on"] == [
        "imagenet",
        "digits",
    ]
    assert load_model("tiny", device="cpu").provenance["adapted_on"] == []
