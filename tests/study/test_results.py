"""From cells.json and records to accuracies with intervals: known answers, coverage, and what is refused."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from tests.study.fake_study import main_strength, write_study

from zsrobust.errors import RunError
from zsrobust.records import UNKNOWN
from zsrobust.statistics import Outcomes, bootstrap_mean, mcnemar, wilson
from zsrobust.study import document, markdown, page, scores, wording
from zsrobust.study.claims import HOLDS, OPEN, REVERSED, kind_of
from zsrobust.study.results import EVERY_ATTACK, Cell, Outcome, StudyTask, load

TASKS = ("world-compositions", "world-shapes", "cifar10", "world-textures")
RECIPE = {
    "title": "small",
    "seeds": [0, 1],
    "axes": {"loss": {"TeCoA": {}, "standard": {}}, "way": {"fine-tuning": {}}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("studies") / "small"
    return write_study(where, RECIPE, main_strength, n=30, tasks=TASKS, attacks={"pgd:1": 0.5, "pgd:20": 1.0})


@pytest.fixture(scope="module")
def study(folder):
    return load(folder)


def records(folder, name):
    return [json.loads(line) for line in (folder / "store" / name / "records.jsonl").read_text().splitlines()]


def test_tiers_belong_to_tasks_also_of_the_unadapted_model(study):
    assert [(t.name, t.tier) for t in study.tasks] == [
        ("world-compositions", "adapted"),
        ("world-shapes", "related"),
        ("cifar10", "unrelated"),
        ("world-textures", "unrelated"),
    ]
    assert [cell.unadapted for cell in study.cells] == [True, False, False, False, False]
    assert study.seeds == (0, 1)
    assert study.planned == 5


def test_a_score_is_the_mean_over_tasks_and_seeds_counted_by_hand(folder, study):
    cells = [cell for cell in study.cells if cell.levels.get("loss") == "TeCoA"]
    tasks = study.tasks_of("unrelated")
    threat = study.primary.text
    for what, attack, names in (
        ("clean", EVERY_ATTACK, {"clean"}),
        ("robust", "pgd:1", {"clean", "pgd:1"}),
        ("robust", EVERY_ATTACK, {"clean", "pgd:1", "pgd:20"}),
    ):
        by_seed = []
        for seed in (0, 1):
            lines = [r for r in records(folder, f"TeCoA-fine-tuning-{seed}-None") if r["attack"] in names]
            shares = []
            for task in ("cifar10", "world-textures"):
                wrong = {r["example"] for r in lines if r["task"] == task and not r["correct"]}
                shares.append(1 - len(wrong) / 30)
            by_seed.append(np.mean(shares))
        found = scores.score(cells, tasks, scores.Measure(what, threat, attack))
        assert found.value == pytest.approx(np.mean(by_seed))
        assert found.by_seed == pytest.approx(by_seed)
        assert found.seeds == (0, 1)
        assert found.n == 60
        assert found.interval[0] <= found.value <= found.interval[1]


def test_a_plus_within_an_attacks_name_does_not_part_it(tmp_path):
    recipe = RECIPE | {"seeds": [0]}
    attacks = {"transfer:tiny+ttc": 0.5, "pgd:20": 1.0}
    study = load(write_study(tmp_path / "small", recipe, main_strength, n=30, tasks=TASKS, attacks=attacks))
    for cell in study.cells:
        for outcome in cell.outcomes.values():
            assert set(outcome.robust) == {EVERY_ATTACK, *attacks}
            assert outcome.robust["transfer:tiny+ttc"].mean() > outcome.robust["pgd:20"].mean()


def test_a_cell_without_a_task_has_no_mean_over_it(study):
    cell = next(cell for cell in study.cells if not cell.unadapted)
    fewer = {place: outcome for place, outcome in cell.outcomes.items() if place[0] != "cifar10"}
    partial = replace(cell, outcomes=fewer)
    assert scores.score([partial], study.tasks_of("unrelated"), scores.Measure("clean", study.primary.text)) is None


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 12.7062), (2, 4.30265), (10, 2.22814), (1e6, 1.959964)])
def test_quantiles_of_student(degrees, quantile):
    assert scores.student(degrees) == pytest.approx(quantile, abs=2e-3)


@pytest.mark.parametrize(("degrees", "quantile"), [(2, 9.92484), (10, 3.16927), (math.inf, 2.575829)])
def test_a_corrected_quantile_is_that_of_a_higher_confidence(degrees, quantile):
    assert scores.student(degrees, 1 - 0.05 / 5) == pytest.approx(quantile, rel=1e-3)


def test_correction_widens_by_the_ratio_of_the_quantiles():
    estimate = scores.Estimate(0.5, (0.46, 0.54))
    low, high = scores.widened(estimate, [0.5], 0.0, 1 - 0.05 / 5)
    assert (0.5 - low, high - 0.5) == pytest.approx((0.04 * 2.575829 / 1.959964,) * 2, rel=1e-4)


def test_seeds_widen_the_interval_as_the_formula_says():
    estimate = scores.Estimate(0.5, (0.46, 0.54))
    assert scores.widened(estimate, [0.5, 0.5, 0.5], 0.0) == (0.46, 0.54)
    assert scores.widened(estimate, [0.5], 0.0) == (0.46, 0.54)
    # no choice of images to speak of: Student's interval of three numbers
    low, high = scores.widened(scores.Estimate(0.5, (0.5, 0.5)), [0.49, 0.50, 0.51], 0.0)
    assert high - 0.5 == pytest.approx(4.30265 * 0.01 / math.sqrt(3), rel=1e-3)
    assert 0.5 - low == pytest.approx(high - 0.5)


def test_the_interval_covers_the_method_and_not_these_three_models_only():
    rng, covered, images_only, repeats = np.random.default_rng(0), 0, 0, 100
    images = [str(i) for i in range(150)]
    for _ in range(repeats):
        easy = rng.random(150)
        values = np.stack([easy < 0.5 + luck for luck in rng.normal(0, 0.06, 3)]).astype(float)
        estimate = bootstrap_mean([Outcomes(images, values.mean(0))], resamples=300)
        low, high = scores.widened(estimate, values.mean(1), 0.0)
        covered += low <= 0.5 <= high
        images_only += estimate.interval[0] <= 0.5 <= estimate.interval[1]
    assert covered / repeats >= 0.92
    assert images_only / repeats < 0.88


def cells_of(right, images, seeds):
    """Cells with (cells, images) 0/1 on each task."""
    found = []
    for k, seed in enumerate(seeds):
        outcomes = {
            (task, "t"): Outcome(np.arange(len(keys)), keys, right[task][k], {EVERY_ATTACK: right[task][k]}, ())
            for task, keys in images.items()
        }
        found.append(Cell({} if seed is None else {"loss": "a"}, seed, None, {}, {}, {}, outcomes=outcomes))
    return found


def test_a_paired_difference_of_tasks_that_share_images_has_the_variance_of_the_closed_form():
    """Task A is the first 60 of the 200 images of task B; the unadapted model against three seeds."""
    rng = np.random.default_rng(3)
    easy = rng.random(200)
    keys = tuple(f"image {i}" for i in range(200))
    images = {"A": keys[:60], "B": keys}
    models = np.stack([easy < limit for limit in (0.35, 0.72, 0.60, 0.66)]) ^ (rng.random((4, 200)) < 0.1)
    right = {"A": models[:, :60].astype(float), "B": models.astype(float)}
    before, *after = cells_of(right, images, [None, 0, 1, 2])
    tasks = [StudyTask("A", "unrelated", 60, 2), StudyTask("B", "unrelated", 200, 2)]
    measure = scores.Measure("robust", "t")
    found = scores.difference([(cell, before) for cell in after], tasks, (measure, measure))
    change, higher, lower = found
    gain = models[1:].mean(0) - models[0]
    by_seed = [(m[:60].mean() - models[0, :60].mean() + m.mean() - models[0].mean()) / 2 for m in 1.0 * models[1:]]
    assert change.value == pytest.approx((gain[:60].mean() + gain.mean()) / 2)
    assert change.by_seed == pytest.approx(by_seed)
    assert (change.seeds, higher.seeds, lower.seeds) == ((0, 1, 2), (0, 1, 2), ())
    assert change.n == higher.n == lower.n == 260
    # each image adds to both tasks; images are drawn among those in both, and among those in B only
    adds = gain / 200 / 2
    adds[:60] += gain[:60] / 60 / 2
    of_images = 60 * adds[:60].var() + 140 * adds[60:].var() + 2 * ((1 / 60 + 1 / 200) / 4) ** 2
    of_seeds = np.var(by_seed, ddof=1) / 3
    degrees = (of_images + of_seeds) ** 2 / (of_seeds**2 / 2)
    half = scores.student(degrees) * math.sqrt(of_images + of_seeds)
    assert change.interval == pytest.approx((change.value - half, change.value + half), abs=0.07 * half)
    # one seed, and the unadapted model: the choice of images only
    alone = scores.difference([(after[0], before)], tasks, (measure, measure))[0]
    assert alone.interval[1] - alone.interval[0] < change.interval[1] - change.interval[0]
    assert lower == scores.score([before], tasks, measure)
    assert scores.score([before], tasks[:1], measure).interval == wilson(models[0, :60].sum(), 60)  # as in a report


@pytest.mark.parametrize(("won", "lost", "kind"), [(4, 0, OPEN), (6, 0, HOLDS), (0, 1, OPEN), (0, 6, REVERSED)])
def test_a_few_changed_images_are_no_more_certain_than_the_exact_test_says(won, lost, kind):
    right = np.zeros((2, 200))
    right[0, :won] = right[1, won : won + lost] = 1
    images = {"A": tuple(map(str, range(200)))}
    first, second = cells_of({"A": right}, images, [0, 0])
    measure = scores.Measure("robust", "t")
    change = scores.difference([(first, second)], [StudyTask("A", "adapted", 200, 2)], (measure, measure))[0]
    assert change.value == pytest.approx((won - lost) / 200)
    assert kind_of(change.interval, 0.0) == kind
    assert (mcnemar(lost, won) < 0.05) == (kind != OPEN)


def test_the_order_of_the_records_does_not_matter(tmp_path, folder, study):
    """Runs that go through a task in another order are still compared image by image."""
    other = shutil.copytree(folder, tmp_path / "other")
    for path in other.glob("store/*/records.jsonl"):
        by_example = {}
        for line in path.read_text().splitlines():
            values = json.loads(line)
            by_example.setdefault((values["task"], values["example"]), []).append(line)
        path.write_text("\n".join(line for lines in reversed(by_example.values()) for line in lines) + "\n")
    for cell, same in zip(load(other).cells, study.cells, strict=True):
        for place, outcome in cell.outcomes.items():
            assert outcome.ids.tolist() == same.outcomes[place].ids.tolist()
            assert outcome.images == same.outcomes[place].images
            assert outcome.clean.tolist() == same.outcomes[place].clean.tolist()


def test_what_is_true_of_every_row_is_told_once_and_hides_no_other_alarm(tmp_path, folder):
    other = shutil.copytree(folder, tmp_path / "other")
    for path in other.glob("store/*/run.json"):
        path.write_text(path.read_text().replace('"precision": "float32"', '"precision": "bfloat16"'))
    path = other / "store" / "TeCoA-fine-tuning-1-None" / "run.json"
    run = json.loads(path.read_text())
    run["flags"] = [{"text": "too weak", "name": "weak", "strength": "measured", "task": "cifar10"}]
    path.write_text(json.dumps(run))
    cells = json.loads((other / "cells.json").read_text())
    cells["cells"][1]["seconds"]["adapt"] = None  # was interrupted
    (other / "cells.json").write_text(json.dumps(cells))
    results = document.write(other)
    assert [alarm["text"] for alarm in results["everywhere"]] == ["computed in bfloat16, not float32"]
    doubtful = {(line["name"], line["over"]) for line in results["lines"] if line["doubt"]}
    assert doubtful == {("TeCoA, fine-tuning", over) for over in ("unrelated", "all", "task cifar10")}
    text = (other / "table.md").read_text()
    assert text.count("computed in bfloat16, not float32") == text.count("\n| --- ")
    assert "computed in bfloat16" in page.write(tmp_path).read_text()
    assert wording.time_words(results) == "adaptation at least 4 min, evaluation 2 min"
    unknown = {**results, "seconds": {"adapt": 240, "tune": 0, "evaluate": 0, "at_least": ["evaluate"]}}
    assert wording.time_words(unknown) == "adaptation 4 min, evaluation not known"


def test_what_is_written_says_the_same_everywhere_and_follows_cells_json(folder):
    results = document.write(folder)
    assert document.read(folder) == json.loads((folder / "results.json").read_text())
    line = next(x for x in results["lines"] if x["name"] == "TeCoA, fine-tuning" and x["over"] == "unrelated")
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    same = [
        r for r in rows
        if (r["loss"], r["over"], r["attack"], r["measure"]) == ("TeCoA", "unrelated", EVERY_ATTACK, "robust")
    ]  # fmt: skip
    assert len(same) == 1
    assert float(same[0]["value"]) == pytest.approx(line["robust"], abs=1e-6)
    assert f"{100 * line['robust']:.1f}" in (folder / "table.md").read_text()
    cells = json.loads((folder / "cells.json").read_text())
    error = {**cells["cells"][-1], "run": None, "error": "diverged at step 3"}
    (folder / "cells.json").write_text(json.dumps({**cells, "cells": [*cells["cells"][:-1], error]}))
    again = document.read(folder)
    (folder / "cells.json").write_text(json.dumps(cells))
    assert again["finished"] == 4
    assert again["problems"] == ["standard, fine-tuning, seed 1: diverged at step 3"]


def test_the_task_of_the_adaptation_is_known_before_any_adapted_cell_is_there(tmp_path, folder):
    other = shutil.copytree(folder, tmp_path / "other")
    cells = json.loads((other / "cells.json").read_text())
    only = {"adapted_on": ["world-compositions"], "cells": cells["cells"][:1]}
    (other / "cells.json").write_text(json.dumps(cells | only))
    study = load(other)
    assert [task.tier for task in study.tasks] == ["adapted", "related", "unrelated", "unrelated"]


def test_tasks_of_a_model_adapted_on_nobody_knows_what_are_in_the_tables(tmp_path, folder):
    other = shutil.copytree(folder, tmp_path / "other")
    for path in other.glob("store/*/run.json"):
        run = json.loads(path.read_text())
        run["models"][0]["adapted_on"].append(UNKNOWN)
        path.write_text(json.dumps(run))
    results = document.write(other)
    head = (other / "table.md").read_text().partition("\n| ")[2].partition("\n")[0]
    tiers = ["unknown", "related", "adapted", "all"]
    assert head == " | ".join(["", "seeds", *(f"{t}, {what}" for t in tiers for what in ("clean", "robust"))]) + " |"
    assert "### Unknown tasks, one by one" in (other / "table.md").read_text()
    assert "unknown, robust" in markdown.document([results])


def test_cells_on_other_data_are_not_compared(tmp_path, folder):
    other = write_study(tmp_path / "other", RECIPE, main_strength, n=30, tasks=TASKS)
    run = other / "store" / "standard-fine-tuning-1-None" / "run.json"
    run.write_text(run.read_text().replace("content-of-cifar10-30", "content-of-something-else"))
    with pytest.raises(RunError, match="task 'cifar10' has other data in"):
        load(other)
    with pytest.raises(RunError, match="is not a study"):
        load(tmp_path)


def test_results_need_no_torch():
    code = (
        "import sys, zsrobust.study.page; print(sorted({'torch', 'matplotlib.pyplot', 'scipy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
