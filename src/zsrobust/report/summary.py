"""Runs → rows, means and differences: everything a report says, as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from zsrobust.errors import RunError
from zsrobust.report.compare import compare, unpaired
from zsrobust.report.count import pick_pairs
from zsrobust.report.load import Model, Picture, Run, Task
from zsrobust.report.means import across_seeds, attacked_differently, means
from zsrobust.report.measure import measure
from zsrobust.report.merge import merge
from zsrobust.report.results import AcrossSeeds, Comparison, Mean, Row
from zsrobust.report.words import Threat

SUMMARY_FORMAT = "zsrobust.summary/1"


@dataclass(frozen=True)
class Summary:
    """Everything a report says. ``to_json`` gives what ``summary.json`` holds; the rest is for the eye."""

    rows: tuple[Row, ...]
    means: tuple[Mean, ...]
    comparisons: tuple[Comparison, ...]
    across_seeds: tuple[AcrossSeeds, ...]
    models: tuple[Model, ...]
    tasks: Mapping[str, Task]
    threats: tuple[Threat, ...]
    seeds: tuple[int, ...]
    pairs: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    settings: Mapping[tuple[str, str | None], Mapping[str, Any]]
    runs: tuple[Run, ...]

    def __str__(self) -> str:
        """The tables as plain text, at most 80 columns wide."""
        from zsrobust.report.terminal import plain  # terminal prints summaries, so it imports this module

        return plain(self)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary, see ``docs/results-format.md``."""
        lists = ("rows", "means", "comparisons", "across_seeds")
        return {"format": SUMMARY_FORMAT} | {name: [asdict(x) for x in getattr(self, name)] for name in lists}

    @property
    def adapted(self) -> bool:
        """Whether any model was adapted on any task that was named; without that the tiers mean nothing."""
        return any(model.adapted_on for model in self.models)


def summarise(runs: Sequence[Run]) -> Summary:
    """Rows, means by tier, and after − before, of one run or of several merged.

    Raises:
        RunError: no run, runs that cannot be merged, or not one finished example.
    """
    if not runs:
        raise RunError("no run given: name at least one run folder")
    evidence = merge(runs)
    measured, notes = measure(evidence)
    if not measured:
        where = ", ".join(map(str, runs))
        raise RunError(f"no example of {where} was evaluated to the end; run the evaluation again to go on")
    names = [m.name for m in evidence.models]
    pairs, without_base = pick_pairs(evidence.models)
    comparisons = compare(measured, pairs)
    of_tiers = means(measured, names)
    notes += [*without_base, *unpaired(measured, pairs, comparisons), *attacked_differently(measured, of_tiers)]
    return Summary(
        rows=tuple(m.row for m in measured),
        means=of_tiers,
        comparisons=tuple(comparisons),
        across_seeds=across_seeds(measured, of_tiers),
        models=evidence.models,
        tasks=evidence.tasks,
        threats=evidence.threats,
        seeds=evidence.seeds,
        pairs=pairs,
        notes=(*evidence.notes, *notes),
        pictures=tuple(p for run in runs for p in run.pictures),
        settings=evidence.settings,
        runs=tuple(runs),
    )
