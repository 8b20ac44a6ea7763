"""Adversarial images as files: the budget holds after rounding, and both verdicts are kept."""

from __future__ import annotations

import io
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.fakes import CLASSES, Toy, labelled_by, task
from torch import Tensor

from zsrobust.attacks.checks import judge
from zsrobust.attacks.pgd import PGD
from zsrobust.evaluation import classifier_for
from zsrobust.pictures import ImageExporter, draw, eight_bit, magnified, png, top
from zsrobust.pixels import quantise, to_images, to_pixels
from zsrobust.recording import evaluate_into, settings
from zsrobust.records import CLEAN
from zsrobust.run_folder import RunFolder
from zsrobust.threat import Threat


def stored(seed: int) -> Tensor:
    """(3, 3, 5, 4) pixels as an image file gives them, with black and white ones."""
    return to_pixels(np.random.default_rng(seed).choice([0, 1, 7, 128, 200, 254, 255], (3, 5, 4, 3)).astype(np.uint8))


# uint8 and pixels


def test_every_value_of_a_byte_survives_the_way_to_pixels_and_back() -> None:
    images = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    pixels = to_pixels(images)
    assert pixels.dtype == torch.float32
    assert pixels.shape == (1, 3, 16, 16)
    assert (float(pixels.min()), float(pixels.max())) == (0.0, 1.0)
    assert np.array_equal(to_images(pixels), images)
    assert torch.equal(quantise(pixels), pixels)


def test_channels_rows_and_columns_keep_their_places() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    pixels = to_pixels(images)
    assert pixels.shape == (2, 3, 4, 5)
    assert float(pixels[1, 2, 3, 4]) == np.float32(images[1, 3, 4, 2]) / np.float32(255)


def test_to_images_rounds_to_the_nearest_and_never_wraps() -> None:
    pixels = torch.tensor([-0.1, 0.4 / 255, 0.6 / 255, 254.4 / 255, 1.1, 0.5]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert to_images(pixels)[0, 0, :, 0].tolist() == [0, 0, 1, 254, 255, 128]


# Rounding within the budget


@given(
    st.one_of(st.integers(0, 32).map(lambda k: k / 255), st.floats(0, 0.2), st.just(1.0)),
    st.integers(0, 10_000),
    st.booleans(),
)
def test_rounding_keeps_the_linf_budget(eps: float, seed: int, extreme: bool) -> None:
    pixels, threat = stored(seed), Threat("linf", float(eps))
    draw = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(seed))
    adversarial = threat.project(pixels + eps * (2 * (draw.round() if extreme else draw) - 1), pixels)
    rounded = eight_bit(threat, adversarial, pixels)
    whole = (rounded.double() * 255).round()
    torch.testing.assert_close(rounded.double() * 255, whole, atol=1e-4, rtol=0)
    assert 0 <= float(rounded.min()) <= float(rounded.max()) <= 1
    change = (whole - (pixels.double() * 255).round()).abs().max()
    assert float(change) <= eps * 255 + 1e-3
    # no further from the float image than the budget makes necessary
    assert float((rounded - adversarial).abs().max()) < 1 / 255
    assert np.array_equal(to_images(rounded), whole.numpy().transpose(0, 2, 3, 1).astype(np.uint8))


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16])
def test_a_budget_of_whole_steps_is_used_in_full(steps: int) -> None:
    pixels, threat = torch.full((1, 3, 2, 2), 128 / 255), Threat("linf", f"{steps}/255")
    rounded = eight_bit(threat, threat.project(pixels + 1, pixels), pixels)
    assert torch.equal((rounded * 255).round(), torch.full_like(rounded, 128.0 + steps))


def test_a_budget_below_half_a_step_leaves_no_change() -> None:
    pixels, threat = stored(0), Threat("linf", "0.9/255")
    assert torch.equal(eight_bit(threat, threat.project(pixels + 0.5, pixels), pixels), pixels)


