"""Folders of images and of tars, the user's own names and templates, and what a newcomer reads where no data is."""

from __future__ import annotations

import pytest
from tests.tasks.tiny_data import PAPER, png, shows, write_folder, write_tar, write_webdataset

from zsrobust.errors import ConfigError, DataError, UnknownName
from zsrobust.tasks import task

# folders


def test_a_folder_of_class_folders(tmp_path):
    write_folder(tmp_path / "pets", {"dog": 2, "big_cat": 3}, first=10)
    opened = task(tmp_path / "pets")
    assert (opened.name, opened.version, opened.split) == ("pets", 1, "test")
    assert opened.class_names == ("big cat", "dog")  # sorted; underscores are no part of a prompt
    assert opened.templates == PAPER
    assert opened.labels.tolist() == [0, 0, 0, 1, 1]
    shows(opened, [12, 13, 14, 10, 11])


def test_a_folder_with_splits_keeps_them_apart(tmp_path):
    write_folder(tmp_path / "pets" / "train", {"cat": 2, "dog": 2})
    write_folder(tmp_path / "pets" / "val", {"cat": 1, "dog": 1}, first=10)
    write_folder(tmp_path / "pets" / "test", {"cat": 1, "dog": 2}, first=20)
    shows(task(tmp_path / "pets"), [20, 21, 22])
    shows(task(tmp_path / "pets", split="train"), [0, 1, 2, 3])
    shows(task(tmp_path / "pets", split="validation"), [10, 11])
    with pytest.raises(UnknownName, match="unknown split 'tset'; did you mean 'test'"):
        task(tmp_path / "pets", split="tset")


def test_classes_are_numbered_alike_in_every_split(tmp_path):
    write_folder(tmp_path / "p" / "train", {"ant": 1, "bee": 1, "cow": 1})
    write_folder(tmp_path / "p" / "test", {"bee": 1, "cow": 1})
    with pytest.raises(DataError, match=r"class 'ant' has no images in .*test/ant"):
        task(tmp_path / "p")


def test_a_split_that_is_not_there(tmp_path):
    write_folder(tmp_path / "p" / "train", {"a": 1})
    with pytest.raises(DataError, match=r"p has no 'test' split \(it has: train\)"):
        task(tmp_path / "p")
    write_folder(tmp_path / "q", {"a": 1})
    with pytest.raises(DataError, match=r"not divided into splits.*for 'train' put the class folders under train/"):
        task(tmp_path / "q", split="train")
    write_folder(tmp_path / "p" / "training", {"a": 1})
    with pytest.raises(DataError, match="two folders for the train split: train and training"):
        task(tmp_path / "p", split="train")


@pytest.mark.parametrize("flat", [True, False])
def test_splits_beside_other_folders_are_not_read_as_classes(tmp_path, flat):
    below = {"": 1} if flat else {"cat": 1, "dog": 1}
    for folder in ("train", "test", "unlabelled"):
        write_folder(tmp_path / "pets", {f"{folder}/{name}": count for name, count in below.items()})
    line = (
        r"pets has folders named after splits \(test, train\) beside others \(unlabelled\): move the others elsewhere"
    )
    for split in ("test", "train"):
        with pytest.raises(DataError, match=line):
            task(tmp_path / "pets", split=split)


def test_one_split_beside_another_folder(tmp_path):
    write_folder(tmp_path / "pets", {"train/cat": 1, "train/dog": 1, "extra/cat": 1})
    with pytest.raises(DataError, match=r"named after splits \(train\) beside others \(extra\)"):
        task(tmp_path / "pets", split="train")


def test_a_class_may_be_called_like_a_split(tmp_path):
    write_folder(tmp_path / "vehicles", {"bus": 1, "train": 2})
    assert task(tmp_path / "vehicles").class_names == ("bus", "train")


def test_images_in_no_class_folder_are_told(tmp_path):
    write_folder(tmp_path / "pets", {"train/cat": 1, "test/cat": 1})
    for place in (tmp_path / "pets" / "a.png", tmp_path / "pets" / "test" / "b.png"):
        place.write_bytes(png(0))
    with pytest.warns(UserWarning, match="images in no class folder are left out: ") as told:
        assert len(task(tmp_path / "pets")) == 1
    assert [str(one.message).rpartition(" ")[2] for one in told] == ["a.png", "b.png"]
    with pytest.warns(UserWarning, match="left out: a.png"):
        assert len(task(tmp_path / "pets", split="train")) == 1


