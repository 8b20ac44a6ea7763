"""Every layout of data, and what a newcomer reads where it is not one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.tasks.tiny_data import pixels, png, write_folder, write_parquet, write_tar, write_webdataset

from zsrobust.errors import ConfigError, DataError, UnknownName
from zsrobust.geometry import Geometry
from zsrobust.tasks import task

PAPER = ("This is a photo of a {}",)


def shows(opened, numbers) -> None:
    """The task's images are these of the tiny pictures, in order."""
    np.testing.assert_array_equal(opened.images(range(len(opened))), np.stack([pixels(k) for k in numbers]))


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


# parquet


def test_a_parquet_file(tmp_path):
    file = write_parquet(tmp_path / "birds.parquet", [1, 0, 1, 1, 0, 0, 1], names=["big_owl", "wren"])
    opened = task(file)
    assert (opened.name, opened.class_names, opened.templates) == ("birds", ("big owl", "wren"), PAPER)
    assert opened.labels.tolist() == [1, 0, 1, 1, 0, 0, 1]
    shows(opened, range(7))
    assert opened.image_name(4) == "birds.parquet row 4"


def test_row_groups_are_read_when_used_and_dropped_when_there_are_many(tmp_path, monkeypatch):
    import zsrobust.tasks.parquet as parquet

    file = write_parquet(tmp_path / "x.parquet", [0, 1] * 10, names=["a", "b"], row_group_size=4)
    opened = task(file, geometry=Geometry())
    assert len(opened.source._cache) == 0
    opened.images([9, 8])
    assert list(opened.source._cache) == [2]
    shows(opened, range(20))
    assert len(opened.source._cache) == 5
    monkeypatch.setattr(parquet, "GROUP_CACHE_BYTES", 1)
    opened = task(file)
    shows(opened, range(20))
    assert len(opened.source._cache) == 1


def test_the_hugging_face_folder_layout(tmp_path):
    root = tmp_path / "birds"
    write_parquet(root / "data" / "train-00000-of-00001.parquet", [0, 1, 1], names=["a", "b"], first=50)
    write_parquet(root / "data" / "test-00001-of-00002.parquet", [1, 0], names=["a", "b"], first=5)
    write_parquet(root / "data" / "test-00000-of-00002.parquet", [0] * 5, names=["a", "b"])
    shows(task(root), range(7))
    assert task(root).image_name(5) == "test-00001-of-00002.parquet row 5"
    shows(task(root, split="train"), [50, 51, 52])
    with pytest.raises(DataError, match=r"has no 'validation' split \(it has: test, train\)"):
        task(root, split="validation")
    write_parquet(root / "extra.parquet", [0])
    with pytest.raises(DataError, match=r"extra\.parquet names no split, but other files do"):
        task(root)


def test_a_file_that_is_called_train_is_not_tested_on(tmp_path):
    file = write_parquet(tmp_path / "birds-train.parquet", [0, 1], names=["a", "b"])
    assert len(task(file, split="train")) == 2
    with pytest.raises(DataError, match=r"has no 'test' split \(it has: train\)"):
        task(file)
    with pytest.raises(DataError, match=r"not divided into splits.*\[splits\] train = \{ from"):
        task(write_parquet(tmp_path / "x.parquet", [0, 1], names=["a", "b"]), split="train")


def test_labels_that_are_names(tmp_path):
    write_parquet(tmp_path / "b" / "test.parquet", ["wren", "owl", "wren"])
    write_parquet(tmp_path / "b" / "train.parquet", ["wren", "owl", "auk"])
    opened = task(tmp_path / "b", split="train")
    assert (opened.class_names, opened.labels.tolist()) == (("auk", "owl", "wren"), [2, 1, 0])
    with pytest.raises(DataError, match="no images of class 'auk' in the 'test' split"):
        task(tmp_path / "b")
    assert task(tmp_path / "b", select=["owl", "wren"]).labels.tolist() == [1, 0, 1]


