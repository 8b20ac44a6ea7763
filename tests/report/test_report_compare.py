"""Better or not: p-values of changes, corrected where there are several."""

from __future__ import annotations

import pytest
from fake_suite import lone, make_suite_run
from test_report_write import Page, printed

from zsrobust.report import load_run, summarise
from zsrobust.report.html import html
from zsrobust.report.markdown import markdown
from zsrobust.report.words import p_words
from zsrobust.statistics import holm, mcnemar

TASKS = {"digits": 10, "cifar10": 10, "textures": 5, "pcam": 2}
GAINED = {"digits": 14, "cifar10": 6, "textures": 0, "pcam": 9}


def breaks(model, task, seed, threat, example):
    """The unadapted model loses images 0 … 19, the adapted ones keep some of these and lose 20 and 21."""
    if model == "tiny":
        return {"pgd:100"} if example < 20 else set()
    return {"pgd:100"} if GAINED[task] <= example < 22 else set()


@pytest.fixture
def summary(tmp_path):
    models = ("tiny", "tiny-tecoa", "tiny-fare")
    run = make_suite_run(tmp_path / "run", [lone()], breaks, models=models, tasks=TASKS, n=30)
    return summarise([load_run(run)])


def test_a_task_has_mcnemars_test_and_holm_over_the_tasks(summary):
    changes = [c for c in summary.comparisons if c.after == "tiny-tecoa" and c.task is not None]
    assert {c.task: (c.robust_gained, c.robust_lost) for c in changes} == {t: (g, 2) for t, g in GAINED.items()}
    assert [c.robust_p for c in changes] == [mcnemar(2, GAINED[c.task]) for c in changes]
    assert [c.robust_p_holm for c in changes] == holm([c.robust_p for c in changes])
    assert {c.family for c in changes} == {4}
    assert {(c.clean_p, c.clean_p_holm, c.clean_gained, c.clean_lost) for c in changes} == {(1, 1, 0, 0)}


def test_a_mean_is_corrected_over_the_pairs(summary):
    changes = [c for c in summary.comparisons if c.task is None and c.tier == "unrelated"]
    assert [(c.after, c.which, len(c.tasks)) for c in changes] == [
        ("tiny-tecoa", "all", 4),
        ("tiny-tecoa", "without binary", 3),
        ("tiny-fare", "all", 4),
        ("tiny-fare", "without binary", 3),
    ]
    for c in changes:
        assert (c.family, c.robust_gained, c.robust_lost) == (2, 29 if c.which == "all" else 20, 2 * len(c.tasks))
        assert c.robust_p_holm == pytest.approx(2 * c.robust_p)  # the two pairs are alike here
        assert (c.robust_p < 0.05) == (c.robust_change_interval[0] > 0)


def test_the_mean_over_one_task_is_tested_like_that_task(tmp_path):
    run = make_suite_run(tmp_path / "run", [lone()], breaks, models=("tiny", "tiny-tecoa"), n=30)
    assert {c.robust_p for c in summarise([load_run(run)]).comparisons} == {mcnemar(2, 14)}


def test_better_is_said_with_its_p_value(summary):
    change = next(c for c in summary.comparisons if (c.after, c.task) == ("tiny-tecoa", "digits"))
    better = f"better ({p_words(change.robust_p_holm)}, Holm over 4 tasks)"
    assert change.robust_p_holm < 0.05
    same = "not told apart (p = 0.58, Holm over 4 tasks)"  # cifar10: 2 × 0.289
    for text in (markdown(summary), " ".join(Page(html(summary)).text.split())):
        assert better in text
        assert same in text
        assert "Holm over 2 pairs of models)" in text
    text = printed(summary)
    assert "+40.0*" in text  # (14 − 2) of 30 images
    assert "−6.7 " in text  # textures: two lost, not told apart
    assert "A change marked * is told apart" in " ".join(text.split())


@pytest.mark.parametrize(
    ("p", "words"),
    [(1.0, "p = 1.00"), (0.3, "p = 0.30"), (0.0312, "p = 0.031"), (0.00049, "p < 0.001"), (0, "p < 0.001")],
)
def test_p_values_in_words(p, words):
    assert p_words(p) == words
