"""Every public format opens as the same model, and says what was found and decided."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.encoders import foreign_files as files

from zsrobust.encoders import foreign, load, openclip
from zsrobust.errors import ConfigError, ModelError, ZSRobustError


@pytest.fixture(scope="module", params=["quick_gelu", "gelu"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.save_wide_clip(tmp_path_factory.mktemp("wide") / "base", activation=request.param)


@pytest.fixture(scope="module")
def gelu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.save_wide_clip(tmp_path_factory.mktemp("gelu") / "base")


@pytest.fixture(scope="module")
def robust(gelu: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The model as if adapted: only its visual tower differs."""
    encoder: Any = load(gelu)
    with torch.no_grad():
        for _, parameter in encoder.visual_parameters():
            parameter.mul_(1.05)
    return encoder


def features(encoder: Any) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return encoder.encode_pixels(pixels), encoder.encode_texts(["a cat", "a dog &amp; b"])


def same(left: Any, right: Any) -> None:
    for ours, theirs in zip(features(left), features(right), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert left.logit_scale == right.logit_scale
    assert left.fingerprint() == right.fingerprint()  # weights, bit for bit, and preprocessing


FULL = {
    "flat.pt": lambda s: s,
    "custom.bin": files.custom_text,
    "epoch_3.pt": lambda s: {"epoch": 3, "name": "run", "state_dict": files.module(s), "optimizer": {}},
}


@pytest.mark.parametrize("name", [*FULL, "flat.safetensors"])
def test_full_files_of_open_clip(base: Path, tmp_path: Path, name: str) -> None:
    original: Any = load(base)
    activation = original.model.config.vision_config.hidden_act
    state, path = files.flat(original.model), tmp_path / name
    if name.endswith(".safetensors"):
        save_file(state, path)
    else:
        torch.save(FULL[name](state), path)
    opened: Any = load(path, activation=activation, base=base)
    same(opened, original)
    assert opened.name in (name.split(".")[0], f"{tmp_path.name}-epoch_3")
    assert opened.model.config.text_config.hidden_act == activation
    story = opened.provenance
    assert "open_clip full model" in story["format"]
    assert f"activation {activation} (given)" in story["conversion"]
    assert "heads 1 (visual, of base) and 1 (text, of base)" in story["conversion"]
    assert any("OpenAI" in line and "mean" in line for line in story["conversion"])
    with pytest.raises(ConfigError, match=r"activation=quick_gelu .* or activation=gelu"):
        load(path, base=base)


def test_heads_of_a_bare_full_file_are_those_of_a_base_of_its_width(
    clip_folder: Path, gelu: Path, tmp_path: Path
) -> None:
    """The small CLIP has heads of 8 numbers, which its width of 16 does not say."""
    original: Any = load(clip_folder)
    torch.save(files.flat(original.model), tmp_path / "full.pt")
    opened: Any = load(tmp_path / "full.pt", activation="quick_gelu", base=clip_folder)
    same(opened, original)
    assert "heads 2 (visual, of small-clip) and 2 (text, of small-clip)" in opened.provenance["conversion"]
    with pytest.raises(ModelError, match=r"visual tower of width 16 may have heads of another width than 64: .*base="):
        load(tmp_path / "full.pt", activation="quick_gelu", base=gelu)


def facts(vision_width: int, text_width: int) -> dict[str, Any]:
    return {
        "vision_width": vision_width, "text_width": text_width, "embed_dim": 12, "image_size": 28, "patch_size": 14,
        "vision_layers": 1, "vision_mlp": 16, "context_length": 24, "vocab_size": 516, "text_layers": 1, "text_mlp": 16,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("vision", "text", "tower"), [(1280, 1024, "visual"), (1408, 1024, "visual"), (1664, 1280, "visual"),
                                  (1024, 1280, "text")],
)  # fmt: skip
def test_wide_towers_without_a_config_are_not_guessed(vision: int, text: int, tower: str) -> None:
    """open_clip's ViT-H-14, ViT-g-14 and ViT-bigG-14 have heads of 80, 88 and 104 numbers."""
    with pytest.raises(
        ModelError, match=rf"{tower} tower of width \d+ may have heads .*open_clip_config.json"
    ) as caught:
        foreign.full_cfg(facts(vision, text), None)
    assert "\n" not in str(caught.value)


def test_a_base_gives_a_wide_tower_its_heads(clip_folder: Path) -> None:
    base: Any = load(clip_folder)
    config = base.model.config
    config.vision_config.hidden_size, config.vision_config.num_attention_heads = 1280, 16
    cfg, told = foreign.full_cfg(facts(1280, 1024), base)
    found = openclip.clip_config(cfg, "gelu")
    assert (found.vision_config.num_attention_heads, found.text_config.num_attention_heads) == (16, 16)
    assert told == "heads 16 (visual, of small-clip) and 16 (text, width / 64 as all of OpenAI's)"


@pytest.mark.parametrize("custom", [False, True])
def test_folders_of_open_clip(base: Path, tmp_path: Path, custom: bool) -> None:
    original: Any = load(base)
    folder = files.openclip_folder(tmp_path / "repo", original.model, base, custom=custom)
    opened: Any = load(folder)
    same(opened, original)
    assert opened.provenance["format"] == f"open_clip folder, {'text.' if custom else 'flat'} layout"
    activation = original.model.config.vision_config.hidden_act
    assert f"activation {activation} (open_clip_config.json)" in opened.provenance["conversion"]
    assert opened.geometry == original.geometry
    other = {"gelu": "quick_gelu", "quick_gelu": "gelu"}[activation]
    with pytest.raises(ConfigError, match=f"activation={other} was given, but .* says {activation}"):
        load(folder, activation=other)
    # there and back again: what is saved from it is transformers' layout, and the same model
    again = load(opened.save_pretrained(tmp_path / "saved"))
    same(again, original)
    assert again.provenance["converted_from"] == opened.provenance["format"]
    assert "format" not in again.provenance


def test_preprocessing_of_open_clip(gelu: Path, tmp_path: Path) -> None:
    model = load(gelu).model  # type: ignore[attr-defined]
    half = [0.5, 0.5, 0.5]
    options = {"mean": half, "std": half, "interpolation": "bilinear", "resize_mode": "squash"}
    opened: Any = load(files.openclip_folder(tmp_path / "squash", model, gelu, **options))
    assert opened.preprocessing.mean == opened.preprocessing.std == (0.5, 0.5, 0.5)
    assert opened.geometry.describe() == "exactly 32x32 bilinear"
    assert opened.resize_description == "torch bilinear, antialias"
    assert load(opened.save_pretrained(tmp_path / "saved")).fingerprint() == opened.fingerprint()
    for i, (wrong, message) in enumerate(
        [
            ({"resize_mode": "longest"}, "resize_mode longest"),
            ({"interpolation": "nearest"}, "interpolation nearest"),
            ({"size": 64}, "ends at 64 pixels, the tower takes 32"),
            ({"interpolation": ["bicubic"]}, r"interpolation \['bicubic'\]"),
            ({"mean": [1, 2]}, "three numbers"),
            ({"std": [1, 1, float("nan")]}, "three numbers"),
            ({"size": [[32]]}, r"ends at \[32\] pixels"),
        ]
    ):
        with pytest.raises(ModelError, match=message):
            load(files.openclip_folder(tmp_path / f"wrong{i}", model, gelu, **wrong))


def towers(model: Any) -> dict[str, Any]:
    prefixed = {f"visual.{name}": tensor for name, tensor in files.bare(model).items()}
    return {
        "fare_eps_4.pt": files.bare(model),
        "prefixed.bin": prefixed,
        "parallel.pt": files.module(files.bare(model)),
        "model_best.pth.tar": files.tecoa(model),
        "namespace.pt": {"state_dict": prefixed, "args": argparse.Namespace(lr=1e-5)},
    }


@pytest.mark.parametrize("name", ["fare_eps_4.pt", "prefixed.bin", "parallel.pt", "model_best.pth.tar", "namespace.pt"])
def test_visual_towers_on_a_base(robust: Any, gelu: Path, tmp_path: Path, name: str) -> None:
    torch.save(towers(robust.model)[name], tmp_path / name)
    opened: Any = load(tmp_path / name, base=gelu)
    same(opened, robust)
    assert not torch.equal(features(opened)[0], features(load(gelu))[0])
    assert "visual tower" in opened.provenance["format"]
    assert "activation gelu (the base's)" in opened.provenance["conversion"]
    assert opened.provenance["adapted_on"] == ["unknown"]
    told = load(tmp_path / name, base=gelu, adapted_on=["imagenet"])
    assert told.provenance["adapted_on"] == ["imagenet"]
    with pytest.raises(ConfigError, match=r"holds only a visual tower of width 64, .* base=openai/clip"):
        load(tmp_path / name)
    with pytest.raises(ConfigError, match="activation=quick_gelu was given, but the base base says gelu"):
        load(tmp_path / name, base=gelu, activation="quick_gelu")


def by_the_papers_code(base: Any, found: dict[str, Any], pixels: torch.Tensor) -> torch.Tensor:
    """Strips on the normalised image, tokens after the patches and before ln_pre (prompters.py, replace/model.py)."""
    strips = {name.removeprefix("module."): tensor for name, tensor in found["state_dict"].items()}
    image = base.normalised(pixels).clone()
    pad = strips["pad_up"].shape[2]
    image[:, :, :pad] += strips["pad_up"]
    image[:, :, -pad:] += strips["pad_down"]
    image[:, :, pad:-pad, :pad] += strips["pad_left"]
    image[:, :, pad:-pad, -pad:] += strips["pad_right"]
    visual = base.model.vision_model
    hidden = visual.embeddings(image)
    tokens = found["add_prompter"]["module.prompt"].expand(len(image), -1, -1)
    hidden = visual.pre_layrnorm(torch.cat([hidden, tokens], 1))
    for block in visual.encoder.layers:
        hidden = block(hidden, None)
    return base.model.visual_projection(visual.post_layernorm(hidden[:, 0]))


def test_visual_prompts_of_the_papers_code(gelu: Path, tmp_path: Path) -> None:
    found = files.visual_prompts(64)
    torch.save(found, tmp_path / "vp.pth.tar")
    opened: Any = load(tmp_path / "vp.pth.tar", base=gelu)
    plain: Any = load(gelu)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        opened.encode_pixels(pixels), by_the_papers_code(plain, found, pixels), atol=1e-5, rtol=0
    )
    assert torch.equal(opened.encode_texts(["a cat"]), plain.encode_texts(["a cat"]))
    assert opened.describe_prompt()["pixel"] == {"shape": "frame", "width": 3, "where": "after"}
    assert "visual prompts alone" in opened.provenance["format"]
    again = load(opened.save_pretrained(tmp_path / "saved"))
    assert torch.equal(again.encode_pixels(pixels), opened.encode_pixels(pixels))


