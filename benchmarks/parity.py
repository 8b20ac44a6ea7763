"""Does our standard ensemble say what pyautoattack 0.2.0 says? Three small models × three ε × L∞ and L2.

    python -m benchmarks.parity [--models mlp conv sister] [--limit 200] [--folder runs/parity] [--processes 2]

Each cell runs both ensembles with the published budgets, on the same examples, and then the attacks whose random starts
can be made the same, one by one: APGD-CE and APGD-T from our starting points, and FAB-T, which starts at the image (on
the dearest model at the middle ε only). A cell that is done is kept in FOLDER/cells.jsonl; a run that was stopped goes
on there. All cells take about 25 minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from benchmarks import oracle
from benchmarks.parity_models import MODELS, Specimen, specimen
from benchmarks.side_by_side import Answer, Model, keep, kept, ours, unfounded
from torch import Tensor

from zsrobust.attacks.apgd import APGD
from zsrobust.attacks.checks import judge
from zsrobust.attacks.fab import FAB
from zsrobust.attacks.suites import Suite
from zsrobust.run_folder import versions
from zsrobust.threat import Threat, format_eps

SEED = 0
BATCH = 200
"""The oracle's batch size; cost.py is where its best one matters."""

# Chosen on validation images with the oracle's APGD alone, so that about 70, 40 and 10 % stand.
RADII = {
    "mlp": {"linf": ("12/255", "22/255", "32/255"), "l2": ("0.45", "0.8", "1.2")},
    "conv": {"linf": ("11/255", "23/255", "33/255"), "l2": ("0.75", "1.65", "2.5")},
    "sister": {"linf": ("0.5/255", "1.75/255", "4/255"), "l2": ("0.06", "0.18", "0.4")},
}
DEAR = "sister"
CELLS = [(name, Threat(norm, eps)) for name in MODELS for norm, radii in RADII[name].items() for eps in radii]

Cell = dict[str, Any]


# Whole ensembles


def compare(chosen: Specimen, threat: Threat) -> Cell:
    """One cell: both ensembles, and each attack that can be given the same start."""
    model, pixels, labels = chosen.model, chosen.pixels, chosen.labels
    classes, count = int(model(pixels[:1]).shape[1]), len(labels)
    with torch.no_grad():
        clean = judge(model, pixels, labels).predictions == labels
    theirs = oracle.ensemble(model, pixels, labels, threat, batch_size=BATCH, seed=SEED)
    exact, fast = (
        ours(model, pixels, labels, Suite("autoattack", threat, mode).members(classes), seed=SEED)
        for mode in ("exact", "fast")
    )
    return {
        "model": chosen.name,
        "threat": threat.describe(),
        "n": count,
        "clean": float(clean.double().mean()),
        "exact": exact.accuracy,
        "fast": fast.accuracy,
        "pyautoattack": theirs.accuracy,
        **disagreements(exact.broken, theirs.broken),
        "exact_and_fast_differ": torch.nonzero(exact.broken != fast.broken).squeeze(1).tolist(),
        "unfounded": {
            name: unfounded(model, answer, pixels, labels, threat)
            for name, answer in (("exact", exact), ("fast", fast), ("pyautoattack", theirs))
        },
        "cost": {
            name: cost(answer, count) for name, answer in (("exact", exact), ("fast", fast), ("pyautoattack", theirs))
        },
        "same_start": same_start(model, pixels[clean], labels[clean], clean.nonzero().squeeze(1).tolist(), threat)
        if _affordable(chosen.name, threat)
        else {},
    }


def disagreements(own: Tensor, theirs: Tensor) -> dict[str, list[int]]:
    """Positions that one side breaks and the other does not."""
    return {
        "only_ours_breaks": torch.nonzero(own & ~theirs).squeeze(1).tolist(),
        "only_pyautoattack_breaks": torch.nonzero(theirs & ~own).squeeze(1).tolist(),
    }


def cost(answer: Answer, count: int) -> dict[str, Any]:
    """Passes and seconds for each of the n examples, in all and by attack."""
    members = {
        name: {"given": answer.given[name], **spent.each(max(answer.given[name], 1))}
        for name, spent in answer.members.items()
    }
    return {**answer.total.each(count), "members": members}


# One attack from the same start


def same_start(model: Model, pixels: Tensor, labels: Tensor, ids: list[int], threat: Threat) -> dict[str, Cell]:
    """Verdicts of single attacks on the examples that are right when clean, with the same starts on both sides."""
    attacks = {
        "apgd-ce": (APGD(threat), lambda: _their_apgd_ce(model, pixels, labels, ids, threat)),
        "apgd-t": (APGD(threat, loss="dlr-t"), lambda: _their_apgd_t(model, pixels, labels, ids, threat)),
        "fab-t": (FAB(threat, targets=9), lambda: _their_fab_t(model, pixels, labels, threat)),
    }
    rows = {}
    for name, (attack, theirs) in attacks.items():
        found = attack.search(model, pixels, labels, seed=SEED, examples=ids).pixels
        own, other = judge(model, found, labels).predictions != labels, theirs()
        rows[name] = {
            "n": len(ids),
            "exact": 1 - float(own.double().mean()),
            "pyautoattack": 1 - float(other.double().mean()),
            **{key: [ids[i] for i in where] for key, where in disagreements(own, other).items()},
        }
    return rows


