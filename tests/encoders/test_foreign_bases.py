"""A file on its base: what the options say of both, another input size, and what the model is called."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.encoders import foreign_files as files

from zsrobust.encoders import load
from zsrobust.encoders.huggingface import HuggingFaceEncoder
from zsrobust.errors import ConfigError, ModelError
from zsrobust.models import load_model, what_was_found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.save_wide_clip(tmp_path_factory.mktemp("wide") / "base")


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    encoder: Any = load(base)
    return encoder.model


def test_a_full_model_in_a_file_is_a_base(base: Path, model: Any, tmp_path: Path) -> None:
    torch.save(files.flat(model), tmp_path / "full.pt")
    torch.save({name: 1.05 * tensor for name, tensor in files.bare(model).items()}, tmp_path / "tower.pt")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, tmp_path)
    expected: Any = load(tmp_path / "tower.pt", base=base)
    opened: Any = load(tmp_path / "tower.pt", base=tmp_path / "full.pt", activation="gelu")
    written: Any = load_model(f"{tmp_path}/tower.pt:base={tmp_path}/full.pt:activation=gelu", device="cpu")
    assert opened.model.config.vision_config.hidden_act == "gelu"
    pixels = torch.rand(1, 3, 32, 32)
    for encoder in (opened, written):
        assert torch.equal(encoder.encode_pixels(pixels), expected.encode_pixels(pixels))
    with pytest.raises(ConfigError, match=r"full\.pt does not say its activation"):
        load(tmp_path / "tower.pt", base=tmp_path / "full.pt")


def test_a_tower_of_another_size_opens_its_base_at_that_size(base: Path, model: Any, tmp_path: Path) -> None:
    large: Any = load(base, size=48)
    for _, weight in large.visual_parameters():
        weight.mul_(1.05)
    torch.save(files.bare(large.model), tmp_path / "tower.pt")
    torch.save({**files.tecoa(large.model), **files.visual_prompts(64, size=48)}, tmp_path / "both.pt")
    with pytest.raises(ModelError, match=r"image size 48, not 32 \(size=48 opens the base at that size\)$"):
        load(tmp_path / "tower.pt", base=base)
    for opened in (
        load(tmp_path / "tower.pt", base=base, size=48),
        load_model(f"{tmp_path}/tower.pt:base={base}:size=48", device="cpu"),
    ):
        assert isinstance(opened, HuggingFaceEncoder)
        assert opened.fingerprint() == large.fingerprint()
        assert ", opened at 48 pixels" in what_was_found(opened)
        assert opened.provenance["resized"] == large.provenance["resized"]  # whom a report pairs it with
    assert load(tmp_path / "both.pt", base=base, size=48).input_size == (48, 48)
    for size in (64, 32):
        with pytest.raises(ModelError, match="size=48 opens the base"):
            load(tmp_path / "tower.pt", base=base, size=size)
    tower = files.bare(large.model)
    tower["proj"] = torch.cat([tower["proj"]] * 2, -1)
    torch.save(tower, tmp_path / "other.pt")
    with pytest.raises(ModelError, match=r"image size 48, not 32; projection 24, not 12$"):
        load(tmp_path / "other.pt", base=base, size=48)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("eps4/fare_eps_4.pt", "fare_eps_4"),
        ("eps4/checkpoints/final.pt", "eps4-final"),
        ("eps4/model_best.pth.tar", "eps4-model_best"),
        ("eps4/checkpoint.pth.tar", "eps4-checkpoint"),
        ("eps4/checkpoints/epoch_32.pt", "eps4-epoch_32"),
        ("eps4/visual.safetensors", "eps4"),
        ("eps4/model/open_clip_model.safetensors", "eps4"),
        ("eps4/pytorch_model.bin", "eps4"),
    ],
)
def test_what_every_folder_has_is_called_after_it(base: Path, model: Any, tmp_path: Path, path: str, name: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    if file.suffix == ".safetensors":
        save_file(files.bare(model), file)
    else:
        torch.save(files.bare(model), file)
    assert load(file, base=base).name == name


def test_the_name_is_of_the_folder_from_wherever_it_is_written(
    base: Path, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "eps4" / "deep").mkdir(parents=True)
    torch.save(files.bare(model), tmp_path / "eps4" / "final.pt")
    for folder, path in (("eps4", "final.pt"), ("eps4/deep", "../final.pt"), (".", "eps4/deep/../final.pt")):
        monkeypatch.chdir(tmp_path / folder)
        assert load(path, base=base).name == "eps4-final"
        monkeypatch.undo()