def test_what_a_base_was_adapted_on_stays(gelu: Path, robust: Any, tmp_path: Path) -> None:
    base: Any = load(gelu, adapted_on=["digits"])
    torch.save(files.visual_prompts(64), tmp_path / "vp.pth.tar")
    torch.save(files.bare(robust.model), tmp_path / "tower.pt")
    for name in ("vp.pth.tar", "tower.pt"):
        assert load(tmp_path / name, base=base).provenance["adapted_on"] == ["digits", "unknown"]
        told = load(tmp_path / name, base=base, adapted_on=["imagenet"])
        assert told.provenance["adapted_on"] == ["digits", "imagenet"]
    twice: Any = load(tmp_path / "tower.pt", base=gelu)
    assert load(tmp_path / "vp.pth.tar", base=twice).provenance["adapted_on"] == ["unknown"]


def test_a_tower_with_prompts_and_their_positions(robust: Any, gelu: Path, tmp_path: Path) -> None:
    found = {**files.tecoa(robust.model), **files.visual_prompts(64, count=4)}
    position = torch.randn(4, 64, generator=torch.Generator().manual_seed(5))
    found["vision_encoder_state_dict"] = {**found["vision_encoder_state_dict"], "prompt_pos_embedding": position}
    torch.save(found, tmp_path / "both.pth.tar")
    opened: Any = load(tmp_path / "both.pth.tar", base=gelu)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    moved = {**found, "add_prompter": {"module.prompt": found["add_prompter"]["module.prompt"] + position}}
    expected = by_the_papers_code(robust, moved, pixels)
    torch.testing.assert_close(opened.encode_pixels(pixels), expected, atol=1e-5, rtol=0)


