from __future__ import annotations

import hashlib
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest

from zsrobust.tasks.world import scene as world
from zsrobust.tasks.world.captions import caption
from zsrobust.tasks.world.glyphs import glyph_strokes
from zsrobust.tasks.world.render import render
from zsrobust.tasks.world.scene import Scene, sample_scene
from zsrobust.tasks.world.views import SPLIT_SEEDS, VIEWS

SPLITS = tuple(SPLIT_SEEDS)
EVERY_VIEW = pytest.mark.parametrize("name", sorted(VIEWS))
EVERY_STREAM = pytest.mark.parametrize("stream", sorted(world.STREAMS))


def toml(name: str) -> dict[str, object]:
    return tomllib.loads((files("zsrobust.tasks") / f"world-{name}.toml").read_text())


# ------------------------------------------------------------------------------------------------------ determinism


@pytest.mark.parametrize(
    ("stream", "seed", "index", "golden"),
    [
        ("single", 101, 0, "338ef90b728eb4cb"),
        ("single", 103, 19999, "b4dfd72b9fac8576"),
        ("single", 7, 123456, "17583879c9fdad94"),
        ("count", 101, 0, "e9a66d3798f6de2e"),
        ("count", 103, 19999, "908144255ea782ed"),
        ("count", 7, 123456, "c73f14c79c3e73e6"),
        ("glyph", 101, 0, "982be97f7f90e5c0"),
        ("glyph", 103, 19999, "40028e1d5fedf21a"),
        ("glyph", 7, 123456, "b2f050762dc11eb2"),
    ],
)
def test_a_render_is_the_same_bytes_everywhere(stream: str, seed: int, index: int, golden: str) -> None:
    image = render(sample_scene(stream, seed, index))
    assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == golden


@EVERY_STREAM
def test_a_render_is_rgb_bytes_and_does_not_depend_on_what_was_drawn_before(stream: str) -> None:
    first = render(sample_scene(stream, 5, 17))
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    render(sample_scene(stream, 5, 18))
    np.random.default_rng().random(3)
    assert np.array_equal(first, render(sample_scene(stream, 5, 17)))


@EVERY_STREAM
def test_seed_and_index_change_the_picture(stream: str) -> None:
    pictures = [render(sample_scene(stream, seed, index)).tobytes() for seed in (1, 2) for index in (0, 1, 480)]
    assert len(set(pictures)) == len(pictures)


