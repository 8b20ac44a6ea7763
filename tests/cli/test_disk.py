"""What adapt and evaluate meet on the disk: broken images and checkpoints, no room, folders of something else."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cli.conftest import Command, Refused, Zsrobust


def test_a_command_leaves_the_run_of_another_one_alone(
    zsrobust: Zsrobust, refused: Refused, adapt_command: Command, evaluate_command: Command, pets: Path
) -> None:
    zsrobust(*adapt_command, "--epochs", 1)
    zsrobust(*evaluate_command, "--run", "e")
    kept = {path: path.read_bytes() for name in ("adapted", "e") for path in Path(name).rglob("*") if path.is_file()}
    model, would = evaluate_command[1], "would overwrite in part: name another folder"
    assert refused(*adapt_command, "--run", "e") == f"e holds a run of 'evaluate', which 'adapt' {would}"
    assert refused(*evaluate_command, "--run", "adapted") == f"adapted holds a run of 'adapt', which 'evaluate' {would}"
    for folder, kind in (("adapted", "adapt"), ("e", "evaluate")):
        line = f"{folder} holds a run of '{kind}', which 'corruptions' {would}"
        assert refused("corruptions", model, "--tasks", pets, "--limit", 6, "--run", folder) == line
        line = f"{folder} holds a run of '{kind}', which 'retrieval' {would}"
        assert refused("retrieval", model, "--captions", "world", "--limit", 4, "--run", folder) == line
    there = {path for name in ("adapted", "e") for path in Path(name).rglob("*") if path.is_file()}
    assert {path: path.read_bytes() for path in there} == kept


def test_a_bad_image_stops_and_the_same_folder_serves_without_it(
    zsrobust: Zsrobust, refused: Refused, photos: Path, random_clip_folder: Path
) -> None:
    (next(path for path in sorted(photos.iterdir()) if path.is_dir()) / "bad.png").write_text("no image")
    command = ("evaluate", random_clip_folder, "--tasks", photos, "--attacks", "pgd:1", "--run", "e")
    line = refused(*command)
    assert "bad.png: cannot be read as an image" in line
    assert "; --on_bad_image skip leaves such images out" in line
    assert zsrobust(*command, "--on_bad_image", "skip").status == 0


def test_empty_folder(refused: Refused, random_clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty is empty" in refused("evaluate", random_clip_folder, "--tasks", tmp_path / "empty")


def test_class_without_images(refused: Refused, random_clip_folder: Path, photos: Path) -> None:
    for image in (photos / "dog").iterdir():
        image.unlink()
    assert "class 'dog' has no images" in refused("evaluate", random_clip_folder, "--tasks", photos)


def test_corrupt_image(zsrobust: Zsrobust, refused: Refused, random_clip_folder: Path, photos: Path) -> None:
    image = photos / "dog" / "1.png"
    image.write_bytes(image.read_bytes()[:60])
    command: Command = ["evaluate", random_clip_folder, "--tasks", photos, "--template", "{}", "--attacks", "fgsm"]
    assert "dog/1.png: cannot be read as an image" in refused(*command)
    result = zsrobust(*command, "--on_bad_image", "skip", "--run", "skipped")
    assert result.status == 0
    (task,) = json.loads(Path("skipped/run.json").read_text())["tasks"]
    assert task["n"] == 11
    assert "dog/1.png: cannot be read" in task["bad_images"][0]


@pytest.mark.parametrize("damage", ["truncated", "corrupt", "foreign", "empty"])
def test_broken_checkpoint(
    refused: Refused, evaluate_command: Command, random_clip_folder: Path, tmp_path: Path, damage: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(random_clip_folder, broken)
    weights = broken / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "corrupt":
        weights.write_bytes(b"\xff" * 100)
    elif damage == "foreign":
        (broken / "config.json").write_text('{"model_type": "bert"}')
    else:
        shutil.rmtree(broken)
        broken.mkdir()
    assert "broken" in refused("evaluate", broken, *evaluate_command[2:])


@pytest.mark.parametrize("damage", ["weights", "state"])
def test_broken_checkpoint_of_a_run(zsrobust: Zsrobust, refused: Refused, adapt_command: Command, damage: str) -> None:
    zsrobust(*adapt_command)
    last = Path("adapted/checkpoints/step-00000006")
    file = last / ("weights.safetensors" if damage == "weights" else "state.json")
    file.write_bytes(file.read_bytes()[:50])
    line = refused(*adapt_command)
    assert line.startswith(f"checkpoint {last} cannot be read")
    assert line.endswith("remove it to go on from the one before")
    shutil.rmtree(last)
    assert "going on from step 4" in zsrobust(*adapt_command).out


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing beyond ``size`` bytes of a file fails as on a full disk, with another reason."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_while_adapting(
    zsrobust: Zsrobust, refused: Refused, adapt_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZSROBUST_CACHE", "off")  # it would meet the full disk first, and do without
    with files_of_at_most(8000):
        line = refused(*adapt_command)
    assert line.startswith("cannot write adapted/checkpoints/step-00000002: ")
    assert not list(Path("adapted/checkpoints").glob("step-*"))
    assert zsrobust(*adapt_command).status == 0


def test_full_disk_while_evaluating(
    zsrobust: Zsrobust, refused: Refused, evaluate_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*evaluate_command, "--run", "e", "--batch_size", "4"]
    monkeypatch.setenv("ZSROBUST_CACHE", "off")
    with files_of_at_most(3000):
        line = refused(*command)
    assert line.startswith("cannot write e/")
    kept = Path("e/records.jsonl").read_text()
    assert kept.endswith("\n"), "a batch that was written before the disk was full must stay"
    assert zsrobust(*command).status == 0
    assert Path("e/records.jsonl").read_text().startswith(kept)
    assert json.loads(Path("e/summary.json").read_text())["rows"][0]["n"] == 12


def test_run_folder_that_cannot_be_made(refused: Refused, evaluate_command: Command, adapt_command: Command) -> None:
    # A file where a folder is needed: permissions would not stop root, who may run these tests.
    Path("file").write_text("")
    assert refused(*evaluate_command, "--run", "file/e").startswith("cannot write file/e: ")
    assert refused(*adapt_command[:-1], "file/a").startswith("cannot write file/a")


def test_run_folder_of_something_else(refused: Refused, evaluate_command: Command) -> None:
    Path("e").mkdir()
    Path("e/run.json").write_text("{}")
    assert refused(*evaluate_command, "--run", "e").startswith("e was written as None")


def test_unfinished_run_is_no_model(refused: Refused, evaluate_command: Command) -> None:
    Path("half/checkpoints").mkdir(parents=True)
    line = refused("evaluate", "half", *evaluate_command[2:])
    assert line == "half is a run of adapt that is not finished: run its command again"
