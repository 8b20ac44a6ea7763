"""Each format opened by what it is for; what was written is the model, bit for bit or within rounding."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.encoders.small import edit_json, save_clip, save_siglip
from tests.export.open_clip_model import from_folder as open_clip_model

import zsrobust
from zsrobust.encoders.huggingface import HuggingFaceEncoder, from_folder
from zsrobust.encoders.prompted import PromptedEncoder
from zsrobust.encoders.visual_prompts import AddedPixels, AddedTokens, PixelLayout, TokenLayout
from zsrobust.errors import ConfigError, ModelError, UnknownName
from zsrobust.export import export, onnx
from zsrobust.export.heads import heads
from zsrobust.export.open_clip import preprocess_cfg

CLOSE = 1e-5


@pytest.fixture(scope="module")
def clip(random_clip_folder: Path) -> HuggingFaceEncoder:
    return from_folder(random_clip_folder)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def prompted(clip: HuggingFaceEncoder, *, shape: str = "frame") -> PromptedEncoder:
    base = clip.copy()
    tokens = AddedTokens(TokenLayout(count=2, depth="deep"), 2, 16)
    found = PromptedEncoder(base, AddedPixels(PixelLayout(shape=shape), base.input_size), tokens)
    generator = torch.Generator().manual_seed(0)
    for _, parameter in found.prompt_parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return found


def test_hugging_face_folder_is_the_model(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    done = export(clip, tmp_path / "out", format="hf")
    assert from_folder(tmp_path / "out").fingerprint() == clip.fingerprint()
    assert sorted(done.files) == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_open_clip_computes_the_same_features(activation: str, tmp_path: Path, pixels: torch.Tensor) -> None:
    folder = save_clip(tmp_path / "clip")
    config = json.loads((folder / "config.json").read_text())
    for part in ("vision_config", "text_config"):
        config[part]["hidden_act"] = activation
    edit_json(folder / "config.json", **config)
    clip = from_folder(folder)
    assert export(clip, tmp_path / "out", format="open_clip").facts["activation"] == activation
    said = {"quick_gelu": "(`quick_gelu: true`)", "gelu": "(GELU: without `quick_gelu`)"}[activation]
    assert f"the architecture with its activation {said}" in (tmp_path / "out" / "README.md").read_text()
    model, preprocess = open_clip_model(tmp_path / "out")
    mean, std = (torch.tensor(preprocess[key]).view(3, 1, 1) for key in ("mean", "std"))
    texts = ["a cat", "a dog at night"]
    with torch.no_grad():
        image, text = model.visual((pixels - mean) / std), model.encode_text(clip.reader(texts)["input_ids"])
    assert (image - clip.encode_pixels(pixels)).abs().max() < CLOSE
    assert (text - clip.encode_texts(texts)).abs().max() < CLOSE
    assert model.logit_scale.exp().item() == pytest.approx(clip.logit_scale)


def test_hugging_face_open_clip_hugging_face_is_bit_identical(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    export(clip, tmp_path / "out", format="open_clip")
    back: Any = zsrobust.load(tmp_path / "out")
    export(back, tmp_path / "again", format="hf")
    final = from_folder(tmp_path / "again")
    for name, value in clip.model.state_dict().items():
        assert torch.equal(final.model.state_dict()[name], value), name
    assert final.preprocessing.digest() == clip.preprocessing.digest()


ADAPTED = {
    "source": "openai/clip-vit-base-patch32", "license": "mit", "adapted_on": ["world-compositions"],
    "adaptation": {"method": "tecoa", "threat": "linf:1/255:native"},
}  # fmt: skip


def test_there_and_back_a_model_keeps_its_story(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    """Hugging Face → open_clip → open_clip → Hugging Face."""
    adapted = clip.copy()
    adapted.provenance = ADAPTED
    opened: Any = adapted
    for number, form in enumerate(("open_clip", "open_clip", "hf")):
        export(opened, tmp_path / str(number), format=form)
        stored = json.loads((tmp_path / str(number) / "zsrobust.json").read_text())
        assert stored["format"] == "zsrobust.model/1"
        opened = zsrobust.load(tmp_path / str(number))
        assert {key: opened.provenance[key] for key in ADAPTED} == ADAPTED
        assert opened.provenance.get("format") == ("open_clip folder, flat layout" if form == "open_clip" else None)
        assert "golden" not in opened.provenance
        card = (tmp_path / str(number) / "README.md").read_text()
        assert "license: mit" in card
        assert "base_model: openai/clip-vit-base-patch32" in card
    assert opened.provenance["converted_from"] == "open_clip folder, flat layout"
    assert opened.fingerprint() == clip.fingerprint()


def test_an_open_clip_folder_that_is_another_model_is_refused(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    export(clip, tmp_path / "out", format="open_clip")
    path = tmp_path / "out" / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["model_cfg"]["quick_gelu"] = not content["model_cfg"].get("quick_gelu", False)
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"the model differs from the one that was saved, .*; its activation was"):
        zsrobust.load(tmp_path / "out")


def test_visual_tower_on_its_base_is_bit_identical(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    """As RobustVLM's scripts do it: the bare tower into the model that has the text tower."""
    adapted = clip.copy()
    for _, weight in adapted.visual_parameters():
        weight.mul_(1.25)
    export(clip, tmp_path / "base", format="open_clip")
    export(adapted, tmp_path / "out", format="visual")
    model, _ = open_clip_model(tmp_path / "base")
    bare = torch.load(tmp_path / "out" / "visual.pt", weights_only=True)
    model.visual.load_state_dict(bare, strict=True)
    export(adapted, tmp_path / "whole", format="open_clip")
    whole, _ = open_clip_model(tmp_path / "whole")
    for name, value in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize("file", ["visual.pt", "visual.safetensors", "."])
