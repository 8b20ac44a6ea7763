from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.conftest import CLASSES, PER_CLASS, Zsrobust

from zsrobust.tasks import task


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZSROBUST_DATA", raising=False)


@pytest.fixture
def zoo(photos: Path, tmp_path: Path) -> Path:
    """A TOML whose data is ``photos``, if --data says where that is."""
    file = tmp_path / "zoo.toml"
    file.write_text(
        f'classes = {list(reversed(CLASSES))}\nby_hand = "Ask the keeper."\npaper = "  All cages,\\n  as here."\n'
        '[source]\nlocal = ["photos"]\nhub = "a/zoo"\n'
        f'revision = ""\n[geometry]\nsize = 16\n[splits]\ntest = {len(CLASSES) * PER_CLASS}\n[provenance]\n'
        'classes = "seen"\nhub = "unverified"\nsplits = "seen"\ngeometry = "unverified: a guess"\n'
    )
    return file


def test_data_that_is_there(zsrobust: Zsrobust, zoo: Path, tmp_path: Path) -> None:
    result = zsrobust("data", "check", zoo, "digits", "--data", tmp_path)
    fingerprint = task(zoo, data=tmp_path).fingerprint[:12]
    lines = result.out.splitlines()
    assert (result.status, result.error) == (0, "")
    assert lines[3].split() == ["✓", "zoo", "12", "3", "by", "name", fingerprint, str(tmp_path / "photos")]
    assert lines[4].split()[:6] == ["✓", "digits", "797", "10", "by", "number"]
    assert lines[6:9] == ["zoo", "  paper       All cages, as here.", "  unverified  hub, geometry"]
    assert lines[-1] == "All 2 are there and right."


def test_data_that_is_missing(zsrobust: Zsrobust, zoo: Path, tmp_path: Path) -> None:
    result = zsrobust("data", "check", "world-shape", zoo, "--data", tmp_path / "nowhere")
    assert (result.status, result.error) == (1, "")
    for words in (
        "✓ world-shape",
        "✗ zoo          not on this machine",
        f"looked for  {tmp_path / 'nowhere' / 'photos'}",
        "hub         a/zoo (no revision pinned); --download fetches it",
        "by hand     Ask the keeper.",
        "paper       All cages, as here.",
        "1 of 2 are there and right.",
    ):
        assert words in result.out, words


def test_data_that_is_wrong(zsrobust: Zsrobust, zoo: Path, photos: Path, tmp_path: Path) -> None:
    def problem() -> str:
        result = zsrobust("data", "check", zoo, "--data", tmp_path)
        assert result.status == 1
        return " ".join(result.out.split())

    (photos / "fox" / "3.png").write_bytes(b"no image")  # the last one
    assert "✗ zoo " in problem()
    assert "cannot be read as an image" in problem()
    (photos / "fox" / "3.png").unlink()
    assert "has 11 examples in its 'test' split, but its TOML says 12" in problem()
    (photos / "fox" / "3.png").write_bytes((photos / "cat" / "0.png").read_bytes())
    (photos / "fox").rename(photos / "wolf")
    assert "only the data has wolf; only the task has fox" in problem()
    assert "looked for" not in problem()


def test_a_suite_and_each_task_once(zsrobust: Zsrobust) -> None:
    result = zsrobust("data", "check", "world", "world-shape", "--split", "validation")
    assert result.status == 0
    assert result.out.count("✓ world-") == 10
    assert result.out.count("✓ world-shape ") == 1


def test_mistakes(refused) -> None:  # type: ignore[no-untyped-def]
    assert refused("data").startswith("what shall be done with data? zsrobust data check TASK")
    assert refused("data", "chekc", "digits").startswith(
        "unknown word after 'zsrobust data' 'chekc'; did you mean 'check'?"
    )
    assert refused("data", "check").startswith("no task given")
    assert "did you mean 'cifar10'?" in refused("data", "check", "cifar1")
    assert "suites: paper16, paper15, farevlm13, world" in refused("data", "check", "paper61")


def test_suites_are_listed(zsrobust: Zsrobust) -> None:
    printed = zsrobust("ls", "suites").out
    assert printed.split()[0] == "paper16"
    assert "world-unseen]" in printed
