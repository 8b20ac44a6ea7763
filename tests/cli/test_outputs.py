"""Files that a command writes, what is written as ``~``, and options that would be of no use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Zsrobust
from tests.report.fake_run import make_run

from zsrobust.cli import report
from zsrobust.cli.outputs import file_to_write
from zsrobust.cli.parsing import parse
from zsrobust.errors import ConfigError, UnknownName
from zsrobust.jobs import make_method


def test_a_file_whose_folders_need_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "there.json").write_text("{}")
    assert file_to_write("--out", "a/b/c.json") == Path("a/b/c.json")
    assert file_to_write("--out", "there.json") == Path("there.json")
    assert file_to_write("--out", "~/a.json") == tmp_path / "a.json"
    assert [path.name for path in tmp_path.iterdir()] == ["there.json"]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("folder", r"--out folder is a folder; name a file in it"),
        ("file/a/b.json", r"--out file/a/b.json cannot be written: .*file is a file, not a folder"),
        ("kept/b.json", r"--out kept/b.json cannot be written: no permission in .*kept"),
    ],
)
def test_what_cannot_be_written(given: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("folder", "kept"):
        Path(name).mkdir()
    Path("file").write_text("")
    monkeypatch.setattr("os.access", lambda path, _: Path(path).name != "kept")  # root may write anywhere
    with pytest.raises(ConfigError, match=line):
        file_to_write("--out", given)


def test_sanity_refuses_before_a_model_is_loaded(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("zsrobust.models.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    assert refused("sanity", "tiny", "--task", "digits", "--out", tmp_path).endswith("is a folder; name a file in it")


def test_a_report_of_a_run_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    make_run(tmp_path / "home" / "run", n=4)
    options = parse(report.COMMAND, ["~/run", "--out", "~/both"])
    report.run(options)
    assert (tmp_path / "home" / "both" / "report.html").exists()
    assert not Path("~").exists()


def test_an_image_at_home_is_attacked(
    zsrobust: Zsrobust, random_clip_folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(photos))
    words = ("--labels", "a cat, a dog", "--template", "{}", "--model", random_clip_folder, "--attack", "fgsm")
    assert zsrobust("attack", "~/cat/0.png", *words, "--out", "~/x.png").status == 0
    assert (photos / "x.png").exists()


def test_images_are_saved_at_home(
    zsrobust: Zsrobust, evaluate_command: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("home.yaml").write_text("save_images: ~/images\nattacks: fgsm\nlimit: 6\n")
    # The command line would win over the file.
    words = [word for word in evaluate_command if word not in ("--attacks", "pgd:2")]
    assert zsrobust(*words, "--config", "home.yaml", "--run", "e").status == 0
    assert list((tmp_path / "images").rglob("*.png"))


def test_an_option_of_a_method_that_is_a_number() -> None:
    with pytest.raises(UnknownName, match="unknown tecoa option '5'"):
        make_method("tecoa", {5: 1})  # type: ignore[dict-item]  # as a YAML file may have it


def test_visibility_is_of_what_is_pushed(refused: Callable[..., str]) -> None:
    line = refused("export", "tiny", "--format", "hf", "--out", "o", "--visibility", "public")
    assert line == "--visibility public is for --push-to-hub OWNER/NAME, which was not given"
    assert not Path("o").exists()