def test_zsrobust_opens_the_visual_tower_on_a_base(
    file: str, clip: HuggingFaceEncoder, random_clip_folder: Path, tmp_path: Path
) -> None:
    adapted = clip.copy()
    for _, weight in adapted.visual_parameters():
        weight.mul_(1.25)
    export(adapted, tmp_path / "out", format="visual")
    back: Any = zsrobust.load(tmp_path / "out" / file, base=str(random_clip_folder))
    assert back.fingerprint() == adapted.fingerprint()
    assert back.name == "out"
    with pytest.raises(ConfigError, match="holds only a visual tower"):
        zsrobust.load(tmp_path / "out" / file)


def test_llava_opens_the_visual_folder(clip: HuggingFaceEncoder, tmp_path: Path, pixels: torch.Tensor) -> None:
    from transformers import CLIPImageProcessorPil, CLIPVisionModel

    export(clip, tmp_path / "out", format="visual")
    # LLaVA has transformers 4, which finds no weight under another name and leaves a random tower.
    names = load_file(tmp_path / "out" / "model.safetensors").keys()
    assert sorted(names) == sorted(n for n in clip.model.state_dict() if n.startswith("vision_model."))
    tower, info = CLIPVisionModel.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True, local_files_only=True
    )
    assert not any(info.values()), info
    processor = CLIPImageProcessorPil.from_pretrained(tmp_path / "out")
    assert tuple(processor.image_mean) == clip.preprocessing.mean
    image = clip.normalised(pixels)
    wanted = clip.model.vision_model(pixel_values=image, output_hidden_states=True).hidden_states[-2]
    found = tower(pixel_values=image, output_hidden_states=True).hidden_states[-2]
    assert torch.equal(found, wanted)


def test_onnx_with_a_head_and_a_prompt_is_torch(
    clip: HuggingFaceEncoder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    encoder = prompted(clip)
    texts = heads(encoder, classes=["cat", "dog", "fox"], templates=["a {}"])
    done = export(encoder, tmp_path / "out", format="onnx", heads=texts)
    assert max(done.facts["largest_difference_from_torch"].values()) < onnx.TOLERANCE
    assert capfd.readouterr() == ("", "")
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])
    pixels = torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    features, logits = session.run(["image_features", "logits"], {"pixels": pixels.numpy()})
    wanted = torch.nn.functional.normalize(encoder.encode_pixels(pixels), dim=-1)
    assert np.abs(features - wanted.detach().numpy()).max() < CLOSE
    plain = torch.nn.functional.normalize(clip.encode_pixels(pixels), dim=-1)
    assert np.abs(features - plain.numpy()).max() > 0.01  # the prompt is in the graph
    head = np.load(tmp_path / "out" / "text_head-classes.npz")
    assert list(head["class_names"]) == ["cat", "dog", "fox"]
    assert np.abs(head["logit_scale"] * features @ head["embeddings"].T - logits).max() < 1e-4
    assert session.get_modelmeta().custom_metadata_map["zsrobust.input"].startswith("float32 (batch, 3, 32, 32)")


