"""Suites of attacks, records that are written as they come, seeds and two classes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from fake_suite import SUITE, THREAT, lone, make_suite_run, suite

from zsrobust.errors import RunError
from zsrobust.records import RecordFile
from zsrobust.report import load_run, summarise
from zsrobust.report.view import conditions, tables
from zsrobust.statistics import Outcomes, bootstrap_mean


def half(model, task, seed, threat, example):
    """A tenth is wrong when clean; of the rest half is broken, a few of these by a later attack only."""
    if example % 10 == 3:
        return {"clean"}
    if example * 7 % 20 < 10:
        return {"pgd:100", "square", *(f"autoattack/{m}" for m in (SUITE if example % 4 else SUITE[2:]))}
    return set()


def only_row(run):
    (row,) = summarise([load_run(run)]).rows
    return row


def cut(run, lines):
    """Kill the evaluation after so many records."""
    path = run / "records.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))


def truth(n):
    outcomes = [half("", "", 0, "", e) for e in range(n)]
    return sum("clean" not in o for o in outcomes) / n, sum(not o for o in outcomes) / n


def test_a_suite_counts_as_one_attack_and_says_what_each_member_did(tmp_path):
    row = only_row(make_suite_run(tmp_path / "run", [lone(), *suite()], half))
    assert row.attack == "pgd:100+autoattack"
    assert (row.n, row.clean, row.robust) == (40, *truth(40))
    counts = {a.attack: (a.attacked, a.broken) for a in row.by_attack}
    assert list(counts) == ["pgd:100", *(f"autoattack/{m}" for m in SUITE)]
    assert counts["pgd:100"][0] == counts["autoattack/apgd:ce"][0] == 36
    assert counts["autoattack/fab:t"] == (36 - counts["autoattack/apgd:ce"][1], 18 - counts["autoattack/apgd:ce"][1])
    assert counts["autoattack/square"] == (18, 0)  # what is left
    attacked = sum(given for given, _ in counts.values())
    assert (row.forwards, row.backwards) == (1 + 100 * attacked / 40, 50 * attacked / 40)


def test_a_broken_example_is_finished_and_a_survivor_needs_every_member(tmp_path):
    run = make_suite_run(tmp_path / "run", suite(), half, n=10)
    lines = len((run / "records.jsonl").read_text().splitlines())
    assert only_row(run).n == 10
    cut(run, lines - 1)  # the last survivor has not met square yet
    with pytest.raises(RunError, match="was evaluated to the end"):
        summarise([load_run(run)])


def test_two_lone_attacks_need_each_other_even_where_one_broke(tmp_path):
    run = make_suite_run(tmp_path / "run", [lone(), lone("square")], half, n=10)
    assert only_row(run).attack == "pgd:100+square"
    cut(run, len((run / "records.jsonl").read_text().splitlines()) - 1)
    with pytest.raises(RunError, match="was evaluated to the end"):
        summarise([load_run(run)])


@pytest.mark.parametrize(
    ("added", "missing"),
    [
        ([lone("pgd:5")], "pgd:5 is missing"),
        ([lone("pgd:5"), *suite()], "pgd:5 and autoattack are missing"),
        ([*suite(tasks=["digits"]), lone("pgd:5")], "pgd:5 is missing"),
    ],
    ids=["attack", "attack and suite", "suite of another task"],
)
def test_a_task_that_lacks_an_attack_of_the_run_says_which(tmp_path, added, missing):
    """An attack was added later, for one of the tasks alone."""
    run = make_suite_run(tmp_path / "run", [lone(), *added], half, tasks={"digits": 10, "cifar10": 10})
    records = [
        r for r in RecordFile(run / "records.jsonl").read() if r.task == "digits" or r.attack in ("clean", "pgd:100")
    ]
    (run / "records.jsonl").unlink()
    with RecordFile(run / "records.jsonl") as file:
        file.append(records)
    summary = summarise([load_run(run)])
    assert [row.task for row in summary.rows] == ["digits"]
    assert summary.notes == (
        f"tiny on cifar10 under {THREAT}, seed 0 has not met every attack of this run ({missing}), so there is no row; "
        "evaluate it with the same --run.",
    )


def test_a_task_whose_first_block_is_open_says_that(tmp_path):
    run = make_suite_run(tmp_path / "run", [lone()], half, tasks={"digits": 10, "cifar10": 10}, block=40)
    cut(run, len((run / "records.jsonl").read_text().splitlines()) - 1)
    assert summarise([load_run(run)]).notes == (
        f"tiny on cifar10 under {THREAT}, seed 0 has no block of examples that met every attack yet, so there is no "
        "row; the same command goes on.",
    )


def test_wherever_it_is_killed_the_numbers_are_those_of_whole_blocks(tmp_path):
    """Broken images are written first: counting finished examples of an open block would find too many broken."""
    run = make_suite_run(tmp_path / "run", [lone(), *suite()], half, n=40, block=10)
    whole = (run / "records.jsonl").read_text()
    seen = set()
    for lines in range(len(whole.splitlines()), 30, -7):
        cut(run, lines)
        try:
            row = only_row(run)
        except RunError:  # not one block
            continue
        seen.add(row.n)
        assert (row.clean, row.robust) == truth(row.n)
        flags = [(f.name, f.strength, f.text) for f in row.flags]
        assert flags == ([("incomplete", "measured", f"incomplete: {row.n} of 40 examples")] if row.n < 40 else [])
    assert seen == {10, 20, 30, 40}


def test_a_second_attack_run_later_counts_where_it_is_done(tmp_path):
    run = make_suite_run(tmp_path / "run", [lone(), lone("square")], half, n=40, block=10)
    records = RecordFile(run / "records.jsonl").read()
    first = [r for r in records if r.attack != "square"]
    later = [r for r in records if r.attack == "square"]
    (run / "records.jsonl").unlink()
    with RecordFile(run / "records.jsonl") as file:
        file.append(first + later[:23])  # two blocks, and some images of the third
    row = only_row(run)
    assert (row.n, row.clean, row.robust) == (20, *truth(20))


def test_a_stretch_of_wrong_images_does_not_count_without_its_block(tmp_path):
    """They need no attack, so alone they would make every unfinished evaluation look worse than it is."""

    def wrong_at_the_end(model, task, seed, threat, example):
        return {"clean"} if example >= 10 else half(model, task, seed, threat, example)

    run = make_suite_run(tmp_path / "run", [lone()], wrong_at_the_end, n=20)
    assert only_row(run).n == 20
    records = RecordFile(run / "records.jsonl").read()
    survivor = next(r for r in records if r.attack != "clean" and r.correct)
    (run / "records.jsonl").unlink()
    with RecordFile(run / "records.jsonl") as file:
        file.append([r for r in records if r is not survivor])
    with pytest.raises(RunError, match="was evaluated to the end"):
        summarise([load_run(run)])


def test_an_entry_with_tasks_concerns_only_these(tmp_path):
    tasks = {"digits": 10, "pcam": 2}
    attacks = [*suite(tasks=["digits"]), *suite("autoattack-few", SUITE[:1], tasks=["pcam"])]
    summary = summarise([load_run(make_suite_run(tmp_path / "run", attacks, half, tasks=tasks))])
    assert {row.task: row.attack for row in summary.rows} == {"digits": "autoattack", "pcam": "autoattack-few"}
    words = dict(conditions(summary, tables(summary)[0]))["Attack"]
    assert "autoattack on digits: apgd:ce (steps 100)" in words
    assert "autoattack-few on pcam: apgd:ce (steps 100)" in words
    assert summary.notes == ()


def test_the_parts_of_a_run_share_their_suite(tmp_path):
    """One run adds the other attack to the same images: together they are one row."""
    one = make_suite_run(tmp_path / "one", [lone()], half)
    two = make_suite_run(tmp_path / "two", suite(), half)
    (row,) = summarise([load_run(one), load_run(two)]).rows
    assert (row.attack, row.n, row.robust) == ("pgd:100+autoattack", 40, truth(40)[1])


def two_class(model, task, seed, threat, example):
    """Class 1 is always right; of class 0 example 0 is wrong, and the attack breaks 2, 4, … 18."""
    if example % 2 or example >= 20:
        return set()
    return {"clean"} if example == 0 else {"pgd:100"}


def test_two_classes_have_balanced_accuracy_and_auroc(tmp_path):
    tasks = {"pcam": 2, "digits": 10}
    summary = summarise([load_run(make_suite_run(tmp_path / "run", [lone()], two_class, tasks=tasks))])
    pcam, digits = sorted(summary.rows, key=lambda row: row.classes)
    assert (pcam.clean_balanced_accuracy, pcam.robust_balanced_accuracy) == (0.5 * (19 / 20 + 1), 0.5 * (10 / 20 + 1))
    # Margins are ±(1 + example / 100). Clean, of class 0 only example 0 scores +1, and all of class 1 more.
    assert pcam.clean_auroc == 1
    # Attacked, 0 … 18 score 1.00 … 1.18, each above the examples of class 1 (1.01, 1.03, …) that come before it.
    assert pcam.robust_auroc == pytest.approx(1 - sum(range(10)) / 400)
    assert digits.clean_auroc is digits.robust_auroc is digits.clean_balanced_accuracy is None
    assert {(m.which, m.tasks) for m in summary.means if m.tier == "unrelated"} == {
        ("all", ("pcam", "digits")),
        ("without binary", ("digits",)),
    }


def test_one_class_alone_has_no_auroc(tmp_path):
    run = make_suite_run(tmp_path / "run", [lone()], two_class, tasks={"pcam": 2})
    records = [replace(r, label=0, prediction=0 if r.correct else 1) for r in RecordFile(run / "records.jsonl").read()]
    (run / "records.jsonl").unlink()
    with RecordFile(run / "records.jsonl") as file:
        file.append(records)
    row = only_row(run)
    assert row.clean_auroc is row.robust_balanced_accuracy is None
    assert {m.which for m in summarise([load_run(run)]).means} == {"all"}  # there is no other kind


def by_seed(model, task, seed, threat, example):
    return {"pgd:100"} if example % 5 <= seed % 2 else set()


def test_seeds_together_have_an_interval_over_images(tmp_path):
    run = make_suite_run(tmp_path / "run", [lone()], by_seed, seeds=(0, 1))
    summary = summarise([load_run(run)])
    across = next(a for a in summary.across_seeds if a.tier == "unrelated")
    values = np.array([[1 - (e % 5 <= s) for s in (0, 1)] for e in range(40)], dtype=float).mean(axis=1)
    expected = bootstrap_mean([Outcomes([f"digits:{e}" for e in range(40)], values)])
    assert (across.n, across.robust, across.robust_interval) == (40, expected.value, expected.interval)
    assert across.robust_range == pytest.approx((0.6, 0.8))
    assert across.clean == 1
    assert across.clean_interval[0] < 1  # 40 right images are no certainty


def test_seeds_together_count_the_images_that_all_have(tmp_path):
    run = make_suite_run(tmp_path / "run", [lone()], by_seed, seeds=(0, 1))
    cut(run, 80 + 40)  # of the second seed two blocks of ten images with one attack
    across = next(a for a in summarise([load_run(run)]).across_seeds if a.tier == "unrelated")
    assert across.n == 20


def test_alarms_are_written_whole_into_summary_json(tmp_path):
    flag = {"text": "it is random", "name": "randomised", "strength": "proved", "evidence": {"answers": 3, "p": 0.25}}
    run = make_suite_run(tmp_path / "run", [lone()], half, flags=[flag, {"text": "elsewhere", "model": "gone"}])
    summary = summarise([load_run(run)])
    (row,) = json.loads(json.dumps(summary.to_json()))["rows"]
    assert row["flags"] == [{k: flag[k] for k in ("name", "strength", "text", "evidence")}]
    assert summary.notes == ("gone (no row yet): elsewhere",)
    assert row["by_attack"] == [{"attack": "pgd:100", "attacked": 36, "broken": 18}]


def test_evidence_that_is_no_number_or_word_is_written_as_text(tmp_path):
    flag = {"text": "?", "evidence": {"nan": float("nan"), "list": [1, 2], "n": 3}}
    row = only_row(make_suite_run(tmp_path / "run", [lone()], half, flags=[flag]))
    assert row.flags[0].evidence == {"nan": "NaN", "list": "[1, 2]", "n": 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(flags=[{"text": "a", "strength": "sure"}]), "'strength' is 'sure', not one of proved, mea"),
        (lambda d: d["attacks"][0].update(suite=3), r"attacks\[0\]: 'suite' is 3, not str"),
        (lambda d: d["attacks"][0].update(tasks="digits"), "'tasks' is 'digits', not list"),
        (lambda d: d["attacks"][0].update(gradient="no"), "'gradient' is 'no', not bool"),
    ],
)
def test_wrong_entries_are_one_line(tmp_path, edit, change, message):
    run = make_suite_run(tmp_path / "run", suite(), half, n=10)
    edit(run, change)
    with pytest.raises(RunError, match=message):
        load_run(run)
