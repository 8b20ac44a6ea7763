from __future__ import annotations

import os
from pathlib import Path

import pytest

from zsrobust import cache
from zsrobust.errors import ConfigError


def put(here: Path, kind: str, letter: str, size: int, used: float) -> Path:
    path = here / kind / f"{letter * 64}.{'pixels' if kind == 'pixels' else 'safetensors'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (used, used))
    return path


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZSROBUST_CACHE", str(tmp_path))
    assert cache.folder() == tmp_path
    for word in ("off", "NONE"):
        monkeypatch.setenv("ZSROBUST_CACHE", word)
        assert cache.folder() is None
    monkeypatch.setenv("ZSROBUST_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache.folder() == tmp_path / "x" / "zsrobust"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache.folder() == tmp_path / "home" / ".cache" / "zsrobust"


@pytest.mark.parametrize(
    ("given", "size"),
    [("", 20 * 10**9), ("1000", 1000), ("20GB", 20 * 10**9), ("1.5 GiB", 3 * 2**29), ("500m", 5 * 10**8), ("0", 0)],
)
def test_its_bound(monkeypatch: pytest.MonkeyPatch, given: str, size: int) -> None:
    monkeypatch.setenv("ZSROBUST_CACHE_BYTES", given)
    assert cache.bound() == size


@pytest.mark.parametrize("given", ["much", "-1", "20 GBs", "1e9", "5 XB"])
def test_nonsense_is_one_line(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("ZSROBUST_CACHE_BYTES", given)
    with pytest.raises(ConfigError, match=r"ZSROBUST_CACHE_BYTES = '.*' is no size; write bytes or a size such as"):
        cache.bound()


def test_what_was_not_used_for_longest_goes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old, new, newest = (
        put(tmp_path, kind, letter, 8192, used) for kind, letter, used in
        (("pixels", "a", 100), ("text", "b", 200), ("pixels", "c", 300))
    )  # fmt: skip
    monkeypatch.setenv("ZSROBUST_CACHE_BYTES", "29000")
    assert cache.make_room(tmp_path, 400)
    assert old.exists()
    assert cache.make_room(tmp_path, 5000)
    assert [path.exists() for path in (old, new, newest)] == [False, True, True]
    assert cache.make_room(tmp_path, 14_000, growing=new)  # the file that grows is not deleted
    assert [path.exists() for path in (new, newest)] == [True, False]


def test_where_there_cannot_be_room_nothing_is_deleted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one, other = put(tmp_path, "pixels", "a", 8192, 100), put(tmp_path, "pixels", "b", 8192, 200)
    monkeypatch.setenv("ZSROBUST_CACHE_BYTES", "20000")
    assert not cache.make_room(tmp_path, 20_001)
    assert not cache.make_room(tmp_path, 12_000, growing=other)
    assert one.exists()
    assert other.exists()


def test_a_file_of_somebody_else_is_never_counted_or_deleted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    photo, weights = tmp_path / "pixels" / "holiday.pixels", tmp_path / "text" / "model.safetensors"
    for path in (photo, weights):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 9000)
    put(tmp_path, "text", "a", 9000, 0)
    monkeypatch.setenv("ZSROBUST_CACHE_BYTES", "4096")
    assert cache.make_room(tmp_path, 1)
    assert cache.kept(tmp_path) == []
    assert photo.exists()
    assert weights.exists()


def test_a_sparse_file_counts_what_it_takes(tmp_path: Path) -> None:
    path = put(tmp_path, "pixels", "a", 4096, 0)
    os.truncate(path, 10**9)
    assert cache.kept(tmp_path)[0].bytes < 10**6
