"""The tasks there are by name: ours, a folder's, an installed package's; and suites of them."""

from __future__ import annotations

import importlib.metadata
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from tests.tasks.tiny_data import edit

from zsrobust.api import resolve_tasks
from zsrobust.errors import ConfigError, UnknownName
from zsrobust.tasks import find, names, task
from zsrobust.tasks.suites import SUITES


def test_a_folder_of_tomls_adds_names(birds, tmp_path):
    assert "birds" not in names()
    assert "birds" in names(birds.parent)
    assert len(task("birds", tasks_dir=birds.parent, data=tmp_path / "store")) == 3
    with pytest.raises(UnknownName, match="unknown task 'bird'; did you mean 'birds'"):
        task("bird", tasks_dir=birds.parent)
    with pytest.raises(ConfigError, match="the tasks folder nowhere does not exist"):
        names("nowhere")


def test_a_clash_with_a_known_name_is_refused(birds):
    edit(birds.rename(birds.parent / "cifar10.toml"))
    with pytest.raises(ConfigError, match=r"task 'cifar10' of .*defs/cifar10\.toml clashes with .*; rename it"):
        names(birds.parent)


@pytest.mark.parametrize(
    "body",
    ["FOLDER = __path__[0]", "def FOLDER(): return __path__[0]", "import pathlib; FOLDER = pathlib.Path(__path__[0])"],
)
def test_an_installed_package_adds_tasks(birds, tmp_path, monkeypatch, body):
    package = tmp_path / "site" / "my_birds"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(body + "\n")
    birds.rename(package / "birds.toml")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delitem(sys.modules, "my_birds", raising=False)
    for value in ("my_birds", "my_birds:FOLDER"):
        _install(monkeypatch, value)
        assert "birds" in names()
        assert find("birds").version == 3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_package:x", r"mine = no_such_package:x .* cannot be loaded \(ModuleNotFoundError"),
        ("json:__name__", "gives 'json'; expected a folder with task TOMLs"),
        ("os:abort_nothing", "cannot be loaded"),
    ],
)
def test_a_broken_package_is_named(monkeypatch, value, message):
    _install(monkeypatch, value)
    with pytest.raises(ConfigError, match=message):
        names()


def _install(monkeypatch, value: str) -> None:
    entry = EntryPoint("mine", value, "zsrobust.tasks")
    monkeypatch.setattr("zsrobust.tasks.catalogue.entry_points", lambda group: [entry] if entry.group == group else [])


def test_the_real_entry_points_are_asked():
    import zsrobust.tasks.catalogue as catalogue

    assert catalogue.entry_points is importlib.metadata.entry_points


def test_suites_are_lists_of_tasks(birds):
    world = resolve_tasks("world", limit=10)
    assert [one.name for one in world] == [name for name in names() if name.startswith("world-")]
    assert set(SUITES["paper16"].tasks) - set(SUITES["paper15"].tasks) == {"imagenet"}
    assert [len(SUITES[name].tasks) for name in ("paper16", "paper15", "farevlm13")] == [16, 15, 13]
    with pytest.raises(ConfigError, match=r"'paper15' is a suite of tasks, and one task is wanted here"):
        task("paper15")
    edit(birds.rename(birds.parent / "world.toml"))
    with pytest.raises(ConfigError, match="'world' is the name of a suite"):
        names(birds.parent)


# what the package ships


def test_every_shipped_toml_is_well_formed():
    known = names()
    assert {"cifar10", "digits", "world-shape"} <= set(known)
    for name in known:
        spec = find(name)
        assert spec.templates, name
        assert spec.geometry is not None, name
        assert spec.splits is not None, name
        assert set(spec.follows_from) <= set(known), name
        if spec.source.kind is None:  # data of others
            assert spec.provenance, name
            assert spec.source.local, name
    for suite in SUITES.values():
        assert set(suite.members(known)) <= set(known)


def test_digits():
    train, validation, test = (task("digits", split=split) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (600, 400, 797)
    images = test.images(range(797))
    assert images.shape == (797, 8, 8, 3)
    assert (images.min(), images.max()) == (0, 255)
    assert (images[..., 0] == images[..., 2]).all()
    from sklearn.datasets import load_digits

    data = load_digits()
    np.testing.assert_allclose(images[7, :, :, 1], data.images[1007] * 255 / 16, atol=0.5)
    np.testing.assert_array_equal(test.labels, data.target[1000:])
    ids = {t.image_id(0) for t in (train, validation, test)}
    assert len(ids) == 3
    assert test.fingerprint == task("digits").fingerprint != train.fingerprint


def test_the_world():
    shape, colour = task("world-shape", limit=20), task("world-colour")
    images = shape.images([0, 19])
    assert images.shape == (2, 64, 64, 3)
    assert np.bincount(shape.labels).tolist() == [2] * 10
    assert shape.image_id(3) == colour.image_id(int(shape.ids[3]))
    assert shape.image_id(3) != task("world-shape", split="validation").image_id(int(shape.ids[3]))
    assert shape.fingerprint == task("world-shape", limit=20).fingerprint
    assert shape.describe()["fingerprint_images"] == 8
    from zsrobust.tasks.world.views import VIEWS

    np.testing.assert_array_equal(images[1], VIEWS["shape"].image("test", int(shape.ids[19])))
    assert shape.class_names == VIEWS["shape"].class_names


def test_listing_and_describing_import_nothing_heavy():
    import subprocess

    code = (
        "import sys; from zsrobust.tasks import find, names; [find(n) for n in names()]; "
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'PIL', 'sklearn'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
