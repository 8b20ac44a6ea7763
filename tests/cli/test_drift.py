"""``zsrobust drift`` and ``zsrobust latency``: what they print and write, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from zsrobust.cli import drift, latency
from zsrobust.cli.parsing import parse
from zsrobust.encoders.huggingface import from_folder
from zsrobust.errors import ZSRobustError
from zsrobust.tasks.corruptions import Corruption


@pytest.fixture
def pair(random_clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A model, and a run folder whose model has other weights in its visual tower."""
    monkeypatch.chdir(tmp_path)
    adapted = from_folder(random_clip_folder)
    for name, weight in adapted.visual_parameters():
        if name == "visual_projection.weight":
            weight.copy_(weight.flip(0))
    adapted.save_pretrained(tmp_path / "run" / "model", provenance={"adapted_on": ["pets"]})
    return [str(random_clip_folder), "run"]


def go(module: ModuleType, *words: object) -> None:
    module.run(parse(module.COMMAND, [str(word) for word in words]))


def test_a_task(pair: list[str], pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go(drift, *pair, "--tasks", pets, "--k", "1,3", "--out", "drift.json")
    printed = capsys.readouterr().out
    assert printed.splitlines()[:4] == ["Original random-clip", "Adapted  run", "", "Images   pets, 12 images"]
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed
    (found,) = json.loads(Path("drift.json").read_text())["sets"]
    assert (found["n"], found["same_texts"]) == (12, True)
    assert found["decision"] == "re-index"
    assert found["verdict"][0].startswith("Re-index: from the old index")
    assert "the old index answers as before" in " ".join(printed.split())
    former = next(
        one for one in found["findings"] if (one["queries"], one["measure"], one["k"]) == ("images", "former", 3)
    )
    assert f"{100 * former['mixed']['value']:.1f} %" in " ".join(printed.split())


def test_a_folder_with_queries(pair: list[str], photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "cat" / "bad.png").write_bytes(b"")
    go(drift, *pair, "--images", photos, "--k", 2, "--text", "a cat", "--on_bad_image", "skip")
    printed = " ".join(capsys.readouterr().out.split())
    assert "12 images of 13" in printed
    assert "1 unreadable images left out" in printed
    assert "A text is the query" in printed
    assert "of its class" not in printed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--images", "photos", "--tasks", "digits"], "give --images FOLDER or --tasks A,B, and not both"),
        ([], "give --images FOLDER or --tasks A,B"),
        (["third", "--images", "photos"], "two models are compared, not 3"),
        (["--images", "nowhere"], "images folder 'nowhere' does not exist"),
        (["--images", "photos"], "k = 10 is too many for 4 different images: k of at most 2 fits"),
        (["--images", "photos", "--k", "one"], "option --k must be a list of whole numbers, not 'one'"),
    ],
)
def test_it_refuses(pair: list[str], words: list[str], line: str) -> None:
    Path("photos").mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(f"photos/{i}.png")
    with pytest.raises(ZSRobustError) as problem:
        go(drift, *pair, *words)
    assert str(problem.value).startswith(line)


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder with four images and a file that is none; no model may be loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zsrobust.models.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    Path("photos").mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(f"photos/{i}.png")
    Path("notes.txt").write_text("no image")


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("drift a b --images photos --k 1 --accept 2", "accept must be a share above 0 and at most 1, not 2.0"),
        ("drift a b --images photos --k 0", "k must be whole numbers of at least 1, not [0]"),
        ("drift a b --images photos --k 1 --limit 0", "limit must be at least 1, not 0"),
        ("drift a b --images photos --k 1 --seed -1", "seed must be at least 0, not -1"),
        ("drift a b --images photos --k 1 --batch_size 0", "batch_size must be at least 1, not 0"),
        ("drift a b --images photos --split train", "--split and --data are for --tasks; of --images FOLDER every"),
        ("drift a b --images photos --data photos", "--split and --data are for --tasks; of --images FOLDER every"),
        ("drift a b --images photos --k 1 --out notes.txt/x", "--out notes.txt/x cannot be written: "),
        ("drift a b --images photos --k 1 --out photos", "--out photos is a folder; name a file in it"),
        ("drift a b --images photos", "k = 10 is too many for 4 different images: k of at most 2 fits"),
        ("drift a b --images nowhere", "images folder 'nowhere' does not exist"),
        ("drift a b --images photos --k 2 --limit 3", "k = 2 is too many for 3 different images"),
        ("drift a b --tasks digits@nois-5", "unknown corruption 'nois'; did you mean 'noise'?"),
        ("latency a --batch_sizes 4,0", "batch size must be at least 1, not 0"),
        ("latency a --classes 0", "classes must be at least 1, not 0"),
        ("latency a --repetitions 1", "repetitions must be at least 2, not 1"),
        ("latency a --warm_up -1", "warm_up must be at least 0, not -1"),
        ("latency a --threads 0", "threads must be at least 1, not 0"),
        ("latency a --seed -1", "seed must be at least 0, not -1"),
        ("latency a --image notes.txt", "notes.txt: cannot be read as an image"),
        ("latency a --out photos", "--out photos is a folder; name a file in it"),
    ],
)
def test_it_refuses_before_a_model_is_loaded(words: str, line: str) -> None:
    command, *rest = words.split()
    with pytest.raises(ZSRobustError) as problem:
        go({"drift": drift, "latency": latency}[command], *rest)
    assert str(problem.value).startswith(line)
    assert "\n" not in str(problem.value)


def test_the_noise_of_a_corrupted_task_is_that_of_the_seed(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Any] = []

    def measure(original: object, adapted: object, images: object, **_: object) -> None:
        measured.append(images)
        raise KeyboardInterrupt

    monkeypatch.setattr("zsrobust.models.load_model", lambda name, **_: SimpleNamespace(name=name, provenance={}))
    monkeypatch.setattr("zsrobust.drift.drift", measure)
    with pytest.raises(KeyboardInterrupt):
        go(drift, "a", "b", "--tasks", f"{pets}@noise-5", "--k", 1, "--seed", 3)
    assert measured[0].corruption == Corruption("noise", 5, seed=3)


def test_latency_prints_a_row_a_model_and_size(pair: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (40, 30)).save("photo.png")
    go(
        latency,
        *pair,
        "--batch_sizes",
        "1,2",
        "--repetitions",
        2,
        "--warm_up",
        0,
        "--image",
        "photo.png",
        "--out",
        "l.json",
    )
    printed = capsys.readouterr().out
    assert "Timed    40 x 30, decoded, image encoder and head of 1,000 classes, 2 repetitions" in printed
    assert "Model    run: " in printed
    stored = json.loads(Path("l.json").read_text())
    assert [one["batch_size"] for one in stored["timings"]] == [1, 1, 2, 2]
    with pytest.raises(ZSRobustError, match="no model given"):
        go(latency)


@pytest.mark.parametrize(
    ("command", "words"),
    [(drift, "--tasks PETS --k 1"), (latency, "--batch_sizes 1 --repetitions 2 --warm_up 0 --classes 2")],
    ids=["drift", "latency"],
)
def test_what_was_measured_is_written_even_if_the_reader_goes_away(
    command: ModuleType, words: str, pair: list[str], pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(f"zsrobust.cli.{command.COMMAND.name}_words.tell", gone)
    with pytest.raises(BrokenPipeError):
        go(command, *pair, *words.replace("PETS", str(pets)).split(), "--out", "found.json")
    assert json.loads(Path("found.json").read_text())["format"] == f"zsrobust.{command.COMMAND.name}/1"
