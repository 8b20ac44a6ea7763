"""``zsrobust corruptions``: known counts in the table, a run that goes on, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zsrobust.cli import corruptions as command
from zsrobust.cli.corruptions_words import lines
from zsrobust.cli.parsing import parse
from zsrobust.corruptions import tabulate
from zsrobust.errors import ConfigError, RunError, ZSRobustError
from zsrobust.records import Record
from zsrobust.statistics import mcnemar, wilson


def record(model: str, task: str, example: int, correct: bool) -> Record:
    return Record(
        model=model, task=task, example=example, image=f"i{example}", label=0, seed=0, attack="clean", threat="none",
        prediction=0 if correct else 1, correct=correct, margin=1.0, size=0.0, forwards=1, backwards=0,
    )  # fmt: skip


RIGHT = {("a", "t"): 30, ("a", "t@noise-1"): 20, ("a", "t@noise-5"): 10, ("b", "t"): 28, ("b", "t@noise-1"): 5,
         ("b", "t@noise-5"): 15}  # fmt: skip


def records() -> list[Record]:
    """40 images of which the first so many are right."""
    return [record(model, task, i, i < right) for (model, task), right in RIGHT.items() for i in range(40)]


def test_the_table_counts_pairs_and_averages() -> None:
    table = tabulate(list(reversed(records())), ["a", "b"], ["t"], ["noise"], [1, 5])
    one = table.cell("b", "t", "noise", 1)
    assert (one.n, one.accuracy, one.interval) == (40, 5 / 40, wilson(5, 40))
    assert one.difference is not None
    assert one.difference.value == pytest.approx(-15 / 40)
    assert one.difference.p == mcnemar(15, 0)
    assert one.difference.family == 3
    assert one.difference.p_holm == pytest.approx(3 * mcnemar(15, 0))
    assert one.difference.interval[0] < -15 / 40 < one.difference.interval[1] < 0
    mean = table.cell("b", "t", "noise", None)
    assert mean.accuracy == pytest.approx((5 + 15) / 80)
    assert mean.difference is not None
    assert mean.difference.value == pytest.approx((5 + 15 - 20 - 10) / 80)
    assert table.cell("a", "t", "all", None).difference is None
    text = "\n".join(lines(table))
    assert "  noise        12.5*  37.5 " in text
    assert max(map(len, text.splitlines())) <= 90


def test_several_tasks_weigh_the_same() -> None:
    other = [record("a", task.replace("t", "u", 1), i, i < 5) for _, task in RIGHT if _ == "a" for i in range(10)]
    table = tabulate([*records(), *other], ["a"], ["t", "u"], ["noise"], [1, 5])
    assert table.cell("a", "all", "clean", 0).accuracy == pytest.approx((30 / 40 + 5 / 10) / 2)
    assert table.cell("a", "all", "all", None).accuracy == pytest.approx((20 / 40 + 10 / 40 + 0.5 + 0.5) / 4)


def test_models_that_saw_other_examples_are_not_compared() -> None:
    with pytest.raises(RunError, match="not shown the same examples of t"):
        tabulate([*records()[:-1], record("b", "t@noise-5", 77, True)], ["a", "b"], ["t"], ["noise"], [5])
    with pytest.raises(RunError, match="no records of 'b' on t@noise-5"):
        tabulate(records()[:-40], ["a", "b"], ["t"], ["noise"], [1, 5])


def test_the_command_goes_on_where_it_stopped(
    random_clip_folder: Path, pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        str(random_clip_folder),
        "--tasks",
        str(pets),
        "--run",
        str(tmp_path / "run"),
        "--corruptions",
        "noise,jpeg",
    ]
    command.run(parse(command.COMMAND, [*words, "--strengths", "1,4"]))
    first = capsys.readouterr().out
    kept = (tmp_path / "run" / "records.jsonl").read_bytes()
    table = json.loads((tmp_path / "run" / "corruptions.json").read_text())
    assert table["format"] == "zsrobust.corruptions/1"
    assert len(kept.splitlines()) == 5 * 12
    asked = parse(command.COMMAND, ["--config", str(tmp_path / "run" / "config.yaml")])
    assert (asked.models, asked.tasks, asked.strengths) == ([str(random_clip_folder)], [str(pets)], [1, 4])
    (tmp_path / "run" / "records.jsonl").write_bytes(kept[: len(kept) // 2])
    command.run(parse(command.COMMAND, [*words, "--strengths", "1,4"]))
    again = capsys.readouterr().out
    assert again.splitlines()[0].startswith("Going on with")
    assert again.splitlines()[1:] == first.splitlines()
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == kept


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--tasks", "digits"], "no model given"),
        (["tiny"], "no task given"),
        (["tiny", "--tasks", "digits", "--corruptions", "nose"], "unknown corruption 'nose'; did you mean 'noise'"),
        (["tiny", "--tasks", "digits", "--strengths", "0"], "1, 2, 3, 4 or 5, not 0"),
        (["tiny", "--tasks", "digits@noise-1"], "corrupted already"),
        (["tiny", "--tasks", "world-shape", "--batch_size", "0"], "batch_size must be at least 1, not 0"),
        (["tiny", "--tasks", "world-shape", "--seed", "-1"], "seed must be at least 0, not -1"),
    ],
)
def test_it_refuses_in_one_line(words: list[str], line: str, tmp_path: Path) -> None:
    with pytest.raises(ZSRobustError, match=line) as caught:
        command.run(parse(command.COMMAND, [*words, "--run", str(tmp_path / "run")]))
    assert isinstance(caught.value, ConfigError)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
