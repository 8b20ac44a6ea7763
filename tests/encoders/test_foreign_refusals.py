"""Other people's files that cannot be opened, or must not be: one clear line each, and nothing is executed."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.encoders import foreign_files as files

from zsrobust.encoders import load
from zsrobust.errors import ZSRobustError


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.save_wide_clip(tmp_path_factory.mktemp("wide") / "base")


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    encoder: Any = load(base)
    return encoder.model


class RunsCode:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(ZSRobustError) as caught:
        load(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(model: Any, base: Path, tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    for i, content in enumerate(
        [
            {"conv1.weight": RunsCode(trace)},
            {**files.tecoa(model), "best_acc1": RunsCode(trace)},
            RunsCode(trace),
        ]
    ):
        path = tmp_path / f"evil{i}.pt"
        torch.save(content, path)
        assert "would run code when opened; refused" in refused(path, base=base)
    # the names that are let through as placeholders do not call what they are named after either
    assert not trace.exists()


def test_torchscript_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ViT-B-32.pt", "w") as archive:
        archive.writestr("ViT-B-32/constants.pkl", b"")
        archive.writestr("ViT-B-32/code/__torch__.py", b"raise SystemExit")
    text = refused(tmp_path / "ViT-B-32.pt", activation="quick_gelu")
    assert "is a TorchScript archive" in text
    assert "openai/clip-vit-base-patch32" in text


def test_broken_files(model: Any, base: Path, tmp_path: Path) -> None:
    save_file(files.bare(model), tmp_path / "whole.safetensors")
    content = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    (tmp_path / "page.pt").write_bytes(b"<html>not found</html>")
    (tmp_path / "lfs.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "cut.safetensors is broken or incomplete" in refused(tmp_path / "cut.safetensors", base=base)
    assert "page.pt is broken or no torch checkpoint" in refused(tmp_path / "page.pt", base=base)
    assert "is a pointer of git-lfs" in refused(tmp_path / "lfs.pt", base=base)
    assert load(tmp_path / "whole.safetensors", base=base).name == "whole"


def wider(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([tensor, tensor], -1) if name == "proj" else tensor for name, tensor in state.items()}


def text_alone(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith("visual.")}


def swapped(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The text tower under ``visual.`` and the visual tower where the text tower belongs."""
    visual = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
    return {**visual, **{f"visual.{k}": v for k, v in text_alone(state).items()}, "logit_scale": state["logit_scale"]}


def without(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in state.items() if key != name}


