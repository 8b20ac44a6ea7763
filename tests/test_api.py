"""``zsrobust.compare``: the numbers of a small before and after, worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.fakes import Toy
from tests.report.fake_run import MODELS, description, outcome

import zsrobust as zr
from zsrobust.errors import ConfigError, RunError
from zsrobust.records import RecordFile
from zsrobust.report import load_run

N = 10
THREAT = "linf:4/255:native"
# Model → task → examples that are right when clean, and of them those that the attack leaves standing.
RIGHT = {
    "tiny": {"cifar10": (range(8), {0, 1}), "digits": (range(10), set())},
    "tiny-tecoa": {"cifar10": (range(1, 8), {1, 2, 3, 4, 5}), "digits": (range(10), {9})},
}


def evaluation(folder: Path, model: str, n: int = N) -> zr.Evaluation:
    """Planted records of one model."""
    folder.mkdir()
    told = description(models=(model,), tasks=tuple(RIGHT[model]), n=n, eps=("4/255",), seeds=(0,))
    (folder / "run.json").write_text(json.dumps(told))
    records = []
    for task, (right, standing) in RIGHT[model].items():
        for i in range(n):
            common = {"model": model, "task": task, "example": i, "image": f"{task}:{i}", "label": 0, "seed": 0}
            records.append(outcome(common, "clean", "none", right=i in right, wrong=1, size=0.0))
            if i in right:
                records.append(outcome(common, "pgd:20", THREAT, right=i in standing, wrong=1, size=4 / 255))
    with RecordFile(folder / "records.jsonl") as file:
        file.append(records)
    return zr.Evaluation(load_run(folder))


def test_a_before_and_after_is_what_a_hand_counts(tmp_path: Path) -> None:
    # After first: the unadapted model is told by what it is, not by where it stands.
    after, before = (evaluation(tmp_path / model, model) for model in reversed(MODELS))
    found = zr.compare(after, before)
    rows = {(row.model, row.task): (row.n, row.clean, row.robust) for row in found.rows}
    assert list(rows.items()) == [
        (("tiny", "cifar10"), (10, 0.8, 0.2)),
        (("tiny", "digits"), (10, 1.0, 0.0)),
        (("tiny-tecoa", "cifar10"), (10, 0.7, 0.5)),
        (("tiny-tecoa", "digits"), (10, 1.0, 0.1)),
    ]
    # Wilson's interval of 5 of 10, from a table.
    assert found.rows[2].robust_interval == pytest.approx((0.2366, 0.7634), abs=1e-4)

    changes = {c.task: c for c in found.comparisons if c.tier == "unrelated" and c.which == "all"}
    assert {(c.before, c.after) for c in found.comparisons} == {("tiny", "tiny-tecoa")}
    cifar10 = changes["cifar10"]
    assert (cifar10.clean_gained, cifar10.clean_lost) == (0, 1)  # example 0
    assert (cifar10.robust_gained, cifar10.robust_lost) == (4, 1)  # 2, 3, 4, 5; and 0
    assert cifar10.clean_change == pytest.approx(-0.1)
    assert cifar10.robust_change == pytest.approx(0.3)
    # Of five coins at most one heads, or at most one tails: 2 (1 + 5) / 2⁵; over two tasks, Holm doubles the smaller.
    assert cifar10.robust_p == pytest.approx(12 / 32)
    assert (cifar10.robust_p_holm, changes["digits"].robust_p) == (pytest.approx(24 / 32), 1)
    both = changes[None]
    assert (both.tasks, both.n) == (("cifar10", "digits"), 20)
    assert (both.robust_before, both.robust_after) == (pytest.approx(0.1), pytest.approx(0.3))
    assert (both.clean_change, both.robust_change) == (pytest.approx(-0.05), pytest.approx(0.2))
    assert "+30.0" in str(found)


def test_other_examples_of_the_same_task_are_not_compared(tmp_path: Path) -> None:
    before = evaluation(tmp_path / "before", "tiny")
    after = evaluation(tmp_path / "after", "tiny-tecoa", n=9)
    with pytest.raises(RunError, match="'cifar10' is not the same data in"):
        zr.compare(before, after)


def test_two_models_of_one_name_are_told_apart_by_what_they_were_loaded_from() -> None:
    with pytest.raises(ConfigError, match=r"two models are called 'final': .*; rename a folder or file$"):
        zr.evaluate([Toy(name="final"), Toy(name="final", seed=1)], "digits", limit=4, attacks="pgd:1")
