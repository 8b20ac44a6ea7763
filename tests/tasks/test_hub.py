"""Tasks on the hub, without one: ids, splits, classes, and what is read where it cannot be reached."""

from __future__ import annotations

import json

import pytest
from tests.tasks.tiny_data import PAPER, png, shows, table

from zsrobust.errors import ConfigError, DataError
from zsrobust.tasks import task


class FakeHub:
    """Stands for ``datasets.load_dataset``; its table is a real one."""

    def __init__(self, table=None, error: Exception | None = None) -> None:
        self.table, self.error, self.asked = table, error, []

    def __call__(self, repository, config, *, split, revision):
        self.asked.append((repository, config, split, revision))
        if self.error:
            raise self.error
        if split is None:
            return self.table
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


def named(labels, images):
    """A table whose labels are names, and no classes."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


def encoded(*numbers):
    return [{"bytes": png(number), "path": None} for number in numbers]


def test_every_split_numbers_labels_that_are_names_alike(hub):
    hub({"train": named(["bat", "owl", "wren"], encoded(0, 1, 2)), "test": named(["wren", "bat"], encoded(3, 4))})
    assert task("hub:owner/birds", split="train").class_names == ("bat", "owl", "wren")
    with pytest.raises(DataError, match="no images of class 'owl' in the 'test' split; select the classes"):
        task("hub:owner/birds")
    opened = task("hub:owner/birds", select=["bat", "wren"])
    assert (opened.class_names, opened.labels.tolist()) == (("bat", "wren"), [1, 0])


def test_image_files_on_the_hub_are_read_where_they_were_downloaded_to(hub, tmp_path):
    (tmp_path / "5.png").write_bytes(png(5))
    images = [{"bytes": None, "path": str(tmp_path / "5.png")}, *encoded(6)]
    hub({"test": named(["owl", "wren"], images)})
    shows(task("hub:owner/birds"), [5, 6])


@pytest.mark.parametrize("image", [None, {"bytes": None, "path": "elsewhere.png"}])
def test_rows_without_an_image_on_the_hub(hub, image):
    hub({"test": named(["owl", "wren"], [*encoded(0), image])})
    with pytest.raises(DataError, match=r"hub:owner/birds row 1: cannot be read as an image \(column 'image' has no"):
        task("hub:owner/birds").check()
