"""From plans to an agenda: which jobs each cell needs, as soon as its tuning is over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zsrobust.study.agenda import Agenda
from zsrobust.study.grid import Cell
from zsrobust.study.plan import Plan
from zsrobust.study.store import Job


class Order:
    """What the studies want. When a job ends only those cells are looked at whose tuning it was part of.

    Args:
        plans: All studies that run together.
        agenda: Gets their jobs: tuning first, then every cell that does not wait for it.
    """

    def __init__(self, plans: Sequence[Plan], agenda: Agenda) -> None:
        self._agenda = agenda
        self._names: dict[str, str] = {}
        self._waiting: dict[Cell, tuple[Plan, list[Job]]] = {}
        self._tuned_by: dict[str, list[tuple[Plan, Cell]]] = {}
        for plan in plans:
            for combination, search in plan.wanted_searches.items():
                for value, job in search.trials.items():
                    tried = ", ".join([*combination.levels.values(), f"{search.option} {value:g}"])
                    self._names.setdefault(job.key, f"{plan.recipe.name}: tuning {tried}")
                    agenda.add([job])
        for plan in plans:
            self._enlist((plan, cell) for cell in plan.wanted)
        for cell, (plan, _) in self._waiting.items():
            assert cell.combination is not None
            for job in plan.searches[cell.combination].trials.values():
                self._tuned_by.setdefault(job.key, []).append((plan, cell))

    def ended(self, job: Job) -> None:
        """Adds the jobs of the cells whose tuning ended with ``job``."""
        self._enlist(self._tuned_by.get(job.key, ()))

    def remaining(self) -> list[Job]:
        """All jobs that are left, with stand-ins for cells whose tuning goes on."""
        left = {job.key: job for job in self._agenda.open()}
        for _, rough in self._waiting.values():
            left |= {job.key: job for job in rough}
        return list(left.values())

    def name(self, job: Job) -> str:
        """Of which cell a job is, for people: the first, where several share it."""
        return self._names.get(job.key, job.key)

    def _enlist(self, cells: Iterable[tuple[Plan, Cell]]) -> None:
        for plan, cell in cells:
            found = plan.resolve(cell, self._agenda.known)
            if found is None:
                if cell not in self._waiting:
                    self._waiting[cell] = plan, plan.rough(cell)
                continue
            self._waiting.pop(cell, None)
            self._agenda.add(found.jobs)
            for job in found.jobs:
                self._names.setdefault(job.key, f"{plan.recipe.name}: {cell.describe()}")
