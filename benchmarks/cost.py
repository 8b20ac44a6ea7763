"""What a robust accuracy costs: our attacks and pyautoattack 0.2.0 in one run, on the embedded CLIP, same examples.

    python -m benchmarks.cost [--part a b c] [--adapted FOLDER] [--folder runs/cost] [--limit N]

a   APGD-CE alone, before and after TeCoA, at an ε where about half survive and at one where at most 15 % do;
b   the whole ensemble on the adapted model, ours in both modes: a robust image costs 15 to 30 seconds each time;
c   the whole ensemble where every example breaks: the model as it is, ε = 8/255.

The oracle runs as its users run it: the same classifier, weights that need gradients, the batch size that is fastest
for it. Only examples that are right when clean are taken. What is measured is kept in FOLDER; a run that was stopped
goes on there. Without ``--adapted`` the model is adapted first, by the demo's recipe (2 minutes on two cores).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from benchmarks import oracle
from benchmarks.side_by_side import Answer, keep, kept, ours
from torch import Tensor

import zsrobust as zr
from zsrobust.attacks.apgd import APGD
from zsrobust.attacks.checks import judge
from zsrobust.attacks.suites import Suite
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.evaluation import classifier_for, fingerprint_of
from zsrobust.pixels import to_pixels
from zsrobust.run_folder import versions
from zsrobust.threat import Threat

TASK = "world-shape"
LIMITS = {"a": 128, "b": 16, "c": 128}
"""Examples. The last runs keep passes of 32 rows going however few they are, so a small number costs ours more."""
BATCH_SIZES = (16, 32, 64, 128)
TUNING_STEPS = 4
GRID = tuple(f"{n}/255" for n in (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32))
HALF, FEW = 0.5, 0.15
ENSEMBLE = Threat("linf", "2/255")
BREAKS_ALL = Threat("linf", "8/255")

Row = dict[str, Any]


@dataclass
class Bench:
    """Models, examples, and what was measured before, of the same weights and with as many threads.

    Attributes:
        folder: Where models and measurements are.
        adapted: A model folder, or None: adapt one.
        limit: Examples; None: :data:`LIMITS`.
    """

    folder: Path
    adapted: Path | None
    limit: int | None

    @cached_property
    def before(self) -> ZeroShotClassifier:
        """The embedded model."""
        return self._classifier(zr.load("tiny"))

    @cached_property
    def after(self) -> ZeroShotClassifier:
        """The embedded model after TeCoA."""
        return self._classifier(zr.load(self.adapted or adapt(self.folder / "adapted")))

    def _classifier(self, encoder: Any) -> ZeroShotClassifier:
        return classifier_for(encoder.requires_grad_(True), zr.task(TASK))

    def examples(self, model: ZeroShotClassifier, part: str, split: str = "test") -> tuple[Tensor, Tensor]:
        """Pixels and labels of images that the model gets right."""
        count = self.limit or LIMITS[part]
        task = zr.task(TASK, split=split).take(4 * count)
        order = torch.randperm(len(task), generator=torch.Generator().manual_seed(0)).tolist()
        pixels, labels = to_pixels(task.images(order)), torch.from_numpy(task.labels[order])
        right = (judge(model, pixels, labels).predictions == labels).nonzero().squeeze(1)[:count]
        return pixels[right], labels[right]

    def once(self, key: Row, work: Callable[[], Row]) -> Row:
        """The measurement of this key: from the file, or done now and put there."""
        model: ZeroShotClassifier = getattr(self, key["model"])
        key = key | {"weights": fingerprint_of(model.encoder)[:12], "threads": torch.get_num_threads()}
        path = self.folder / "measured.jsonl"
        for row in kept(path):
            if all(row.get(name) == value for name, value in key.items()):
                return row
        row = key | work()
        keep(path, row)
        return row


def adapt(folder: Path) -> Path:
    """TeCoA by the demo's recipe; an adaptation that is finished or under way in the folder is gone on with."""
    if not (folder / "model" / "config.json").exists():
        how = yaml.safe_load((files("zsrobust") / "recipes" / "demo.yaml").read_text())["adapt"]
        threat = Threat.parse(how["threat"])
        options = ("epochs", "batch_size", "optimizer", "lr", "warmup", "precision", "checkpoint_every")
        model = zr.adapt(
            zr.load(how["model"], attention=how["attention"]),
            task=zr.task(how["task"], split=how["split"], limit=how["limit"]),
            attack=zr.PGD(threat, steps=how["steps"], step_size=threat.eps),
            method=zr.TeCoA(**how["method_options"]),
            run=folder,
            **{key: how[key] for key in options},
        )
        model.save_pretrained(folder / "model")  # type: ignore[attr-defined]
    return folder / "model"


