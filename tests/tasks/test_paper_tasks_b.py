"""Ten of the published tasks, pets to pcam and two shifts of ImageNet: what their TOMLs say, and that they open."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tests.tasks.tiny_data import write_folder, write_webdataset

from zsrobust.errors import DataError
from zsrobust.geometry import Geometry
from zsrobust.tasks import find, task
from zsrobust.tasks.spec import SOURCED, TaskSpec

# name → (classes, test images, one of the paper's prompts word for word and its label, what nobody saw in a source)
TASKS: dict[str, tuple[int, int, str, int, set[str]]] = {
    "pets": (37, 3_669, "A photo of a american bulldog, a type of pet.", 1, set()),
    "cars": (196, 8_041, "A photo of a mclaren mp4 12c coupe.", 159, {"license"}),
    "food101": (101, 25_250, "A photo of macaroni and cheese, a type of food.", 62, set()),
    "flowers102": (102, 6_149, "A photo of a pink yellow dahlia?, a type of flower.", 59, {"license"}),
    "aircraft": (100, 3_333, "A photo of a boeing 707-320, a type of aircraft.", 0, set()),
    "dtd": (47, 1_880, "A surface with a polka dotted texture.", 30, {"revision"}),
    "eurosat": (10, 27_000, "A centered satellite photo of a highway or a road.", 3, set()),
    "pcam": (2, 32_768, "Tthis is a photo of healthy lymph node tissue.", 0, set()),
    "imagenet-r": (200, 30_000, "This is a photo of a goldfish", 0, {"license", "revision"}),
    "imagenet-sketch": (1000, 50_889, "This is a photo of a toilet paper", 999, {"license"}),
}
NAMES = list(TASKS)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_toml_says(name):
    count, images, prompt, label, _ = TASKS[name]
    spec = find(name)
    assert len(spec.classes) == len(set(spec.classes)) == len(spec.data_classes) == count
    assert spec.splits is not None
    assert spec.splits["test"].size == images
    assert [template.format(spec.classes[label]) for template in spec.templates] == [prompt]
    assert spec.geometry == Geometry(resize=256, crop=224, interpolation="bilinear")
    assert spec.description
    assert spec.paper


@pytest.mark.parametrize("name", NAMES)
def test_every_value_names_its_source_or_is_left_empty(name):
    spec = find(name)
    given = {"classes", "templates", "splits", "hub", "geometry", "license"}
    given |= {"template_sets"} if spec.template_sets else set()
    assert given == set(SOURCED) & set(spec.provenance)
    assert set(spec.unverified) == TASKS[name][4]
    assert bool(spec.license) == ("license" not in spec.unverified)
    assert bool(spec.source.revision) == ("revision" not in spec.unverified)
    assert spec.source.revision is None or re.fullmatch("[0-9a-f]{40}", spec.source.revision)
    assert "by_hand" in spec.provenance or not spec.by_hand


def test_openai_s_ensembles():
    sizes = {name: len(find(name).template_sets.get("openai", ())) for name in NAMES}
    assert sizes == {
        "pets": 1, "cars": 8, "food101": 1, "flowers102": 1, "aircraft": 2, "dtd": 8, "eurosat": 3, "pcam": 0,
        "imagenet-r": 80, "imagenet-sketch": 80,
    }  # fmt: skip
    assert all(len(set(find(name).template_sets["openai"])) == size for name, size in sizes.items() if size)


def test_cars_keep_their_year_exactly_where_the_paper_s_prompts_are_the_same():
    spec = find("cars")
    papers = [names[0][:-5].lower().replace("_", " ").replace("-", " ") for names in spec.data_classes]
    for own, paper, data in zip(spec.classes, papers, spec.data_classes, strict=True):
        assert own == (paper + data[0][-5:] if papers.count(paper) > 1 else paper)
        assert (paper in spec.paper) == (papers.count(paper) > 1)
    assert len(set(papers)) == 196 - 7


def test_aircraft_and_pets_are_named_as_the_papers_loaders_name_them():
    for names, own in zip(find("aircraft").data_classes, find("aircraft").classes, strict=True):
        assert own == (f"boeing {names[0]}" if names[0][0] == "7" else names[0].lower())
    for name in ("pets", "food101", "dtd"):
        for names, own in zip(find(name).data_classes, find(name).classes, strict=True):
            assert own == names[0].lower().replace("_", " ").replace("-", " ")


def test_imagenet_s_shifts_agree_on_the_classes_they_share():
    sketch, renditions = find("imagenet-sketch"), find("imagenet-r")
    assert list(sketch.data_classes) == sorted(sketch.data_classes)
    assert all(re.fullmatch(r"n\d{8}", name) for (name,) in sketch.data_classes)
    called = dict(zip(sketch.data_classes, sketch.classes, strict=True))
    assert [called[name] for name in renditions.data_classes] == list(renditions.classes)


def own_folders(spec: TaskSpec) -> list[str]:
    """The data's names, in label order, that a folder can have."""
    return [next(name for name in names if "/" not in name) for names in spec.data_classes]