CASES: list[tuple[str, Any, str]] = [
    ("wrong width", lambda m: wider(files.bare(m)), "does not fit the base base: projection 24, not 12"),
    ("swapped", lambda m: swapped(files.flat(m)), "a text tower is where the visual tower should be"),
    ("text alone", lambda m: text_alone(files.flat(m)), "it is a text tower; a visual tower, or a model with both"),
    ("text as tower", lambda m: {"vision_encoder_state_dict": text_alone(files.flat(m))}, "a text tower is where"),
    ("no tensor", lambda m: without(files.bare(m), "ln_post.bias"), "tower lacks ln_post.bias"),
    ("another", lambda m: {"fc.weight": torch.zeros(2, 2)}, "known here: its first tensors are fc.weight"),
    ("transformers", lambda m: dict(m.state_dict()), "it has transformers' names, but no config.json"),
    ("timm", lambda m: {"trunk.stem.0.weight": torch.zeros(2)}, "its visual tower is a timm model"),
    ("eva", lambda m: {"visual.blocks.0.attn.q_bias": torch.zeros(2)}, "its visual tower is an EVA"),
    ("resnet", lambda m: {"layer1.0.conv1.weight": torch.zeros(2)}, "its visual tower is a ResNet"),
    ("coca", lambda m: {**files.flat(m), "text_decoder.ln.weight": torch.zeros(2)}, "it is a CoCa"),
    ("siglip", lambda m: {**files.flat(m), "logit_bias": torch.zeros(1)}, "it was trained as SigLIP"),
    ("integers", lambda m: {k: v.char() for k, v in files.bare(m).items()}, "quantised checkpoints are refused"),
    ("patch", lambda m: {**files.visual_prompts(64), "state_dict": {"module.patch": torch.zeros(1)}}, "a patch"),
    ("prompt width", lambda m: files.visual_prompts(768), "base base: prompt.tokens.tokens is (1, 5, 768)"),
    ("prompt size", lambda m: files.visual_prompts(64, size=40), "prompt.pixel.top is (3, 3, 40), not (3, 3, 32)"),
    ("numbers for names", lambda m: {1: torch.zeros(2)}, "is not a dictionary of tensors by name"),
    ("flat tokens", lambda m: {"add_prompter": {"prompt": torch.zeros(64)}}, "its token prompts are (64,), not (1"),
    ("shape", lambda m: files.bare(m) | {"ln_post.bias": torch.zeros(3)}, "layernorm.bias is (3,), and (64,) in the"),
    ("dimensions", lambda m: files.bare(m) | {"class_embedding": torch.zeros(1, 1, 64)}, "(1, 1, 64): 3 dimensions"),
    ("flat words", lambda m: files.flat(m) | {"token_embedding.weight": torch.zeros(9)}, "(9,): 1 dimensions, not 2"),
    ("no prompts", lambda m: {"state_dict": {}, "add_prompter": {}}, "its prompts are empty and it has no"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_what_cannot_be_mapped_says_why(model: Any, base: Path, tmp_path: Path, make: Any, message: str) -> None:
    torch.save(make(model), tmp_path / "given.pt")
    assert message in refused(tmp_path / "given.pt", base=base)


def test_a_full_model_without_its_text_tower_or_tokenizer(
    model: Any, base: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    folder = files.openclip_folder(tmp_path / "repo", model, base)
    (folder / "tokenizer.json").unlink()
    assert "repo brings no tokenizer: give base=MODEL" in refused(folder)
    assert "the tokenizer of the base tiny has 2048 tokens" in refused(folder, base="tiny")
    path = folder / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["model_cfg"]["vision_cfg"]["timm_model_name"] = "convnext_base"
    path.write_text(json.dumps(content))
    assert "repo/open_clip_config.json: not a ViT CLIP: its visual tower is a timm model (convnext_base)" in refused(
        folder
    )
    save_file({f"visual.{k}": v for k, v in files.bare(model).items()}, tmp_path / "open_clip_model.safetensors")
    del content["model_cfg"]["vision_cfg"]["timm_model_name"]
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    assert "is not a full model, but a visual tower alone" in refused(tmp_path)
    content["model_cfg"]["vision_cfg"]["width"] = 128
    path.write_text(json.dumps(content))
    assert "the weights of repo do not fit its config.json" in refused(folder, base=base)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"vision_cfg": "large"}, "vision_cfg and text_cfg have to be JSON objects"),
        ({"text_cfg": [1]}, "vision_cfg and text_cfg have to be JSON objects"),
        ({"preprocess_cfg": "x"}, "preprocess_cfg has to be a JSON object, not 'x'"),
        (
            {"tokenizer_kwargs": {"clean": "canonicalize"}},
            "its texts are prepared as tokenizer_kwargs {'clean': 'canon",
        ),
        ({"tokenizer_kwargs": {"clean": "whitespace"}}, "tokenizer_kwargs {'clean': 'whitespace'} say, which is not"),
    ],
)
def test_a_config_of_open_clip_that_cannot_be_followed(
    edit: dict[str, Any], message: str, model: Any, base: Path, tmp_path: Path
) -> None:
    path = files.openclip_folder(tmp_path / "repo", model, base) / "open_clip_config.json"
    content = json.loads(path.read_text())
    for key, value in edit.items():
        inner = content["model_cfg"]["text_cfg"] if key == "tokenizer_kwargs" else content["model_cfg"]
        (content if key == "preprocess_cfg" else inner)[key] = value
    path.write_text(json.dumps(content))
    assert message in refused(path.parent)


@pytest.mark.parametrize(
    "own",
    [
        {"tokenizer_kwargs": {}},
        {"tokenizer_kwargs": {"clean": "lower"}},
        {"hf_tokenizer_name": "mine", "tokenizer_kwargs": {"clean": "whitespace"}},
    ],
)
def test_texts_prepared_as_usual(own: dict[str, Any], model: Any, base: Path, tmp_path: Path) -> None:
    path = files.openclip_folder(tmp_path / "repo", model, base) / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["model_cfg"]["text_cfg"] |= own
    path.write_text(json.dumps(content))
    assert load(path.parent).name == "repo"


def test_a_base_that_is_no_clip(model: Any, tmp_path: Path, siglip_folder: Path) -> None:
    torch.save(files.bare(model), tmp_path / "tower.pt")
    assert "is not a plain CLIP of transformers" in refused(tmp_path / "tower.pt", base=siglip_folder)
    assert "does not fit the base tiny: width 64, not 128" in refused(tmp_path / "tower.pt", base="tiny")
