"""TeCoA on the embedded model with batches of 20, 40 and 80: what the learning rate must do to keep the result.

    python -m benchmarks.batch_rule [--images 320] [--epochs 3] [--limit 200] [--seeds 0] [--out runs/batch-rule]

The demo's recipe with fewer images; the learning rate of batch 20 is kept, multiplied by the ratio of the batches, or
by its square root. Clean and PGD-20 accuracy on a task that no adaptation saw, with Wilson 95 % intervals, which cover
the choice of images and not the luck of the training. It resumes: run it again.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import zsrobust as zr
from zsrobust.report import main_report
from zsrobust.run_folder import versions

SMALLEST = 20
RULES = {"kept": lambda ratio: 1.0, "linear": lambda ratio: ratio, "root": math.sqrt}
THREAT = zr.Threat("linf", "4/255", "native")


def settings(batches: list[int]) -> list[tuple[int, str]]:
    """(batch, rule); the smallest batch has no rule."""
    return [(SMALLEST, "kept"), *((b, rule) for b in batches if b != SMALLEST for rule in RULES)]


def adapted(arguments: argparse.Namespace, batch: int, rule: str, seed: int) -> zr.Encoder:
    """Trained, or loaded where an earlier run finished."""
    name = f"{arguments.optimizer}-{batch}-{rule}-{seed}"
    folder = arguments.out / name
    if (folder / "model" / "config.json").exists():
        model = zr.load(folder / "model")
    else:
        model = zr.adapt(
            zr.load("tiny", attention="eager"),
            task=zr.task("world-compositions", split="train", limit=arguments.images),
            attack=zr.PGD(THREAT, steps=2),
            method=zr.TeCoA(scale=20),
            epochs=arguments.epochs,
            batch_size=batch,
            lr=arguments.lr * RULES[rule](batch / SMALLEST),
            optimizer=arguments.optimizer,
            warmup=0.1,
            precision="bf16",
            seed=seed,
            run=folder,
        )
        model.save_pretrained(folder / "model")  # type: ignore[attr-defined]
    model.name = name  # type: ignore[misc]
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=320, help="training images")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[40, 80])
    parser.add_argument("--lr", type=float, default=2e-4, help=f"of batch {SMALLEST}")
    parser.add_argument("--optimizer", choices=["sgd", "adamw"], default="adamw")
    parser.add_argument("--limit", type=int, default=200, help="test images")
    parser.add_argument("--task", default="world-unseen")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/batch-rule"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/batch_rule.json"))
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        made = [(b, rule, adapted(arguments, b, rule, seed)) for b, rule in settings(arguments.batches)]
        run = arguments.out / f"evaluation-{arguments.optimizer}-{seed}"
        for model in (zr.load("tiny"), *(model for _, _, model in made)):
            task = zr.task(arguments.task, limit=arguments.limit)
            zr.evaluate(model, task, attacks="pgd:20", threat=THREAT, seed=seed, run=run)
        main_report([run], arguments.out / f"report-{seed}")
        found = {
            r["model"]: r for r in json.loads((arguments.out / f"report-{seed}" / "summary.json").read_text())["rows"]
        }
        rows.append(_row(found["tiny"], 0, "", 0.0, 0, seed))
        for batch, rule, model in made:
            lr = arguments.lr * RULES[rule](batch / SMALLEST)
            steps = arguments.epochs * math.ceil(arguments.images / batch)
            rows.append(_row(found[model.name], batch, rule, lr, steps, seed))
    setting = {key: value for key, value in vars(arguments).items() if key not in ("out", "results")}
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.write_text(
        json.dumps({"versions": versions(), "setting": setting, "rows": rows}, indent=1) + "\n"
    )
    print(table(rows))


def _row(row: dict[str, Any], batch: int, rule: str, lr: float, steps: int, seed: int) -> dict[str, Any]:
    keys = ("task", "n", "clean", "clean_interval", "robust", "robust_interval", "attack", "threat")
    return {"batch": batch, "rule": rule, "lr": lr, "steps": steps, "seed": seed, **{key: row[key] for key in keys}}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, in percent with Wilson intervals."""
    lines = ["| batch | learning rate | steps | seed | n | clean | robust |", "|---:|---|---:|---:|---:|---:|---:|"]
    for row in rows:
        cells = [
            f"{100 * row[kind]:.1f} [{100 * row[f'{kind}_interval'][0]:.1f}, {100 * row[f'{kind}_interval'][1]:.1f}]"
            for kind in ("clean", "robust")
        ]
        how = f"{row['rule']}: {row['lr']:.1e}" if row["batch"] else "not adapted"
        about = (row["batch"] or "", how, row["steps"] or "", row["seed"], row["n"])
        lines.append(f"| {' | '.join(map(str, (*about, *cells)))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
