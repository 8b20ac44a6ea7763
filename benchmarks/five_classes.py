"""Adapt on five classes of real photographs, measure on the five others: does robustness transfer, and at which scale?

    python benchmarks/five_classes.py --data FOLDER [--scales 20 100] [--seeds 0 1 2]

FOLDER holds CIFAR-10 as ``cifar10-train.parquet`` and ``cifar10-test.parquet`` (Hugging Face layout). TeCoA at
ε = 2/255 in native 32×32 space on training photographs of airplane, bird, deer, frog and ship; clean and PGD-20
accuracy on test photographs of the other five classes, before and after. It resumes: run it again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import zsrobust as zr
from zsrobust.report import main_report
from zsrobust.run_folder import versions

ADAPTED = ("airplane", "bird", "deer", "frog", "ship")
OTHERS = ("automobile", "cat", "dog", "horse", "truck")
THREAT = zr.Threat("linf", "2/255", "native")
RECIPE = {"epochs": 3, "batch_size": 128, "optimizer": "adamw", "lr": 1e-4, "warmup": 0.1, "precision": "bf16"}


def adapted(arguments: argparse.Namespace, scale: float, seed: int) -> zr.Encoder:
    """TeCoA at one scale and seed: trained, or loaded where an earlier run finished."""
    folder = arguments.out / f"scale-{scale:g}-seed-{seed}"
    if (folder / "model" / "config.json").exists():
        model = zr.load(folder / "model")
    else:
        photographs = zr.task(
            "cifar10", split="train", select=ADAPTED, limit=arguments.photographs, data=arguments.data
        )
        model = zr.adapt(
            zr.load("tiny", attention="eager"),
            task=photographs,
            attack=zr.PGD(THREAT, steps=2, step_size=THREAT.eps),
            method=zr.TeCoA(scale=scale),
            run=folder,
            seed=seed,
            checkpoint_every=50,
            **RECIPE,
        )
        model.save_pretrained(folder / "model")  # type: ignore[attr-defined]
    model.name = f"tecoa scale {scale:g} seed {seed}"  # type: ignore[misc]
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/five-classes"))
    parser.add_argument("--scales", type=float, nargs="+", default=[20.0, 100.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--photographs", type=int, default=5000, help="training photographs")
    parser.add_argument("--limit", type=int, default=1000, help="test photographs")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/five_classes.json"))
    arguments = parser.parse_args()
    tasks = [zr.task("cifar10", select=OTHERS, limit=arguments.limit, data=arguments.data)]
    runs = []
    for seed in arguments.seeds:
        runs.append(arguments.out / f"evaluation-{seed}")
        for model in (zr.load("tiny"), *(adapted(arguments, scale, seed) for scale in arguments.scales)):
            zr.evaluate(model, tasks, attacks="pgd:20", threat=THREAT, seed=seed, run=runs[-1])
    main_report(runs, arguments.out)
    rows = json.loads((arguments.out / "summary.json").read_text())["rows"]
    keys = ("model", "task", "seed", "n", "clean", "clean_interval", "robust", "robust_interval", "attack", "threat")
    kept = [{key: row[key] for key in keys} for row in rows]
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.write_text(json.dumps({"versions": versions(), "rows": kept}, indent=1) + "\n")
    print(table(kept))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line for each model and seed, in percent with Wilson intervals."""
    lines = ["| model | attack seed | n | clean | robust |", "|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda r: (r["model"] != "tiny", r["model"], r["seed"])):
        cells = [
            f"{100 * row[kind]:.1f} [{100 * row[f'{kind}_interval'][0]:.1f}, {100 * row[f'{kind}_interval'][1]:.1f}]"
            for kind in ("clean", "robust")
        ]
        lines.append(f"| {row['model']} | {row['seed']} | {row['n']} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
