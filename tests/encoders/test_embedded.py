from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPModel, CLIPTokenizer

from zsrobust.encoders.embedded import tiny_folder
from zsrobust.tasks.world.views import VIEWS

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@functools.lru_cache(maxsize=1)
def loaded() -> tuple[CLIPModel, CLIPTokenizer]:
    folder = tiny_folder()
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def text_features(texts: list[str]) -> torch.Tensor:
    model, tokenizer = loaded()
    with torch.no_grad():
        features = model.get_text_features(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output
    return torch.nn.functional.normalize(features, dim=-1)


def test_the_folder_is_complete_and_small() -> None:
    paths = [path for path in tiny_folder().rglob("*") if path.is_file()]
    names = {path.name for path in paths}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "preprocessor_config.json",
        "README.md",
    } <= names
    assert sum(path.stat().st_size for path in paths) <= 12 * 2**20


def test_weights_are_float32_and_complete() -> None:
    model, info = CLIPModel.from_pretrained(tiny_folder(), dtype="auto", output_loading_info=True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert sum(p.numel() for p in model.vision_model.parameters()) < 1.2e6


def test_the_image_processor_gives_the_models_input() -> None:
    from PIL import Image
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(tiny_folder(), backend="pil", local_files_only=True)
    made = processor(Image.new("RGB", (100, 80), (255, 0, 0)), return_tensors="np")["pixel_values"]
    assert made.shape == (1, 3, 64, 64)
    expected = (np.array([1.0, 0.0, 0.0]) - MEAN) / STD
    assert np.allclose(made[0, :, 30, 30], expected, atol=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "a photo of a capybara",
        "naïve café",
        "日本語 テキスト",
        "emoji 🙂🦜",
        "x²≠y½ – “quoted”",
        "\x00\x7f\u00ad",
        "a\u0301",
    ],
)
def test_any_text_is_encodable_and_comes_back(text: str) -> None:
    import unicodedata

    _, tokenizer = loaded()
    tokens = tokenizer(text).input_ids
    assert tokens[0] == tokenizer.bos_token_id
    assert tokens[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in tokens[1:-1]
    expected = unicodedata.normalize("NFC", text).lower()
    spaceless = tokenizer.decode(tokens, skip_special_tokens=True).replace(" ", "")
    assert spaceless == expected.replace(" ", "")


def test_general_class_names_need_few_tokens() -> None:
    _, tokenizer = loaded()
    lengths = [len(tokenizer(name).input_ids) - 2 for name in ("airplane", "elephant", "mushroom", "red striped star")]
    assert max(lengths) <= 3


def test_text_is_pooled_at_its_end_and_padding_changes_nothing() -> None:
    model, tokenizer = loaded()
    assert tokenizer.eos_token_id == model.config.text_config.eos_token_id != 2
    tokens = tokenizer(["a red circle", "a large blue striped star in the top left"], padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model.text_model(**tokens)
    for row, ids in enumerate(tokens.input_ids.tolist()):
        end = ids.index(tokenizer.eos_token_id)
        assert torch.equal(out.pooler_output[row], out.last_hidden_state[row, end])
    alone, padded = text_features(["a red circle"]), text_features(["a red circle", "a " * 20])
    assert torch.allclose(alone[0], padded[0], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "template", "floor"),
    [("shape", "a picture of a {}.", 0.7), ("colour", "a picture of a {} object.", 0.9)],
)
def test_it_recognises_what_it_was_not_adapted_to(name: str, template: str, floor: float) -> None:
    model, _ = loaded()
    view, mean, std = VIEWS[name], torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    images = np.stack([view.image("test", i) for i in range(200)])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        features = model.get_image_features(pixel_values=(pixels - mean) / std).pooler_output
    predicted = (features @ text_features([template.format(c) for c in view.class_names]).T).argmax(dim=1)
    assert (predicted.numpy() == view.labels("test")[:200]).mean() >= floor


def test_the_card_names_no_folder_of_the_machine_it_was_made_on() -> None:
    card = Path(tiny_folder() / "README.md").read_text()
    assert "python tools/pretrain_tiny.py" in card
    assert not re.search(r"(^|[\s=`])/\w+/", card), "a card carries no folder of the machine that made it"
