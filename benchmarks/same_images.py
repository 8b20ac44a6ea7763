"""What a stronger attack takes from a weaker one on the same images, and which of its members does it at what price.

    python benchmarks/same_images.py runs/studies/methods-autoattack runs/studies/dual

Reads two study folders of the same models: the first under the stronger attack, the second under the weaker one on at
least the same images of some of its tasks.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable

from zsrobust.records import CLEAN, Record
from zsrobust.report.load import load_run
from zsrobust.study.results import Cell, load

Example = tuple[str, int]


def cells_of(folder: str, seed: int) -> dict[str, Cell]:
    """Name → the finished cell of this seed, or the unadapted model's."""
    return {cell.name: cell for cell in load(folder).finished if cell.seed in (None, seed)}


def records_of(cell: Cell) -> tuple[Record, ...]:
    """All records of the cell's evaluation."""
    assert cell.run is not None
    return load_run(cell.run).records


def survivors(records: Iterable[Record]) -> dict[Example, bool]:
    """Whether each example is right clean and under every attack."""
    found: dict[Example, bool] = {}
    for record in records:
        where = record.task, record.example
        found[where] = found.get(where, True) and record.correct
    return found


def prices(records: Iterable[Record]) -> dict[str, Counter[str]]:
    """Attack → how many examples it was given and broke, and its passes (forward and backward)."""
    found: dict[str, Counter[str]] = {}
    for record in records:
        if record.attack != CLEAN:
            member = record.attack.rpartition("/")[2]
            passes = record.forwards + record.backwards
            found.setdefault(member, Counter()).update(given=1, broken=not record.correct, passes=passes)
    return found


def main(strong: str, weak: str, seed: int = 0) -> None:
    """Prints a line for each model, and one for each member of the stronger attack over all models."""
    members: dict[str, Counter[str]] = {}
    weaker = cells_of(weak, seed)
    for name, cell in cells_of(strong, seed).items():
        records = records_of(cell)
        for member, price in prices(records).items():
            members.setdefault(member, Counter()).update(price)
        one, other = survivors(records), survivors(records_of(weaker[name]))
        both = sorted(one.keys() & other.keys())
        kept, before = sum(one[e] for e in both), sum(other[e] for e in both)
        only_weak = sum(one[e] and not other[e] for e in both)
        print(
            f"{name:<10} n = {len(both)}: {100 * before / len(both):.1f} under the weaker attack, "
            f"{100 * kept / len(both):.1f} under the stronger; {only_weak} broken by the weaker alone"
        )
    total = sum(price["passes"] for price in members.values())
    for member, price in members.items():
        print(
            f"{member:<10} broke {price['broken']:,} of {price['given']:,}, {price['passes'] / total:.0%} of the passes"
        )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
