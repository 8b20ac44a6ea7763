"""Settings for the demo: TeCoA on the embedded model at a few settings, judged on validation images only.

    python tools/tune_demo.py [--scales 20] [--lrs 1e-4 2e-4] [--epochs 3] [--limit 100]

Prints mean clean and robust accuracy (PGD-10) of the tasks that are not the adaptation task, and of those whose label
does not follow from it. Resumes: run the same command again.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import yaml

import zsrobust as zr

RECIPE = Path(__file__).parent.parent / "src/zsrobust/recipes/demo.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scales", type=float, nargs="+", default=[20.0])
    parser.add_argument("--lrs", type=float, nargs="+", default=[1e-4, 2e-4])
    parser.add_argument("--epochs", type=int, nargs="+", default=[3])
    parser.add_argument("--steps", type=int, nargs="+", default=[2])
    parser.add_argument("--limit", type=int, default=100, help="validation images a task")
    parser.add_argument("--out", type=Path, default=Path("runs/tune-demo"))
    arguments = parser.parse_args()
    recipe = yaml.safe_load(RECIPE.read_text())
    how, threat = recipe["adapt"], zr.Threat.parse(recipe["adapt"]["threat"])
    tasks = [zr.task(name, split="validation", limit=arguments.limit) for name in recipe["evaluate"]["tasks"]]

    def judge(model: zr.Encoder, name: str) -> None:
        folder = arguments.out / name
        zr.evaluate(model, tasks, attacks="pgd:10", threat=threat, run=folder / "evaluation")
        rows = json.loads((folder / "evaluation" / "summary.json").read_text())["rows"]
        adaptation = str(how["task"])
        others = [row for row in rows if row["task"] != adaptation]
        follows = {task.name: adaptation in task.follows_from for task in tasks}
        unrelated = [row for row in others if not follows[row["task"]]]
        cells = [100 * sum(r[k] for r in part) / len(part) for part in (others, unrelated) for k in ("clean", "robust")]
        detail = " ".join(f"{r['task'].removeprefix('world-')} {r['clean']:.2f}/{r['robust']:.2f}" for r in rows)
        print(
            f"{name:34} others {cells[0]:.1f}/{cells[1]:.1f}  unrelated {cells[2]:.1f}/{cells[3]:.1f}  {detail}",
            flush=True,
        )

    judge(zr.load("tiny"), "unadapted")
    train = zr.task(how["task"], split=how["split"], limit=how["limit"])
    for scale, lr, epochs, steps in itertools.product(
        arguments.scales, arguments.lrs, arguments.epochs, arguments.steps
    ):
        name = f"scale-{scale:g}-lr-{lr:g}-epochs-{epochs}-steps-{steps}"
        model = zr.adapt(
            zr.load("tiny", attention=how["attention"]),
            task=train,
            attack=zr.PGD(threat, steps=steps, step_size=threat.eps),
            method=zr.TeCoA(scale=scale),
            run=arguments.out / name,
            epochs=epochs,
            lr=lr,
            **{key: how[key] for key in ("batch_size", "optimizer", "warmup", "precision", "checkpoint_every")},
        )
        judge(model, name)


if __name__ == "__main__":
    main()
