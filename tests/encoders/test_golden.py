"""The golden vector notices another activation, tower, tokenizer or precision; another input size is worked out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.encoders.small import edit_json

from zsrobust.encoders import golden, load
from zsrobust.encoders.positions import interpolated
from zsrobust.errors import ConfigError, ModelError


def weights(folder: Path, edit: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    path = folder / "model.safetensors"
    save_file({name: edit(name, tensor.clone()) for name, tensor in load_file(path).items()}, path)


def test_what_is_saved_opens_and_the_numbers_are_those_of_the_features(clip: Any, tmp_path: Path) -> None:
    folder = clip.save_pretrained(tmp_path / "saved")
    stored = json.loads((folder / "zsrobust.json").read_text())["golden"]
    assert stored == golden.golden(clip)
    features = clip.encode_texts([golden.TEXT])[0]
    assert stored["text"] == [float(features[i]) for i in (0, 2, 3, 5, 6, 8, 9, 11)]
    again = load(folder)
    assert "golden" not in again.provenance
    clip.train()
    assert golden.golden(clip) == stored
    assert clip.training


def other_activation(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for part in ("vision_config", "text_config"):
        config[part]["hidden_act"] = {"quick_gelu": "gelu", "gelu": "quick_gelu"}[config[part]["hidden_act"]]
    (folder / "config.json").write_text(json.dumps(config))


def other_tower(folder: Path) -> None:
    weights(folder, lambda name, tensor: tensor * 1.5 if name.startswith("visual_projection") else tensor)


def other_text(folder: Path) -> None:
    weights(folder, lambda name, tensor: tensor * 1.5 if name.startswith("text_projection") else tensor)


def half(folder: Path) -> None:
    weights(folder, lambda _, tensor: tensor.bfloat16().float())


def float16(folder: Path) -> None:
    weights(folder, lambda _, tensor: tensor.half().float())


def other_mean(folder: Path) -> None:
    edit_json(folder / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5])


def not_golden(folder: Path) -> None:
    edit_json(folder / "zsrobust.json", golden={"image": [1.0]})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_activation, r"its activation was quick_gelu and config.json says gelu"),
        (other_tower, "image features by .*; likely another visual tower"),
        (other_text, "text features by .*; likely another text tower or tokenizer"),
        (half, "as little as another precision of the weights does"),
        (float16, "as little as another precision of the weights does"),
        (other_mean, "likely another visual tower, or another mean and std"),
        (not_golden, "the golden vector is not 8 numbers"),
    ],
)
def test_a_model_that_is_not_the_one_that_was_saved(clip: Any, tmp_path: Path, damage: Any, message: str) -> None:
    folder = clip.save_pretrained(tmp_path / "saved")
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_float16_of_the_embedded_model_is_noticed_and_other_kernels_are_not() -> None:
    tiny: Any = load("tiny")
    stored = golden.golden(tiny)
    tiny.set_attention("eager")
    kernels = golden.golden(tiny)
    for parameter in tiny.parameters():
        parameter.data = parameter.data.half().float()
    rounded = golden.golden(tiny)
    apart = [[golden._apart(found[part], stored[part]) for part in stored] for found in (kernels, rounded)]
    assert 20 * max(apart[0]) < golden.TOLERANCE < min(apart[1])


def test_an_exact_resize_and_a_crop_of_that_size_is_resized(clip_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(clip_folder, tmp_path / "clip"))
    pair = {"height": 32, "width": 32}
    edit_json(folder / "preprocessor_config.json", size=pair, crop_size=pair, do_center_crop=True)
    after: Any = load(folder, size=48)
    assert (after.geometry.resize, after.geometry.crop) == ((48, 48), (48, 48))
    assert load(after.save_pretrained(tmp_path / "saved")).geometry == after.geometry


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_another_input_size(family: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder: Path = request.getfixturevalue(f"{family}_folder")
    before: Any = load(folder)
    after: Any = load(folder, size=48)
    assert after.input_size == after.geometry.output_size == (48, 48)
    assert after.model.config.vision_config.image_size == 48
    assert after.name == f"{before.name}:size=48"
    assert after.provenance["resized"]["to"] == 48
    assert after.encode_pixels(torch.rand(2, 3, 48, 48)).shape == (2, 12 if family == "clip" else 16)
    assert torch.equal(after.encode_texts(["a cat"]), before.encode_texts(["a cat"]))
    again = load(after.save_pretrained(tmp_path / "larger"))
    assert again.fingerprint() == after.fingerprint()
    same: Any = load(folder, size=before.input_size[0])
    assert same.fingerprint() == before.fingerprint()
    for wrong in (50, 0, True):
        with pytest.raises(ConfigError, match="is no multiple of the model's patches of 8 pixels"):
            load(folder, size=wrong)


def test_positions_are_interpolated_and_the_class_token_kept() -> None:
    """A plane stays a plane away from the border, and the number that all patches share stays exactly that."""
    grid = torch.arange(8.0)
    plane = torch.stack([grid[:, None] + 0 * grid, 0 * grid[:, None] + grid, torch.full((8, 8), 7.0)], -1).reshape(
        64, 3
    )
    positions = torch.cat([torch.full((1, 3), 100.0), plane])
    found = interpolated(positions, 16, extra=1)
    assert torch.equal(found[:1], positions[:1])
    fine = found[1:].reshape(16, 16, 3)
    expected = (torch.arange(16) + 0.5) / 2 - 0.5
    torch.testing.assert_close(fine[8, 4:-4, 1], expected[4:-4])
    torch.testing.assert_close(fine[4:-4, 8, 0], expected[4:-4])
    torch.testing.assert_close(fine[..., 2], torch.full((16, 16), 7.0))
    assert torch.equal(interpolated(positions, 8, extra=1), positions)
