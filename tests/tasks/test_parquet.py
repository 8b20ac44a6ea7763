"""Parquet files, alone and in a folder: their rows, splits, labels and columns, and what is wrong with them."""

from __future__ import annotations

import pyarrow as pa
import pytest
from tests.tasks.tiny_data import PAPER, png, shows, table, write_parquet

from zsrobust.errors import ConfigError, DataError
from zsrobust.geometry import Geometry
from zsrobust.tasks import task


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


def test_a_split_without_labels_adds_no_class_to_the_others(tmp_path):
    write_parquet(tmp_path / "b" / "validation.parquet", ["wren", "owl"])
    write_parquet(tmp_path / "b" / "test.parquet", pa.array([None, None], pa.string()))
    opened = task(tmp_path / "b", split="validation")
    assert (opened.class_names, opened.labels.tolist()) == (("owl", "wren"), [1, 0])


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


def test_another_typed_column_is_not_taken_for_an_untyped_label(tmp_path):
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.Value("string"), "domain": datasets.ClassLabel(names=["x", "y"])}
    )
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(3)], "label": ["a", "b", "c"], "domain": [0, 1, 0]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"several label columns \(columns: image, label, domain\); name one in a TOML"):
        task(tmp_path / "x.parquet")
    (tmp_path / "mine.toml").write_text('[source]\npath = "x.parquet"\nlabel_column = "label"\n')
    assert task(tmp_path / "mine.toml").class_names == ("a", "b", "c")


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
