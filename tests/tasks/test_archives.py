"""Every archive's layout on a small look-alike: the images, and their labels by name."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.io import savemat
from tests.tasks.tiny_data import pixels, png, write_folder, write_parquet, write_webdataset

from zsrobust.errors import DataError
from zsrobust.tasks import task
from zsrobust.tasks.archives import ARCHIVES

KNOWN = {pixels(number).tobytes(): number for number in range(40)}


def write(root: Path, files: dict[str, int | str]) -> Path:
    """A file of each name: a picture where a number is given, else a text."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(content) if isinstance(content, int) else content.encode())
    return root


def toml(tmp_path: Path, layout: str, classes: list[str], splits: str = "", side: int = 8) -> Path:
    """A task on the data in ``NAME`` of the data folder; its classes are in an order of their own."""
    file = tmp_path / "defs" / f"{layout}.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(
        f'classes = {json.dumps(classes)}\n[source]\nlayout = "{layout}"\nlocal = ["data"]\n'
        f"[geometry]\nsize = {side}\n{splits}"
    )
    return file


def shown(file: Path, tmp_path: Path, split: str = "test") -> list[tuple[int, str]]:
    """(number of the picture, class name) of every image, in order."""
    opened = task(file, split=split, data=tmp_path)
    pictures = [KNOWN[image.tobytes()] for image in opened.images(range(len(opened)))]
    return [(n, opened.class_names[label]) for n, label in zip(pictures, opened.labels, strict=True)]


PETS = {
    "images/Birman_2.jpg": 0, "images/Birman_10.jpg": 1, "images/american_bulldog_1.jpg": 2, "images/pug_7.jpg": 3,
    "images/pug_8.jpg": 4, "images/pug_8.mat": "x",
    "annotations/test.txt": "Birman_10 1 1 1\namerican_bulldog_1 2 2 1\npug_8 3 2 2\n",
    "annotations/trainval.txt": "pug_7 3 2 2\nBirman_2 1 1 1\namerican_bulldog_1 2 2 1\n",
}  # fmt: skip


@pytest.mark.parametrize("where", ["data", "data/oxford-iiit-pet"])
def test_pets(tmp_path, where):
    write(tmp_path / where, PETS)
    file = toml(tmp_path, "pets", ["pug", "American Bulldog", "birman"])
    assert shown(file, tmp_path) == [(1, "birman"), (2, "American Bulldog"), (4, "pug")]
    assert shown(file, tmp_path, "train") == [(3, "pug"), (0, "birman"), (2, "American Bulldog")]
    assert task(file, data=tmp_path).source.kind == "archive"
    (tmp_path / where / "annotations" / "test.txt").write_text("Birman_10 1 1 1\npug_8 1 2 2\n")
    with pytest.raises(DataError, match=r"test\.txt: class 1 is called both 'Birman' and 'pug'"):
        task(file, data=tmp_path)


def test_cars(tmp_path):
    root = write(tmp_path / "data", {f"cars_{part}/{n:05}.jpg": n + base for part, base in (("test", 0), ("train", 10))
                                     for n in (1, 2, 3)})  # fmt: skip
    (root / "devkit").mkdir()
    kind = [(key, object) for key in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    for name, order in (("cars_test_annos_withlabels", (2, 1, 2)), ("devkit/cars_train_annos", (1, 2, 1))):
        rows = [(1, 1, 5, 5, label, f"{n:05}.jpg") for n, label in enumerate(order, 1)]
        savemat(root / f"{name}.mat", {"annotations": np.array(rows, dtype=kind)})
    names = np.array(["AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012"], dtype=object)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})
    van, suv = "Ram C/V Cargo Van Minivan 2012", "AM General Hummer SUV 2000"
    file = toml(tmp_path, "cars", [van, suv])
    assert shown(file, tmp_path) == [(1, van), (2, suv), (3, van)]
    assert shown(file, tmp_path, "train") == [(11, suv), (12, van), (13, suv)]
    savemat(root / "cars_test_annos_withlabels.mat", {"annotations": np.array(["00001.jpg"])})
    with pytest.raises(DataError, match="has no fname and class of every image"):
        task(file, data=tmp_path)


