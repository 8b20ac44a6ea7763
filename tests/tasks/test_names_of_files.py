"""Files whose names are no UTF-8, as an old archive unpacks them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from tests.tasks.tiny_data import pixels, png, write_folder

from zsrobust.errors import DataError
from zsrobust.tasks import task

LATIN = b"k\xe4fer".decode("utf-8", "surrogateescape")


def rename(path: Path, name: str) -> Path:
    try:
        return path.rename(path.with_name(name))
    except OSError:
        pytest.skip("this file system takes no such name")


def test_an_image_whose_name_is_not_utf8(tmp_path: Path, own_cache: Path) -> None:
    folder = write_folder(tmp_path / "pets", {"cat": 1, "dog": 1}, first=3)
    rename(folder / "cat" / "000.png", f"{LATIN}.png")
    opened = task(folder)
    np.testing.assert_array_equal(opened.images([0])[0], pixels(3))
    assert list(own_cache.rglob("*.pixels"))  # kept on the disk, under a key
    assert opened.image_name(0) == f"{folder.as_posix()}/cat/k\\xe4fer.png"
    json.dumps(opened.image_name(0), ensure_ascii=False).encode()


def test_what_is_wrong_with_it_can_be_printed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets", {"cat": 1, "dog": 1})
    bad = rename(folder / "cat" / "000.png", f"{LATIN}.png")
    bad.write_bytes(png(0)[:40])
    with pytest.raises(DataError, match=r"k.xe4fer\.png: cannot be read as an image") as problem:
        task(folder).images([0])
    str(problem.value).encode()


def test_a_class_whose_name_is_not_utf8(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets", {"cat": 1, "dog": 1})
    rename(folder / "cat", LATIN)
    assert LATIN in os.listdir(folder)
    with pytest.raises(DataError, match=r"pets: the class folder 'k.xe4fer' has a name that is not UTF-8; rename it"):
        task(folder)
