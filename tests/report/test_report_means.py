"""A mean over one task is that task: it has the interval, the change and the p-value of its row."""

from __future__ import annotations

import numpy as np
import pytest
from fake_suite import lone, make_suite_run
from test_report_write import Page, printed

from zsrobust.report import load_run, summarise
from zsrobust.report.html import html
from zsrobust.report.markdown import markdown
from zsrobust.statistics import Outcomes, bootstrap_mean, wilson

TWO = {"digits": 10, "cifar10": 10}


def breaks(model, task, seed, threat, example):
    """Of 25 images 5 break; 3 other ones are wrong when clean. An adapted model loses one image less."""
    if example % 8 == 4:
        return {"clean"}
    return {"pgd:100"} if example in range(5 if model == "tiny" else 4) or example == 24 else set()


def measured(folder, **more):
    return summarise([load_run(make_suite_run(folder, [lone()], breaks, n=25, **more))])


@pytest.mark.parametrize("n", [6, 25])
def test_a_mean_over_one_task_has_the_interval_of_its_row(tmp_path, n):
    run = make_suite_run(tmp_path / "run", [lone()], breaks, n=n, tasks={"pcam": 2})
    summary = summarise([load_run(run)])
    (row,) = summary.rows
    for mean in summary.means:
        for what in ("clean", "robust", "clean_interval", "robust_interval"):
            assert getattr(mean, what) == getattr(row, what)
    assert {mean.tier for mean in summary.means} == {"unrelated", "not adapted"}


def test_every_format_shows_one_interval_for_one_number(tmp_path):
    summary = measured(tmp_path / "run")
    low, high = (f"{100 * end:.1f}" for end in wilson(17, 25))
    assert f"robust 68.0 % ({low}–{high})" in " ".join(printed(summary).split())
    assert markdown(summary).count(f"68.0 ({low}–{high})") == 2
    assert f"{low}–{high}" in Page(html(summary)).text


def test_a_mean_over_two_tasks_resamples_images(tmp_path):
    (mean,) = [m for m in measured(tmp_path / "run", tasks=TWO).means if m.tier == "unrelated"]
    values = np.array([float(not breaks("tiny", "", 0, "", e)) for e in range(25)])
    expected = bootstrap_mean([Outcomes([f"{task}:{e}" for e in range(25)], values) for task in TWO])
    assert (mean.robust, mean.robust_interval) == (expected.value, expected.interval)


def test_seeds_that_agree_on_one_task_have_the_interval_of_its_rows(tmp_path):
    def lucky(model, task, seed, threat, example):
        return breaks(model, task, seed, threat, example) | ({"pgd:100"} if example == 10 + seed else set())

    run = make_suite_run(tmp_path / "run", [lone()], lucky, n=25, seeds=(0, 1))
    summary = summarise([load_run(run)])
    (across,) = [a for a in summary.across_seeds if a.tier == "unrelated"]
    assert {across.clean_interval} == {row.clean_interval for row in summary.rows}
    assert across.clean_range == (across.clean, across.clean)
    assert across.robust_interval not in {row.robust_interval for row in summary.rows}  # here the seeds differ
    two = measured(tmp_path / "two", tasks=TWO, seeds=(0, 1))
    assert {a.clean_interval for a in two.across_seeds}.isdisjoint(row.clean_interval for row in two.rows)


def test_a_change_of_one_task_is_the_same_in_its_row_and_in_its_mean(tmp_path):
    summary = measured(tmp_path / "run", models=("tiny", "tiny-x"))
    row, *of_tiers = summary.comparisons
    assert row.task == "digits"
    assert len(of_tiers) == 2
    for mean in of_tiers:
        assert (mean.task, mean.tasks, mean.family) == (None, ("digits",), row.family)
        for kind in ("clean", "robust"):
            for what in ("before", "after", "change", "change_interval", "gained", "lost", "p", "p_holm"):
                assert getattr(mean, f"{kind}_{what}") == getattr(row, f"{kind}_{what}")
