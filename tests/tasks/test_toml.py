"""A task's TOML: what it says is what is opened, and every mistake in one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tasks.tiny_data import edit, pixels, write_folder, write_parquet, write_webdataset

from zsrobust.errors import ConfigError, DataError, UnknownName
from zsrobust.geometry import Geometry
from zsrobust.tasks import find, task
from zsrobust.tasks.naming import by_name
from zsrobust.tasks.source import Source
from zsrobust.tasks.spec import SourceSpec, TaskSpec

PROVENANCE = """[provenance]
classes = "owner/repo names.txt"
templates = "owner/repo main.py"
splits = "unverified"
geometry = "owner/repo main.py"
revision = "unverified: none was seen"
[source]"""


def test_a_toml_by_path(birds, tmp_path):
    opened = task(birds, data=tmp_path / "store")
    assert (opened.name, opened.version, opened.description) == ("birds", 3, "Birds.")
    assert opened.class_names == ("owl", "wren")
    assert opened.templates == ("a {}", "the {}")
    assert opened.follows_from == ("cifar10",)
    assert opened.geometry == Geometry(size=(8, 8))
    np.testing.assert_array_equal(opened.images([2, 0]), np.stack([pixels(2), pixels(0)]))


def test_a_validation_split_is_carved_out_of_train_and_keeps_its_rows(birds, tmp_path):
    train, validation = (task(birds, split=split, data=tmp_path / "store") for split in ("train", "validation"))
    assert train.ids.tolist() == [0, 1, 2, 3]
    assert validation.ids.tolist() == [4, 5]
    assert validation.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(validation.images([0])[0], pixels(14))
    assert train.fingerprint != validation.fingerprint


def test_the_data_folder_comes_from_the_argument_the_environment_or_here(birds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=r"no data; looked for data/birds-test\.parquet, data/birds \(--data .* 'zsrobust data check'"
    ):
        task(birds)
    monkeypatch.setenv("ZSROBUST_DATA", str(tmp_path / "store"))
    assert len(task(birds)) == 3
    with pytest.raises(DataError, match=r"looked for other/birds-test\.parquet, other/birds"):
        task(birds, data="other")
    monkeypatch.delenv("ZSROBUST_DATA")
    (tmp_path / "store").rename(tmp_path / "data")
    assert len(task(birds)) == 3


def test_a_path_beside_the_toml(birds):
    edit(birds, ('local = ["birds-{split}.parquet", "birds"]', 'path = "photos"'))
    write_folder(birds.parent / "photos" / "test", {"owl": 1, "wren": 2})
    assert task(birds).labels.tolist() == [0, 1, 1]


def test_the_second_place_is_used_where_the_first_is_missing(birds, tmp_path):
    for file in (tmp_path / "store").iterdir():
        file.unlink()
    write_folder(tmp_path / "store" / "birds" / "test", {"owl": 1, "wren": 2})
    assert task(birds, data=tmp_path / "store").source.kind == "folder"


def test_names_and_templates_left_out_are_those_of_the_data(tmp_path):
    root = write_webdataset(tmp_path / "w", [[0, 1]], ["cat", "big_dog"])
    file = tmp_path / "pets.toml"
    file.write_text(f'[source]\npath = "{root.name}"\n')
    opened = task(file)
    assert (opened.class_names, opened.templates) == (("cat", "big dog"), ("a photo of a {}.", "art of {}"))
    file.write_text(f'classes = ["tom", "rex"]\ndata_classes = ["cat", "big_dog"]\n[source]\npath = "{root.name}"\n')
    assert task(file).class_names == ("tom", "rex")
    assert task(file, classes=["a", "b"], templates="{}").class_names == ("a", "b")
    assert task(file, classes={"big_dog": "max"}).class_names == ("tom", "max")


def test_select_in_the_toml_and_as_an_argument(birds, tmp_path):
    edit(birds, ("version = 3", 'version = 3\nselect = ["wren"]'))
    assert task(birds, data=tmp_path / "store").ids.tolist() == [0, 2]
    assert task(birds, data=tmp_path / "store", select=["owl"]).ids.tolist() == [1]
    assert len(task(birds, data=tmp_path / "store", select=[])) == 3


def test_images_of_another_size_than_the_toml_says(birds, tmp_path):
    edit(birds, ("size = 8", "size = 9"))
    with pytest.raises(DataError, match=r"birds-test\.parquet row 0 is 8x8, but every image must be 9x9"):
        task(birds, data=tmp_path / "store").images([0])
    edit(birds, ("size = 9", 'resize = 6\ncrop = [4, 5]\ninterpolation = "bilinear"'))
    opened = task(birds, data=tmp_path / "store")
    assert opened.geometry == Geometry(6, (4, 5), "bilinear")
    assert opened.images([0]).shape == (1, 4, 5, 3)


def test_classes_are_matched_by_name_in_every_kind_of_data(birds, tmp_path):
    edit(birds, ('["owl", "wren"]', '["wren", "owl"]'))
    store = tmp_path / "store"
    opened = task(birds, data=store)
    assert [opened.class_names[label] for label in opened.labels] == ["wren", "owl", "wren"]
    assert opened.source.data_classes == ("wren", "owl")
    (store / "birds-test.parquet").unlink()
    write_folder(store / "birds" / "test", {"Owl": 1, "wren": 2})
    assert task(birds, data=store).labels.tolist() == [1, 0, 0]
    (store / "birds").rename(tmp_path / "folder")
    write_webdataset(store / "birds", [[1, 0, 1]], ["owl", "WREN"])
    assert task(birds, data=store).labels.tolist() == [0, 1, 0]
    (store / "birds" / "classnames.txt").unlink()  # numbers without names are in the TOML's order
    assert task(birds, data=store).labels.tolist() == [1, 0, 1]


@given(st.permutations(range(6)), st.permutations(range(6)))
def test_whatever_the_order_of_the_data_an_image_keeps_its_class(order, rows):
    names = ["a", "b", "c_c", "c-d", "E", "e f"]
    spec = TaskSpec("t", SourceSpec(), classes=tuple("uvwxyz"), data_classes=tuple((name,) for name in names))
    source = Source("here", "folder", np.array(rows), tuple(names[i] for i in order))
    numbered = by_name(spec, source)
    assert [names[label] for label in numbered.labels] == [source.data_classes[label] for label in rows]
    assert numbered.data_classes == tuple(names)


def test_names_of_the_data_come_before_those_of_the_prompts(birds, tmp_path):
    edit(birds, ("templates", 'data_classes = [["wren", "Troglodytes"], "owl"]\ntemplates'))  # crossed on purpose
    assert task(birds, data=tmp_path / "store").labels.tolist() == [0, 1, 0]
    write_folder(tmp_path / "other" / "birds" / "test", {"owl": 1, "troglodytes": 2})
    assert task(birds, data=tmp_path / "other").labels.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("data_classes", "names", "message"),
    [
        (
            "",
            ["owl", "hen"],
            r"test\.parquet are not the task's: only the data has hen; only the task has wren \(where",
        ),
        ("", ["owl"], r"are not the task's: only the task has wren \(where the data calls"),
        ("", ["owl", "wren", "hen"], "are not the task's: only the data has hen"),
        ("", ["owl", "wren", "Owl"], r"'owl' and 'Owl' of .*birds-test\.parquet are both its class 'owl'"),
        ('["o", "w"]', ["o", "v"], "are not the task's: only the data has v; only the task has w$"),
    ],
)
def test_names_that_do_not_match_are_listed_on_both_sides(birds, tmp_path, data_classes, names, message):
    if data_classes:
        edit(birds, ("templates", f"data_classes = {data_classes}\ntemplates"))
    write_parquet(tmp_path / "store" / "birds-test.parquet", [0] * 3, names=names)
    with pytest.raises(DataError, match=rf"task 'birds': .*{message}"):
        task(birds, data=tmp_path / "store")


def test_a_label_beyond_the_names_of_the_data(birds, tmp_path):
    write_parquet(tmp_path / "store" / "birds-test.parquet", [0, 2, 1], names=["owl", "wren"])
    with pytest.raises(DataError, match="row 1 has the label 2, but there are only 2 class names"):
        task(birds, data=tmp_path / "store")


def test_template_sets_are_chosen_by_name(birds, tmp_path):
    edit(birds, ("[source]", '[template_sets]\nopenai = ["a photo of a {c}.", "art of the {}"]\n[source]'))
    opened = task(birds, data=tmp_path / "store", templates="openai")
    assert opened.templates == ("a photo of a {}.", "art of the {}")
    assert task(birds, data=tmp_path / "store", templates=["openai", "{}"]).templates[-1] == "{}"
    assert task(birds, data=tmp_path / "store").templates == ("a {}", "the {}")
    with pytest.raises(UnknownName, match="template set of task 'birds' 'opnai'; did you mean 'openai'"):
        task(birds, data=tmp_path / "store", templates="opnai")


def test_a_split_that_places_call_differently(birds, tmp_path):
    edit(birds, ("test = 3", 'test = { from = ["holdout", "test"], size = 3 }'))
    assert task(birds, data=tmp_path / "store").source.where.endswith("birds-test.parquet")
    write_folder(tmp_path / "other" / "birds" / "test", {"owl": 1, "wren": 2})
    assert len(task(birds, data=tmp_path / "other")) == 3
    (tmp_path / "other" / "birds" / "test").rename(tmp_path / "other" / "birds" / "train")
    with pytest.raises(DataError, match=r"birds has no 'holdout' split \(it has: train\)"):
        task(birds, data=tmp_path / "other")


@pytest.mark.parametrize("kind", ["folder", "parquet", "webdataset"])
def test_all_is_every_split(birds, tmp_path, kind):
    edit(birds, ("test = 3", 'test = { from = "all", size = 5 }'), ("birds-{split}.parquet", "none"))
    edit(birds, *((f"{line}\n", "") for line in birds.read_text().splitlines() if line.startswith(("train", "valid"))))
    root = tmp_path / "store" / "birds"
    if kind == "folder":
        write_folder(root / "train", {"owl": 1, "wren": 1})
        write_folder(root / "test", {"owl": 1, "wren": 2}, first=2)
    elif kind == "parquet":
        write_parquet(root / "train.parquet", [0, 1], names=["owl", "wren"])
        write_parquet(root / "test.parquet", [0, 1, 1], names=["owl", "wren"], first=2)
    else:
        write_webdataset(root, [[0, 1]], ["owl", "wren"], split="train")
        write_webdataset(root, [[0, 1, 1]], ["owl", "wren"])
    assert np.bincount(task(birds, data=tmp_path / "store").labels).tolist() == [2, 3]


def test_what_a_toml_knows_of_its_sources(birds):
    edit(birds, ("version = 3", 'version = 3\npaper = "The same."\nby_hand = "Ask."'), ("[source]", PROVENANCE))
    spec = find(birds)
    assert (spec.paper, spec.by_hand, spec.unverified) == ("The same.", "Ask.", ("splits", "revision"))
    edit(birds, ('classes = "owner/repo names.txt"\n', ""))
    with pytest.raises(
        ConfigError, match=r"\[provenance\] classes is missing: where was its value seen\? 'unverified'"
    ):
        find(birds)


def test_another_number_of_examples(birds, tmp_path):
    edit(birds, ("test = 3", "test = 10000"))
    with pytest.raises(
        DataError,
        match=r"task 'birds': .*birds-test\.parquet has 3 examples in its 'test' split, but its TOML says 10,000",
    ):
        task(birds, data=tmp_path / "store", limit=2)
    edit(birds, (', rows = "4:6", size = 6', ', rows = "4:9"'))
    with pytest.raises(DataError, match=r"rows 4:9 of .*, which has only 6"):
        task(birds, split="validation", data=tmp_path / "store")


def test_a_split_the_toml_does_not_declare(birds, tmp_path):
    with pytest.raises(UnknownName, match="unknown split of task 'birds' 'valid'; did you mean 'validation'"):
        task(birds, split="valid", data=tmp_path / "store")


def test_undivided_rows_are_divided_by_the_toml(tmp_path):
    write_parquet(tmp_path / "x.parquet", [0, 1, 0, 1, 0, 1], names=["a", "b"])
    file = tmp_path / "mine.toml"
    file.write_text(
        '[source]\npath = "x.parquet"\n[splits]\n'
        'train = { from = "all", rows = "0:4" }\ntest = { from = "all", rows = "4:6" }\n'
    )
    assert task(file, split="train").ids.tolist() == [0, 1, 2, 3]
    assert task(file).ids.tolist() == [4, 5]


def test_a_kind_that_the_data_is_not(birds, tmp_path):
    edit(birds, ("[source]", '[source]\nkind = "webdataset"'))
    with pytest.raises(
        DataError, match=r"birds-test\.parquet looks like parquet, but its TOML says kind = 'webdataset'"
    ):
        task(birds, data=tmp_path / "store")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version = 3", "verison = 3", r"birds\.toml: unknown key 'verison'; did you mean 'version'"),
        ("version = 3", 'version = "3"', r"birds\.toml: version = '3' must be a whole number"),
        ("version = 3", "version = true", "version = True must be a whole number"),
        ("version = 3", 'name = "brids"', r"name = 'brids', but the file must be called as the task: brids\.toml"),
        ('description = "Birds."', "description = 1", "description = 1 must be a text"),
        ('["owl", "wren"]', '"owl"', "classes = 'owl' must be a list of texts"),
        ('["owl", "wren"]', '["owl", 2]', "must be a list of texts"),
        ('["owl", "wren"]', '["owl", "owl"]', "classes: the class name 'owl' is there twice"),
        ('["a {}", "the {}"]', '["a photo"]', r"the template 'a photo' needs exactly one {}"),
        ("[source]", '[source]\nhubb = "a/b"', r"unknown key in \[source\] 'hubb'; did you mean 'hub'"),
        ("[source]", '[source]\nkind = "folders"', r"unknown \[source\] kind 'folders'; did you mean 'folder'"),
        ("[source]", '[source]\nkind = "world"', "kind = 'world' needs a view"),
        ('local = ["birds-{split}.parquet", "birds"]', "", r"\[source\] needs one of kind = 'world' or 'digits', path"),
        ("size = 8", "sizes = 8", r"unknown key in \[geometry\] 'sizes'; did you mean 'size'"),
        ("size = 8", 'size = "8"', "geometry size = "),
        ("size = 8", "size = 8\ncrop = 4", "leave out resize and crop"),
        ("size = 8", 'resize = 8\ninterpolation = "cubic"', "unknown interpolation 'cubic'; did you mean 'bicubic'"),
        ("test = 3", "test = -3", r"\[splits\] test = -3 is neither a number of examples nor a table"),
        ("test = 3", 'test = { form = "train" }', r"unknown key in \[splits\] test 'form'; did you mean 'from'"),
        (
            "test = 3",
            'test = { from = "train", rows = "5:6" }',
            r"\[splits\] test and validation overlap: both have rows",
        ),
        ('rows = "0:4", ', "", r"\[splits\] train and validation overlap: both have rows of the data's 'train'"),
        (
            "test = 3",
            'test = { from = "all", rows = "5:6" }',
            r"\[splits\] test and train overlap: both have rows of the data's 'train'",
        ),
        ('"4:6"', '"4-6"', r"\[splits\] validation: rows = '4-6' is not a range 'first:end' within the split"),
        ('"4:6"', '"4:7"', "rows = '4:7' is not a range"),
        ("test = 3", "test = { from = [] }", r"\[splits\] test: from = \[\] names no split"),
        ("version = 3", 'data_classes = ["a"]', "data_classes has 1 names, but classes has 2: one each, in the same"),
        ("version = 3", 'data_classes = ["a", ["b", "a"]]', "data_classes: the class name 'a' is there twice"),
        ("version = 3", 'data_classes = ["a", []]', "data_classes: class 1 has no name"),
        ("version = 3", 'data_classes = ["a", 2]', "must be a list of texts"),
        ("[source]", '[source]\nlayout = "pet"', r"unknown \[source\] layout 'pet'; did you mean 'pets'"),
        ("[source]", '[template_sets]\n"open ai" = ["{}"]\n[source]', r"\[template_sets\] 'open ai' must be one word"),
        ("[source]", "[template_sets]\nopenai = []\n[source]", r"\[template_sets\] openai has no templates"),
        ("[source]", '[template_sets]\nopenai = ["a"]\n[source]', r"\[template_sets\] openai: the template 'a' needs"),
        ("[source]", '[provenance]\nclases = "x"\n[source]', r"unknown key in \[provenance\] 'clases'; did you mean"),
        ("[source]", '[provenance]\nclasses = ""\n[source]', r"\[provenance\] classes is empty"),
        ("[source]", "[provenance]\nclasses = 1\n[source]", "classes = 1 must be a text: where its value was seen"),
        ("version = 3", "version = ", r"birds\.toml is not a readable TOML file \(Invalid value"),
    ],
)
def test_mistakes_in_a_toml(birds, old, new, message):
    edit(birds, (old, new))
    with pytest.raises(ConfigError, match=message):
        task(birds)


def test_a_toml_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"x\.toml is not a readable TOML file \(No such file or directory\)"):
        task(tmp_path / "x.toml")


def test_a_world_view_or_split_that_is_not_there(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('[source]\nkind = "world"\nview = "shapes"\n')
    with pytest.raises(UnknownName, match="unknown view of the world 'shapes'; did you mean 'shape'"):
        task(file)
    file.write_text('[source]\nkind = "world"\nview = "shape"\n[splits]\ndev = 10\n')
    with pytest.raises(UnknownName, match="unknown split of the world 'dev'"):
        task(file, split="dev")