def test_only_images_count_and_the_rest_is_told(tmp_path):
    folder = write_folder(tmp_path / "pets", {"cat": 1, "dog": 1})
    (folder / "cat" / "deeper").mkdir()
    (folder / "cat" / "deeper" / "A.PNG").write_bytes(png(5))
    for name in (".DS_Store", "Thumbs.db", "000.png:Zone.Identifier", "._000.png", "notes.txt"):
        (folder / "cat" / name).write_text("x")
    (folder / "README").write_text("x")
    (folder / ".git").mkdir()
    (folder / "__MACOSX").mkdir()
    opened = task(folder)
    shows(opened, [0, 5, 1])
    assert opened.describe()["ignored_files"] == 6
    assert sorted(opened.source.ignored) == sorted(
        [".DS_Store", "Thumbs.db", "000.png:Zone.Identifier", "._000.png", "notes.txt", "README"]
    )
    assert opened.image_name(1) == (folder / "cat/deeper/A.PNG").as_posix()


def test_linked_folders_in_a_class_are_told(tmp_path):
    folder = write_folder(tmp_path / "pets", {"cat": 1, "dog": 1})
    more = write_folder(tmp_path / "more", {"cats": 2}, first=7)
    (folder / "cat" / "z.png").symlink_to(more / "cats" / "000.png")
    (folder / "cat" / "more").symlink_to(more / "cats")
    with pytest.warns(UserWarning, match="cat: linked folders are not followed: more$"):
        shows(task(folder), [0, 7, 1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, r"is empty; expected one folder a class"),
        (
            lambda root: (root / "a.txt").write_text("x"),
            r"has no images \(1 other files\); expected one folder a class",
        ),
        (lambda root: (root / "a.jpg").write_bytes(png(0)), r"has 1 images but no class folders; expected one folder"),
        (lambda root: (root / "cat").mkdir(), r"class 'cat' has no images in .*cat$"),
        (
            lambda root: write_folder(root, {"cat": 1, "dog": 0}) and (root / "dog" / "x.txt").write_text("x"),
            r"class 'dog' has no images in .*dog; 1 other files were ignored: x\.txt",
        ),
        (lambda root: (root / "test").mkdir(), r"test is empty; expected one folder a class"),
    ],
)
def test_folders_that_are_no_tasks(tmp_path, make, message):
    root = tmp_path / "data"
    root.mkdir()
    make(root)
    with pytest.raises(DataError, match=message):
        task(root)


def test_class_names_of_the_user(tmp_path):
    folder = write_folder(tmp_path / "pets", {"n01": 1, "n02": 1, "n_3": 1})
    assert task(folder, classes=["cat", "dog", "emu"]).class_names == ("cat", "dog", "emu")
    assert task(folder, classes={"n02": "dog"}).class_names == ("n01", "dog", "n 3")
    assert task(folder, classes=["n_3=emu", "n01=big cat"]).class_names == ("big cat", "n02", "emu")
    assert task(folder, classes={"n 3": "emu"}).class_names == ("n01", "n02", "emu")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cat", "dog"], r"class names given: 2, but .*pets has 3 classes: n01, n02, n03"),
        (["a", "b", "c", "d"], "class names given: 4"),
        (["cat", "dog", "cat"], "the class name 'cat' is there twice"),
        (["cat", " ", "emu"], "class 1 has an empty name"),
        (["n01=cat", "dog", "emu"], r"both as 'folder=name' \(n01=cat\) and plainly \(dog\)"),
        ({"n1": "cat"}, "unknown class of .*pets 'n1'; did you mean 'n01'"),
        ("cat", "must be a list of names"),
    ],
)
def test_wrong_class_names_of_the_user(tmp_path, classes, message):
    folder = write_folder(tmp_path / "pets", {"n01": 1, "n02": 1, "n03": 1})
    with pytest.raises(ConfigError, match=message):
        task(folder, classes=classes)


def test_templates_of_the_user(tmp_path):
    folder = write_folder(tmp_path / "pets", {"cat": 1, "dog": 1})
    assert task(folder, templates="a {}").templates == ("a {}",)
    assert task(folder, templates=["a {}", "the {c}."]).templates == ("a {}", "the {}.")
    for bad in ("no place", "two {} and {}", "a {name}", "{}}"):
        with pytest.raises(ConfigError, match=r"needs exactly one \{\}"):
            task(folder, templates=bad)


def test_folders_whose_names_clash_as_prompts(tmp_path):
    folder = write_folder(tmp_path / "p", {"a b": 1, "a_b": 1})
    with pytest.raises(DataError, match="the class name 'a b' is there twice; give names of your own with --classes"):
        task(folder)


# tars in the clip-benchmark layout


def test_a_folder_of_tars(tmp_path):
    root = write_webdataset(tmp_path / "wds_pets", [[0, 1, 0], [1, 1]], ["cat", "dog"])
    opened = task(root)
    assert opened.class_names == ("cat", "dog")
    assert opened.templates == ("a photo of a {}.", "art of {}")
    assert opened.labels.tolist() == [0, 1, 0, 1, 1]
    shows(opened, range(5))
    assert opened.image_name(3) == "test/1.tar:s0000003.png"
    with pytest.raises(DataError, match=r"has no 'train' split \(it has: test\)"):
        task(root, split="train")


