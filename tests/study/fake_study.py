"""Study folders that look like real ones, without a model: for tests, and to look at the page.

``python -m tests.study.fake_study FOLDER`` writes three studies and their page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tests.report import fake_run

from zsrobust.records import RecordFile

TASKS = ("world-compositions", "world-shapes", "world-colours", "world-textures", "world-counting", "cifar10")
Strength = Callable[[Mapping[str, str], float | None], tuple[float, float]]
"""Levels and α of a cell → (clean accuracy, typical number of 1/255 that it takes to break an image)."""


def write_study(
    folder: Path,
    recipe: Mapping[str, Any],
    strength: Strength,
    *,
    n: int = 60,
    eps: Sequence[str] = ("4/255",),
    attacks: Mapping[str, float] | None = None,
    tasks: Sequence[str] = TASKS,
    tuning: Sequence[Mapping[str, Any]] = (),
    jitter: float = 0.02,
) -> Path:
    """A study whose cells are the product of the axes (with ``without`` and ``interpolate``), all evaluated.

    ``attacks`` is name → how strong it is beside the first one; ``jitter`` is the scatter of the seeds.
    """
    cells = []
    for levels, seed, alpha, adapt in _cells(recipe):
        clean, scale = strength(levels, alpha)
        luck = np.random.default_rng([seed or 0, sum(map(ord, "".join(levels.values())))]).normal(
            0, jitter if levels else 0
        )
        name = "-".join([*levels.values(), str(seed), str(alpha)]).replace(" ", "_") if levels else "unadapted"
        run = folder / "store" / name
        write_run(
            run, bool(levels), clean + luck, scale * (1 + 3 * luck), seed, n, eps, attacks or {"pgd:20": 1.0}, tasks
        )
        cells.append(
            {
                "levels": levels, "seed": seed, "alpha": alpha, "tuned": {"lr": 1e-4} if levels else None,
                "adapt": adapt,
                "model": None, "run": f"store/{name}", "seconds": {"adapt": 61.0, "evaluate": 30.0}, "error": None,
            }
        )  # fmt: skip
    listed = {
        "format": "zsrobust.study/1", "study": folder.name, "title": recipe.get("title", folder.name), "recipe": recipe,
        "planned": len(cells), "tuning": list(tuning), "cells": cells,
    }  # fmt: skip
    (folder / "cells.json").write_text(json.dumps(listed))
    return folder


def _cells(recipe: Mapping[str, Any]) -> list[tuple[dict[str, str], int | None, float | None, dict[str, Any]]]:
    product: list[tuple[dict[str, str], dict[str, Any]]] = [({}, dict(recipe.get("adapt", {})))]
    for axis, levels in recipe["axes"].items():
        product = [
            ({**chosen, axis: str(name)}, {**a, **(own or {})}) for chosen, a in product for name, own in levels.items()
        ]
    without = [w.items() for w in recipe.get("without", [])]
    kept = [one for one in product if not any(all(one[0][k] == v for k, v in out) for out in without)]
    adapted = [
        (levels, seed, alpha, adapt)
        for seed in recipe.get("seeds", [0])
        for levels, adapt in kept
        for alpha in (*recipe.get("interpolate", ()), None)
    ]
    return [*([({}, None, None, {})] if recipe.get("unadapted", True) else []), *adapted]


def write_run(
    folder: Path, adapted: bool, clean: float, scale: float, seed: int | None, n: int, eps: Sequence[str],
    attacks: Mapping[str, float], tasks: Sequence[str],
) -> None:  # fmt: skip
    """One evaluation: an image is right with probability ``clean`` and breaks at an ε of its own, the same in all cells
    up to ``scale``, so that cells are as correlated as real ones."""
    folder.mkdir(parents=True)
    model = "tiny-tecoa" if adapted else "tiny"
    about = fake_run.description(models=[model], tasks=tasks, n=n, eps=eps, seeds=[0])
    known = about["attacks"]
    about["attacks"] = [{**a, "name": name, "steps": int(name.split(":")[1]) if name.startswith("pgd") else 100}
                        for a in known for name in attacks]  # fmt: skip
    (folder / "run.json").write_text(json.dumps(about))
    with RecordFile(folder / "records.jsonl") as file:
        for k, task in enumerate(tasks):
            shared = np.random.default_rng([k, 7])
            easy, hard = shared.random(n), shared.exponential(1.0, n)
            own = np.random.default_rng([k, seed or 0, int(1e6 * abs(clean)), int(1e6 * abs(scale))])
            right = easy + own.normal(0, 0.05, n) < clean - 0.04 * k
            breaks = hard * scale * np.exp(own.normal(0, 0.2, n)) / (1 + 0.25 * k)
            file.append(_records(model, task, right, breaks, eps, attacks))


def _records(
    model: str, task: str, right: Any, breaks: Any, eps: Sequence[str], attacks: Mapping[str, float]
) -> list[Any]:
    found = []
    for i, (good, limit) in enumerate(zip(right.tolist(), breaks.tolist(), strict=True)):
        image = f"{'world' if task.startswith('world') else task}:{i}"
        common = {"model": model, "task": task, "example": i * 7, "image": image, "label": i % 3, "seed": 0}
        found.append(fake_run.outcome(common, "clean", "none", right=good, wrong=(i + 1) % 3, size=0.0))
        for e in eps if good else ():
            size = float(e.split("/")[0])
            for name, power in attacks.items():
                won = limit > size * power
                threat = f"linf:{e}:native"
                found.append(fake_run.outcome(common, name, threat, right=won, wrong=(i + 1) % 3, size=size / 255))
    return found


def main_recipe() -> dict[str, Any]:
    """Loss × way with claims and figures of every kind."""
    return {
        "title": "Which loss and which way of adapting keep zero-shot robustness?",
        "seeds": [0, 1, 2],
        "adapt": {"task": "world-compositions", "threat": "linf:4/255:native", "epochs": 4},
        "evaluate": {"tasks": list(TASKS), "limit": 200},
        "axes": {
            "loss": {"TeCoA": {"method": "tecoa"}, "CoAdv": {"method": "coadv"}, "standard": {"method": "standard"}},
            "way": {"fine-tuning": {"tuning": "full"}, "token prompt": {}, "pixel prompt": {}},
        },
        "tune": {"option": "lr", "seed": 0, "images": 200, "values": [1e-5, 1e-4, 1e-3]},
        "figures": [
            {"kind": "scatter", "x": "clean", "y": "robust", "colour": "loss", "marker": "way", "tier": "unrelated",
             "title": "Text keeps zero-shot ability: clean against robust accuracy"},
            {"kind": "bars", "y": ["clean", "robust"], "by": "task", "colour": "loss", "where": {"way": "fine-tuning"},
             "title": "Task by task, fine-tuning"},
            {"kind": "bars", "y": "robust", "by": "way", "colour": "loss", "panel": "tier",
             "title": "Ways of adapting"},
            {"kind": "rates", "colour": "loss", "panel": "way", "title": "What tuning saw"},
        ],
        "claims": [
            {"claim": "CLIP collapses under imperceptible perturbations",
             "higher": {"unadapted": True, "measure": "clean"}, "lower": "unadapted", "margin": 40, "tier": "all"},
            {"claim": "TeCoA is robust on tasks never adapted to", "higher": {"loss": "TeCoA", "way": "fine-tuning"},
             "lower": "unadapted"},
            {"claim": "Standard adversarial training loses zero-shot ability", "measure": "clean",
             "higher": {"loss": "TeCoA", "way": "fine-tuning"}, "lower": {"loss": "standard", "way": "fine-tuning"}},
            {"claim": "With text fine-tuning beats prompts, without text prompts beat fine-tuning",
             "higher": {"loss": "TeCoA", "way": "fine-tuning"}, "lower": {"loss": "TeCoA", "way": "token prompt"}},
            {"claim": "With text fine-tuning beats prompts, without text prompts beat fine-tuning",
             "higher": {"loss": "CoAdv", "way": "token prompt"}, "lower": {"loss": "CoAdv", "way": "fine-tuning"},
             "reason": "a made-up reason: the embedded world is small, so codes without text are learned well"},
        ],
    }  # fmt: skip


def main_strength(levels: Mapping[str, str], alpha: float | None) -> tuple[float, float]:
    """TeCoA is best; without text fine-tuning stays ahead of prompts."""
    if not levels:
        return 0.9, 1.3
    clean, scale = {"TeCoA": (0.8, 7.0), "CoAdv": (0.6, 5.0), "standard": (0.45, 6.0)}[levels["loss"]]
    less = {"fine-tuning": 1.0, "token prompt": 0.75, "pixel prompt": 0.85}[levels["way"]]
    return clean * (0.5 + 0.5 * less), scale * less


def tuning_of(recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Three values for each combination, the middle one best and the last one sometimes diverged."""
    found = []
    for i, (levels, _, _, _) in enumerate(_cells({**recipe, "seeds": [0], "unadapted": False})):
        for k, value in enumerate((1e-5, 1e-4, 1e-3)):
            diverged = k == 2 and i % 4 == 0
            robust = None if diverged else 0.3 + 0.15 * (k == 1) + 0.02 * i
            found.append({"levels": levels, "value": value, "held_out_clean": None if diverged else 0.8,
                          "held_out_robust": robust, "chosen": k == 1, "diverged": diverged})  # fmt: skip
    return found


