"""``zsrobust retrieval``: what it prints, where it writes, and what it will not do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zsrobust.cli import retrieval
from zsrobust.cli.parsing import parse
from zsrobust.errors import ConfigError


def run(*argv: object) -> None:
    options: Any = parse(retrieval.COMMAND, [str(word) for word in argv])
    retrieval.run(options)


def test_it_prints_tables_and_goes_on(
    random_clip_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [random_clip_folder, "--captions", "world", "--limit", 12, "--attacks", "pgd:1"]
    with pytest.warns(UserWarning, match="tokens and were cut"):  # the random CLIP reads 24 tokens
        run(*command)
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert max(map(len, lines[:-2])) <= 80
    assert "12 images of 480, drawn with seed 0" in " ".join(printed.split())
    assert [line.split()[0] for line in lines if line.startswith(("   clean ", "   pgd:1 "))] == ["clean", "pgd:1"] * 2
    (folder,) = Path("runs").iterdir()
    assert lines[-1] == f"Report   {folder / 'report.md'}"
    assert len(json.loads((folder / "summary.json").read_text())["recalls"]) == 2 * 2 * 3
    run(*command)
    again = capsys.readouterr().out
    assert again.splitlines()[0] == f"Going on with {folder}: what is there already is not computed again."
    assert again.splitlines()[1:] == lines


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "no model given: zsrobust retrieval MODEL --captions SET"),
        (["tiny"], "no captions given: --captions world"),
        (["tiny", "--captions", "world", "--attacks", "clean,pgd:2"], "clean is always measured"),
        (["tiny", "--captions", "world", "--attacks", "square"], "attack 'square' cannot be aimed at retrieval"),
        (["tiny", "--captions", "world", "--attacks", "autoattack"], "attack 'autoattack' cannot be aimed at"),
        (["tiny", "--captions", "world", "--attacks", "pgd:2,pgd:2"], "attack 'pgd:2' is given more than once"),
        (["tiny", "--captions", "world", "--attacks", "pgd:x"], "what follows the colon is the number of steps"),
        (["tiny", "--captions", "world", "--threat", "foo"], "threat 'foo' must be NORM:EPS"),
        (["tiny", "--captions", "world", "--threat", "foo", "--attacks", "clean"], "threat 'foo' must be NORM:EPS"),
        (["tiny", "--captions", "world", "--threat", "patch:0.05"], "attack 'pgd' cannot search patch:0.05:native"),
        (["tiny", "--captions", "world", "--rows", "0"], "rows must be at least 1, not 0"),
        (["tiny", "--captions", "world", "--seed", "-1"], "seed must be at least 0, not -1"),
        (["tiny", "--captions", "world", "--limit", "0"], "limit = 0 must be at least 1"),
        (
            ["tiny", "--captions", "world", "--attention", "fast"],
            "option --attention must be one of sdpa, eager, not 'fast'",
        ),
        (["tiny", "--captions", "world", "--limt", "5"], "unknown option --limt; did you mean --limit"),
    ],
)
def test_mistakes_are_one_line(words: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before captions are read and models loaded."""
    monkeypatch.chdir(tmp_path)
    for late in ("zsrobust.retrieval.sources.open_captions", "zsrobust.models.load_model"):
        monkeypatch.setattr(late, lambda *_, late=late, **__: pytest.fail(f"{late} was called"))
    with pytest.raises(ConfigError, match=line) as error:
        run(*words)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()