def test_food101(tmp_path):
    files = {f"images/{name}/{n}.jpg": n for name, n in (("pho", 1), ("pho", 2), ("apple_pie", 3), ("apple_pie", 4))}
    lists = {"meta/test.txt": "pho/2\napple_pie/3\n", "meta/train.txt": "apple_pie/4\npho/1\n", "meta/test.json": "{}"}
    write(tmp_path / "data" / "food-101", files | lists)
    file = toml(tmp_path, "food101", ["pho", "apple pie"])
    assert shown(file, tmp_path) == [(2, "pho"), (3, "apple pie")]
    assert shown(file, tmp_path, "train") == [(4, "apple pie"), (1, "pho")]
    (tmp_path / "data" / "food-101" / "images" / "pho" / "2.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 2 listed images are missing: images/pho/2\.jpg"):
        task(file, data=tmp_path)


def test_flowers102(tmp_path):
    root = write(tmp_path / "data", {f"jpg/image_{n:05}.jpg": n for n in range(1, 7)})
    savemat(root / "imagelabels.mat", {"labels": np.array([[2, 1, 2, 1, 2, 1]], dtype=np.uint8)})
    ids = {"trnid": np.array([[3, 4]]), "valid": np.array([[5, 6]]), "tstid": np.array([[2, 1]])}
    savemat(root / "setid.mat", ids)
    file = toml(tmp_path, "flowers102", ["pink primrose", "orchid"])  # no names in the data: its own order
    assert shown(file, tmp_path) == [(2, "pink primrose"), (1, "orchid")]
    assert shown(file, tmp_path, "validation") == [(5, "orchid"), (6, "pink primrose")]
    (root / "imagelabels.mat").write_bytes(b"no mat")
    with pytest.raises(DataError, match=r"imagelabels\.mat is not a readable MATLAB file"):
        task(file, data=tmp_path)
    (root / "imagelabels.mat").unlink()
    with pytest.raises(DataError, match=r"looks like the archive of flowers102, but imagelabels\.mat is missing"):
        task(file, data=tmp_path)


def test_aircraft(tmp_path):
    lists = {"variants.txt": "707-320\nF-16A/B\n", "families.txt": "x", "images_variant_train.txt": "0000003 707-320\n"}
    lists |= {"images_variant_test.txt": "0000002 F-16A/B\n0000001 707-320\n"}
    files = {f"images/000000{n}.jpg": n for n in (1, 2, 3)}
    write(tmp_path / "data" / "fgvc-aircraft-2013b" / "data", files | lists)
    file = toml(tmp_path, "aircraft", ["F-16A/B", "707-320"])
    assert shown(file, tmp_path) == [(2, "F-16A/B"), (1, "707-320")]
    with pytest.raises(DataError, match=r"no images of class 'F-16A/B' in the 'train' split"):
        task(file, split="train", data=tmp_path)


def test_sun397(tmp_path):
    files = {"a/abbey/sun_x.jpg": 1, "a/apse/indoor/sun_y.jpg": 2, "a/apse/indoor/sun_z.jpg": 3, "a/abbey/notes.jpg": 4}
    write(tmp_path / "data" / "SUN397", files | {"ClassName.txt": "/a/abbey\n/a/apse/indoor\n", "README.txt": "x"})
    file = toml(tmp_path, "sun397", ["apse indoor", "abbey"], '[splits]\ntest = { from = "all", size = 3 }\n')
    assert shown(file, tmp_path) == [(1, "abbey"), (2, "apse indoor"), (3, "apse indoor")]