def make_all(folder: Path, n: int = 150) -> Path:
    """Three studies: the main table, training strength against ε, and interpolation with several attacks."""
    recipe = main_recipe()
    write_study(folder / "main-table", recipe, main_strength, n=n, tuning=tuning_of(recipe))
    eps = {
        "title": "How strong should the training attack be?",
        "seeds": [0],
        "axes": {"training ε": {f"{k}/255": {"threat": f"linf:{k}/255:native"} for k in (1, 2, 4)}},
        "figures": [
            {"kind": "lines", "x": "eps", "y": "robust", "colour": "training ε",
             "title": "Trained at one ε, attacked at others"},
            {"kind": "lines", "x": "training ε", "y": ["clean", "robust"], "colour": "tier", "tier": "all",
             "title": "Stronger training trades clean for robust accuracy"},
        ],
        "claims": [
            {"claim": "Stronger training attacks trade clean for robust accuracy", "higher": {"training ε": "4/255"},
             "lower": {"training ε": "1/255"}, "measure": measure, "threat": "linf:4/255:native"}
            for measure in ("robust",)
        ],
    }  # fmt: skip

    def trained(levels: Mapping[str, str], _: float | None) -> tuple[float, float]:
        k = int(levels["training ε"][0]) if levels else 0
        return 0.9 - 0.03 * k, 1.3 + (1.7 + k) * (k > 0)

    write_study(folder / "strength", eps, trained, n=n, eps=("1/255", "2/255", "4/255"))
    paths = {
        "title": "Between the original and the adapted model",
        "seeds": [0],
        "interpolate": [0.25, 0.5, 0.75],
        "axes": {"way": {"fine-tuning": {}, "token prompt": {}}},
        "figures": [
            {"kind": "scatter", "path": "alpha", "colour": "way", "title": "Interpolation frontier"},
            {"kind": "lines", "x": "alpha", "y": ["clean", "robust"], "panel": "way", "title": "Along α"},
            {"kind": "lines", "x": "steps", "colour": "way", "title": "More steps, stronger attacks"},
        ],
        "claims": [
            {"claim": "Interpolation gives a frontier", "measure": "clean",
             "higher": {"way": "fine-tuning", "alpha": 0.5}, "lower": {"way": "fine-tuning"}},
        ],
    }  # fmt: skip

    def frontier(levels: Mapping[str, str], alpha: float | None) -> tuple[float, float]:
        a = (1.0 if alpha is None else alpha) if levels else 0.0
        return 0.9 - 0.12 * a**2, 1.3 + (6 if levels.get("way") == "fine-tuning" else 3) * a

    attacks = {"pgd:1": 0.5, "pgd:5": 0.8, "pgd:20": 1.0, "pgd:100": 1.05, "apgd:ce": 1.15}
    write_study(folder / "interpolation", paths, frontier, n=n, attacks=attacks)
    return folder


if __name__ == "__main__":
    from zsrobust.study import document, page

    root = make_all(Path(sys.argv[1]))
    page.write(root)
    document.study_md(root, root / "docs" / "study.md")