def test_importing_the_world_loads_neither_torch_nor_pil() -> None:
    code = (
        "import sys, zsrobust.tasks.world.views, zsrobust.tasks.world.captions;"
        "assert not {'torch', 'PIL', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------------------------------ views


@EVERY_VIEW
@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_those_of_the_scenes(name: str, split: str) -> None:
    view = VIEWS[name]
    labels = view.labels(split)
    assert labels.shape == (view.length(split),)
    assert labels.dtype == np.int64
    for index in range(0, len(labels), len(labels) // 7):
        label = int(labels[index])
        assert view.label(split, index) == label
        assert view.class_names[label] == described(view.scene(split, index), name)


def described(shown: Scene, view: str) -> str:
    if view in ("compositions", "unseen"):
        words = (world.COLOURS[shown.colour], world.TEXTURES[shown.texture], world.SHAPES[shown.shape])
        return " ".join(words)
    return world.VOCABULARY[view][getattr(shown, view)]


@EVERY_VIEW
@pytest.mark.parametrize("split", SPLITS)
def test_classes_are_balanced(name: str, split: str) -> None:
    view = VIEWS[name]
    counts = np.bincount(view.labels(split), minlength=len(view.class_names))
    assert counts.min() >= 1
    assert counts.max() - counts.min() <= max(2, 0.07 * counts.mean())


@EVERY_VIEW
def test_class_names_are_unique_and_the_tomls_say_the_same(name: str) -> None:
    view, task = VIEWS[name], toml(name)
    assert len(set(view.class_names)) == len(view.class_names)
    assert task["name"] == f"world-{name}"
    assert tuple(task.get("classes", view.class_names)) == view.class_names
    assert task["source"] == {"kind": "world", "view": name}
    assert task["geometry"] == {"size": 64}
    assert task["splits"] == {split: view.length(split) for split in SPLITS}
    follows = name in ("unseen", "shape", "colour", "texture")
    assert task["follows_from"] == (["world-compositions"] if follows else [])
    assert all(template.count("{}") == 1 for template in task["templates"])


def test_views_that_show_the_same_render_share_its_id() -> None:
    shape, colour, unseen = VIEWS["shape"], VIEWS["colour"], VIEWS["unseen"]
    assert shape.image_id("test", 3) == colour.image_id("test", 3)
    assert np.array_equal(shape.image("test", 3), colour.image("test", 3))
    by_id = {shape.image_id("test", i): i for i in range(200)}
    shared = [(i, by_id[unseen.image_id("test", i)]) for i in range(20)]
    assert all(np.array_equal(unseen.image("test", i), shape.image("test", j)) for i, j in shared)
    assert VIEWS["count"].image_id("test", 3) != VIEWS["glyph"].image_id("test", 3) != shape.image_id("test", 3)


def test_splits_share_no_render() -> None:
    for view in (VIEWS["shape"], VIEWS["count"], VIEWS["glyph"]):
        ids = [view.image_id(split, i) for split in SPLITS for i in range(50)]
        drawn = [view.image(split, i).tobytes() for split in SPLITS for i in range(50)]
        assert len(set(ids)) == len(set(drawn)) == len(ids)


def test_an_unknown_split_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no split 'dev'.*train, validation, test"):
        VIEWS["shape"].labels("dev")


def test_labels_can_be_changed_by_the_caller_without_harm() -> None:
    labels = VIEWS["shape"].labels("test")
    labels[:] = -7
    assert VIEWS["shape"].labels("test").min() == 0


# ----------------------------------------------------------------------------------------------- held-out compositions


def test_a_fifth_of_the_compositions_is_held_out_and_nothing_else_is_new_about_it() -> None:
    shape, colour, texture = np.array(world.COMPOSITIONS).T
    unseen = world.held_out(shape, colour, texture)
    assert unseen.sum() == 96 == len(world.COMPOSITIONS) // 5
    for part, values in ((shape, 10), (colour, 8), (texture, 6)):
        kept = np.bincount(part[~unseen], minlength=values)
        assert kept.max() - kept.min() <= 1


def test_adaptation_never_sees_an_unseen_composition() -> None:
    seen, unseen = VIEWS["compositions"], VIEWS["unseen"]
    assert not set(seen.class_names) & set(unseen.class_names)
    assert len(seen.class_names) + len(unseen.class_names) == len(world.COMPOSITIONS)
    seen_ids = {seen.image_id("test", i) for i in range(500)}
    assert not seen_ids & {unseen.image_id("test", i) for i in range(500)}


# ---------------------------------------------------------------------------------------------------------- pictures


def test_an_object_stands_off_from_its_background() -> None:
    for index in range(200):
        shown = sample_scene("single", 3, index)
        plain = replace(shown, background=world.BACKGROUNDS.index("plain"), texture=world.TEXTURES.index("solid"))
        pixels = render(plain).reshape(-1, 3).astype(float)
        background = np.median(pixels, axis=0)  # no object fills half of the picture
        assert np.abs(pixels - background).max() > 90


def test_every_glyph_is_drawn_differently() -> None:
    drawings = {glyph_strokes(name).tobytes() for name in world.GLYPHS}
    assert len(drawings) == 36


@pytest.mark.parametrize(("one", "other"), [("letter O", "digit 0"), ("letter I", "digit 1"), ("letter S", "digit 5")])
def test_confusable_glyphs_are_told_apart(one: str, other: str) -> None:
    def drawn(name: str) -> np.ndarray:
        return render(Scene(stream="glyph", seed=1, index=4, colour=2, background=0, glyph=world.GLYPHS.index(name)))

    differing = (np.abs(drawn(one).astype(int) - drawn(other).astype(int)).max(axis=2) > 60).sum()
    assert differing > 40


# ---------------------------------------------------------------------------------------------------------- captions


@EVERY_STREAM
def test_a_caption_mentions_what_it_says_it_mentions(stream: str) -> None:
    rng = np.random.default_rng(0)
    for index in range(100):
        shown = sample_scene(stream, 2, index)
        told = caption(shown, rng)
        assert told.mentioned
        for name in told.mentioned - {"count"}:
            assert world.VOCABULARY[name][getattr(shown, name)] in told.text
