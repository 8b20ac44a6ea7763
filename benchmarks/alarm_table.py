"""Defences that seem robust: which alarm each one raises, and what is left of it under an attack that adapts to it.

    python benchmarks/alarm_table.py [--task world-shape] [--threat linf:4/255] [--limit 100] [--steps 20]

Each defence is planted around the embedded model. Its apparent robust accuracy is that of PGD with the gradient that it
hands out; then the attack adapts: a declared surrogate gradient or number of samples, the margin in place of a
starved cross-entropy, or the model with the fault repaired.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests import planted  # noqa: E402

import zsrobust as zr  # noqa: E402
from zsrobust.alarms.checkup import quick  # noqa: E402
from zsrobust.alarms.differences import differences  # noqa: E402
from zsrobust.alarms.subject import Subject  # noqa: E402
from zsrobust.attacks.checks import enforce, judge  # noqa: E402
from zsrobust.classifier import ZeroShotClassifier  # noqa: E402
from zsrobust.losses import margin_loss  # noqa: E402
from zsrobust.pixels import to_pixels  # noqa: E402
from zsrobust.run_folder import versions  # noqa: E402
from zsrobust.text_head import TextHead  # noqa: E402

LOOKED_AT = 16
SAMPLES = 4
"""Draws of a random defence; published EOT takes 20, which changes little here and costs five times as much."""


@dataclass(frozen=True)
class Case:
    """A defence as it is deployed, and as an adaptive attacker attacks it."""

    defence: str
    deployed: Any
    adapted: Any
    loss: Any
    how: str


def cases(encoder: Any, head: TextHead) -> Iterator[Case]:
    """The honest model first, then every planted defence that an attack can adapt to."""

    def classifier(kind: type[planted.Wrapped]) -> ZeroShotClassifier:
        built = kind(encoder)
        if hasattr(built, "samples"):
            built.samples = SAMPLES
        return ZeroShotClassifier(built, head)

    honest, loss = classifier(planted.Wrapped), zr.PGD(zr.Threat()).loss
    yield Case("none", honest, honest, margin_loss, "margin loss")
    for kind, (adapted, how) in planted.ADAPTIVE.items():
        yield Case(kind.__name__, classifier(kind), classifier(adapted), loss, how)
    loud = classifier(planted.Loud)
    yield Case("Loud", loud, loud, margin_loss, "margin loss")
    yield Case("Softmaxed", planted.Softmaxed(honest), honest, loss, "the logits are attacked")
    for kind in (planted.Lowered, planted.HalfFeatures):
        yield Case(kind.__name__, classifier(kind), honest, loss, "in float32")


def accuracy(model: Any, pixels: Tensor, labels: Tensor) -> float:
    return float((judge(model, pixels, labels).predictions == labels).float().mean())


def attacked(model: Any, pixels: Tensor, labels: Tensor, attack: zr.PGD) -> float:
    """Robust accuracy; what is wrong when clean is not attacked. A model without any gradient is not reached."""
    right = judge(model, pixels, labels).predictions == labels
    if (
        not differences(Subject(model, pixels[:1], labels[:1], attack.threat)).connected
        and getattr(model, "surrogate", None) is None
    ):
        return float(right.float().mean())
    outcome = attack.search(model, pixels[right], labels[right], seed=0, examples=range(int(right.sum())))
    allowed, _ = enforce(attack.threat, outcome.pixels, pixels[right])
    return accuracy(model, allowed, labels[right]) * float(right.float().mean())


def row(case: Case, pixels: Tensor, labels: Tensor, threat: zr.Threat, steps: int) -> dict[str, object]:
    start = time.perf_counter()
    alarms = quick(Subject(case.deployed, pixels[:LOOKED_AT], labels[:LOOKED_AT], threat))
    looked = time.perf_counter() - start
    return {
        "defence": case.defence,
        "alarms": [alarm.to_flag() for alarm in alarms],
        "seconds_of_checkup": looked,
        "clean": accuracy(case.deployed, pixels, labels),
        "apparent": attacked(case.deployed, pixels, labels, zr.PGD(threat, steps)),
        "adaptive": attacked(case.adapted, pixels, labels, zr.PGD(threat, steps, loss=case.loss)),
        "how": case.how,
    }


def show(line: dict[str, Any]) -> None:
    alarms = ", ".join(f"{alarm['name']} ({alarm['strength']})" for alarm in line["alarms"]) or "none"
    figures = " ".join(f"{100 * line[key]:6.1f}" for key in ("clean", "apparent", "adaptive"))
    print(f"{line['defence']:17s} {figures}  {line['how']:38s} {alarms}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="world-shape")
    parser.add_argument("--threat", default="linf:4/255")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/alarms.json")
    args = parser.parse_args()
    encoder, task, threat = zr.load("tiny"), zr.task(args.task, limit=args.limit), zr.Threat.parse(args.threat)
    head = TextHead.build(encoder, task.class_names, task.templates)
    pixels, labels = to_pixels(task.images(range(len(task)))), torch.tensor(task.labels)
    print(f"tiny on {task.name}, n = {len(task)}, {threat.describe()}, pgd:{args.steps}; accuracies in %\n")
    print(f"{'defence':17s} {'clean':>6s} {'seems':>6s} {'is':>6s}  {'how the attack adapts':38s} alarms")
    rows = []
    for case in cases(encoder, head):
        rows.append(row(case, pixels, labels, threat, args.steps))
        show(rows[-1])
    result = {
        "model": "tiny", "task": task.name, "n": len(task), "threat": threat.describe(), "steps": args.steps,
        "samples": SAMPLES, "versions": versions(), "rows": rows,
    }  # fmt: skip
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
