"""A run folder that looks like a real one, without a model: for tests, and to look at the report.

``python tests/report/fake_run.py FOLDER`` writes one and reports it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from zsrobust.records import Record, RecordFile

MODELS = ("tiny", "tiny-tecoa")
TASKS = {  # name → (classes, clean before, clean after, robust before, robust after at 4/255)
    "world-compositions": (8, 0.97, 0.95, 0.03, 0.71),
    "world-shapes": (4, 0.96, 0.95, 0.08, 0.78),
    "world-colours": (6, 0.94, 0.93, 0.10, 0.74),
    "world-textures": (5, 0.81, 0.74, 0.02, 0.33),
    "world-counting": (4, 0.72, 0.66, 0.01, 0.24),
    "world-backgrounds": (6, 0.88, 0.83, 0.05, 0.41),
    "world-sizes": (3, 0.79, 0.80, 0.09, 0.52),
    "world-positions": (4, 0.62, 0.55, 0.00, 0.19),
    "cifar10": (10, 0.89, 0.71, 0.00, 0.27),
    "digits": (10, 0.54, 0.38, 0.01, 0.12),
}
RELATED = ("world-shapes", "world-colours")
ADAPTED = "world-compositions"


def class_names(task: str) -> list[str]:
    return [f"{task.removeprefix('world-').rstrip('s')} {'abcdefghij'[i]}" for i in range(TASKS[task][0])]


def threats(eps: Sequence[str]) -> list[str]:
    return [f"linf:{e}:native" for e in eps]


def cell_records(model: str, task: str, *, n: int, eps: Sequence[str], seed: int = 0, adapted: bool) -> list[Record]:
    """Plausible records of one model on one task: each example breaks at an ε of its own."""
    classes, *levels = TASKS[task]
    rng = np.random.default_rng([len(task), sum(map(ord, task)), seed, adapted])
    clean, robust = levels[1 if adapted else 0], levels[3 if adapted else 2]
    right = rng.random(n) < clean
    # breaking point in units of 1/255: survivors beyond 4 are robust/clean of those that are right
    scale = 4 / max(1e-3, -np.log(max(robust, 1e-3) / clean))
    breaks = rng.exponential(scale, n)
    records = []
    for i in range(n):
        label = int(rng.integers(classes))
        wrong = (label + 1) % classes
        common = {
            "model": model,
            "task": task,
            "example": i * 7,
            "image": f"{'world' if task.startswith('world') else task}:{i}",
            "label": label,
            "seed": seed,
        }
        records.append(outcome(common, "clean", "none", right=bool(right[i]), wrong=wrong, size=0.0))
        for e in eps if right[i] else ():
            size = float(e.split("/")[0]) / 255
            survived = bool(breaks[i] > size * 255)
            threat = f"linf:{e}:native"
            records.append(outcome(common, "pgd:20", threat, right=survived, wrong=wrong, size=size))
    return records


def outcome(common: dict[str, object], attack: str, threat: str, *, right: bool, wrong: int, size: float) -> Record:
    return Record(
        **common,
        attack=attack,
        threat=threat,
        prediction=common["label"] if right else wrong,
        correct=right,
        margin=1.0 if right else -1.0,
        size=size,
        forwards=1 if attack == "clean" else 21,
        backwards=0 if attack == "clean" else 20,
    )


def description(
    *, models: Sequence[str], tasks: Sequence[str], n: int, eps: Sequence[str], seeds: Sequence[int]
) -> dict[str, object]:
    """``run.json``; a model called ``tiny`` is the unadapted one."""
    return {
        "format": "zsrobust.run/1",
        "kind": "evaluate",
        "created": "2026-11-22T18:00:00+00:00",
        "versions": {"zsrobust": "0.1.0", "torch": "2.13.0"},
        "device": "cpu",
        "precision": "float32",
        "models": [
            {
                "name": model,
                "provenance": {} if model == "tiny" else {"source": "tiny", "method": "tecoa"},
                "adapted_on": [] if model == "tiny" else [ADAPTED],
                "fingerprint": f"weights-of-{model}",
            }
            for model in models
        ],
        "tasks": [
            {
                "name": task,
                "split": "test",
                "n": n,
                "class_names": class_names(task),
                "follows_from": [ADAPTED] if task in RELATED else [],
                "fingerprint": f"content-of-{task}-{n}",
                "geometry": "as is",
                "bad_images": [],
            }
            for task in tasks
        ],
        "attacks": [
            {
                "name": "pgd:20",
                "steps": 20,
                "step_size": float(e.split("/")[0]) / 255 / 4,
                "restarts": 1,
                "random_start": True,
                "threat": f"linf:{e}:native",
            }
            for e in eps
        ],
        "threats": threats(eps),
        "seeds": list(seeds),
    }


def make_run(
    folder: Path,
    *,
    models: Sequence[str] = MODELS,
    tasks: Sequence[str] = tuple(TASKS),
    n: int = 200,
    eps: Sequence[str] = ("4/255",),
    seeds: Sequence[int] = (0,),
    pictures: bool = False,
) -> Path:
    """Write a whole run folder."""
    folder.mkdir(parents=True)
    text = description(models=models, tasks=tasks, n=n, eps=eps, seeds=seeds)
    (folder / "run.json").write_text(json.dumps(text, indent=1))
    with RecordFile(folder / "records.jsonl") as file:
        for model in models:
            for task in tasks:
                for seed in seeds:
                    file.append(cell_records(model, task, n=n, eps=eps, seed=seed, adapted=model != "tiny"))
    if pictures:
        make_pictures(folder / "pictures", models, tasks, eps[-1])
    return folder


def draw(rng: np.random.Generator) -> np.ndarray:
    """A 64×64 picture with a shape on a gradient, uint8."""
    y, x = np.mgrid[0:64, 0:64]
    low, high = rng.integers(30, 220, (2, 3))
    image = low + (high - low) * (y[..., None] / 63)
    shape = (
        (x - 32) ** 2 + (y - 30) ** 2 < rng.integers(120, 420) if rng.random() < 0.5 else abs(x - 32) + abs(y - 32) < 22
    )
    image[shape] = rng.integers(0, 256, 3)
    return image.astype(np.uint8)


def make_pictures(folder: Path, models: Sequence[str], tasks: Sequence[str], eps: str) -> None:
    """One shown example for each of the first tasks."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    items = []
    for k, task in enumerate(tasks[:4]):
        names, label = class_names(task), k % 3
        clean = draw(rng)
        Image.fromarray(clean).save(folder / f"{k}.png")
        shown = []
        for m, model in enumerate(models):
            noise = rng.choice([-4, 4], size=(16, 16, 3)).repeat(4, 0).repeat(4, 1)
            Image.fromarray(np.clip(clean + noise, 0, 255).astype(np.uint8)).save(folder / f"{k}-{m}-adv.png")
            Image.fromarray(np.clip(128 + 16 * noise, 0, 255).astype(np.uint8)).save(folder / f"{k}-{m}-delta.png")
            survived = m > 0 and k != 3
            right, wrong = names[label], names[(label + 1) % len(names)]
            third = names[(label + 2) % len(names)]
            won = [[right, 0.71], [wrong, 0.22], [third, 0.04]]
            lost = [[wrong, 0.97], [right, 0.02], [third, 0.004]]
            shown.append(
                {
                    "model": model,
                    "adversarial_png": f"{k}-{m}-adv.png",
                    "perturbation_png": f"{k}-{m}-delta.png",
                    "magnification": 16,
                    "clean_top": [[right, 0.93], [wrong, 0.05], [third, 0.01]],
                    "adversarial_top": won if survived else lost,
                    "size": float(eps.split("/")[0]) / 255,
                    "verdict": "survived" if survived else "broken",
                    "verdict_8bit": "survived" if survived or k == 2 else "broken",
                }
            )
        items.append(
            {
                "task": task,
                "example": 7 * k,
                "label": names[label],
                "threat": f"linf:{eps}:native",
                "clean_png": f"{k}.png",
                "models": shown,
            }
        )
    (folder / "index.json").write_text(json.dumps({"format": "zsrobust.pictures/1", "items": items}))


if __name__ == "__main__":
    from zsrobust.report import main_report

    main_report([make_run(Path(sys.argv[1]), eps=("0", "1/255", "4/255"), pictures=True)], None)
