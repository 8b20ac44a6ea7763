"""From cells.json and records to accuracies with intervals: known answers, coverage, and what is refused."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from tests.study.fake_study import main_strength, write_study

from zsrobust.errors import RunError
from zsrobust.statistics import Outcomes, bootstrap_mean
from zsrobust.study import document, scores
from zsrobust.study.results import EVERY_ATTACK, load

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


def test_a_cell_without_a_task_has_no_mean_over_it(study):
    cell = next(cell for cell in study.cells if not cell.unadapted)
    fewer = {place: outcome for place, outcome in cell.outcomes.items() if place[0] != "cifar10"}
    partial = type(cell)(cell.levels, cell.seed, None, {}, {}, {}, fewer)
    assert scores.score([partial], study.tasks_of("unrelated"), scores.Measure("clean", study.primary.text)) is None


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 12.7062), (2, 4.30265), (10, 2.22814), (1e6, 1.959964)])
def test_quantiles_of_student(degrees, quantile):
    assert scores.student(degrees) == pytest.approx(quantile, abs=2e-3)


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