def test_dtd(tmp_path):
    files = {f"images/{name}/{name}_{n}.jpg": n for name, n in (("zigzagged", 1), ("banded", 2), ("banded", 3))}
    lists = {"labels/test1.txt": "zigzagged/zigzagged_1.jpg\nbanded/banded_3.jpg\n", "labels/test2.txt": "wrong\n"}
    write(tmp_path / "data" / "dtd", files | lists | {"labels/labels_joint_anno.txt": "x", "imdb/imdb.mat": "x"})
    file = toml(tmp_path, "dtd", ["zigzagged", "banded"])
    assert shown(file, tmp_path) == [(1, "zigzagged"), (3, "banded")]
    with pytest.raises(DataError, match=r"labels/train1\.txt is missing"):
        task(file, split="train", data=tmp_path)


@pytest.mark.parametrize("where", ["data", "data/caltech-101/101_ObjectCategories"])
def test_caltech101_without_its_background(tmp_path, where):
    files = {f"{name}/image_000{n}.jpg": n for name, n in (("Faces", 1), ("ant", 2), ("ant", 3))}
    write(tmp_path / where, files | {"BACKGROUND_Google/image_0001.jpg": 9, "BACKGROUND_Google/tmp": "x"})
    file = toml(tmp_path, "caltech101", ["ant", "faces"], '[splits]\ntest = { from = "all", size = 3 }\n')
    assert shown(file, tmp_path) == [(1, "faces"), (2, "ant"), (3, "ant")]


def test_caltech256_without_its_stray_files(tmp_path):
    files = {"001.ak47/001_0001.jpg": 1, "001.ak47/001_0002.jpg": 2, "002.american-flag/002_0001.jpg": 3}
    stray = {"001.ak47/RENAME2": "x", "002.american-flag/greg/vision309/x.jpg": 9}
    write(tmp_path / "data" / "256_ObjectCategories", files | stray)
    file = toml(tmp_path, "caltech256", ["002.american-flag", "001.ak47"])
    assert shown(file, tmp_path) == [(1, "001.ak47"), (2, "001.ak47"), (3, "002.american-flag")]


@pytest.mark.parametrize("where", ["2750", "EuroSAT/2750", "EuroSAT_RGB"])
def test_eurosat(tmp_path, where):
    write(tmp_path / "data" / where, {"AnnualCrop/AnnualCrop_1.jpg": 1, "River/River_1.jpg": 2, "River/River_2.jpg": 3})
    assert shown(toml(tmp_path, "eurosat", ["River", "AnnualCrop"]), tmp_path) == [
        (1, "AnnualCrop"), (2, "River"), (3, "River")
    ]  # fmt: skip


def test_country211(tmp_path):
    for number, split in enumerate(("train", "valid", "test")):
        write_folder(tmp_path / "data" / "country211" / split, {"AD": 1, "ZW": 2}, first=10 * number)
    file = toml(tmp_path, "country211", ["ZW", "AD"])
    assert shown(file, tmp_path) == [(20, "AD"), (21, "ZW"), (22, "ZW")]
    assert shown(file, tmp_path, "validation") == [(10, "AD"), (11, "ZW"), (12, "ZW")]


def test_imagenet(tmp_path):
    root = tmp_path / "data"
    write_folder(root / "val", {"n01440764": 1, "n01443537": 2})
    write_folder(root / "train", {"n01440764": 2, "n01443537": 1}, first=10)
    write(root, {"ILSVRC2012_devkit_t12/data/meta.mat": "x", "meta.bin": "x", "test/ILSVRC2012_test_00000001.JPEG": 9})
    file = toml(
        tmp_path, "imagenet", ["n01443537", "n01440764"], '[splits]\ntest = { from = "validation" }\ntrain = 3\n'
    )
    assert shown(file, tmp_path) == [(0, "n01440764"), (1, "n01443537"), (2, "n01443537")]
    assert [number for number, _ in shown(file, tmp_path, "train")] == [10, 11, 12]
    write(root / "val", {"ILSVRC2012_val_00000001.JPEG": 1})
    with pytest.raises(
        DataError, match=r"val has ImageNet's validation images in one heap, .*the folder of its WordNet"
    ):
        task(file, data=tmp_path)


