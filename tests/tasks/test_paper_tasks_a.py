"""Tasks of the paper: ImageNet, CIFAR, STL-10, Caltech, SUN397, Country211 and Hateful Memes, on small look-alikes."""

from __future__ import annotations

import io
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.tasks.tiny_data import PAPER

from zsrobust.errors import DataError
from zsrobust.geometry import Geometry
from zsrobust.tasks import find, task
from zsrobust.tasks.spec import SOURCED

# task → classes, the paper's templates, size of OpenAI's ensemble, images of the test split, what was seen in no source
TASKS = {
    "imagenet": (1000, PAPER, 80, 50_000, {"classes"}),
    "cifar10": (10, PAPER, 18, 10_000, set()),
    "cifar100": (100, PAPER, 18, 10_000, set()),
    "stl10": (10, PAPER, 2, 8_000, {"license"}),
    "caltech101": (101, PAPER, 34, 8_677, set()),
    "caltech256": (257, ("A photo of a {}.",), 0, 30_607, {"revision", "license"}),
    "sun397": (397, PAPER, 2, 108_754, set()),
    "country211": (211, ("A photo I took in {}.",), 5, 21_100, set()),
    "hateful-memes": (2, ("a {}.",), 1, 3_000, {"classes", "templates"}),
}
WHOLE = {"caltech101", "caltech256", "sun397"}
"""The paper's code evaluates all of their images."""
SIDE = {"cifar10": 32, "cifar100": 32, "stl10": 96}


@pytest.mark.parametrize("name", TASKS)
def test_names_templates_and_sizes(name):
    classes, templates, ensemble, size, _ = TASKS[name]
    spec = find(name)
    assert len(spec.classes) == len(set(spec.classes)) == classes
    assert all(text == text.strip() and "_" not in text for text in spec.classes)
    assert spec.templates == templates
    assert len(spec.template_sets.get("openai", ())) == ensemble
    for template in (*spec.templates, *spec.template_sets.get("openai", ())):
        assert template.count("{}") == template.count("{") == template.count("}") == 1
    assert spec.splits["test"].size == size
    assert (spec.splits["test"].sources == ("all",)) == (name in WHOLE)


@pytest.mark.parametrize("name", TASKS)
def test_images_are_made_as_in_the_papers_code(name):
    # torchvision's Resize, whose filter is bilinear; the small data sets keep their size
    memes, others = Geometry((224, 224), None, "bilinear"), Geometry(256, 224, "bilinear")
    native = Geometry(size=(SIDE[name],) * 2) if name in SIDE else None
    assert find(name).geometry == (native or (memes if name == "hateful-memes" else others))


@pytest.mark.parametrize("name", TASKS)
def test_every_value_says_where_it_was_seen(name):
    spec = find(name)
    values = tomllib.loads(spec.file.read_text())
    present = {key for key in (*SOURCED, "revision") if values.get(key) or values["source"].get(key)}
    assert present <= set(spec.provenance)
    assert set(spec.unverified) == TASKS[name][4]
    for key in {"revision", "license"} & set(spec.unverified):  # what nobody saw is not filled in
        assert not values.get(key)
        assert not values["source"].get(key)
    assert spec.source.revision is None or re.fullmatch(r"[0-9a-f]{40}", spec.source.revision)
    assert spec.paper
    assert max(map(len, spec.file.read_text().splitlines())) <= 120


@pytest.mark.parametrize("name", ["cifar100", "caltech101", "caltech256", "sun397"])
def test_prompts_have_the_names_as_the_paper_refines_them(name):
    spec = find(name)
    for ours, (data, *_) in zip(spec.classes, spec.data_classes, strict=True):
        folder = data[4:].replace("-101", "") if name == "caltech256" else data
        assert ours == re.sub("[-_/]", " ", folder.lower())


