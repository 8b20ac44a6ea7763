from __future__ import annotations

import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.tasks.tiny_data import pixels, png, write_folder, write_parquet, write_webdataset

from zsrobust import cache
from zsrobust.errors import ConfigError, DataError
from zsrobust.geometry import Geometry
from zsrobust.tasks import Task, pixel_cache, task
from zsrobust.tasks.corruptions import Corruption
from zsrobust.tasks.hub import HubSource

SMALL = Geometry(resize=6, crop=5)


def hub(folder: Path) -> Task:
    """A task on rows as the hub's client gives them."""
    opened = task(folder, geometry=SMALL)
    table = [{"image": {"bytes": png(k)}} for k in range(8)]
    source = HubSource(where="hub:someone/pets", kind="hub", labels=opened.labels, table=table)
    return Task(**{**opened.__dict__, "source": source, "_cache": pixel_cache.PixelCache()})


def open_kind(kind: str, root: Path) -> Task:
    """Eight images of each kind of data, ``png(0)`` to ``png(7)``."""
    if kind == "parquet":
        file = root / "pets.parquet"
        return task(file if file.exists() else write_parquet(file, [0, 1] * 4, names=["a", "b"]), geometry=SMALL)
    if kind == "webdataset":
        folder = root / "tars"
        return task(
            folder if folder.exists() else write_webdataset(folder, [[0, 1] * 2] * 2, ["a", "b"]), geometry=SMALL
        )
    folder = root / "pets"
    folder = folder if folder.exists() else write_folder(folder, {"cat": 4, "dog": 4})
    return hub(folder) if kind == "hub" else task(folder, geometry=SMALL)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The sizes of images that went through a geometry; its length is how often."""
    calls: list[tuple[int, int]] = []
    original = Geometry.__call__
    monkeypatch.setattr(Geometry, "__call__", lambda self, image: calls.append(image.size) or original(self, image))
    return calls


@pytest.mark.parametrize("kind", ["parquet", "folder", "webdataset", "hub"])
def test_bit_equal_with_without_and_in_another_process(kind, tmp_path, monkeypatch, decoded, own_cache):
    monkeypatch.setenv("ZSROBUST_CACHE", "off")
    expected = open_kind(kind, tmp_path).images(range(8))
    assert len(np.unique(expected)) > 100
    assert not own_cache.exists()
    monkeypatch.setenv("ZSROBUST_CACHE", str(own_cache))
    for cold in (True, False):
        decoded.clear()
        opened = open_kind(kind, tmp_path)
        for _ in range(2):
            np.testing.assert_array_equal(opened.images([5, 0, 7, 0]), expected[[5, 0, 7, 0]])
        assert len(decoded) == (3 if cold else 0)
    np.testing.assert_array_equal(open_kind(kind, tmp_path).images(range(8)), expected)
    assert len(decoded) == 5


def test_another_image_under_the_same_name_is_seen(tmp_path):
    folder = write_folder(tmp_path / "pets", {"cat": 2, "dog": 2})
    task(folder).images(range(4))
    file, before = folder / "dog" / "000.png", (folder / "dog" / "000.png").stat()
    file.write_bytes(png(99))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # size and time say nothing
    np.testing.assert_array_equal(task(folder).images([2])[0], pixels(99))
    file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"dog/000\.png: cannot be read as an image"):
        task(folder, geometry=Geometry(size=(8, 8))).images([2])


@pytest.mark.parametrize("damage", ["pixels", "index", "header", "cut", "empty", "grown"])
def test_damage_is_decoded_again_and_mended(tmp_path, own_cache, decoded, damage):
    opened = open_kind("folder", tmp_path)
    expected = opened.images(range(8))
    (file,) = (own_cache / "pixels").iterdir()
    good = file.read_bytes()
    del opened
    at = {"pixels": len(good) - 10, "index": pixel_cache.HEADER + 3, "header": 5}.get(damage)
    with file.open("r+b") as handle:
        if at is not None:
            handle.seek(at)
            handle.write(bytes([good[at] ^ 1]))
        else:
            handle.truncate({"cut": len(good) // 2, "empty": 0, "grown": len(good) + 1}[damage])
    decoded.clear()
    np.testing.assert_array_equal(open_kind("folder", tmp_path).images(range(8)), expected)
    assert len(decoded) == (1 if damage in ("pixels", "index") else 8)
    assert file.read_bytes() == good


def test_a_file_cut_while_it_is_open_is_no_harm(tmp_path, own_cache):
    opened = open_kind("folder", tmp_path)
    expected = opened.images(range(8))
    (file,) = (own_cache / "pixels").iterdir()
    os.truncate(file, 100)
    np.testing.assert_array_equal(opened.images(range(8)), expected)


def test_a_half_written_slot_is_absent(tmp_path, own_cache, monkeypatch):
    """A process that is killed has written the pixels and not the index, or some of the pixels."""
    opened = open_kind("folder", tmp_path)
    real = pixel_cache._write
    monkeypatch.setattr(
        pixel_cache, "_write", lambda handle, content, at: real(handle, content, at) if len(content) > 16 else None
    )
    expected = opened.images(range(8))
    again = open_kind("folder", tmp_path)
    file = again._cache.file(again.source, again.geometry, None)
    assert all(file.get(row, again.source.digest(row)) is None for row in range(8))
    np.testing.assert_array_equal(again.images(range(8)), expected)


def test_geometries_and_corruptions_have_files_of_their_own_and_subsets_share(tmp_path, own_cache, decoded):
    opened = open_kind("folder", tmp_path)
    opened.images(range(8))
    decoded.clear()
    opened.take(3).images(range(3))
    task(tmp_path / "pets", geometry=SMALL, select=["dog"]).images(range(4))
    assert decoded == []
    others = [
        opened.with_geometry(Geometry(resize=6, crop=5, interpolation="bilinear")),
        *(opened.corrupted(Corruption("noise", strength, seed)) for strength, seed in ((1, 0), (2, 0), (1, 1))),
    ]
    shown = [other.images([0])[0] for other in [opened, *others]]
    assert len({image.tobytes() for image in shown}) == 5
    assert len(decoded) == 4
    assert len(list((own_cache / "pixels").iterdir())) == 5


def test_what_the_disk_does_not_serve_is_in_memory(tmp_path, own_cache, decoded):
    sizes = write_folder(tmp_path / "sizes", {"a": 1, "b": 1})
    (sizes / "b" / "000.png").write_bytes(png(1, (9, 8)))
    for opened in (task(sizes, geometry=Geometry()), task("world-shape", limit=2)):
        decoded.clear()
        for _ in range(2):
            opened.images([0])
        assert len(decoded) == 1
    assert not own_cache.exists()


def test_check_reads_the_data_and_not_what_was_kept(tmp_path, decoded):
    opened = open_kind("folder", tmp_path)
    opened.images(range(8))
    decoded.clear()
    opened.check()
    opened.check([3])
    assert len(decoded) == 9


@pytest.mark.parametrize("problem", ["a file", "no such place"])
def test_a_folder_that_cannot_be_used_is_one_warning(tmp_path, monkeypatch, problem):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZSROBUST_CACHE", str(tmp_path / "file") if problem == "a file" else "/proc/nothing/here")
    opened = open_kind("folder", tmp_path)
    with pytest.warns(UserWarning, match=r"the cache folder .* cannot be used \(.*\), so work is done without it"):
        expected = opened.images(range(8))
    np.testing.assert_array_equal(open_kind("folder", tmp_path).images(range(8)), expected)  # no second warning


def test_a_full_disk_is_one_warning(tmp_path, monkeypatch, decoded):
    opened = open_kind("folder", tmp_path)
    file = opened._cache.file(opened.source, opened.geometry, None)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pixel_cache, "_write", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        opened.images(range(8))
    opened.images(range(8))
    assert len(decoded) == 8  # the memory serves
    assert file is not None


def test_a_full_folder_with_what_others_own_is_one_warning(tmp_path, monkeypatch, decoded):
    opened = open_kind("folder", tmp_path)
    assert opened._cache.file(opened.source, opened.geometry, None) is not None

    def forbidden(*_: object, **__: object) -> bool:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(pixel_cache.cache, "make_room", forbidden)
    with pytest.warns(UserWarning, match="Operation not permitted"):
        opened.images(range(8))
    assert opened.images(range(8)).shape[0] == len(decoded) == 8


def test_the_bound_holds_and_the_rest_is_kept_in_memory(tmp_path, own_cache, monkeypatch, decoded):
    folder = write_folder(tmp_path / "many", {"a": 20, "b": 20}, size=(64, 64))
    monkeypatch.setenv("ZSROBUST_CACHE_BYTES", "200kB")
    opened = task(folder)
    assert opened.geometry == Geometry(size=(64, 64))
    decoded.clear()
    for _ in range(2):
        np.testing.assert_array_equal(opened.images(range(40))[39], pixels(39, (64, 64)))
    assert len(decoded) == 40
    assert 100_000 < sum(file.bytes for file in cache.kept(own_cache)) <= 200_000
    monkeypatch.setenv("ZSROBUST_CACHE_BYTES", "0")
    task(folder).images([0])
    monkeypatch.setenv("ZSROBUST_CACHE_BYTES", "lots")
    with pytest.raises(ConfigError, match="ZSROBUST_CACHE_BYTES = 'lots' is no size"):
        task(folder).images([0])


def test_an_evicted_file_is_no_harm_to_who_has_it_open(tmp_path, own_cache):
    opened = open_kind("folder", tmp_path)
    expected = opened.images(range(4))
    (file,) = (own_cache / "pixels").iterdir()
    file.unlink()
    np.testing.assert_array_equal(opened.images(range(4)), expected)
    opened.images(range(8))
    again = open_kind("folder", tmp_path)
    np.testing.assert_array_equal(again.images(range(4)), expected)
    assert file.exists()


def test_threads_share_a_task(tmp_path, monkeypatch):
    from zsrobust.tasks import parquet

    monkeypatch.setattr(parquet, "GROUP_CACHE_BYTES", 1)  # row groups come and go under the threads' hands
    file = write_parquet(tmp_path / "x.parquet", [0, 1] * 20, names=["a", "b"], row_group_size=2)
    opened = task(file, geometry=SMALL)
    orders = [np.random.default_rng(seed).permutation(40) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        shown = list(pool.map(opened.images, orders))
    monkeypatch.setenv("ZSROBUST_CACHE", "off")
    expected = task(file, geometry=SMALL).images(range(40))
    for order, images in zip(orders, shown, strict=True):
        np.testing.assert_array_equal(images, expected[order])


def _in_another_process(root: Path, order: list[int], barrier) -> bytes:
    barrier.wait(60)
    opened = task(root, geometry=SMALL)
    return b"".join(opened.images([i]).tobytes() for i in order)


def _send(connection, *arguments) -> None:
    connection.send(_in_another_process(*arguments))


def test_two_processes_fill_one_file(tmp_path, own_cache, decoded):
    folder = write_folder(tmp_path / "pets", {"cat": 30, "dog": 30})
    orders = [list(range(60)), list(range(59, -1, -1))]
    context = multiprocessing.get_context("fork")
    barrier, pipes, workers = context.Barrier(2), [], []
    for order in orders:
        here, there = context.Pipe()
        workers.append(context.Process(target=_send, args=(there, folder, order, barrier)))
        workers[-1].start()
        pipes.append(here)
    one, other = (pipe.recv() for pipe in pipes)
    for worker in workers:
        worker.join()
    slot = 5 * 5 * 3
    assert one == b"".join(other[i : i + slot] for i in range(59 * slot, -1, -slot))
    decoded.clear()
    assert task(folder, geometry=SMALL).images(range(60)).tobytes() == one
    assert decoded == []
    assert len(list((own_cache / "pixels").iterdir())) == 1


def test_a_task_sent_to_another_process_takes_no_pixels_along(tmp_path, monkeypatch):
    monkeypatch.setenv("ZSROBUST_CACHE", "off")
    opened = open_kind("parquet", tmp_path)
    before = len(pickle.dumps(opened))
    expected = opened.images(range(8))
    sent = pickle.dumps(opened)
    assert len(sent) < before + 1000  # the digests
    np.testing.assert_array_equal(pickle.loads(sent).images(range(8)), expected)