def test_a_wrong_graph_is_no_export(clip: HuggingFaceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def run(self, _: object, given: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [clip_features(given["pixels"]) + 2e-4]

    def clip_features(pixels: np.ndarray) -> np.ndarray:
        return torch.nn.functional.normalize(clip.encode_pixels(torch.from_numpy(pixels)), dim=-1).numpy()

    program = SimpleNamespace(
        model=SimpleNamespace(metadata_props={}, opset_imports={"": 20}), save=lambda path: path.write_bytes(b"")
    )
    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    monkeypatch.setattr(onnx, "_traced", lambda *_: program)
    with pytest.raises(ModelError, match=r"onnxruntime and torch differ by 2\.0e-04 in image_features"):
        export(clip, tmp_path / "out", format="onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_its_packages_onnx_is_one_line(
    clip: HuggingFaceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"the format onnx needs onnxscript: pip install 'zsrobust\[onnx\]'"):
        export(clip, tmp_path / "out", format="onnx")


@pytest.mark.parametrize("form", ["hf", "open_clip", "visual"])
def test_a_prompt_is_never_dropped(form: str, clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"has a visual prompt, which the format {form} has no place for"):
        export(prompted(clip), tmp_path / "out", format=form)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["hf", "onnx"])
def test_what_runs_at_test_time_is_refused(form: str, clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is random"):
        export(prompted(clip, shape="random-patch"), tmp_path / "out", format=form)

    class Defended(torch.nn.Module):
        name, provenance = "clip+ttc", {"source": "clip"}

        def __init__(self) -> None:
            super().__init__()
            self.base = clip

        def fingerprint(self) -> str:
            return "f"

    with pytest.raises(ModelError, match="a model with a test-time defence"):
        export(Defended(), tmp_path / "out", format=form)  # type: ignore[arg-type]


def test_siglip_is_no_open_clip_model(tmp_path: Path) -> None:
    siglip = from_folder(save_siglip(tmp_path / "siglip"))
    for form in ("open_clip", "visual"):
        with pytest.raises(ModelError, match="is a siglip, and the format"):
            export(siglip, tmp_path / "out", format=form)


def test_a_preprocessing_that_open_clip_has_not_is_refused(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    assert preprocess_cfg(clip.preprocessing)["resize_mode"] == "shortest"
    other = save_clip(tmp_path / "clip")
    edit_json(other / "preprocessor_config.json", size=48)
    with pytest.raises(ModelError, match="this checkpoint does 48/32x32 bicubic"):
        export(from_folder(other), tmp_path / "out", format="open_clip")


def test_only_an_earlier_export_of_the_same_is_replaced(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        export(clip, out, format="visual")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ConfigError, match="already holds an export of another model or in another format"):
        export(clip, out, format="hf")
    other = clip.copy()
    other.model.logit_scale.add_(1)
    with pytest.raises(ConfigError, match="already holds an export of another model"):
        export(other, out, format="visual")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    clip.save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="is not empty and is no export"):
        export(clip, tmp_path / "model", format="hf")


def test_names_and_heads_that_do_not_apply(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"unknown format 'openclip'; did you mean 'open_clip'\?"):
        export(clip, tmp_path / "out", format="openclip")
    with pytest.raises(ConfigError, match="the format hf has none"):
        export(clip, tmp_path / "out", format="hf", heads=heads(clip, classes=["a", "b"], templates=["{}"]))
    with pytest.raises(ConfigError, match="--template needs --classes or --tasks"):
        heads(clip, templates=["a {}"])
    with pytest.raises(ConfigError, match="--classes has 1 class"):
        heads(clip, classes=["a"])