@pytest.mark.parametrize(
    ("name", "number", "data", "ours"),
    [
        ("imagenet", 0, "n01440764", "tench"),
        ("imagenet", 278, "n02119789", "kit fox"),
        ("imagenet", 134, "n02012849", "crane bird"),
        ("imagenet", 517, "n03126707", "crane"),
        ("imagenet", 264, "n02113186", "cardigan welsh corgi"),
        ("imagenet", 474, "n02963159", "cardigan"),
        ("imagenet", 988, "n12267677", "acorn"),
        ("cifar100", 26, "crab", "crab"),
        ("caltech101", 1, "Faces_easy", "faces easy"),
        ("caltech256", 256, "257.clutter", "clutter"),
        ("caltech256", 251, "252.car-side-101", "car side"),
        ("sun397", 206, "jail/indoor", "jail indoor"),
        ("country211", 36, "CH", "Switzerland"),
        ("country211", 206, "XK", "Kosovo"),
        ("hateful-memes", 1, "hateful", "hatespeech meme"),
    ],
)
def test_a_class_and_what_the_data_calls_it(name, number, data, ours):
    spec = find(name)
    assert (spec.data_classes[number][0], spec.classes[number]) == (data, ours)


def test_label_orders_that_are_orders_of_names():
    for name in ("imagenet", "cifar100", "caltech101", "caltech256", "sun397", "country211"):
        data = [names[0] for names in find(name).data_classes]
        assert data == sorted(data)


@pytest.mark.parametrize("named", ["data", "prompt"])
@pytest.mark.parametrize("name", TASKS)
def test_a_folder_of_classes_opens_with_the_right_labels(name, named, tmp_path):
    spec = find(name)
    own = [names[0] for names in spec.data_classes] or list(spec.classes)
    folders = own if named == "data" and name != "sun397" else list(spec.classes)
    split = {"imagenet": "val"}.get(name, "" if name in WHOLE else "test")
    look_alike(tmp_path / name / split, folders, SIDE.get(name, 20))
    opened = task(small(spec.file, len(folders), tmp_path), data=tmp_path)
    assert opened.class_names == spec.classes
    assert sorted(opened.labels) == list(range(len(folders)))
    found = [Path(opened.source.name(int(row))).parent.name for row in opened.ids]
    assert [folders[label] for label in opened.labels] == found
    side = SIDE.get(name, 224)
    assert opened.images([0, len(folders) - 1]).shape == (2, side, side, 3)


@pytest.mark.parametrize(
    ("name", "number", "called"),
    [("cifar100", 26, "cra"), ("caltech256", 252, "faces-easy-101"), ("caltech101", 0, "faces")],
)
def test_names_of_other_copies_of_the_data(name, number, called, tmp_path):
    spec = find(name)
    folders = [names[-1] for names in spec.data_classes]
    folders[number] = called
    look_alike(tmp_path / name / ("" if name in WHOLE else "test"), folders, SIDE.get(name, 20))
    opened = task(small(spec.file, len(folders), tmp_path), data=tmp_path)
    (row,) = opened.ids[opened.labels == number]
    assert Path(opened.source.name(int(row))).parent.name == called


def test_a_part_of_the_data_is_not_taken_for_all_of_it(tmp_path):
    look_alike(tmp_path / "caltech101", [names[0] for names in find("caltech101").data_classes], 20)
    with pytest.raises(DataError, match="has 101 examples in its 'all' split, but its TOML says 8,677"):
        task("caltech101", data=tmp_path)


def look_alike(root: Path, folders: list[str], side: int) -> None:
    """One folder a class with one small photograph in it."""
    file = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), 100, dtype=np.uint8)).save(file, "JPEG")
    for number, name in enumerate(folders):
        (root / name).mkdir(parents=True)
        (root / name / f"image_{number:04}.jpg").write_bytes(file.getvalue())


def small(file: Path, size: int, folder: Path) -> Path:
    """The same TOML, but the test split has so many images."""
    test = re.search(r"^test = .*$", file.read_text(), re.MULTILINE)[0]
    shrunk = re.sub(r"\d+( })?$", rf"{size}\1", test)
    assert shrunk != test
    copy = folder / "tomls" / file.name
    copy.parent.mkdir()
    copy.write_text(file.read_text().replace(test, shrunk))
    return copy
