"""Sets of captioned images in every layout, each written here."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.retrieval.toys import captioned
from tests.tasks.tiny_data import pixels, png, write_tar

from zsrobust.errors import DataError, UnknownName
from zsrobust.geometry import Geometry
from zsrobust.retrieval.captions import CaptionSet
from zsrobust.retrieval.sources import open_captions
from zsrobust.tasks.images import ORIENTATION


def shows(found: CaptionSet, images: dict[int, set[str]]) -> None:
    """The set's images are these of the tiny pictures with these captions, in order."""
    np.testing.assert_array_equal(found.task.images(range(len(found))), np.stack([pixels(k) for k in images]))
    assert [{found.texts[t] for t in own} for own in found.own_texts] == list(images.values())


def write_parquet(path: Path, captions: list, *, column: str = "caption", first: int = 0, images=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = range(first, first + len(captions)) if images is None else images
    table = pa.table({"image": [{"bytes": png(k), "path": f"{k}.png"} for k in numbers], column: captions})
    pq.write_table(table, path, row_group_size=2)
    return path


def test_the_world_captions_every_composition_once_and_truly() -> None:
    found = open_captions("world")
    assert (len(found), len(found.texts)) == (480, 480)
    assert found.describe() == open_captions("world").describe()
    from zsrobust.tasks.world.scene import COLOURS, SHAPES, TEXTURES
    from zsrobust.tasks.world.views import VIEWS

    for image in range(0, 480, 37):
        scene = VIEWS["shape"].scene("test", int(found.task.ids[image]))
        words = found.texts[found.own_texts[image][0]].rstrip(".").split()
        assert {COLOURS[scene.colour], TEXTURES[scene.texture], SHAPES[scene.shape]} <= set(words)
    assert found.task.images([0]).shape == (1, 64, 64, 3)


def test_parquet_with_a_text_or_a_list_of_texts(tmp_path: Path) -> None:
    one = write_parquet(tmp_path / "one.parquet", ["a cat", "a dog", "a fox"])
    shows(open_captions(one), {0: {"a cat"}, 1: {"a dog"}, 2: {"a fox"}})
    many = write_parquet(tmp_path / "many.parquet", [["a", " b ", "a"], ["c"], ["d", "b"]], column="captions", first=5)
    found = open_captions(many)
    shows(found, {5: {"a", "b"}, 6: {"c"}, 7: {"d", "b"}})
    assert found.texts == ("a", "b", "c", "d")
    assert [o.tolist() for o in found.owners] == [[0], [0, 2], [1], [2]]  # a shared text is right for both


def test_parquet_with_a_row_for_each_caption_is_one_image(tmp_path: Path) -> None:
    rows = write_parquet(tmp_path / "rows.parquet", ["a", "b", "c", "d", "e"], images=[0, 0, 1, 1, 2])
    shows(open_captions(rows), {0: {"a", "b"}, 1: {"c", "d"}, 2: {"e"}})


def test_a_folder_of_parquet_files_keeps_its_splits(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test-00000-of-00002.parquet", ["a", "b", "c"])
    write_parquet(tmp_path / "test-00001-of-00002.parquet", ["d"], first=3)
    write_parquet(tmp_path / "train-00000-of-00001.parquet", ["e", "f"], first=10)
    shows(open_captions(tmp_path), {0: {"a"}, 1: {"b"}, 2: {"c"}, 3: {"d"}})
    shows(open_captions(tmp_path, split="train"), {10: {"e"}, 11: {"f"}})
    with pytest.raises(DataError, match="has no 'validation' split"):
        open_captions(tmp_path, split="validation")


def test_a_tar_with_txt_or_json(tmp_path: Path) -> None:
    samples = {
        "s0.png": png(0), "s0.txt": b"a cat\na feline\n", "s0.json": b'{"caption": "not read"}',
        "s1.json": json.dumps({"captions": ["a dog"]}).encode(), "s1.png": png(1),
        "s2.png": png(2), "s2.json": json.dumps({"caption": "a fox", "url": "x"}).encode(),
    }  # fmt: skip
    tar = write_tar(tmp_path / "pets.tar", samples)
    expected = {0: {"a cat", "a feline"}, 1: {"a dog"}, 2: {"a fox"}}
    shows(open_captions(tar), expected)
    shows(open_captions(tmp_path), expected)


def test_clip_benchmark_retrieval(tmp_path: Path) -> None:
    (tmp_path / "dataset_type.txt").write_text("retrieval\n")
    for shard in range(2):
        files = {f"s{shard}.png": png(shard), f"s{shard}.txt": f"caption {shard}\nagain {shard}".encode()}
        write_tar(tmp_path / "test" / f"{shard}.tar", files)
    (tmp_path / "test" / "nshards.txt").write_text("2\n")
    shows(open_captions(tmp_path), {0: {"caption 0", "again 0"}, 1: {"caption 1", "again 1"}})
    (tmp_path / "test" / "nshards.txt").write_text("3\n")
    with pytest.raises(DataError, match=r"nshards.txt says 3 tar files; there are 2"):
        open_captions(tmp_path)
    (tmp_path / "dataset_type.txt").write_text("classification\n")
    with pytest.raises(DataError, match="is a classification data set"):
        open_captions(tmp_path)


def test_images_keep_their_size_only_if_every_one_has_it(tmp_path: Path) -> None:
    def of(size: tuple[int, int], odd: tuple[int, int], *, held: int = 1) -> CaptionSet:
        """20 images of a size, but one: that was taken with the camera ``held`` so."""
        images = []
        for k in range(20):
            exif, file = Image.Exif(), io.BytesIO()
            exif[ORIENTATION] = held if k == 18 else 1
            Image.new("RGB", odd if k == 18 else size, (10 * k, 0, 0)).save(file, format="JPEG", exif=exif)
            images.append({"bytes": file.getvalue(), "path": f"{k}.jpg"})
        pq.write_table(pa.table({"image": images, "caption": [f"text {k}" for k in range(20)]}), tmp_path / "x.parquet")
        return open_captions(tmp_path / "x.parquet")

    for alike in (of((32, 32), (32, 32), held=6), of((24, 32), (24, 32)), of((24, 32), (32, 24), held=6)):
        assert alike.task.geometry == Geometry(size=alike.task.images([0]).shape[1:3])
    for mixed in (
        of((32, 32), (40, 40)),
        of((24, 32), (24, 32), held=6),
        of((32, 32), (32, 40)),
        of((240, 240), (240, 240)),
    ):
        assert mixed.task.geometry == Geometry(resize=256, crop=224)
        assert mixed.task.images(range(20)).shape == (20, 224, 224, 3)


def test_a_limit_is_a_draw_that_the_seed_gives() -> None:
    whole = captioned([[f"text {i}"] for i in range(20)])
    assert whole.take(5, seed=1).task.ids.tolist() == whole.take(5, seed=1).task.ids.tolist()
    assert set(whole.take(5).texts) <= set(whole.take(9).texts)
    assert len(whole.take(None)) == 20


def test_what_is_no_set_of_captions_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown set of captions 'wrld'; did you mean 'world'"):
        open_captions("wrld")
    with pytest.raises(DataError, match="no such file or folder: gone"):
        open_captions("gone.parquet")
    with pytest.raises(DataError, match="is no set of captions"):
        open_captions(tmp_path)
    with pytest.raises(UnknownName, match="unknown split 'tst'"):
        open_captions("world", split="tst")
    empty = write_parquet(tmp_path / "a" / "empty.parquet", [])
    with pytest.raises(DataError, match="has no images"):
        open_captions(empty)
    bare = write_parquet(tmp_path / "a" / "bare.parquet", ["x", "  ", "y"])
    with pytest.raises(DataError, match=r"image 'bare.parquet row 1' has no caption"):
        open_captions(bare)
    with pytest.raises(DataError, match=r"no column of captions \(columns: image, label\)"):
        open_captions(write_parquet(tmp_path / "a" / "labels.parquet", [1, 2], column="label"))
    with pytest.raises(DataError, match="captions are a text or a list of texts, not '7'"):
        open_captions(write_parquet(tmp_path / "a" / "numbers.parquet", [7, 8]))
    (tmp_path / "a" / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="is not a readable parquet file"):
        open_captions(tmp_path / "a" / "broken.parquet")
    with pytest.raises(DataError, match=r"image 'b/x.tar:s.png' has no caption"):
        open_captions(write_tar(tmp_path / "b" / "x.tar", {"s.png": png(0)}))
    with pytest.raises(DataError, match="1 captioned image; retrieval needs at least 2"):
        captioned().take(1)
    with pytest.raises(DataError, match="has all 2 captions of the set"):
        captioned([["a", "b"], ["a"]]).take(None)