def test_hateful_memes(tmp_path):
    def listed(*rows: tuple[int, int]) -> str:
        return "".join(json.dumps({"id": n, "img": f"img/{n:05}.png", "label": k, "text": "…"}) + "\n" for n, k in rows)

    files = {f"img/{n:05}.png": n for n in range(1, 5)}
    lists = {"test_seen.jsonl": listed((3, 1), (1, 0)), "test_unseen.jsonl": listed((2, 1))}
    root = write(tmp_path / "data", files | lists | {"train.jsonl": listed((4, 0), (1, 1)), "README.md": "x"})
    file = toml(tmp_path, "hateful-memes", ["benign", "hateful"])
    assert shown(file, tmp_path) == [(3, "hateful"), (1, "benign"), (2, "hateful")]
    assert shown(file, tmp_path, "train") == [(4, "benign"), (1, "hateful")]
    write(root, {"test_unseen.jsonl": '{"id": 2, "img": "img/00002.png"}\n'})
    with pytest.raises(DataError, match=r"test_unseen\.jsonl, line 1: no img and label \(a test list without labels"):
        task(file, data=tmp_path)


def raw(number: int, side: int) -> np.ndarray:
    """(side, side, 3)."""
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_stl10_is_stored_column_after_column(tmp_path):
    root = tmp_path / "data" / "stl10_binary"
    root.mkdir(parents=True)
    images = [raw(n, 96) for n in range(3)]
    (root / "test_X.bin").write_bytes(b"".join(image.transpose(2, 1, 0).tobytes() for image in images))
    (root / "test_y.bin").write_bytes(bytes([2, 1, 2]))
    write(root, {"class_names.txt": "airplane\nbird\n", "fold_indices.txt": "0"})
    file = toml(tmp_path, "stl10", ["bird", "airplane"], side=96)
    opened = task(file, data=tmp_path)
    np.testing.assert_array_equal(opened.images(range(3)), np.stack(images))
    assert [opened.class_names[label] for label in opened.labels] == ["bird", "airplane", "bird"]
    again = pickle.loads(pickle.dumps(opened))
    assert again.fingerprint == opened.fingerprint
    (root / "test_X.bin").write_bytes(bytes(96))
    with pytest.raises(DataError, match=r"test_X\.bin has not the size of the 3 images that test_y\.bin speaks of"):
        task(file, data=tmp_path)


@pytest.mark.parametrize(
    ("name", "folder", "names", "head"),
    [
        ("cifar10", "cifar-10-batches-bin", "batches.meta.txt", b""),
        ("cifar100", "cifar-100-binary", "fine_label_names.txt", b"\7"),
    ],
)
def test_cifar_in_its_binary_form(tmp_path, name, folder, names, head):
    root = write(tmp_path / "data" / folder, {names: "apple\nbear\n", "coarse_label_names.txt": "x"})
    images = [raw(n, 32) for n in range(12)]
    rows = [head + bytes([n % 2]) + image.transpose(2, 0, 1).tobytes() for n, image in enumerate(images)]
    if name == "cifar10":
        for batch in range(5):
            (root / f"data_batch_{batch + 1}.bin").write_bytes(b"".join(rows[2 * batch : 2 * batch + 2]))
        (root / "test_batch.bin").write_bytes(b"".join(rows[10:]))
    else:
        (root / "train.bin").write_bytes(b"".join(rows[:10]))
        (root / "test.bin").write_bytes(b"".join(rows[10:]))
    file = toml(tmp_path, name, ["bear", "apple"], side=32)
    for split, part in (("train", images[:10]), ("test", images[10:])):
        opened = task(file, split=split, data=tmp_path)
        np.testing.assert_array_equal(opened.images(range(len(part))), np.stack(part))
        assert opened.labels.tolist() == [1, 0] * (len(part) // 2)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("cifar10", ["cifar-10-batches-py/data_batch_1"]),
        ("cifar100", ["cifar-100-python/meta", "cifar-100-python/test"]),
    ],
)
def test_pickles_are_refused_with_advice(tmp_path, name, files):
    write(tmp_path / "data", dict.fromkeys(files, "x"))
    with pytest.raises(
        DataError, match=r"holds Python pickles, .* use the binary version \(cifar-100?-binary\.tar\.gz\)"
    ):
        task(toml(tmp_path, name, ["a", "b"]), data=tmp_path)