def test_labels_without_names_need_some(tmp_path):
    file = write_parquet(tmp_path / "x.parquet", [0, 2, 1])
    assert task(file, classes=["a", "b", "c"]).class_names == ("a", "b", "c")
    with pytest.raises(DataError, match=r"x\.parquet has no class names; give them with --classes"):
        task(file)
    with pytest.raises(ConfigError, match=r"class names given: 2, but .* has 3 classes"):
        task(file, classes=["a", "b"])


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, -1], ["a", "b"], r"row 1 has the label -1; labels are whole numbers from 0 \(-1 marks"),
        ([0, None], ["a", "b"], "row 1 has the label None"),
        ([0.0, 1.5], None, r"row 0 has the label 0\.0"),
        ([0, 3], ["a", "b"], "row 1 has the label 3, but there are only 2 class names"),
        ([0, 0], ["a", "b"], "no images of class 'b' in the 'test' split; select the classes that have some"),
        ([], ["a", "b"], "has no examples in its 'test' split"),
        ([0, 1], ["a", "a"], "the class name 'a' is there twice"),
    ],
)
def test_bad_labels(tmp_path, labels, names, message):
    with pytest.raises(DataError, match=message):
        task(write_parquet(tmp_path / "x.parquet", labels, names=names))


def test_columns_that_cannot_be_told_apart(tmp_path):
    file = write_parquet(tmp_path / "x.parquet", [0, 1], target=[1, 0])
    assert task(file, classes=["a", "b"]).labels.tolist() == [0, 1]  # one of the usual names is exactly "label"
    import pyarrow as pa
    import pyarrow.parquet as pq

    def table(**columns):
        pq.write_table(pa.table(columns), tmp_path / "y.parquet")
        return tmp_path / "y.parquet"

    image = [{"bytes": png(0), "path": None}]
    with pytest.raises(
        DataError, match=r"several label columns \(columns: image, cls, target\).*\[source\] label_column"
    ):
        task(table(image=image, cls=[0], target=[0]))
    with pytest.raises(DataError, match=r"no label columns"):
        task(table(image=image, fine=[0]))
    with pytest.raises(DataError, match=r"no image columns \(columns: photo, label\)"):
        task(table(photo=[b""], label=[0]))
    shows(task(table(png=[png(3)], label=[0]), classes=["a"]), [3])  # plain bytes are as good as the struct


