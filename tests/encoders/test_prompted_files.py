"""A prompted model on the disk: it comes back the same, its card is true, and a file that does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.encoders.small import SHAPES, added, appended, both, edit_json, some_pixels

import zsrobust as zr
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.encoders import huggingface as hf
from zsrobust.encoders.huggingface import HuggingFaceEncoder
from zsrobust.encoders.prompted import PromptedEncoder, from_folder
from zsrobust.errors import ConfigError, ModelError
from zsrobust.text_head import TextHead


@pytest.mark.parametrize(
    ("base", "layout"),
    [("clip", SHAPES[0]), ("siglip", SHAPES[1]), ("siglip", SHAPES[2]), ("clip", {"shape": "random-patch", "size": 6})],
    indirect=["base"],
)
def test_saved_and_loaded_it_is_the_same_model(base: HuggingFaceEncoder, layout: Any, tmp_path: Path) -> None:
    tokens = None if layout["shape"] == "full" else appended(base, depth="deep", position="learned")
    encoder = PromptedEncoder(base, added(base, where="before", **layout), tokens)
    folder = encoder.save_pretrained(tmp_path / "robust", provenance={"adapted_on": ["digits"], "method": "tecoa"})
    again = zr.load(folder)
    assert isinstance(again, PromptedEncoder)
    assert again.fingerprint() == encoder.fingerprint()
    assert again.describe_prompt() == encoder.describe_prompt()
    assert (again.name, again.provenance["method"]) == ("robust", "tecoa")
    assert again.samples == encoder.samples
    with torch.random.fork_rng(devices=[]):
        logits = []
        for one in (encoder, again):
            torch.manual_seed(0)
            head = TextHead.build(one, ("cat", "dog"), ("a {}",))
            logits.append(ZeroShotClassifier(one, head)(some_pixels()))
    assert torch.equal(*logits)
    # and once more, with the prompt's description as it was
    twice = zr.load(again.save_pretrained(tmp_path / "twice"))
    assert isinstance(twice, PromptedEncoder)
    assert twice.fingerprint() == encoder.fingerprint()
    assert not any("prompt" in key for key in twice.base.provenance)


def test_the_card_says_that_transformers_opens_another_model(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    from transformers import AutoModel

    bare = clip.encode_pixels(some_pixels(size=32))
    encoder = both(clip)
    folder = encoder.save_pretrained(tmp_path / "robust")
    card = (folder / "README.md").read_text()
    assert "`transformers` alone opens only the unprompted\nbackbone" in card
    assert "library_name: zsrobust" in card
    assert '| prompt | {"pixel": {"shape": "frame"' in card
    assert "AutoProcessor" not in card
    with hf.quiet():
        theirs = AutoModel.from_pretrained(folder)
    found = theirs.get_image_features(pixel_values=clip.normalised(some_pixels(size=32))).pooler_output
    torch.testing.assert_close(found, bare, rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match=r"robust holds a prompted model: open it with zsrobust\.load$"):
        hf.from_folder(folder)
    # a plain model saved over it leaves nothing of the prompt
    assert isinstance(zr.load(clip.save_pretrained(folder)), HuggingFaceEncoder)
    with pytest.raises(ConfigError, match="'prompt' cannot be a key of the provenance"):
        clip.save_pretrained(folder, provenance={"prompt": {}})


def spoiled(folder: Path, how: str) -> None:
    file = folder / "prompt.safetensors"
    tensors = load_file(file)
    story = json.loads((folder / "zsrobust.json").read_text())["prompt"]
    match how:
        case "missing":
            file.unlink()
        case "undescribed":
            edit_json(folder / "zsrobust.json", prompt=None)
        case "truncated":
            file.write_bytes(file.read_bytes()[:-8])
        case "lacks":
            save_file({k: v for k, v in tensors.items() if not k.endswith("top")}, file)
        case "unexpected":
            save_file(tensors | {"prompt.other": torch.zeros(1)}, file)
        case "shape":
            save_file(tensors | {"prompt.tokens.tokens": torch.zeros(1, 4, 16)}, file)
        case "nan":
            save_file(tensors | {"prompt.pixel.top": torch.full_like(tensors["prompt.pixel.top"], torch.nan)}, file)
        case "half":
            save_file({k: v.half() for k, v in tensors.items()}, file)
        case "part":
            edit_json(folder / "zsrobust.json", prompt=story | {"sound": {}})
        case "key":
            edit_json(folder / "zsrobust.json", prompt=story | {"tokens": {"count": 4, "colour": 1}})
        case "value":
            edit_json(folder / "zsrobust.json", prompt=story | {"pixel": {"shape": "ring"}})


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("missing", "describes a prompt, but prompt.safetensors is missing"),
        ("undescribed", "has prompt.safetensors, but no description of it in zsrobust.json"),
        ("truncated", "prompt.safetensors is broken or incomplete"),
        ("lacks", "lacks tensor prompt.pixel.top"),
        ("unexpected", "has an unexpected tensor prompt.other"),
        ("shape", r"prompt.tokens.tokens is \(1, 4, 16\), not \(2, 4, 16\)"),
        ("nan", "prompt.pixel.top is not finite float32 numbers"),
        ("half", "is not finite float32 numbers"),
        ("part", "allowed are pixel and tokens, found"),
        ("key", "is not how a prompt is described"),
        ("value", "unknown pixel prompt 'ring'"),
    ],
)
def test_a_prompt_file_that_does_not_fit_is_refused(
    clip: HuggingFaceEncoder, tmp_path: Path, how: str, line: str
) -> None:
    folder = both(clip).save_pretrained(tmp_path / "robust")
    spoiled(folder, how)
    with pytest.raises(ModelError, match=line) as caught:
        from_folder(folder)
    assert "\n" not in str(caught.value)