def test_half_precision_is_told(robust: Any, gelu: Path, tmp_path: Path) -> None:
    torch.save({k: v.half() for k, v in files.bare(robust.model).items()}, tmp_path / "half.pt")
    opened: Any = load(tmp_path / "half.pt", base=gelu)
    assert "weights stored in float16, used in float32" in opened.provenance["conversion"]
    assert {parameter.dtype for parameter in opened.parameters()} == {torch.float32}


def test_half_precision_of_prompts_is_told_and_a_frame_of_width_0_is_none(gelu: Path, tmp_path: Path) -> None:
    found = files.visual_prompts(64, pad=0)
    found["add_prompter"] = {"module.prompt": found["add_prompter"]["module.prompt"].half()}
    torch.save(found, tmp_path / "vp.pth.tar")
    opened: Any = load(tmp_path / "vp.pth.tar", base=gelu)
    assert opened.describe_prompt() == {"tokens": {"count": 5, "depth": "shallow", "position": "none"}}
    assert "weights stored in float16, used in float32" in opened.provenance["conversion"]


def test_buffers_are_left_out(robust: Any, gelu: Path, tmp_path: Path) -> None:
    ids = {"visual.position_ids": torch.arange(17), "text.position_ids": torch.arange(24), "attn_mask": torch.ones(2)}
    torch.save(files.flat(robust.model) | ids, tmp_path / "full.pt")
    same(load(tmp_path / "full.pt", base=gelu, activation="gelu"), robust)
    torch.save(files.bare(robust.model) | {"position_ids": torch.arange(17)}, tmp_path / "tower.pt")
    same(load(tmp_path / "tower.pt", base=gelu), robust)


def test_options_that_have_nothing_to_decide_are_refused(gelu: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"base": "tiny"}, "base was given, but 'base' is a whole model"),
        ({"activation": "quick_gelu"}, "activation=quick_gelu was given, but the config of base says gelu"),
        ({"activation": "gelo"}, "unknown activation 'gelo'; did you mean 'gelu'"),
    ]
    for options, message in cases:
        with pytest.raises(ZSRobustError, match=message):
            load(gelu, **options)
    assert load(gelu, activation="gelu").name == "base"