def fastest_batch(bench: Bench, name: str, model: ZeroShotClassifier) -> int:
    """The oracle's best batch size, from a few steps of its APGD on 128 images."""
    pixels, labels = bench.examples(model, "a")
    pixels, labels = (tensor[torch.arange(max(BATCH_SIZES)) % len(labels)] for tensor in (pixels, labels))

    def seconds(size: int) -> Row:
        answer = oracle.ensemble(
            model, pixels, labels, ENSEMBLE, batch_size=size, attacks=["apgd-ce"],
            budgets={"apgd-ce": {"n_iter": TUNING_STEPS}},
        )  # fmt: skip
        return {"seconds": answer.members["apgd-ce"].seconds}

    rows = [bench.once({"part": "batch", "model": name, "size": s}, lambda s=s: seconds(s)) for s in BATCH_SIZES]  # type: ignore[misc]
    best: int = min(rows, key=lambda row: row["seconds"])["size"]
    return best


def radius(bench: Bench, name: str, model: ZeroShotClassifier, share: float) -> Threat:
    """The smallest L∞ ball of :data:`GRID` in which at most this share of some validation images survives APGD-CE."""

    def survivors(eps: str) -> Row:
        pixels, labels = bench.examples(model, "a", "validation")
        answer = ours(model, pixels[:64], labels[:64], [APGD(Threat("linf", eps), 30)])
        return {"accuracy": answer.accuracy}

    for eps in GRID:
        if bench.once({"part": "radius", "model": name, "eps": eps}, lambda e=eps: survivors(e))["accuracy"] <= share:  # type: ignore[misc]
            return Threat("linf", eps)
    raise SystemExit(f"{name}: more than {share:.0%} survive at {GRID[-1]}")


def measured(answer: Answer) -> Row:
    """A measurement, each value for one example."""
    count = len(answer.broken)
    return {
        "n": count,
        "accuracy": answer.accuracy,
        "broken": answer.broken.nonzero().squeeze(1).tolist(),
        "each": answer.total.each(count),
        "needed": answer.needed.each(count),
        "members": {name: {"given": answer.given[name], **spent.each(count)} for name, spent in answer.members.items()},
    }


def duel(bench: Bench, part: str, name: str, threat: Threat, attacks: Sequence[str], modes: Sequence[str]) -> list[Row]:
    """The oracle and ours on the same examples; the oracle's row comes first."""
    model: ZeroShotClassifier = getattr(bench, name)
    size = fastest_batch(bench, name, model)
    pixels, labels = bench.examples(model, part)

    def theirs() -> Row:
        answer = oracle.ensemble(model, pixels, labels, threat, batch_size=size, attacks=attacks)
        return {"shape": size, **measured(answer)}

    def own(mode: str) -> Row:
        members = [APGD(threat)] if attacks else Suite("autoattack", threat, mode).members(len(model.head.class_names))
        return {"shape": model.rows, **measured(ours(model, pixels, labels, members))}

    key = {"part": part, "model": name, "threat": threat.describe(), "asked": len(labels)}
    rows = [bench.once(key | {"suite": "pyautoattack"}, theirs)]
    rows += [bench.once(key | {"suite": mode}, lambda m=mode: own(m)) for mode in modes]  # type: ignore[misc]
    return rows


def part_a(bench: Bench) -> list[list[Row]]:
    """APGD-CE alone."""
    return [
        duel(bench, "a", name, radius(bench, name, getattr(bench, name), share), ["apgd-ce"], ["float32"])
        for name in ("before", "after")
        for share in (HALF, FEW)
    ]


