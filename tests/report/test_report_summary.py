"""The summary of runs: what rows, tiers, means and changes count, how runs are merged, notes and flags."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from fake_run import ADAPTED, MODELS, make_run

from zsrobust.errors import RunError
from zsrobust.records import RecordFile
from zsrobust.report import load_run, summarise
from zsrobust.report.view import conditions, remarks, tables
from zsrobust.report.words import parse_threat
from zsrobust.statistics import wilson

FOUR = ("world-compositions", "world-shapes", "world-textures", "cifar10")


def rows(summary):
    return {(row.model, row.task, row.threat): row for row in summary.rows}


def rewrite(folder, function):
    """Pass the records through ``function`` and write them again."""
    records = function(RecordFile(folder / "records.jsonl").read())
    (folder / "records.jsonl").unlink()
    with RecordFile(folder / "records.jsonl") as file:
        file.append(records)


def test_rows_count_what_the_records_say(run):
    loaded = load_run(run)
    row = rows(summarise([loaded]))["tiny", "world-textures", "linf:4/255:native"]
    mine = [r for r in loaded.records if (r.model, r.task) == ("tiny", "world-textures")]
    clean = sum(r.correct for r in mine if r.attack == "clean")
    robust = sum(r.correct for r in mine if r.threat == row.threat)
    assert (row.n, row.clean, row.robust) == (40, clean / 40, robust / 40)
    assert row.clean_interval == wilson(clean, 40)
    assert row.robust_interval == wilson(robust, 40)
    assert (row.attack, row.norm, row.eps, row.space, row.steps) == ("pgd:20", "linf", 4 / 255, "native", 20)


def test_the_worst_case_over_attacks_counts(run, edit):
    edit(run, lambda d: d["attacks"].append({"name": "square", "queries": 100}))
    with pytest.raises(RunError, match=r"no example of .* was evaluated to the end"):
        summarise([load_run(run)])

    def add_square(records):
        added = []
        for r in records:
            if r.attack != "clean":
                right = r.example % 2 == 0
                prediction = r.label if right else r.label + 1
                added.append(replace(r, attack="square", prediction=prediction, correct=right))
        return records + added

    rewrite(run, add_square)
    loaded = load_run(run)
    row = rows(summarise([loaded]))["tiny-tecoa", "cifar10", "linf:1/255:native"]
    survived_pgd = {
        r.example
        for r in loaded.records
        if (r.model, r.task, r.threat, r.attack) == (row.model, row.task, row.threat, "pgd:20") and r.correct
    }
    assert row.attack == "pgd:20+square"
    assert row.robust == sum(e % 2 == 0 for e in survived_pgd) / 40


def test_tiers_and_order(run):
    summary = summarise([load_run(run)])
    assert {row.task: row.tier for row in summary.rows} == {
        "world-compositions": "adapted",
        "world-shapes": "related",
        "world-textures": "unrelated",
        "cifar10": "unrelated",
    }
    assert all(row.adapted_on == (row.task == ADAPTED) for row in summary.rows)
    models = [row.model for row in summary.rows]
    assert models == sorted(models, key=MODELS.index)  # unadapted first
    mean = {m.tier: m.tasks for m in summary.means if (m.model, m.threat) == ("tiny", "linf:1/255:native")}
    assert mean == {
        "adapted": FOUR[:1],
        "related": FOUR[1:2],
        "unrelated": FOUR[2:],
        "not adapted": FOUR[1:],
    }


def test_what_is_adapted_on_nobody_knows_what_has_no_unrelated_tasks(run):
    header = json.loads((run / "run.json").read_text())
    for model in header["models"]:
        if model["adapted_on"]:
            model["adapted_on"] = ["unknown"]
    (run / "run.json").write_text(json.dumps(header))
    summary = summarise([load_run(run)])
    assert {row.tier for row in summary.rows} == {"unknown"}
    assert {mean.tier for mean in summary.means} == {"unknown", "not adapted"}
    told = str(summary)
    assert "Unknown" in told
    assert "Unrelated" not in told
    assert "not adapted" not in told.lower()


def test_the_unadapted_model_comes_first_whatever_the_order_of_runs(tmp_path):
    after = make_run(tmp_path / "after", models=MODELS[1:], tasks=FOUR, n=30)
    before = make_run(tmp_path / "before", models=MODELS[:1], tasks=FOUR, n=30)
    summary = summarise([load_run(after), load_run(before)])
    assert [model.name for model in summary.models] == list(MODELS)
    assert {row.tier for row in summary.rows if row.model == "tiny"} == {"adapted", "related", "unrelated"}


def test_two_runs_merged_are_one_run(tmp_path):
    both = make_run(tmp_path / "both", tasks=FOUR, n=30)
    parts = [make_run(tmp_path / model, models=(model,), tasks=FOUR, n=30) for model in MODELS]
    summary = summarise([load_run(p) for p in parts])
    assert list(rows(summary)) == [(model, task, "linf:4/255:native") for model in MODELS for task in FOUR]
    assert {c.task for c in summary.comparisons} == {*FOUR, None}
    assert summary.to_json() == summarise([load_run(both)]).to_json()


def test_means_and_changes_add_up(run):
    summary = summarise([load_run(run)])
    by = rows(summary)
    for mean in summary.means:
        expected = np.mean([by[mean.model, task, mean.threat].robust for task in mean.tasks])
        assert mean.robust == pytest.approx(expected)
        assert mean.robust_interval[0] <= mean.robust <= mean.robust_interval[1]
    headline = {c.threat: c for c in summary.comparisons if c.task is None and c.tier == "unrelated"}
    assert headline["linf:4/255:native"].n == 80
    for c in summary.comparisons:
        assert (c.before, c.after) == MODELS
        names = c.tasks if c.task is None else (c.task,)
        for what in ("clean", "robust"):
            sides = [np.mean([getattr(by[model, task, c.threat], what) for task in names]) for model in MODELS]
            assert [getattr(c, f"{what}_before"), getattr(c, f"{what}_after")] == pytest.approx(sides)
            assert getattr(c, f"{what}_change") == pytest.approx(sides[1] - sides[0])
        assert c.robust_change_interval[0] <= c.robust_change <= c.robust_change_interval[1]


def test_changes_pair_examples_by_their_id(tmp_path):
    """The same verdicts in another order of evaluation: every example agrees, so nothing changed."""
    before = make_run(tmp_path / "before", models=("tiny",), tasks=("cifar10",), n=50)
    after = make_run(tmp_path / "after", models=("tiny-tecoa",), tasks=("cifar10",), n=50)
    same = RecordFile(before / "records.jsonl").read()
    rewrite(after, lambda _: [replace(r, model="tiny-tecoa") for r in reversed(same)])
    change = summarise([load_run(before), load_run(after)]).comparisons[0]
    assert change.robust_change == change.clean_change == 0
    assert change.clean_change_interval == pytest.approx((-wilson(0, 50)[1], wilson(0, 50)[1]))


def test_other_data_under_the_same_task_name_is_refused(tmp_path):
    runs = [make_run(tmp_path / f"n{n}", models=(m,), tasks=FOUR, n=n) for m, n in zip(MODELS, (20, 30), strict=True)]
    with pytest.raises(RunError, match=r"'world-compositions' is not the same data in .*n20 .* and in .*n30 "):
        summarise([load_run(r) for r in runs])


def test_other_prompts_for_the_same_task_are_refused(tmp_path, edit):
    runs = [make_run(tmp_path / name, models=(name,), tasks=FOUR, n=20) for name in MODELS]
    for run, template in zip(runs, ("a {}", "the {}"), strict=True):
        assert summarise([load_run(r) for r in runs]).rows
        edit(run, lambda d, template=template: d["tasks"][1].update(templates=[template]))
    with pytest.raises(RunError, match=r"other prompts in .* \('a {}'\) than in .* \('the {}'\)"):
        summarise([load_run(r) for r in runs])


def test_the_same_cell_in_two_runs_counts_once_or_is_refused(tmp_path):
    one, two = (make_run(tmp_path / name, models=("tiny",), tasks=FOUR, n=30) for name in ("one", "two"))
    alone = summarise([load_run(one)]).to_json()
    assert summarise([load_run(one), load_run(two)]).to_json() == alone

    def flip_last(records):
        wrong = (records[-1].label + 1) if records[-1].correct else records[-1].label
        return [*records[:-1], replace(records[-1], prediction=wrong, correct=not records[-1].correct)]

    rewrite(two, flip_last)
    with pytest.raises(RunError, match=r"one and .*two disagree: model 'tiny', task 'cifar10'"):
        summarise([load_run(one), load_run(two)])


def test_a_second_eps_from_another_run_joins_the_first(tmp_path):
    parts = [make_run(tmp_path / f"e{e}", tasks=FOUR, n=30, eps=(f"{e}/255",)) for e in (1, 4)]
    both = make_run(tmp_path / "both", tasks=FOUR, n=30, eps=("1/255", "4/255"))
    summary = summarise([load_run(p) for p in parts])
    assert rows(summary).keys() == {(m, t, f"linf:{e}/255:native") for m in MODELS for t in FOUR for e in (1, 4)}
    assert summary.to_json() == summarise([load_run(both)]).to_json()


def test_different_weights_under_one_name_are_told_apart(tmp_path, edit):
    runs = [make_run(tmp_path / name, tasks=FOUR, n=30) for name in ("tecoa", "fare")]
    edit(runs[1], lambda d: d["models"][1].update(fingerprint="other"))
    summary = summarise([load_run(r) for r in runs])
    assert [m.name for m in summary.models] == ["tiny", "tiny-tecoa @ tecoa", "tiny-tecoa @ fare"]
    assert {c.after for c in summary.comparisons} == {"tiny-tecoa @ tecoa", "tiny-tecoa @ fare"}


def test_an_attack_set_otherwise_is_not_compared(tmp_path, edit):
    before, after = (make_run(tmp_path / m, models=(m,), tasks=("cifar10",), n=30) for m in MODELS)
    edit(after, lambda d: d["attacks"][0].update(name="pgd:50"))
    rewrite(after, lambda rs: [replace(r, attack="pgd:50") if r.attack != "clean" else r for r in rs])
    summary = summarise([load_run(before), load_run(after)])
    assert summary.comparisons == ()
    assert "has no row of tiny with the same attack" in " ".join(summary.notes)


def test_settings_belong_to_an_attack_under_a_threat(run):
    summary = summarise([load_run(run)])
    assert summary.notes == ()  # another step size for another ε is no disagreement
    attacks = [dict(conditions(summary, table))["Attack"] for table in tables(summary)]
    assert attacks == [f"pgd:20 (steps 20, step size {s}/255, restarts 1, random start)" for s in ("0.25", "1")]


def test_attack_settings_that_differ_are_said(tmp_path, edit):
    before, after = (make_run(tmp_path / m, models=(m,), tasks=("cifar10",), n=30) for m in MODELS)
    edit(after, lambda d: d["attacks"][0].update(step_size=0.001))
    notes = summarise([load_run(before), load_run(after)]).notes
    assert "Attack pgd:20 was run with another step_size" in notes[0]


def test_an_evaluation_stopped_halfway_counts_a_fair_prefix(run):
    """Clean ran for all, the attack for the first few: wrong ones beyond them must not count as finished."""
    kept = set()

    def stop(records):
        mine = [r for r in records if (r.model, r.task) == ("tiny", "cifar10")]
        right = [r.example for r in mine if r.attack == "clean" and r.correct]
        kept.update(right[:10])
        dropped = {r.key for r in mine if r.attack != "clean" and r.example not in kept}
        return [r for r in records if r.key not in dropped]

    rewrite(run, stop)
    summary = summarise([load_run(run)])
    row = rows(summary)["tiny", "cifar10", "linf:4/255:native"]
    order = [r for r in load_run(run).records if (r.model, r.task, r.attack) == ("tiny", "cifar10", "clean")]
    n = max(i for i, r in enumerate(order) if r.example in kept) + 1
    assert row.n == n < 40
    assert row.clean == pytest.approx(10 / n)
    assert [flag.text for flag in row.flags] == [f"incomplete: {n} of 40 examples"]
    change = next(c for c in summary.comparisons if c.task == "cifar10" and c.threat == row.threat)
    assert change.n == n  # after − before only where both are finished
    assert change.clean_before == pytest.approx(row.clean)


def test_a_cell_that_has_not_begun_is_a_note_not_a_row(run):
    def drop(records):
        return [r for r in records if (r.model, r.task) != ("tiny-tecoa", "cifar10")]

    rewrite(run, drop)
    summary = summarise([load_run(run)])
    assert ("tiny-tecoa", "cifar10", "linf:4/255:native") not in rows(summary)
    where = "tiny-tecoa on cifar10 under linf:4/255:native, seed 0"
    assert summary.notes[1] == f"{where} was not evaluated, so there is no row."
    unrelated = [c for c in summary.comparisons if c.task is None and c.tier == "unrelated"]
    assert {c.tasks for c in unrelated} == {("world-textures",)}  # the change is over what both have


def test_flags(run, edit):
    def change(d):
        d["precision"] = "bfloat16"
        d["tasks"][3]["bad_images"] = ["a.png", "b.png"]
        d["flags"] = [{"text": "the gradient is zero on 3 images", "model": "tiny", "task": "cifar10"}]

    edit(run, change)
    by = rows(summarise([load_run(run)]))
    flags = by["tiny", "cifar10", "linf:1/255:native"].flags
    assert [(f.name, f.strength, f.text) for f in flags] == [
        ("unreadable-images", "proved", "2 images could not be read and were left out"),
        ("precision", "proved", "computed in bfloat16, not float32"),
        (None, None, "the gradient is zero on 3 images"),  # as older versions wrote it
    ]
    assert [f.doubt for f in flags] == [False, True, True]
    assert [f.name for f in by["tiny-tecoa", "world-shapes", "linf:1/255:native"].flags] == ["precision"]


def test_a_model_that_has_seen_the_very_images_is_flagged(run, edit):
    edit(
        run,
        lambda d: d["models"][1]["provenance"].update(adaptation={"task_fingerprint": d["tasks"][0]["fingerprint"]}),
    )
    seen = [(row.model, row.task) for row in summarise([load_run(run)]).rows if row.flags]
    story = load_run(run)
    assert set(seen) == {(story.models[1].name, story.tasks[0].name)}


def test_alarms_of_attacks_that_do_nothing_or_get_worse(run):
    def harmless_at_4(records):
        return [replace(r, prediction=r.label, correct=True) if r.threat == "linf:4/255:native" else r for r in records]

    rewrite(run, harmless_at_4)
    summary = summarise([load_run(run)])
    nothing, rises = rows(summary)["tiny", "world-shapes", "linf:4/255:native"].flags
    assert (nothing.name, nothing.strength) == ("nothing-broken", "suspected")
    assert "attacked images was broken: check that the attack reaches the pixels" in nothing.text
    assert (rises.name, rises.strength) == ("rises-with-eps", "proved")
    assert any(
        "tiny on world-shapes under linf:4/255:native: robust accuracy rises" in remark for remark in remarks(summary)
    )


def test_one_task_that_keeps_all_images_is_no_alarm(run):
    def harmless_on_shapes(records):
        kept = [r.task == "world-shapes" and r.threat == "linf:4/255:native" for r in records]
        return [replace(r, prediction=r.label, correct=True) if k else r for r, k in zip(records, kept, strict=True)]

    rewrite(run, harmless_on_shapes)
    flags = rows(summarise([load_run(run)]))["tiny", "world-shapes", "linf:4/255:native"].flags
    assert "nothing-broken" not in [flag.name for flag in flags]


def test_seeds_are_apart_and_their_mean_has_a_range_not_an_interval(tmp_path):
    run = make_run(tmp_path / "run", tasks=FOUR, n=30, seeds=(0, 1, 2))
    summary = summarise([load_run(run)])
    assert {row.seed for row in summary.rows} == {0, 1, 2}
    assert len(summary.rows) == 2 * 4 * 3
    across = next(a for a in summary.across_seeds if (a.model, a.tier) == ("tiny-tecoa", "unrelated"))
    each = [m.robust for m in summary.means if (m.model, m.tier) == ("tiny-tecoa", "unrelated")]
    assert across.seeds == (0, 1, 2)
    assert across.robust == pytest.approx(np.mean(each))
    assert across.robust_range == (min(each), max(each))


def test_models_that_were_not_adapted_have_no_before_and_after(tmp_path):
    summary = summarise([load_run(make_run(tmp_path / "run", models=("tiny",), tasks=FOUR, n=30))])
    assert summary.comparisons == ()
    assert {row.tier for row in summary.rows} == {"unrelated"}
    assert not summary.adapted


@pytest.mark.parametrize("text", ["linf", "linf:a:native", "linf:1/0:native"])
def test_a_threat_that_cannot_be_read(text):
    with pytest.raises(RunError, match="is not of the form norm:eps:space"):
        parse_threat(text)
