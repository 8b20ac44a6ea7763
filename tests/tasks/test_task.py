from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from tests.tasks.tiny_data import pixels, png, write_folder, write_parquet

import zsrobust.tasks.pixel_cache as pixel_cache
from zsrobust.errors import ConfigError, DataError
from zsrobust.geometry import Geometry
from zsrobust.tasks import task
from zsrobust.tasks.base import stratified_order


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "pets", {"cat": 7, "dog": 3, "emu": 5})


def test_images_come_in_the_order_asked_for(folder):
    opened = task(folder)
    images = opened.images([14, 0, 3, 0])
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, np.stack([pixels(k) for k in (14, 0, 3, 0)]))
    assert opened.images([]).shape[0] == 0
    for outside in (-1, 15):
        with pytest.raises(IndexError):
            opened.images([outside])


def test_images_are_not_the_cache_itself(folder):
    opened = task(folder)
    opened.images([0])[:] = 0
    np.testing.assert_array_equal(opened.images([0])[0], pixels(0))


def test_the_memory_saves_decoding_and_is_bounded(folder, monkeypatch):
    monkeypatch.setenv("ZSROBUST_CACHE", "off")
    monkeypatch.setattr(pixel_cache, "MEMORY_BYTES", 8 * 8 * 3 * 4)
    opened = task(folder)
    reads = []
    original = type(opened.source).content
    monkeypatch.setattr(type(opened.source), "content", lambda self, row: reads.append(row) or original(self, row))
    for _ in range(2):
        np.testing.assert_array_equal(opened.images(range(6)), np.stack([pixels(k) for k in range(6)]))
    assert reads == [0, 1, 2, 3, 4, 5, 4, 5]


def test_take_is_stratified_nested_and_ascending(folder):
    whole = task(folder)
    previous: set[int] = set()
    for limit in range(1, 16):
        some = whole.take(limit, seed=3)
        assert len(some) == limit
        assert (np.diff(some.ids) > 0).all()
        assert previous < set(some.ids.tolist())
        counts = np.bincount(some.labels, minlength=3)
        missing = np.array([7, 3, 5]) - counts
        assert counts.max() - counts[missing > 0].min(initial=99) <= 1  # as even as the classes' sizes allow
        np.testing.assert_array_equal(some.labels, whole.labels[some.ids])
        previous = set(some.ids.tolist())
    np.testing.assert_array_equal(whole.take(1000, seed=3).ids, whole.ids)


def test_take_depends_on_the_seed_and_nothing_else(folder):
    whole = task(folder)
    np.testing.assert_array_equal(whole.take(6, seed=1).ids, task(folder, limit=6, seed=1).ids)
    assert len({tuple(whole.take(6, seed=s).ids) for s in range(10)}) > 5
    np.testing.assert_array_equal(whole.take(10, seed=4).take(5, seed=4).ids, whole.take(5, seed=4).ids)


def test_the_order_is_the_same_everywhere():
    order = stratified_order(np.arange(12), np.arange(12) % 3, 7)
    assert order.tolist() == [4, 11, 6, 10, 2, 3, 7, 8, 9, 1, 5, 0]  # written down: another machine or numpy must agree
    without = np.delete(np.arange(12), 5)  # one example less leaves the others' order within their class alone
    shorter = without[stratified_order(without, without % 3, 7)]
    for label in range(3):
        kept = [row for row in order if row % 3 == label and row != 5]
        assert [row for row in shorter if row % 3 == label] == kept


@pytest.mark.parametrize(("limit", "seed", "message"), [(0, 0, "limit = 0"), (-3, 0, "limit"), (1, -1, "seed = -1")])
def test_bad_limits(folder, limit, seed, message):
    with pytest.raises(ConfigError, match=message):
        task(folder).take(limit, seed=seed)


def test_with_geometry_starts_from_the_image(folder):
    opened = task(folder, geometry=Geometry(crop=2))
    assert opened.images([1]).shape == (1, 2, 2, 3)
    again = opened.with_geometry(Geometry(crop=4))
    np.testing.assert_array_equal(again.images([1])[0], pixels(1)[2:6, 2:6])
    assert opened.images([1]).shape == (1, 2, 2, 3)
    assert again.fingerprint != opened.fingerprint


def test_geometry_guessed_for_small_images_of_one_size(folder, tmp_path):
    assert task(folder).geometry == Geometry(size=(8, 8))
    write_folder(tmp_path / "large", {"a": 1, "b": 1}, size=(100, 225))
    assert task(tmp_path / "large").geometry == Geometry(256, 224)
    (folder / "dog" / "000.png").write_bytes(png(0, (9, 8)))
    assert task(folder).geometry == Geometry(256, 224)
    assert task(folder).images([7, 8]).shape == (2, 224, 224, 3)


def test_a_limit_does_not_change_the_guessed_geometry(tmp_path):
    folder = write_folder(tmp_path / "some", {"a": 8, "b": 8})
    (folder / "a" / "003.png").write_bytes(png(0, (9, 8)))
    assert all(task(folder, limit=n).geometry == Geometry(256, 224) for n in (1, 2, 3, 4))