def test_pcam(tmp_path, monkeypatch):
    """Stands in for h5py, which need not be installed: only what is asked of it."""
    files = {"camelyonpatch_level_2_split_test_x.h5": "x", "camelyonpatch_level_2_split_test_y.h5.gz": "x"}
    root = write(tmp_path / "data", files)
    file = toml(tmp_path, "pcam", ["healthy", "tumour"], side=96)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        DataError, match=r"_y\.h5 is missing; unpack it: gunzip camelyonpatch_level_2_split_test_y\.h5\.gz"
    ):
        task(file, data=tmp_path)
    write(root, {"camelyonpatch_level_2_split_test_y.h5": "x"})
    with pytest.raises(DataError, match="need h5py: pip install h5py"):
        task(file, data=tmp_path)
    images = np.stack([raw(n, 96) for n in range(3)])
    tables = {"x": {"x": images}, "y": {"y": np.array([1, 0, 1]).reshape(3, 1, 1, 1)}}

    class File(dict):
        def __init__(self, path: Path, mode: str) -> None:
            assert mode == "r"
            super().__init__(tables[path.stem[-1]])

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *_: None  # noqa: E731

    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=File))
    opened = task(file, data=tmp_path)
    np.testing.assert_array_equal(opened.images([2, 0]), images[[2, 0]])
    assert [opened.class_names[label] for label in opened.labels] == ["tumour", "healthy", "tumour"]


@pytest.mark.parametrize("layout", sorted(ARCHIVES))
def test_one_folder_a_class_is_taken_for_every_archive(tmp_path, layout):
    write_folder(tmp_path / "data", {"001.ant": 1, "n02.bee": 2})
    assert shown(toml(tmp_path, layout, ["n02.bee", "001.ant"]), tmp_path) == [
        (0, "001.ant"), (1, "n02.bee"), (2, "n02.bee")
    ]  # fmt: skip


@pytest.mark.parametrize("layout", sorted(ARCHIVES))
def test_folders_of_splits_with_one_folder_a_class_are_taken_for_every_archive(tmp_path, layout):
    write_folder(tmp_path / "data" / "train", {"ant": 1, "bee": 2})
    write_folder(tmp_path / "data" / "test", {"ant": 2, "bee": 1}, first=10)
    file = toml(tmp_path, layout, ["bee", "ant"])
    assert [number for number, _ in shown(file, tmp_path, "train")] == [0, 1, 2]
    if layout != "imagenet":  # whose test images have no labels
        assert shown(file, tmp_path) == [(10, "ant"), (11, "ant"), (12, "bee")]


@pytest.mark.parametrize("layout", sorted(ARCHIVES))
def test_tars_and_parquet_files_are_taken_for_every_archive(tmp_path, layout):
    file = toml(tmp_path, layout, ["bee", "ant"])
    for split in ("train", "test"):
        write_webdataset(tmp_path / "data", [[0, 1, 1]], ["ant", "bee"], split=split)
        write_parquet(tmp_path / "tables" / "data" / split / "0.parquet", [0, 1, 1], names=["ant", "bee"])
    for folder in (tmp_path, tmp_path / "tables"):
        assert shown(file, folder) == shown(file, folder, "train") == [(0, "ant"), (1, "bee"), (2, "bee")]
