"""Features are transformers' own, through the whole path; and what an attack and an adaptation rely on."""

from __future__ import annotations

import copy
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.encoders.small import edit_json, save_clip, save_json, save_siglip
from torch import Tensor

from zsrobust import text_head
from zsrobust.encoders import Encoder
from zsrobust.encoders.activations import activation_of, set_activation
from zsrobust.encoders.huggingface import HuggingFaceEncoder, from_folder, quiet
from zsrobust.errors import ConfigError

SIZES = [(32, 32), (33, 47), (61, 40), (24, 31), (200, 37), (17, 90), (640, 427)]
TEXTS = ["a photo of a cat.", "a dog", "the number 7, in blue", "café au lait"]


def noise_image(size: tuple[int, int]) -> Image.Image:
    height, width = size
    values = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def to_pixels(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def reference(folder: Path) -> tuple[object, object, object]:
    """transformers' own model, PIL image processor and tokenizer."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    with quiet():
        model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        return model, processor, AutoTokenizer.from_pretrained(folder)


@pytest.fixture(params=["clip", "siglip"])
def case(request: pytest.FixtureRequest) -> tuple[Path, HuggingFaceEncoder]:
    return request.getfixturevalue(f"{request.param}_folder"), request.getfixturevalue(request.param)


def test_image_features_are_those_of_transformers_through_the_whole_path(case) -> None:
    folder, encoder = case
    model, processor, _ = reference(folder)
    for size in SIZES:
        image = noise_image(size)
        with torch.no_grad():
            expected = model.get_image_features(**processor(image, return_tensors="pt")).pooler_output
            found = encoder.encode_pixels(to_pixels(encoder.geometry(image)))
        assert found.norm() > 0.1
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_model_geometry_is_bit_equal_to_the_pil_processor(case) -> None:
    folder, encoder = case
    _, processor, _ = reference(folder)
    for size in SIZES:
        image = noise_image(size)
        expected = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
        assert np.array_equal(encoder.geometry(image), expected.transpose(1, 2, 0)), size


def test_text_features_are_those_of_transformers(case) -> None:
    folder, encoder = case
    model, _, tokenizer = reference(folder)
    padding = {"padding": True} if "clip" in folder.name.split("-") else {"padding": "max_length", "max_length": 20}
    texts = [text for text in TEXTS if len(text) < 18]
    tokens = tokenizer(texts, return_tensors="pt", **padding)
    with torch.no_grad():
        expected = model.get_text_features(**tokens).pooler_output
    found = encoder.encode_texts(texts)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found[0] - found[1]).norm() > 1e-2


def test_text_alone_and_in_a_batch_is_the_same(case) -> None:
    _, encoder = case
    texts = ["a cat", "a very long dog"]
    together = encoder.encode_texts(texts)
    alone = torch.cat([encoder.encode_texts([text]) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_texts_are_cleaned_like_open_clip(clip: HuggingFaceEncoder, siglip: HuggingFaceEncoder) -> None:
    # mojibake, an entity escaped twice, surrounding space
    dirty, tidy = ["cafÃ©", "b&amp;amp;b", " a cat "], ["café", "b&b", "a cat"]
    for encoder in (clip, siglip):
        torch.testing.assert_close(encoder.encode_texts(dirty), encoder.encode_texts(tidy), atol=1e-6, rtol=1e-6)
    # SigLIP was trained on lower case, whatever the tokenizer does
    assert torch.equal(siglip.encode_texts(["A Cat"]), siglip.encode_texts(["a cat"]))


def test_a_text_too_long_keeps_its_end_and_warns(clip: HuggingFaceEncoder) -> None:
    long = "7" * 60
    with pytest.warns(UserWarning, match="1 of 2 texts exceed 24 tokens and were cut: '777"):
        found = clip.encode_texts(["a cat", long])
    assert int(clip.reader(["7" * 22])["input_ids"][0, -1]) == clip.reader.tokenizer.eos_token_id
    filling = clip.encode_texts(["7" * 22])  # start + 22 + end: the whole context, nothing cut, no warning
    torch.testing.assert_close(found[1:], filling, atol=1e-5, rtol=1e-5)


def test_a_string_in_place_of_texts_is_refused(clip: HuggingFaceEncoder) -> None:
    with pytest.raises(ConfigError, match="not one string"):
        clip.encode_texts("a cat")


def test_it_is_an_encoder(case) -> None:
    folder, encoder = case
    assert isinstance(encoder, Encoder)
    assert encoder.name == folder.name
    assert encoder.input_size == ((32, 32) if folder.name == "small-clip" else (24, 24))
    assert encoder.resize_description in ("torch bicubic, antialias", "torch bilinear, antialias")
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert encoder.logit_scale == pytest.approx(float(np.exp(encoder.model.logit_scale.item())), rel=1e-6)


def test_other_sizes_are_resized_inside_by_torch(clip: HuggingFaceEncoder, siglip: HuggingFaceEncoder) -> None:
    pixels = torch.rand(2, 3, 20, 45, generator=torch.Generator().manual_seed(0))
    for encoder, mode in ((clip, "bicubic"), (siglip, "bilinear")):
        assert encoder.resize_description == f"torch {mode}, antialias"
        resized = torch.nn.functional.interpolate(
            pixels, size=encoder.input_size, mode=mode, antialias=True, align_corners=False
        )
        assert torch.equal(encoder.encode_pixels(pixels), encoder.encode_pixels(resized))


def test_overshoot_of_the_resize_is_not_clamped(clip: HuggingFaceEncoder) -> None:
    pixels = torch.zeros(1, 3, 16, 16)
    pixels[..., 8:] = 1.0
    resized = torch.nn.functional.interpolate(pixels, size=(32, 32), mode="bicubic", antialias=True)
    assert resized.max() > 1.0
    assert not torch.equal(clip.encode_pixels(pixels), clip.encode_pixels(resized.clamp(0, 1)))


def test_gradient_reaches_the_pixels_and_agrees_with_differences(clip: HuggingFaceEncoder) -> None:
    double = clip.copy().double()
    pixels = torch.rand(1, 3, 12, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(1, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pixels.requires_grad_()

    def value(x: Tensor) -> Tensor:
        return (double.encode_pixels(x) * weights).sum()

    (gradient,) = torch.autograd.grad(value(pixels), pixels)
    direction = torch.randn(pixels.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    step = 1e-6
    with torch.no_grad():
        difference = (value(pixels + step * direction) - value(pixels - step * direction)) / (2 * step)
    assert float(difference) != 0
    assert float((gradient * direction).sum()) == pytest.approx(float(difference), rel=1e-6)


def test_resize_and_normalisation_stay_float32_under_autocast(clip: HuggingFaceEncoder) -> None:
    seen: list[Tensor] = []
    handle = clip.model.vision_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    pixels = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    exact_text = clip.encode_texts(["a cat"])
    plain = clip.encode_pixels(pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = clip.encode_pixels(pixels)
        assert torch.equal(clip.encode_texts(["a cat"]), exact_text)
    handle.remove()
    assert mixed.dtype == torch.bfloat16
    assert plain.dtype == torch.float32
    assert seen[1].dtype == torch.float32
    assert torch.equal(*seen)


def test_fp16_checkpoints_load_as_float32(tmp_path: Path) -> None:
    half, full = save_clip(tmp_path / "half", dtype=torch.float16), save_clip(tmp_path / "full")
    assert {tensor.dtype for tensor in load_file(half / "model.safetensors").values()} == {torch.float16}
    encoder, exact = from_folder(half), from_folder(full)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder.encode_pixels(pixels), exact.encode_pixels(pixels), atol=1e-2, rtol=1e-2)


def test_bin_checkpoints_and_shards_give_the_same_encoder(clip_folder: Path, tmp_path: Path) -> None:
    state = load_file(clip_folder / "model.safetensors")
    expected = from_folder(clip_folder).fingerprint()
    pickled = Path(shutil.copytree(clip_folder, tmp_path / "pickled"))
    (pickled / "model.safetensors").unlink()
    # old checkpoints carry this buffer; it is no weight
    torch.save({**state, "text_model.embeddings.position_ids": torch.arange(24)[None]}, pickled / "pytorch_model.bin")
    assert from_folder(pickled).fingerprint() == expected

    sharded = Path(shutil.copytree(clip_folder, tmp_path / "sharded"))
    (sharded / "model.safetensors").unlink()
    names = sorted(state)
    halves = {"model-00001-of-00002.safetensors": names[:20], "model-00002-of-00002.safetensors": names[20:]}
    for file, part in halves.items():
        save_file({name: state[name] for name in part}, sharded / file)
    placed = {name: file for file, part in halves.items() for name in part}
    save_json(sharded / "model.safetensors.index.json", {"weight_map": placed})
    assert from_folder(sharded).fingerprint() == expected


def test_visual_parameters_are_the_visual_tower_and_nothing_else(case) -> None:
    _, encoder = case
    named = dict(encoder.visual_parameters())
    owned = {"vision_model", "visual_projection"} if encoder.model.config.model_type == "clip" else {"vision_model"}
    assert {name.split(".")[0] for name in named} == owned
    # every one of them, and none of the others, receives a gradient from the image features
    encoder.requires_grad_(True)
    encoder.encode_pixels(torch.rand(1, 3, *encoder.input_size)).sum().backward()
    with_gradient = {name for name, parameter in encoder.model.named_parameters() if parameter.grad is not None}
    assert with_gradient == set(named)


def test_fingerprints_see_what_they_are_of(clip: HuggingFaceEncoder, clip_folder: Path, tmp_path: Path) -> None:
    whole, text = clip.fingerprint(), clip.text_fingerprint()
    clip.encode_texts(["a cat"])  # leaves padding state in the tokenizer
    assert (clip.fingerprint(), clip.text_fingerprint()) == (whole, text)
    with torch.no_grad():
        next(p for _, p in clip.visual_parameters())[0] += 1e-3
    assert clip.fingerprint() != whole
    assert clip.text_fingerprint() == text
    with torch.no_grad():
        clip.model.text_projection.weight[0, 0] += 1e-3
    assert clip.text_fingerprint() != text
    other = Path(shutil.copytree(clip_folder, tmp_path / "other"))
    edit_json(other / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])
    assert from_folder(other).fingerprint() != whole
    assert from_folder(other).text_fingerprint() == text


def test_fingerprints_see_what_decides_the_function_beside_weights(case) -> None:
    encoder = case[1]
    whole, before, config = encoder.fingerprint(), encoder.text_fingerprint(), encoder.model.config
    other = {"hidden_act": "relu", "num_attention_heads": 4, "layer_norm_eps": 1e-4}
    for key, value in other.items():
        changed = encoder.copy()
        setattr(changed.model.config.text_config, key, value)
        assert changed.text_fingerprint() != before, key
        assert changed.fingerprint() != whole, key
        changed = encoder.copy()
        setattr(changed.model.config.vision_config, key, value)
        assert changed.text_fingerprint() == before, key
        assert changed.fingerprint() != whole, key
    changed = encoder.copy()
    changed.model.config.text_config.eos_token_id = 7
    # SigLIP pools at the last position
    for now, then in ((changed.text_fingerprint(), before), (changed.fingerprint(), whole)):
        assert (now != then) == (config.model_type == "clip")
    if config.model_type == "clip":  # the old rule, another name for the end of text
        changed.model.config.text_config.eos_token_id = 2
        assert (changed.fingerprint(), changed.text_fingerprint()) == (whole, before)


def test_a_text_head_of_another_function_is_not_taken_from_the_cache(
    clip: HuggingFaceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_head, "_memory", OrderedDict())
    first = text_head.TextHead.build(clip, ["cat", "dog"], ["a {}"], cache=tmp_path)
    other = clip.copy()
    set_activation(other.model, {"gelu": "quick_gelu", "quick_gelu": "gelu"}[activation_of(other.model)])
    found = text_head.TextHead.build(other, ["cat", "dog"], ["a {}"], cache=tmp_path)
    assert not torch.equal(found.embeddings, first.embeddings)
    expected = torch.nn.functional.normalize(other.encode_texts(["a cat", "a dog"]), dim=-1)
    torch.testing.assert_close(found.embeddings, expected)


@pytest.mark.parametrize("duplicate", [HuggingFaceEncoder.copy, copy.deepcopy])
def test_a_copy_is_independent(clip: HuggingFaceEncoder, duplicate) -> None:
    twin = duplicate(clip)
    before = clip.fingerprint()
    assert twin.fingerprint() == before
    with torch.no_grad():
        next(p for _, p in twin.visual_parameters()).add_(1)
    assert clip.fingerprint() == before
    assert torch.equal(twin.encode_texts(["a cat"]), clip.encode_texts(["a cat"]))


def test_attention_can_be_switched(clip: HuggingFaceEncoder, clip_folder: Path) -> None:
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    fast = clip.encode_pixels(pixels)
    clip.set_attention("eager")
    assert clip.model.vision_model.config._attn_implementation == "eager"
    torch.testing.assert_close(clip.encode_pixels(pixels), fast, atol=1e-5, rtol=1e-5)
    assert from_folder(clip_folder, attention="eager").model.config._attn_implementation == "eager"
    with pytest.raises(ConfigError, match="attention 'flash' is not one of sdpa, eager"):
        clip.set_attention("flash")


def test_lowered_it_computes_roughly_the_same_and_follows_the_weights(case) -> None:
    encoder = case[1].copy()
    pixels = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    exact, names = encoder.encode_pixels(pixels).detach(), set(encoder.state_dict())
    with encoder.lowered():
        rough = encoder.encode_pixels(pixels.requires_grad_(True))
        (gradient,) = torch.autograd.grad(rough.square().sum(), pixels)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert float(torch.cosine_similarity(rough.detach(), exact).min()) > 0.99
    (true,) = torch.autograd.grad(encoder.encode_pixels(pixels).square().sum(), pixels)
    assert float(torch.cosine_similarity(gradient.flatten(1), true.flatten(1)).min()) > 0.9
    assert torch.equal(encoder.encode_pixels(pixels).detach(), exact)
    assert set(encoder.state_dict()) == names
    assert all(parameter.dtype == torch.float32 for parameter in encoder.parameters())
    with torch.no_grad():
        for _, parameter in encoder.visual_parameters():
            parameter.mul_(1.5)
    with encoder.lowered():
        changed = encoder.encode_pixels(pixels)
    assert float(torch.cosine_similarity(changed.detach(), encoder.encode_pixels(pixels).detach()).min()) > 0.99
    assert not torch.allclose(changed, rough, atol=1e-2)


def test_siglip_without_a_torch_resample_falls_back_to_bicubic_inside(tmp_path: Path) -> None:
    encoder = from_folder(save_siglip(tmp_path / "lanczos", resample=1))
    assert encoder.geometry.interpolation == "lanczos"
    assert encoder.resize_description == "torch bicubic, antialias"


def test_loading_leaves_the_logging_of_transformers_alone(clip_folder: Path, capfd) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    from_folder(clip_folder)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")