def test_a_later_image_of_another_size_is_an_error_that_names_it_and_the_key(tmp_path):
    folder = write_folder(tmp_path / "many", {"a": 40, "b": 40})
    (folder / "a" / "001.png").write_bytes(png(0, (9, 8)))
    opened = task(folder)
    assert opened.geometry == Geometry(size=(8, 8))
    with pytest.raises(
        DataError, match=r"a/001\.png is 9x8, but every image must be 8x8; .*\[geometry\] resize and crop"
    ):
        opened.check()
    with pytest.raises(
        DataError, match=r"many: .*a/000\.png is 8x8 and .*a/001\.png is 9x8 under .*set \[geometry\] crop"
    ):
        task(folder, geometry=Geometry()).images([0, 1])


def test_the_fingerprint_covers_what_is_measured(folder):
    first = task(folder)
    assert first.fingerprint == task(folder).fingerprint
    assert len(first.fingerprint) == 64
    others = [
        first.take(5),
        first.take(5, seed=1),
        task(folder, classes=["a", "b", "c"]),
        task(folder, select=["cat", "dog"]),
        task(folder, geometry=Geometry(crop=4)),
    ]
    assert len({t.fingerprint for t in [first, *others]}) == 6
    (folder / "emu" / "004.png").write_bytes(png(99))
    assert task(folder).fingerprint != first.fingerprint


def test_the_fingerprint_of_many_images_reads_evenly_spaced_runs(folder, monkeypatch):
    import zsrobust.tasks.source as source

    monkeypatch.setattr(source, "FINGERPRINT_ROWS", 6)
    monkeypatch.setattr(source, "FINGERPRINT_RUN", 2)
    opened = task(folder)
    assert opened.source.fingerprint_rows(opened.ids) == [0, 1, 6, 7, 13, 14]
    assert opened.describe()["fingerprint_images"] == 6


def test_image_ids_say_which_images_are_the_same(folder, tmp_path):
    (folder / "dog" / "000.png").write_bytes(png(0))
    opened = task(folder)
    assert opened.image_id(0) == opened.image_id(7) != opened.image_id(1)
    elsewhere = task(write_parquet(tmp_path / "x.parquet", [0, 1], names=["a", "b"]))
    assert elsewhere.image_id(0) == opened.image_id(0)


def test_select_keeps_the_datas_order_and_the_source_rows(folder):
    some = task(folder, select=["emu", "cat"])
    assert some.name == f"{task(folder).name}[cat+emu]"  # not the whole task: results of the two must not mix
    assert some.class_names == ("cat", "emu")
    assert some.ids.tolist() == [*range(7), *range(10, 15)]
    assert some.labels.tolist() == [0] * 7 + [1] * 5
    np.testing.assert_array_equal(some.images([7])[0], pixels(10))
    with pytest.raises(ConfigError, match="unknown class of task 'pets' 'catt'; did you mean 'cat'"):
        task(folder, select=["catt"])


def test_describe_is_json(folder):
    (folder / "notes.txt").write_text("x")
    described = json.loads(json.dumps(task(folder, limit=4, seed=2).describe()))
    assert described["n"] == 4
    assert described["of"] == 15
    assert described["limit"] == {"limit": 4, "seed": 2}
    assert described["geometry"] == "8x8 as is"
    assert described["ignored_files"] == 1
    assert described["source"] == {"kind": "folder", "where": str(folder)}
    assert task(folder).describe()["limit"] is None


def test_a_bad_image_stops_with_its_name(folder):
    (folder / "dog" / "001.png").write_bytes(b"no image at all")
    with pytest.raises(DataError, match=r"pets/dog/001\.png: cannot be read as an image \(not a known image format"):
        task(folder, geometry=Geometry()).images(range(15))
    with pytest.raises(DataError, match=r"dog/001\.png"):
        task(folder).check()
    assert len(task(folder, limit=15)) == 15  # opening does not decode everything


def test_bad_images_are_skipped_counted_and_listed(folder):
    (folder / "dog" / "001.png").write_bytes(png(8)[:-30])
    (folder / "emu" / "000.png").write_bytes(b"")
    opened = task(folder, on_bad_image="skip")
    assert len(opened) == 13
    assert opened.ids.tolist() == [i for i in range(15) if i not in (8, 10)]
    assert [line.split(": cannot")[0] for line in opened.bad_images] == [
        str(folder / "dog/001.png"),
        str(folder / "emu/000.png"),
    ]
    assert opened.describe()["bad_images"] == opened.bad_images
    opened.check()
    small, large = (set(task(folder, limit=n, on_bad_image="skip").ids.tolist()) for n in (6, 12))
    assert small < large


def test_a_class_whose_images_are_all_bad_is_an_error(folder):
    for file in (folder / "dog").iterdir():
        file.write_bytes(b"x")
    with pytest.raises(DataError, match=r"no image of class 'dog' can be read; the first: .*dog/000\.png"):
        task(folder, on_bad_image="skip")


def test_on_bad_image_is_one_of_two(folder):
    with pytest.raises(ConfigError, match="unknown on_bad_image 'skp'; did you mean 'skip'"):
        task(folder, on_bad_image="skp")


def test_tasks_can_be_sent_to_another_process(folder, tmp_path):
    file = write_parquet(tmp_path / "x.parquet", [0, 1], names=["a", "b"])
    for opened in (task(folder), task(file), task("digits"), task("world-shape", limit=5)):
        sent = pickle.loads(pickle.dumps(opened))
        np.testing.assert_array_equal(sent.images([1]), opened.images([1]))
        assert sent.fingerprint == opened.fingerprint


def test_arrays_are_read_only(folder):
    opened = task(folder)
    for array in (opened.ids, opened.labels, opened.take(3).ids):
        assert array.dtype == np.int64
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
