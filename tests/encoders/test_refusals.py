"""Checkpoints that cannot be loaded, or must not be: one clear line each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.encoders.small import edit_json, save_json

import zsrobust.encoders
from zsrobust.encoders import load
from zsrobust.errors import ConfigError, ModelError, UnknownName

Damage = Callable[[Path], object]


def change_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    state = {name: tensor.clone() for name, tensor in state.items()}
    edit(state)
    save_file(state, path)


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo this must never run",)


def only_pickle(folder: Path, content: object) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")


def only_bytes(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)


def incomplete_shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    placed = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    save_json(folder / "model.safetensors.index.json", {"weight_map": placed})


def escaping_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    save_json(folder / "model.safetensors.index.json", {"weight_map": {"a": "../model.safetensors"}})


def text_config(**changes: object) -> Damage:
    def damage(folder: Path) -> None:
        old = json.loads((folder / "config.json").read_text())["text_config"]
        edit_json(folder / "config.json", text_config={**old, **changes})

    return damage


def set_to_null(path: Path, key: str) -> None:
    save_json(path, {**json.loads(path.read_text()), key: None})


CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"

CASES: list[tuple[str, Damage, str]] = [
    (
        "no config",
        lambda f: (f / CONFIG).unlink(),
        "damaged has no config.json: not a transformers checkpoint",
    ),
    ("config no json", lambda f: (f / CONFIG).write_text("{"), "damaged/config.json cannot be read as JSON"),
    ("config a list", lambda f: (f / CONFIG).write_text("[]"), "should hold a JSON object, not list"),
    (
        "another model",
        lambda f: edit_json(f / CONFIG, model_type="blip"),
        "model_type 'blip': supported: clip, siglip",
    ),
    (
        "naflex",
        lambda f: edit_json(f / CONFIG, model_type="siglip2"),
        "'siglip2': SigLIP 2 NaFlex takes patches",
    ),
    ("no model type", lambda f: edit_json(f / CONFIG, model_type=None), "model_type 'None': supported"),
    ("one tower", lambda f: edit_json(f / CONFIG, model_type="clip_vision_model"), "it has no text tower"),
    (
        "a classifier",
        lambda f: edit_json(f / CONFIG, architectures=["CLIPForImageClassification"]),
        "damaged is a CLIPForImageClassification, not a CLIPModel with both towers",
    ),
    ("own code", lambda f: edit_json(f / CONFIG, auto_map={"AutoModel": "m.M"}), "auto_map in config.json"),
    ("quantised", lambda f: edit_json(f / CONFIG, quantization_config={"bits": 4}), "damaged is quantised"),
    ("impossible config", text_config(num_attention_heads=3), "config.json cannot be used: "),
    (
        "no weights",
        lambda f: (f / "model.safetensors").unlink(),
        "neither model.safetensors nor pytorch_model.bin",
    ),
    (
        "truncated",
        lambda f: truncate(f / "model.safetensors"),
        "damaged/model.safetensors is broken or incomplete",
    ),
    (
        "empty",
        lambda f: (f / "model.safetensors").write_bytes(b""),
        "model.safetensors is broken or incomplete",
    ),
    ("shards", incomplete_shards, "1 of 2 shards are missing (model-00002-of-00002.safetensors"),
    ("shard elsewhere", escaping_shard, "points outside its folder: '../model.safetensors'"),
    (
        "missing tensor",
        lambda f: change_weights(f, lambda s: s.pop("visual_projection.weight")),
        "the weights of damaged do not fit its config.json: 1 missing (visual_projection.weight)",
    ),
    (
        "tensor too many",
        lambda f: change_weights(f, lambda s: s.update(adapter=torch.zeros(2))),
        "do not fit its config.json: 1 unexpected (adapter)",
    ),
    (
        "another shape",
        lambda f: change_weights(f, lambda s: s.update({"visual_projection.weight": torch.zeros(3, 16)})),
        "do not fit its config.json: 1 of another shape (visual_projection.weight)",
    ),
    (
        "integers",
        lambda f: change_weights(f, lambda s: s.update(logit_scale=torch.tensor(2, dtype=torch.int8))),
        "tensor logit_scale is torch.int8: quantised checkpoints are refused",
    ),
    (
        "not finite",
        lambda f: change_weights(f, lambda s: s["visual_projection.weight"].fill_(float("nan"))),
        "tensor visual_projection.weight holds NaN or infinity",
    ),
    (
        "code",
        lambda f: only_pickle(f, {"w": RunsCode()}),
        "pytorch_model.bin would run code when opened; refused",
    ),
    ("no pickle", lambda f: only_bytes(f, b"<html>"), "pytorch_model.bin is broken or no torch checkpoint"),
    ("cut pickle", lambda f: only_bytes(f, b"PK\x03\x04\x00"), "pytorch_model.bin is broken or incomplete"),
    (
        "no dictionary",
        lambda f: only_pickle(f, [torch.zeros(1)]),
        "pytorch_model.bin is not a dictionary of tensors",
    ),
    ("no mean at all", lambda f: (f / PREPROCESSOR).unlink(), "its mean, std and size are not guessed"),
    ("no mean", lambda f: edit_json(f / PREPROCESSOR, image_mean=None), "no usable image_mean (found None)"),
    (
        "zero std",
        lambda f: edit_json(f / PREPROCESSOR, image_std=[1, 0, 1]),
        "no usable image_std (found [1, 0, 1])",
    ),
    ("no size", lambda f: edit_json(f / PREPROCESSOR, size=None), "has size None; allowed: an integer"),
    ("no crop size", lambda f: edit_json(f / PREPROCESSOR, crop_size=None), "has crop_size None"),
    ("no resize", lambda f: edit_json(f / PREPROCESSOR, do_resize=False), "says do_resize: false"),
    (
        "other size",
        lambda f: edit_json(f / PREPROCESSOR, crop_size=24),
        "ends at 24x24, but the tower takes 32x32",
    ),
    (
        "no fixed size",
        lambda f: edit_json(f / PREPROCESSOR, do_center_crop=False),
        "ends at a size that depends on the image, but the tower takes 32x32",
    ),
    ("resample", lambda f: edit_json(f / PREPROCESSOR, resample=5), "has resample 5, allowed"),
    ("resample a list", lambda f: edit_json(f / PREPROCESSOR, resample=[3]), "has resample [3], allowed"),
    ("no scale", lambda f: set_to_null(f / PREPROCESSOR, "rescale_factor"), "by 1/255 (rescale_factor None)"),
    ("scale a text", lambda f: edit_json(f / PREPROCESSOR, rescale_factor="1/255"), "(rescale_factor '1/255')"),
    (
        "other scale",
        lambda f: edit_json(f / PREPROCESSOR, rescale_factor=1 / 127.5),
        "does not scale pixels by 1/255",
    ),
    (
        "no tokenizer",
        lambda f: (f / "tokenizer.json").unlink(),
        "damaged has no tokenizer (none of tokenizer.json, vocab.json",
    ),
    (
        "broken tokenizer",
        lambda f: (f / "tokenizer.json").write_text("{}"),
        "the tokenizer of damaged cannot be read: ",
    ),
    (
        "tokenizer with code",
        lambda f: edit_json(f / "tokenizer_config.json", auto_map={"AutoTokenizer": ["t.T", None]}),
        "the tokenizer of damaged needs its own code (auto_map)",
    ),
    (
        "another end of text",
        text_config(eos_token_id=7),
        "the text tower pools at token 7, the tokenizer ends with 515; set text_config.eos_token_id to 515",
    ),
    (
        "story",
        lambda f: save_json(f / "zsrobust.json", {"format": "x"}),
        "is not in the format zsrobust.model/1",
    ),
]


@pytest.mark.parametrize(("damage", "message"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_damaged_checkpoints_are_refused_in_one_line(
    broken: Callable[[], Path], damage: Damage, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = broken()
    damage(folder)
    with pytest.raises(ModelError) as caught:
        load(folder)
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    assert capfd.readouterr() == ("", "")


def test_the_old_end_of_text_rule_is_checked(broken: Callable[[], Path]) -> None:
    """eos_token_id 2 means "pool at the largest id": right here, until a token is added after the end of text."""
    folder = broken()
    expected = load(folder).encode_texts(["a cat", "a dog"])
    text_config(eos_token_id=2)(folder)
    torch.testing.assert_close(load(folder).encode_texts(["a cat", "a dog"]), expected)

    path = folder / "tokenizer.json"
    rules = json.loads(path.read_text())
    vocabulary = rules["model"]["vocab"]
    vocabulary["<|endoftext|>"], vocabulary["cat</w>"] = vocabulary["cat</w>"], vocabulary["<|endoftext|>"]
    for token in rules["added_tokens"]:
        token["id"] = vocabulary[token["content"]]
    rules["post_processor"]["sep"][1] = vocabulary["<|endoftext|>"]
    save_json(path, rules)
    with pytest.raises(ModelError, match=r"eos_token_id 2 pools at the largest token id \(515\)"):
        load(folder)


def test_a_tokenizer_larger_than_the_text_tower_is_refused(broken: Callable[[], Path]) -> None:
    folder = broken()
    text_config(vocab_size=500)(folder)
    change_weights(
        folder,
        lambda s: s.update({key: s[key][:500].clone() for key in s if key.endswith("token_embedding.weight")}),
    )
    with pytest.raises(ModelError, match="the tokenizer of damaged has ids up to 515, its text tower only 500"):
        load(folder)


def test_a_siglip_sentencepiece_tokenizer_says_what_to_install(siglip_folder, tmp_path, monkeypatch) -> None:
    import importlib.util
    import shutil

    folder = Path(shutil.copytree(siglip_folder, tmp_path / "spiece"))
    edit_json(folder / "tokenizer_config.json", tokenizer_class="SiglipTokenizer")
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sentencepiece" else real(name))
    with pytest.raises(ModelError, match="needs sentencepiece: pip install sentencepiece"):
        load(folder)


@pytest.mark.parametrize("given", ["./nowhere", "/nowhere/at/all", "~/no-such-checkpoint", "a/b/c", Path("nowhere")])
def test_what_looks_like_a_folder_is_one(given: str | Path) -> None:
    with pytest.raises(ModelError, match=r"model folder '.*' does not exist"):
        load(given)


@pytest.mark.parametrize(
    ("given", "options", "kind", "message"),
    [
        ("tinny", {}, UnknownName, "unknown model 'tinny'; did you mean 'tiny'?"),
        ("owner/na me", {}, ModelError, "'owner/na me' is neither a folder nor a hub id"),
        ("FOLDER", {"revision": "main"}, ConfigError, "revision 'main' was given, but"),
        ("FOLDER", {"device": "gpu"}, ConfigError, "device 'gpu' cannot be used here"),
        ("FOLDER", {"device": "cuda:99"}, ConfigError, "device 'cuda:99' cannot be used here"),
        ("FOLDER", {"attention": "flash"}, ConfigError, "attention 'flash' is not one of sdpa, eager"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(clip_folder, given, options, kind, message) -> None:
    with pytest.raises(kind) as caught:
        load(str(clip_folder) if given == "FOLDER" else given, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_with_the_form_of_a_hub_id_is_a_folder(clip_folder, tmp_path, monkeypatch) -> None:
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").symlink_to(clip_folder)
    monkeypatch.chdir(tmp_path)
    assert load("owner/name").input_size == (32, 32)


class PluginEncoder:
    """Complete, and no module of torch's."""

    name, input_size, geometry, logit_scale = "plugin", (8, 8), None, 1.0
    provenance, resize_description = {}, "none"

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(1)

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        return torch.zeros(len(texts), 192)


