"""The whole ensemble on an adapted model: ours in both modes against pyautoattack 0.2.0, on the same examples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks import cost, oracle
from benchmarks.side_by_side import Answer, ours
from benchmarks.speed.clock import in_turns
from benchmarks.speed.figure import Figure
from benchmarks.speed.workload import Workload

from zsrobust.attacks.apgd import APGD
from zsrobust.attacks.suites import Suite
from zsrobust.classifier import ZeroShotClassifier

MODES = ("fast", "exact")
APGD_STEPS = 10
"""Of APGD-CE alone, in a quick run."""


def part(workload: Workload, folder: Path) -> list[Figure]:
    """The ensemble on the adapted model; in a quick run APGD-CE on the model as it is, under another name."""
    bench = cost.Bench(folder / "cost", workload.adapted, workload.examples)
    model = bench.after if workload.ensemble else bench.before
    pixels, labels = bench.examples(model, "b")
    answers: dict[str, Answer] = {}

    def noted(name: str, work: Callable[[], Answer]) -> Callable[[], None]:
        return lambda: answers.__setitem__(name, work())

    if workload.ensemble:
        size = cost.fastest_batch(bench, "after", model)
        works = {
            "pyautoattack": noted(
                "pyautoattack", lambda: oracle.ensemble(model, pixels, labels, cost.ENSEMBLE, batch_size=size)
            )
        }
        for mode in MODES:
            works[mode] = noted(mode, lambda m=mode: ours(model, pixels, labels, _members(model, m)))  # type: ignore[misc]
        name = "autoattack_adapted_model"
    else:
        size, name = min(32, len(labels)), "apgd_unadapted_model"
        works = {
            "pyautoattack": noted("pyautoattack", lambda: _alone(model, pixels, labels, size)),
            "exact": noted("exact", lambda: ours(model, pixels, labels, [APGD(cost.ENSEMBLE, APGD_STEPS)])),
        }
    # A pass takes minutes: nothing is warmed up, and each is timed once, beside a processor time that other work on
    # the machine does not lengthen.
    in_turns(works, repeats=1, cold=list(works))
    about = {
        "task": cost.TASK, "threat": cost.ENSEMBLE.describe(), "examples": len(labels), "batch_of_the_oracle": size,
        "model": "adapted by the demo's recipe, or --adapted" if workload.ensemble else "tiny",
    }  # fmt: skip
    modes = [mode for mode in MODES if mode in answers]
    found = [_figure(name if mode == modes[0] else f"{name}_{mode}", mode, answers, about) for mode in modes]
    theirs = answers["pyautoattack"]
    other = Figure(
        f"{name}_pyautoattack", len(labels) / theirs.total.seconds, "images/s",
        settings={**about, "accuracy": round(theirs.accuracy, 4), **theirs.total.each(len(labels))},
    )  # fmt: skip
    return [*found, other]


def _members(model: ZeroShotClassifier, mode: Any) -> Any:
    return Suite("autoattack", cost.ENSEMBLE, mode).members(len(model.head.class_names))


def _alone(model: ZeroShotClassifier, pixels: torch.Tensor, labels: torch.Tensor, size: int) -> Answer:
    return oracle.ensemble(
        model, pixels, labels, cost.ENSEMBLE, batch_size=size, attacks=["apgd-ce"],
        budgets={"apgd-ce": {"n_iter": APGD_STEPS}},
    )  # fmt: skip


def _figure(name: str, mode: str, answers: dict[str, Answer], about: dict[str, Any]) -> Figure:
    mine, theirs = answers[mode], answers["pyautoattack"]
    count = len(mine.broken)
    settings = {
        **about, "mode": mode, "accuracy": round(mine.accuracy, 4), **mine.total.each(count),
        "verdicts_that_agree": int((mine.broken == theirs.broken).sum()),
        "ratio_of_processor_time": round(theirs.total.cpu / mine.total.cpu, 3),
    }  # fmt: skip
    ratio = theirs.total.seconds / mine.total.seconds
    return Figure(name, count / mine.total.seconds, "images/s", {"ratio_to_pyautoattack": ratio}, settings=settings)