def _their_apgd_ce(model: Model, pixels: Tensor, labels: Tensor, ids: list[int], threat: Threat) -> Tensor:
    attack = APGD(threat)
    start = attack.start(pixels, [(SEED, i, attack.key, 0) for i in ids])
    return oracle.ascent(model, pixels, labels, threat, start)


def _their_apgd_t(model: Model, pixels: Tensor, labels: Tensor, ids: list[int], threat: Threat) -> Tensor:
    attack = APGD(threat, loss="dlr-t")
    logits = judge(model, pixels, labels).logits.scatter(1, labels[:, None], -torch.inf)
    broken = torch.zeros(len(labels), dtype=torch.bool)
    for run, targets in enumerate(logits.topk(9, dim=1).indices.T):
        left = (~broken).nonzero().squeeze(1)
        if len(left):
            start = attack.start(pixels[left], [(SEED, ids[i], attack.key, run) for i in left.tolist()])
            broken[left] = oracle.ascent(model, pixels[left], labels[left], threat, start, targets=targets[left])
    return broken


def _their_fab_t(model: Model, pixels: Tensor, labels: Tensor, threat: Threat) -> Tensor:
    return oracle.ensemble(model, pixels, labels, threat, batch_size=BATCH, seed=SEED, attacks=["fab-t"]).broken


# The table


def table(cells: Iterable[Cell]) -> str:
    """Markdown: accuracies in percent, disagreements in examples."""
    lines = [
        "| model | threat | n | clean | pyautoattack | ours, exact | ours, fast | only ours breaks | only theirs "
        "| same start: APGD-CE | APGD-T | FAB-T |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in cells:
        shares = [f"{100 * cell[key]:.1f}" for key in ("clean", "pyautoattack", "exact", "fast")]
        counts = [str(len(cell[key])) for key in ("only_ours_breaks", "only_pyautoattack_breaks")]
        same = [
            f"{len(row['only_ours_breaks'])} / {len(row['only_pyautoattack_breaks'])} of {row['n']}"
            for row in cell["same_start"].values()
        ] or ["", "", ""]
        values = [cell["model"], cell["threat"].removesuffix(":native"), str(cell["n"]), *shares, *counts, *same]
        lines.append("| " + " | ".join(values) + " |")
    return "\n".join(lines)


def higher(cell: Cell) -> float:
    """By how many examples our accuracy is above theirs; negative: below."""
    return round(cell["n"] * (cell["exact"] - cell["pyautoattack"]), 6)


def read(path: Path, limit: int) -> list[Cell]:
    """Cells that are done for this many examples, in the table's order."""
    done = [cell for cell in kept(path) if cell["asked"] == limit]
    order = {(name, threat.describe()): number for number, (name, threat) in enumerate(CELLS)}
    return sorted(done, key=lambda cell: order.get((cell["model"], cell["threat"]), len(order)))


def _label(name: str, threat: Threat) -> str:
    return f"{name}:{threat.norm}:{format_eps(threat.eps)}"


def _affordable(name: str, threat: Threat) -> bool:
    return name != DEAR or threat == Threat(threat.norm, RADII[name][threat.norm][1])


def _work(name: str, threat: Threat, limit: int, folder: Path) -> Cell:
    """One cell, in a process of its own."""
    torch.set_num_threads(1)  # the models are small: a second thread costs more than it gives
    return compare(specimen(name, limit=limit, folder=folder), threat) | {"asked": limit}


def fill(cells: Sequence[tuple[str, Threat]], arguments: argparse.Namespace) -> list[Cell]:
    """Computes the cells that are not in the log yet; returns all that are, with this limit."""
    log, models = arguments.folder / "cells.jsonl", arguments.folder / "models"
    known = {(cell["model"], cell["threat"]) for cell in read(log, arguments.limit)}
    missing = [(name, threat) for name, threat in cells if (name, threat.describe()) not in known]
    for name in {name for name, _ in missing}:
        specimen(name, limit=1, folder=models)  # trained once, before there are several processes
    # The dear cells first, so that no process is left alone with them at the end.
    missing.sort(key=lambda cell: cell[0] != DEAR)
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        for work in as_completed(pool.submit(_work, *cell, arguments.limit, models) for cell in missing):
            keep(log, work.result())
            print(table([work.result()]).splitlines()[-1], flush=True)
    return read(log, arguments.limit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--only-cells", nargs="+", metavar="MODEL:NORM:EPS", help="for example mlp:linf:12/255")
    parser.add_argument("--limit", type=int, default=200, help="examples of a cell; budgets are always the published")
    parser.add_argument("--folder", type=Path, default=Path("runs/parity"), help="weights and finished cells")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="cells at a time")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/parity.json"))
    arguments = parser.parse_args()
    wanted = [(name, threat) for name, threat in CELLS if name in arguments.models]
    if arguments.only_cells:
        wanted = [cell for cell in wanted if _label(*cell) in arguments.only_cells]
        if not wanted:
            parser.error(f"no such cell; there are {', '.join(_label(*cell) for cell in CELLS)}")
    cells = fill(wanted, arguments)
    result = {
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "threads": 1, "device": "cpu"},
        "versions": versions() | {"pyautoattack": version("pyautoattack")},
        "command": f"python -m benchmarks.parity --limit {arguments.limit}",
        "seed": SEED,
        "oracle_batch_size": BATCH,
        "cells": cells,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(cells))
    print(
        f"\n{len(cells)} of {len(CELLS)} cells; ours is at most {max(map(higher, cells)):g} examples above the oracle."
    )


if __name__ == "__main__":
    main()
