from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

import zsrobust
from zsrobust.errors import RunError
from zsrobust.run_folder import ReadOnly, RunFolder, claimed, versions, write_atomically

SETTINGS = {"space": "native", "precision": "float32", "rows": 32}
MODEL = {"name": "tiny", "fingerprint": "abc", "adapted_on": []}


def measured(path: Path) -> None:
    """A folder with a record: from then on its configuration counts."""
    (path / "records.jsonl").write_text("{}\n")


def run(path: Path, **changes: object) -> RunFolder:
    return RunFolder(path, kind="evaluate", settings=SETTINGS | changes)


def header(path: Path) -> dict[str, object]:
    return json.loads((path / "run.json").read_text())  # type: ignore[no-any-return]


def test_a_new_folder_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    run(path)
    assert {"format": "zsrobust.run/1", "kind": "evaluate", "models": [], "seeds": []}.items() <= header(path).items()
    assert SETTINGS.items() <= header(path).items()
    assert versions()["zsrobust"] == zsrobust.__version__
    assert {"python", "torch", "numpy", "transformers", "pillow"} < versions().keys()


def test_a_resumed_folder_keeps_what_was_declared(tmp_path: Path) -> None:
    first = run(tmp_path)
    for _ in range(2):
        first.declare("models", MODEL)
        first.declare("seeds", 0)
        first.declare("threats", "linf:4/255:native")
    measured(tmp_path)
    again = run(tmp_path)
    assert again.header == first.header == header(tmp_path)
    again.declare("models", MODEL)
    again.declare("seeds", 1)
    assert header(tmp_path)["models"] == [MODEL]
    assert header(tmp_path)["seeds"] == [0, 1]
    assert header(tmp_path)["created"] == first.header["created"]


def test_another_setting_is_named(tmp_path: Path) -> None:
    run(tmp_path)
    measured(tmp_path)
    with pytest.raises(RunError, match=r"another configuration: rows was 32, now 8; .*another run folder"):
        run(tmp_path, rows=8)


def test_a_run_without_a_record_begins_anew(tmp_path: Path) -> None:
    run(tmp_path).declare("models", MODEL)
    assert run(tmp_path, rows=8).header["models"] == []
    assert header(tmp_path)["rows"] == 8


def test_a_name_stands_for_one_thing_in_a_run(tmp_path: Path) -> None:
    folder = run(tmp_path)
    folder.declare("models", MODEL)
    with pytest.raises(RunError, match='fingerprint of model \'tiny\' was "abc", now "xyz"'):
        folder.declare("models", MODEL | {"fingerprint": "xyz"})
    folder.declare("attacks", {"name": "pgd:20", "threat": "linf:1/255:native", "step_size": 0.1})
    folder.declare("attacks", {"name": "pgd:20", "threat": "linf:4/255:native", "step_size": 0.4})
    with pytest.raises(RunError, match=r"step_size of attack 'pgd:20' was 0\.4, now 0\.5"):
        folder.declare("attacks", {"name": "pgd:20", "threat": "linf:4/255:native", "step_size": 0.5})
    assert [attack["step_size"] for attack in folder.header["attacks"]] == [0.1, 0.4]
    assert header(tmp_path) == folder.header


@pytest.mark.parametrize("content", ["{", "[]", '"run"', '{"format": "other/9"}', "\xff"])
def test_what_is_no_run_folder_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content, encoding="latin-1")
    with pytest.raises(RunError, match=r"run\.json cannot be read|was written as"):
        run(tmp_path)
    assert (tmp_path / "run.json").read_text(encoding="latin-1") == content


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match=r"cannot write .*file") as caught:
            run(path)
        assert "\n" not in str(caught.value)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    run(tmp_path).write_config("seed: 0\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device; nothing already saved is lost"):
        write_atomically(path, b"seed: 1\n")
    assert path.read_text() == "seed: 0\n"
    assert sorted(tmp_path.iterdir()) == before, "no temporary file stays"


def test_a_process_that_does_not_write_compares(tmp_path: Path) -> None:
    first = run(tmp_path / "run")
    other = ReadOnly(tmp_path / "nowhere", first.header, settings=SETTINGS)
    for folder in (first, other):
        folder.declare("models", MODEL)
    other.compare(first.header)
    other.write_config("x")
    assert not (tmp_path / "nowhere").exists()
    other.declare("tasks", {"name": "digits", "fingerprint": "of other images"})
    with pytest.raises(RunError, match="this process has other tasks than the first one"):
        other.compare(first.header)
    with pytest.raises(RunError, match='device is "cuda" in the first process, "cpu" in this one'):
        ReadOnly(tmp_path, first.header | {"device": "cuda"}, settings={"device": "cpu"})


def test_where_the_images_are_is_no_other_task(tmp_path: Path) -> None:
    first = run(tmp_path / "run")
    other = ReadOnly(tmp_path / "nowhere", first.header, settings=SETTINGS)
    for folder, where in ((first, "photos"), (first, "/data/photos"), (other, "/mnt/photos")):
        folder.declare("tasks", {"name": "photos", "fingerprint": "a", "source": {"kind": "folder", "where": where}})
    other.compare(first.header)
    (task,) = first.header["tasks"]
    assert task["source"]["where"] == "photos"
    first.declare("attacks", {"name": "transfer", "threat": "linf:1/255:native", "source": "tiny"})
    with pytest.raises(RunError, match="source of attack 'transfer'"):
        first.declare("attacks", {"name": "transfer", "threat": "linf:1/255:native", "source": "other"})


def test_a_folder_is_claimed_until_the_end_by_whoever_may(tmp_path: Path) -> None:
    with (
        claimed(tmp_path / "run", kind="evaluate"),
        pytest.raises(RunError, match=r"run is being written by another process; wait for it"),
        claimed(tmp_path / "run", kind="evaluate"),
    ):
        pass
    with claimed(tmp_path / "run", kind="evaluate"):
        pass
    assert not (tmp_path / "run").exists()  # nothing came of it
    (tmp_path / "adapted" / "checkpoints").mkdir(parents=True)
    with pytest.raises(RunError, match="holds a run of 'adapt'"), claimed(tmp_path / "adapted", kind="evaluate"):
        pass
    assert [path.name for path in (tmp_path / "adapted").iterdir()] == ["checkpoints"]


def test_an_alarm_is_put_in_place_of_the_one_about_the_same(tmp_path: Path) -> None:
    folder = run(tmp_path)
    assert "flags" not in header(tmp_path)
    folder.flag_again({"name": "a", "model": "m"}, None)
    for text in ("one", "two"):
        folder.flag({"name": "a", "model": "m", "task": "t", "text": text})
        folder.flag_again({"name": "a", "model": "m"}, {"name": "a", "model": "m", "text": text})
    assert [(flag.get("task"), flag["text"]) for flag in header(tmp_path)["flags"]] == [("t", "one"), (None, "two")]  # type: ignore[attr-defined]
    folder.flag_again({"name": "a", "model": "m"}, None)
    assert [flag.get("task") for flag in header(tmp_path)["flags"]] == ["t"]  # type: ignore[attr-defined]