class FixedEncoder(PluginEncoder):
    @property
    def provenance(self) -> dict[str, object]:
        return {}


class NoEncoder:
    name = "half"


def test_encoders_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    from zsrobust import registry

    class Entry:
        def __init__(self, name: str, value: str) -> None:
            self.name, self.value = name, value

    def entries(*, group: str) -> list[Entry]:
        assert group == "zsrobust.encoders"
        here = __name__ + ":"
        names = {"plugin": "PluginEncoder", "fixed": "FixedEncoder", "half": "NoEncoder"}
        return [Entry(name, here + value) for name, value in names.items()]

    monkeypatch.setattr(registry, "entry_points", entries)
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules[PluginEncoder.__module__])
    found = registry.Registry("encoder", {"tiny": "zsrobust.encoders.tiny:load"})
    monkeypatch.setattr(zsrobust.encoders, "ENCODERS", found)
    assert list(found) == ["fixed", "half", "plugin", "tiny"]
    assert load("plugin").name == "plugin"
    with pytest.raises(ModelError, match="is a NoEncoder without the Encoder protocol"):
        load("half")
    with pytest.raises(ConfigError, match="encoder 'plugin' has no set_attention"):
        load("plugin", attention="eager")
    assert load("plugin", adapted_on=["imagenet"]).provenance["adapted_on"] == ["imagenet"]
    with pytest.raises(ConfigError, match=r"adapted_on was given, but the provenance of 'plugin' \(a FixedEncoder\)"):
        load("fixed", adapted_on=["imagenet"])
    with pytest.raises(UnknownName, match="did you mean 'plugin'"):
        load("plugins")


def test_a_torchvision_of_another_torch_is_named(clip_folder: Path, tmp_path: Path) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    (tmp_path / "torchvision-0.28.0.dist-info").mkdir()
    (tmp_path / "torchvision-0.28.0.dist-info" / "METADATA").write_text("Name: torchvision\nVersion: 0.28.0\n")
    program = textwrap.dedent(f"""
        from zsrobust.encoders import load
        from zsrobust.errors import ModelError
        try:
            load({str(clip_folder)!r})
        except ModelError as error:
            print(error)
    """)
    search = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], env={**os.environ, "PYTHONPATH": search}, text=True,
        capture_output=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the installed torchvision does not match torch, so transformers cannot be imported")
    assert done.stdout.count("\n") == 1
