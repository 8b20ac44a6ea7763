"""Our recipe against FARE on those images of ``benchmarks/confirm.yaml`` that study dual had not shown.

    python benchmarks/disjoint.py runs/studies/confirm runs/studies/dual

Reads both study folders. Intervals are 95 %, corrected for the two rates of FARE, as those of confirm.yaml are.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from zsrobust.errors import ZSRobustError
from zsrobust.study.results import ALL, CLEAN, ROBUST, Cell, Study, load
from zsrobust.study.scores import Measure, difference

OTHERS = ("FARE", "FARE, lr 5e-4")


def shown(study: Study) -> set[tuple[str, int]]:
    """(task, row) of every example that a study evaluated."""
    return {(task, int(row)) for cell in study.cells for (task, _), found in cell.outcomes.items() for row in found.ids}


def without(cell: Cell, seen: set[tuple[str, int]]) -> Cell:
    """The cell, of only those examples that are not in ``seen``."""
    outcomes = {}
    for (task, threat), found in cell.outcomes.items():
        new = np.array([(task, int(row)) not in seen for row in found.ids])
        outcomes[task, threat] = replace(
            found,
            ids=found.ids[new],
            images=tuple(image for image, keep in zip(found.images, new, strict=True) if keep),
            clean=found.clean[new],
            robust={attack: right[new] for attack, right in found.robust.items()},
        )
    return replace(cell, outcomes=outcomes)


def main(new: str, old: str) -> None:
    """Prints ours − FARE, over all tasks, on all examples and on those that are new."""
    try:
        study, seen = load(new), shown(load(old))
    except ZSRobustError as problem:
        sys.exit(f"{problem}; `zsrobust study benchmarks/confirm.yaml` and `zsrobust study dual` write them")
    asked, tasks = shown(study), study.tasks_of(ALL)
    print(f"{len(asked & seen)} of {len(asked)} examples are among the {len(seen)} of {old}")
    for where, cells in (("all", study.cells), ("new", [without(cell, seen) for cell in study.cells])):
        models = {name: [c for c in cells if c.name == name] for name in ("ours", *OTHERS)}
        for other in OTHERS:
            for kind in (CLEAN, ROBUST):
                pairs, how = list(zip(models["ours"], models[other], strict=True)), Measure(kind, study.primary.text)
                change, *_ = difference(pairs, tasks, (how, how), comparisons=len(OTHERS)) or sys.exit("nothing there")
                span = " to ".join(f"{100 * end:+.1f}" for end in change.interval)
                print(f"{where}, n = {change.n}: ours - {other}, {kind}: {100 * change.value:+.1f} ({span})")


if __name__ == "__main__":
    main(*sys.argv[1:])