def smaller(name: str, images: int, folder: Path) -> Path:
    """A copy of the shipped TOML for so many test images."""
    shipped = find(name).file
    assert shipped is not None
    text, changed = re.subn(r"(?m)^(test = (?:\{.* size = )?)\d+", rf"\g<1>{images}", shipped.read_text("utf-8"))
    assert changed == 1
    (folder / f"{name}.toml").write_text(text, "utf-8")
    return folder / f"{name}.toml"


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_from_a_folder_of_the_data_s_own_names(name, tmp_path):
    folders = own_folders(find(name))
    counts = {folder: 1 + label % 2 for label, folder in enumerate(folders)}
    write_folder(tmp_path / "store" / name, counts)
    opened = task(smaller(name, sum(counts.values()), tmp_path), data=tmp_path / "store")
    assert np.bincount(opened.labels).tolist() == list(counts.values())
    parents = [Path(opened.source.name(int(row))).parent.name for row in opened.ids]
    assert parents == [folders[label] for label in opened.labels]
    assert opened.class_names == find(name).classes
    assert opened.images([0]).shape == (1, 224, 224, 3)


def test_sketches_need_two_names_mended_in_clip_benchmark_s_copy(tmp_path):
    """Its classnames.txt has "missile" and "sunglasses" twice; `by_hand` says which lines to change, and to what."""
    spec = find("imagenet-sketch")
    theirs = [{"projectile": "missile", "sunglass": "sunglasses"}.get(name, name) for name in spec.classes]
    root = write_webdataset(tmp_path / "wds_imagenet_sketch", [list(range(1000))[::-1]], theirs)
    small = smaller("imagenet-sketch", 1000, tmp_path)
    with pytest.raises(DataError, match="only the task has n04008634, n04355933"):
        task(small, data=tmp_path)
    for line, name in re.findall(r"line (\d+) (\w+)", spec.by_hand):
        theirs[int(line) - 1] = name
    (root / "classnames.txt").write_text("\n".join(theirs), "utf-8")
    assert task(small, data=tmp_path).labels.tolist() == list(range(1000))[::-1]


@pytest.mark.parametrize(
    ("name", "place", "theirs"),
    [
        ("pcam", "wds_vtab-pcam", {0: "lymph node", 1: "lymph node containing metastatic tumor tissue"}),
        ("pets", "wds_vtab-pets", {1: "American Bulldog", 9: "British Shorthair"}),
        ("flowers102", "wds_vtab-flowers", {15: "globe flower", 59: "pink and yellow dahlia", 92: "air plant"}),
        ("aircraft", "wds_fgvc_aircraft", {72: "F-16A/B"}),
        ("imagenet-r", "wds_imagenet-r", {0: "goldfish", 199: "acorn"}),
    ],
)
def test_it_opens_from_clip_benchmark_s_tars_and_names(name, place, theirs, tmp_path):
    spec = find(name)
    names = list(spec.classes if name == "imagenet-r" else own_folders(spec))
    for label, called in theirs.items():
        names[label] = called
    backwards = names[::-1]  # no place is right: only the names can be
    write_webdataset(tmp_path / place, [list(range(len(names)))], backwards)
    opened = task(smaller(name, len(names), tmp_path), data=tmp_path)
    assert opened.labels.tolist() == list(range(len(names)))[::-1]
    assert opened.class_names == spec.classes
    assert opened.templates == spec.templates  # and not clip-benchmark's