def test_missing_bytes_are_a_bad_image(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": png(0), "path": None}, {"bytes": None, "path": "elsewhere.png"}, None]
    pq.write_table(pa.table({"image": images, "label": ["a", "a", "a"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet row 1: cannot be read as an image \(column 'image' has no bytes"):
        task(tmp_path / "x.parquet").check()
    assert len(task(tmp_path / "x.parquet", on_bad_image="skip").bad_images) == 2


def test_a_file_that_datasets_wrote(tmp_path):
    table([1, 0, 1], names=["owl", "wren"]).to_parquet(tmp_path / "x.parquet")
    opened = task(tmp_path / "x.parquet")  # the columns are called picture and kind; their types tell
    assert (opened.class_names, opened.labels.tolist()) == (("owl", "wren"), [1, 0, 1])
    shows(opened, range(3))


def test_a_label_without_a_name_is_told_with_its_row(tmp_path):
    file = write_parquet(tmp_path / "x.parquet", [0, 1, 3, 7], names=["a", "b"])
    with pytest.raises(DataError, match="row 2 has the label 3, but there are only 2 class names"):
        task(file)


def test_a_broken_parquet_file(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"x\.parquet is not a readable parquet file \(.+\)$"):
        task(tmp_path / "x.parquet")


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


# the hub, without one


class FakeHub:
    """Stands for ``datasets.load_dataset``; its table is a real one."""

    def __init__(self, table=None, error: Exception | None = None) -> None:
        self.table, self.error, self.asked = table, error, []

    def __call__(self, repository, config, *, split, revision):
        self.asked.append((repository, config, split, revision))
        if self.error:
            raise self.error
        if split not in self.table:
            raise ValueError(f'Unknown split "{split}". Should be one of {sorted(self.table)}.')
        return self.table[split]


@pytest.fixture
def hub(monkeypatch):
    import datasets

    def use(table=None, error=None):
        fake = FakeHub(table, error)
        monkeypatch.setattr(datasets, "load_dataset", fake)
        return fake

    return use


def table(labels, names=("owl", "wren"), first=0):
    import datasets

    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=list(names)), "more": datasets.Value("string")}
    )
    rows = {
        "picture": [{"bytes": png(first + i), "path": None} for i in range(len(labels))],
        "kind": labels,
        "more": ["x"] * len(labels),
    }
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_hub_id(hub):
    fake = hub({"test": table([1, 0, 1]), "val": table([0, 1], first=7)})
    opened = task("hub:owner/birds")
    assert (opened.name, opened.class_names, opened.labels.tolist()) == ("owner/birds", ("owl", "wren"), [1, 0, 1])
    shows(opened, range(3))
    assert opened.image_name(2) == "hub:owner/birds row 2"
    shows(task("hub:owner/birds", split="validation"), [7, 8])
    assert fake.asked[-1] == ("owner/birds", None, "val", None)
    with pytest.raises(DataError, match=r"hub:owner/birds has no 'train' split \(Unknown split"):
        task("hub:owner/birds", split="train")
    json.dumps(opened.describe())


@pytest.mark.parametrize("given", ["hub:", "hub:a/b/c", "hub:a b/c"])
def test_a_malformed_hub_id(given):
    with pytest.raises(ConfigError, match="is not of the form hub:owner/name"):
        task(given)


def test_a_hub_that_cannot_be_reached(hub):
    hub(error=ConnectionError("Couldn't reach 'owner/birds' on the Hub (OfflineModeIsEnabled)"))
    with pytest.raises(
        DataError, match=r"hub:owner/birds cannot be loaded \(Couldn't reach .*\); check the name and the"
    ):
        task("hub:owner/birds")
    with pytest.raises(DataError, match=r"task 'cifar10': hub:[\w/-]+ cannot be .*looked before for data/cifar10-t"):
        task("cifar10")


def test_classes_of_the_hub_are_matched_by_name_and_its_split_by_any_of_its_names(hub, tmp_path):
    fake = hub({"test": table([1, 0, 1], names=("Owl", "snow_hen"))})
    file = tmp_path / "birds.toml"
    file.write_text(
        'classes = ["snow hen", "owl"]\n[source]\nhub = "owner/birds"\nrevision = "abc"\n'
        '[splits]\ntest = { from = ["validation", "test"], size = 3 }\n'
    )
    opened = task(file)
    assert [opened.class_names[label] for label in opened.labels] == ["snow hen", "owl", "snow hen"]
    assert fake.asked[-1] == ("owner/birds", None, "test", "abc")
    hub({"test": table([1, 0, 1], names=("owl", "hen"))})
    with pytest.raises(
        DataError, match="of hub:owner/birds are not the task's: only the data has hen; only the task has"
    ):
        task(file)


def test_class_names_of_clip_benchmark_lie_beside_the_data(hub, monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    (tmp_path / "classnames.txt").write_text("owl\nwren\n")

    def download(repository, name, *, repo_type, revision):
        if name != "classnames.txt":
            raise LocalEntryNotFoundError("offline")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    plain = table([1, 0]).rename_columns({"picture": "webp", "kind": "cls"})
    import datasets

    hub({"test": plain.cast_column("cls", datasets.Value("int64"))})
    opened = task("hub:clip-benchmark/wds_birds")
    assert opened.class_names == ("owl", "wren")
    assert opened.templates == PAPER