def test_shards_are_in_the_order_of_their_numbers(tmp_path):
    root = write_webdataset(tmp_path / "w", [[0]] * 6 + [[1]] * 6, ["cat", "dog"])
    (root / "test" / "nshards.txt").unlink()
    shows(task(root), range(12))


def test_shards_without_numbers_are_in_the_order_of_their_names(tmp_path, monkeypatch):
    root = write_webdataset(tmp_path / "w", [[0], [1], [0]], ["cat", "dog"])
    test = root / "test"
    (test / "nshards.txt").unlink()
    for number, name in enumerate(("ant", "bee", "moth")):
        (test / f"{number}.tar").rename(test / f"{name}.tar")
    (test / "._ant.tar").write_bytes(b"what macOS leaves beside files")
    monkeypatch.setattr(
        "pathlib.Path.glob", lambda *given: [test / f"{n}.tar" for n in ("bee", "moth", "._ant", "ant")]
    )
    shows(task(root), range(3))


def _cut(path):
    path.write_bytes(path.read_bytes()[:700])


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (lambda root: (root / "test" / "1.tar").unlink(), r"nshards\.txt says 2 tar files; missing: 1\.tar"),
        (lambda root: (root / "test" / "nshards.txt").write_text("two"), "says 'two'; expected the number"),
        (lambda root: (root / "dataset_type.txt").write_text("retrieval"), "is a retrieval data set"),
        (lambda root: (root / "test" / "0.tar").write_bytes(b"no tar" * 200), r"test/0\.tar is not a readable tar"),
        (lambda root: _cut(root / "test" / "0.tar"), r"test/0\.tar is not a readable tar file \(unexpected end"),
        (lambda root: write_tar(root / "test" / "0.tar", {"a.png": png(0)}), r"sample 'a' has no \.cls label"),
        (lambda root: write_tar(root / "test" / "0.tar", {"a.cls": b"0"}), "sample 'a' has no image"),
        (
            lambda root: write_tar(root / "test" / "0.tar", {"a.png": png(0), "a.jpg": png(0)}),
            "sample 'a' has two images",
        ),
        (
            lambda root: write_tar(root / "test" / "0.tar", {"a.png": png(0), "a.cls": b"cat"}),
            "sample 'a' has the label 'cat'; expected a whole number",
        ),
        (lambda root: (root / "classnames.txt").write_text("cat\n"), "label 1, but there are only 1 class names"),
        (lambda root: (root / "classnames.txt").unlink(), "has no class names; give them with --classes"),
        (
            lambda root: (root / "zeroshot_classification_templates.txt").write_text("nothing"),
            "the template 'nothing' needs exactly one {}",
        ),
    ],
)
def test_broken_tars(tmp_path, breaks, message):
    root = write_webdataset(tmp_path / "w", [[0, 1], [0]], ["cat", "dog"])
    breaks(root)
    with pytest.raises((DataError, ConfigError), match=message):
        task(root)


def test_a_folder_of_tars_without_splits_is_the_test_split(tmp_path):
    write_tar(tmp_path / "w" / "0.tar", {"a.cls": b"0", "a.png": png(1), "a.json": b"{}"})
    opened = task(tmp_path / "w", classes=["cat"])
    shows(opened, [1])
    assert opened.source.ignored == ("a.json",)
    with pytest.raises(DataError, match="not divided into splits"):
        task(tmp_path / "w", split="train")


# things that are no data at all


def test_paths_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match=r"no such file or folder: .*nothing/here"):
        task(tmp_path / "nothing" / "here")
    with pytest.raises(
        DataError, match="no such file or folder: owner/birds; for the Hugging Face hub write hub:owner/birds"
    ):
        task("owner/birds")
    with pytest.raises(DataError, match=r"no such file or folder: x\.parquet"):
        task("x.parquet")
    (tmp_path / "cat.jpg").write_bytes(png(0))
    with pytest.raises(
        DataError, match=r"cat\.jpg is a file of no known kind; give a \.parquet file, a \.toml or a folder"
    ):
        task(tmp_path / "cat.jpg")


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(folder, split):
        raise PermissionError(13, "Permission denied", "pets/cat")

    (tmp_path / "pets").mkdir()
    monkeypatch.setattr("zsrobust.tasks.layouts.open_folder", refuse)
    with pytest.raises(DataError, match=r"pets cannot be read \(Permission denied: pets/cat\)"):
        task(tmp_path / "pets")


def test_unknown_names_tell_the_nearest():
    for given in ("cifar-10", "cifar1"):
        with pytest.raises(UnknownName, match=f"unknown task '{given}'; did you mean 'cifar10'"):
            task(given)
    with pytest.raises(UnknownName, match="unknown task ''"):
        task("")