def part_b(bench: Bench) -> list[list[Row]]:
    """The ensemble on the adapted model."""
    return [duel(bench, "b", "after", ENSEMBLE, [], ["exact", "fast"])]


def part_c(bench: Bench) -> list[list[Row]]:
    """The ensemble where every example breaks."""
    return [duel(bench, "c", "before", BREAKS_ALL, [], ["exact", "fast"])]


PARTS: dict[str, Callable[[Bench], list[list[Row]]]] = {"a": part_a, "b": part_b, "c": part_c}


# What is printed and stored


def figures(rows: list[Row]) -> list[Row]:
    """One line for each value of ours, with the oracle's over it."""
    theirs, *own = rows
    what = "APGD-CE" if theirs["part"] == "a" else "ensemble"
    found = []
    for row in own:
        where = f"{what}, {row['suite']}, {row['model']} TeCoA, {row['threat']}, {row['accuracy']:.0%} survive"
        for value, unit, part, key in (
            ("gradient evaluations", "per example", "needed", "backwards"),
            ("gradient evaluations with padding", "per example", "each", "backwards"),
            ("forward passes with padding", "per example", "each", "forwards"),
            ("wall time", "s per example", "each", "seconds"),
            ("processor time", "s per example", "each", "cpu"),
        ):
            other, mine = theirs[part][key], row[part][key]
            found.append(
                {"name": f"{value}: {where}", "value": mine, "unit": unit, "pyautoattack": other,
                 "ratio_to_pyautoattack": round(other / mine, 2) if mine else None}
            )  # fmt: skip
        verdicts = len(set(row["broken"]) ^ set(theirs["broken"]))
        found.append({"name": f"verdicts that differ: {where}", "value": verdicts, "unit": f"of {row['n']} examples"})
    return found


def table(groups: list[list[Row]]) -> str:
    """Markdown: totals, then where the time goes."""
    lines = [
        "| part | model | threat | n | suite | rows a pass | survive | gradients | forwards | s / example | cpu s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in (row for rows in groups for row in rows):
        model = f"{row['model']} TeCoA"
        each = row["each"]
        lines.append(
            f"| {row['part']} | {model} | {row['threat']} | {row['n']} | {row['suite']} | {row['shape']} "
            f"| {row['accuracy']:.1%} | {each['backwards']:.0f} | {each['forwards']:.0f} "
            f"| {each['seconds']:.3f} | {each['cpu']:.3f} |"
        )
    lines += ["", "| part | suite | attack | given | gradients | forwards | s / example | share of the time |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for row in (row for rows in groups for row in rows if len(row["members"]) > 1):
        for name, spent in row["members"].items():
            share = spent["seconds"] / row["each"]["seconds"]
            lines.append(
                f"| {row['part']} | {row['suite']} | {name} | {spent['given']} | {spent['backwards']:.0f} "
                f"| {spent['forwards']:.0f} | {spent['seconds']:.3f} | {share:.0%} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=sorted(PARTS), default=sorted(PARTS))
    parser.add_argument("--adapted", type=Path, help="folder of the adapted model; default: adapt it now")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/cost"), help="the adapted model and what was measured"
    )
    parser.add_argument("--limit", type=int, help=f"examples; default: {LIMITS}")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/attack_cost.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bench = Bench(arguments.folder, arguments.adapted, arguments.limit)
    groups = []
    for part in arguments.part:
        groups += PARTS[part](bench)
        print(table(groups), flush=True)
    found = [figure for rows in groups for figure in figures(rows)]
    result = {
        "ratio_to_pyautoattack": "its value over ours: above 1, ours spends less",
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": arguments.threads,
            "device": "cpu",
        },
        "versions": versions() | {"pyautoattack": version("pyautoattack")},
        "command": f"python -m benchmarks.cost --part {' '.join(arguments.part)}",
        "figures": found,
        "rows": groups,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    for figure in found:
        ratio = figure.get("ratio_to_pyautoattack")
        print(f"{figure['name']}: {figure['value']} {figure['unit']}" + (f"  ({ratio} × less)" if ratio else ""))


if __name__ == "__main__":
    main()