@given(st.integers(0, 10_000))
def test_l2_is_rounded_to_the_nearest(seed: int) -> None:
    adversarial = torch.rand(3, 3, 5, 4, generator=torch.Generator().manual_seed(seed))
    rounded = eight_bit(Threat("l2", 0.5), adversarial, adversarial)
    assert float((rounded - adversarial).abs().max()) <= 0.5 / 255 + 1e-6


# Parts


def test_a_png_keeps_every_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(image)))), image)


@pytest.mark.parametrize(("eps", "expected"), [(4 / 255, 31), (1 / 255, 127), (0.5, 1), (0.0, 31)])
def test_the_perturbation_is_magnified_to_the_whole_range(eps: float, expected: int) -> None:
    pixels = torch.full((1, 3, 1, 2), 0.5)
    change = torch.tensor([1.0, -1.0]) * (eps or 4 / 255)
    shown, magnification = magnified(pixels + change, pixels, Threat("linf", eps))
    assert magnification == expected
    assert (shown[0, 0, :, 0] > 127).tolist() == [True, False]
    assert abs(int(shown[0, 0, 0, 0]) - 255) < 10
    assert abs(int(shown[0, 0, 1, 0])) < 10


@pytest.mark.parametrize("threat", [Threat("l2", 0.75), Threat("patch", 0.05)])
def test_where_eps_is_not_of_a_pixel_the_largest_change_spans_the_range(threat: Threat) -> None:
    pixels = torch.full((1, 3, 8, 8), 0.25)
    changed = pixels.clone()
    changed[:, :, 2, 3] += 0.125
    _, magnification = magnified(changed, pixels, threat)
    assert magnification == 4


def test_top_lists_the_most_probable_classes() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, -5.0])
    (first, p), (second, q) = top(logits, CLASSES, 2)
    assert (first, second) == ("dog", "bird")
    assert (p, q) == (pytest.approx(0.6651, abs=1e-4), pytest.approx(0.2447, abs=1e-4))
    assert len(top(logits[:2], CLASSES[:2])) == 2


# Whole evaluations


@pytest.fixture
def encoder() -> Toy:
    return Toy(scale=50.0)


def evaluated(
    path: Path, encoders: list[Toy], examples: Any, attack: PGD, watch: Any = None, seeds: tuple[int, ...] = (0,)
) -> RunFolder:
    run = RunFolder(path, kind="evaluate", settings=settings([attack], rows=4, device=torch.device("cpu")))
    with run.records:
        for one, seed in product(encoders, seeds):
            evaluate_into(run, one, [examples], [attack], seed=seed, batch_size=5, watch=watch)
    return run


def test_every_adversarial_image_is_a_file_with_both_verdicts(encoder: Toy, tmp_path: Path) -> None:
    examples = labelled_by(encoder, task(12), wrong=[2])
    attack = PGD(Threat("linf", "1.7/255"), 3)
    run = evaluated(tmp_path / "run", [encoder], examples, attack, ImageExporter(tmp_path / "images"))
    place = tmp_path / "images" / "toy" / "blobs" / "linf-1.7-255-native-pgd-3"
    lines = {line["example"]: line for line in map(json.loads, (place / "index.jsonl").read_text().splitlines())}
    records = {r.example: r for r in run.records.read() if r.attack != CLEAN}
    assert lines.keys() == records.keys() == {100 + i for i in range(12) if i != 2}
    assert {path.name for path in place.glob("*.png")} == {f"{example}.png" for example in lines}

    classifier = classifier_for(encoder, examples)
    for example, line in lines.items():
        image = np.asarray(Image.open(place / f"{example}.png"))
        original = examples.images([example - 100])[0]
        assert np.abs(image.astype(int) - original.astype(int)).max() <= 1
        label = torch.from_numpy(examples.labels[[example - 100]])
        verdict = judge(classifier, to_pixels(image[None]), label)
        assert line["prediction_8bit"] == CLASSES[int(verdict.predictions[0])]
        assert line["verdict_8bit"] == ("survived" if int(verdict.predictions[0]) == int(label) else "broken")
        assert line["verdict"] == ("survived" if records[example].correct else "broken")
        assert line["prediction"] == CLASSES[records[example].prediction]
        assert line["label"] == CLASSES[int(label)]
        assert line["size_8bit"] == pytest.approx(np.abs(image.astype(int) - original).max() / 255, abs=1e-6)
    assert {line["verdict"] for line in lines.values()} == {"broken", "survived"}


