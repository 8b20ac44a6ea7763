"""A saved folder opens in transformers and here, says where it comes from, and replaces nothing of anybody else's."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from tests.encoders.small import edit_json
from tests.encoders.test_huggingface import noise_image, to_pixels

from zsrobust.encoders import load
from zsrobust.encoders.huggingface import HuggingFaceEncoder, from_folder, quiet
from zsrobust.errors import ConfigError, ModelError

ADAPTED = {
    "source": "openai/clip-vit-base-patch32",
    "license": "mit",
    "method": "tecoa",
    "threat": "linf:1/255:native",
    "attack": "pgd:2",
    "adapted_on": ["world-compositions"],
    "data_fingerprint": "ab12",
    "configuration": {"lr": 1e-5, "note": "a | b"},
}


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_saved_encoder_opens_in_transformers_and_here(family, request, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoProcessor

    encoder: HuggingFaceEncoder = request.getfixturevalue(family)
    with torch.no_grad():
        for _, parameter in encoder.visual_parameters():
            parameter.mul_(1.01)
    encoder.encode_texts(["a cat"])
    folder = encoder.save_pretrained(tmp_path / "robust")
    again = load(folder)
    assert again.fingerprint() == encoder.fingerprint()
    assert again.text_fingerprint() == encoder.text_fingerprint()
    image = noise_image((51, 40))
    found = again.encode_pixels(to_pixels(again.geometry(image)))
    assert torch.equal(found, encoder.encode_pixels(to_pixels(encoder.geometry(image))))
    with quiet(), torch.no_grad():
        model = AutoModel.from_pretrained(folder)
        processor = AutoProcessor.from_pretrained(folder, backend="pil")
        inputs = processor(images=image, text=["a cat"], return_tensors="pt")
        theirs = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    torch.testing.assert_close(theirs, found, atol=1e-5, rtol=1e-5)


def test_provenance_comes_back_and_the_card_says_it(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    folder = clip.save_pretrained(tmp_path / "robust", provenance=ADAPTED)
    assert dict(clip.provenance) == {"source": "small-clip", "revision": None, "adapted_on": []}
    again = load(folder)
    assert again.name == "robust"
    assert {key: again.provenance[key] for key in ADAPTED} == ADAPTED
    assert set(again.provenance["versions"]) >= {"torch", "transformers"}
    front, body = (folder / "README.md").read_text().split("---\n")[1:3]
    assert yaml.safe_load(front) == {
        "license": "mit",
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-image-classification",
        "base_model": "openai/clip-vit-base-patch32",
        "tags": ["zsrobust", "adversarial-robustness", "clip"],
    }
    assert "adapted with tecoa on world-compositions" in body
    assert "| threat | linf:1/255:native |" in body
    assert r"a \| b" in body
    # saved once more, nothing is lost and what is new is added
    twice = load(again.save_pretrained(tmp_path / "twice", provenance={"note": "second"}))
    assert {key: twice.provenance[key] for key in ADAPTED} == ADAPTED
    assert twice.provenance["note"] == "second"


def test_the_card_names_the_method_of_an_adaptation(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    story = {"adapted_on": ["digits"], "adaptation": {"method": {"name": "tecoa", "scale": 20}}}
    folder = clip.save_pretrained(tmp_path / "robust", provenance=story)
    assert "adapted with tecoa on digits" in (folder / "README.md").read_text()


def test_a_checkpoint_of_ours_on_the_hub_keeps_its_base(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    folder = clip.save_pretrained(tmp_path / "robust", provenance=ADAPTED)
    story = from_folder(folder, provenance={"source": "me/robust", "revision": "c0ffee"}).provenance
    assert (story["source"], story["revision"]) == ("me/robust", "c0ffee")
    assert (story["base_model"], story["adapted_on"]) == (ADAPTED["source"], ADAPTED["adapted_on"])


def test_the_card_of_an_unadapted_local_copy_claims_nothing(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    front, body = (clip.save_pretrained(tmp_path / "copy") / "README.md").read_text().split("---\n")[1:3]
    assert set(yaml.safe_load(front)) == {"library_name", "pipeline_tag", "tags"}
    assert "not adapted" in body


def test_our_own_folder_is_replaced_whole(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    folder = clip.save_pretrained(tmp_path / "robust")
    (folder / "left-over.txt").write_text("from the earlier one")
    clip.save_pretrained(folder, provenance={"note": "second"})
    assert not (folder / "left-over.txt").exists()
    assert load(folder).provenance["note"] == "second"
    assert os.listdir(tmp_path) == ["robust"]
    (tmp_path / "empty").mkdir()
    assert load(clip.save_pretrained(tmp_path / "empty")).name == "empty"


def test_a_foreign_folder_and_a_file_are_not_overwritten(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.png").write_bytes(b"x")
    with pytest.raises(ConfigError, match="is not empty and was not written by zsrobust"):
        clip.save_pretrained(tmp_path / "photos")
    assert os.listdir(tmp_path / "photos") == ["one.png"]
    with pytest.raises(ConfigError, match="is a file, not a folder"):
        clip.save_pretrained(tmp_path / "photos" / "one.png")


def test_a_failure_leaves_the_earlier_checkpoint_and_no_rubbish(clip, tmp_path: Path, monkeypatch) -> None:
    folder = clip.save_pretrained(tmp_path / "robust")

    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(clip.reader.tokenizer, "save_pretrained", full_disk)
        with pytest.raises(ModelError, match=r"robust' cannot be written: No space left on device$"):
            clip.save_pretrained(folder)
    with monkeypatch.context() as patch:
        real, calls = os.rename, []

        def second_rename_fails(source: Path, target: Path) -> None:
            calls.append(target)
            if len(calls) == 2:
                raise OSError(5, "Input/output error")
            real(source, target)

        patch.setattr(os, "rename", second_rename_fails)
        with pytest.raises(ModelError, match="Input/output error"):
            clip.save_pretrained(folder)
    assert os.listdir(tmp_path) == ["robust"]
    assert load(folder).fingerprint() == clip.fingerprint()


@pytest.mark.parametrize("value", [{1, 2}, float("nan")])
def test_provenance_must_be_json(clip: HuggingFaceEncoder, tmp_path: Path, value: object) -> None:
    with pytest.raises(ConfigError, match="provenance is not JSON-able"):
        clip.save_pretrained(tmp_path / "robust", provenance={"bad": value})
    assert os.listdir(tmp_path) == []


def test_the_preprocessing_is_written_back_as_it_was_read(clip, clip_folder: Path, tmp_path: Path) -> None:
    folder = clip.save_pretrained(tmp_path / "robust")
    name = "preprocessor_config.json"
    assert json.loads((folder / name).read_text()) == json.loads((clip_folder / name).read_text())


def test_what_transformers_5_writes_loads_too(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    """It keeps the image processor inside processor_config.json."""
    from transformers import AutoProcessor

    folder = clip.save_pretrained(tmp_path / "robust")
    with quiet():
        AutoProcessor.from_pretrained(folder, backend="pil").save_pretrained(folder)
    (folder / "preprocessor_config.json").unlink()
    assert load(folder).fingerprint() == clip.fingerprint()
    edit_json(folder / "processor_config.json", image_processor=None)
    with pytest.raises(ModelError, match=r"has no preprocessor_config.json"):
        load(folder)