def test_every_seed_has_images_of_its_own(encoder: Toy, tmp_path: Path) -> None:
    examples, attack, folder = labelled_by(encoder, task(6)), PGD(Threat("linf", "2/255"), 1), tmp_path / "images"
    exporter, written = ImageExporter(folder), []

    def watch(attacked: Any) -> None:
        exporter(attacked)
        written.extend(attacked.indices)

    evaluated(tmp_path / "run", [encoder], examples, attack, watch, seeds=(0, 1, 3))
    lines = [line for index in folder.rglob("index.jsonl") for line in index.read_text().splitlines()]
    assert len(written) == len(list(folder.rglob("*.png"))) == len(lines) == 3 * 6
    name = "linf-2-255-native-pgd-1"
    places = sorted((folder / "toy" / "blobs").iterdir())
    assert [place.name for place in places] == [name, f"{name}-seed-1", f"{name}-seed-3"]
    assert len({(place / "100.png").read_bytes() for place in places}) == 3


def test_images_written_again_after_a_kill_are_in_the_index_once(encoder: Toy, tmp_path: Path) -> None:
    examples, attack = labelled_by(encoder, task(8)), PGD(Threat("linf", "2/255"), 2)
    exporter = ImageExporter(tmp_path / "images")

    def dying(attacked: Any) -> None:
        exporter(attacked)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path / "run", [encoder], examples, attack, dying)
    (index,) = (tmp_path / "images").rglob("index.jsonl")
    with index.open("a") as stream:
        stream.write('{"example": 1')  # torn off by the kill
    evaluated(tmp_path / "run", [encoder], examples, attack, exporter)
    assert sorted(json.loads(line)["example"] for line in index.read_text().splitlines()) == [100 + i for i in range(8)]


def test_the_report_gets_an_example_that_the_first_model_loses_and_the_last_keeps(encoder: Toy, tmp_path: Path) -> None:
    other = Toy(name="other", seed=3, scale=50.0)
    examples, attack = labelled_by(encoder, task(40)), PGD(Threat("linf", "1/255"), 3)
    run = evaluated(tmp_path, [encoder, other], examples, attack)
    draw(run, [encoder, other], [examples], attack, seed=0)
    index = json.loads((tmp_path / "pictures" / "index.json").read_text())
    assert index["format"] == "zsrobust.pictures/1"
    (item,) = index["items"]
    records = {(r.model, r.example, r.attack): r for r in run.records.read()}
    telling = [
        e for e in examples.ids.tolist()
        if records["toy", e, CLEAN].correct and records["other", e, CLEAN].correct
        and not records["toy", e, "pgd:3"].correct and records["other", e, "pgd:3"].correct
    ]  # fmt: skip
    assert telling
    assert item["example"] == telling[0]
    assert [model["verdict"] for model in item["models"]] == ["broken", "survived"]
    clean = np.asarray(Image.open(tmp_path / "pictures" / item["clean_png"]))
    assert np.array_equal(clean, examples.images([item["example"] - 100])[0])
    for model in item["models"]:
        record = records[model["model"], item["example"], "pgd:3"]
        assert model["size"] == record.size
        assert model["adversarial_top"][0][0] == CLASSES[record.prediction]
        assert model["verdict_8bit"] in ("broken", "survived")
        shown = np.asarray(Image.open(tmp_path / "pictures" / model["adversarial_png"]))
        assert np.abs(shown.astype(int) - clean).max() <= 1
        assert (tmp_path / "pictures" / model["perturbation_png"]).is_file()


def test_a_task_without_a_right_example_has_no_picture(encoder: Toy, tmp_path: Path) -> None:
    examples, attack = labelled_by(encoder, task(6), wrong=range(6)), PGD(Threat(), 1)
    run = evaluated(tmp_path, [encoder], examples, attack)
    draw(run, [encoder], [examples], attack, seed=0)
    assert json.loads((tmp_path / "pictures" / "index.json").read_text())["items"] == []
