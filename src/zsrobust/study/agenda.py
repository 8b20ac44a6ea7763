"""All jobs of all studies that run together, each once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from zsrobust.study.store import Job, Outcome, Store


@dataclass
class Agenda:
    """All jobs of all studies, each once, in the order in which they are wanted.

    Attributes:
        store: Where results are looked for.
        jobs: Key → job, those that are not done when they are added.
        ended: Key → outcome, as far as known.
        started: Keys.
    """

    store: Store
    jobs: dict[str, Job] = field(default_factory=dict)
    ended: dict[str, Outcome] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    _missing: set[str] = field(default_factory=set)
    _open: dict[str, Job] = field(default_factory=dict)

    def known(self, job: Job) -> Outcome | None:
        """How a job ended; looks into the store once, until :meth:`look_again`."""
        if job.key not in self.ended and job.key not in self._missing:
            outcome = self.store.outcome(job.kind, job.key)
            if outcome is None:
                self._missing.add(job.key)
            else:
                self.ended[job.key] = outcome
        return self.ended.get(job.key)

    def look_again(self) -> None:
        """Forgets what was not in the store: another process may have put it there."""
        self._missing.clear()

    def add(self, jobs: Sequence[Job]) -> None:
        """What has to be done of a chain whose last job is wanted: nothing where one before it has failed."""
        if not jobs or self.known(jobs[-1]) is not None:
            return
        failed = [known for job in jobs[:-1] if (known := self.known(job)) is not None and known.failure is not None]
        if failed:
            self.ended[jobs[-1].key] = Outcome(error=failed[0].failure)
        else:
            for job in jobs:
                if self.known(job) is None and job.key not in self.jobs:
                    self.jobs[job.key] = self._open[job.key] = job

    def end(self, job: Job, outcome: Outcome) -> None:
        """Takes note; what waited for a job without a result has none either."""
        self._close(job, outcome)
        if outcome.failure is not None:
            for waiting in [one for one in self._open.values() if one.adapted == job.key]:
                self._close(waiting, Outcome(error=outcome.failure))

    def next(self) -> Job | None:
        """The first job that can be started now."""
        for job in self._open.values():
            ready = job.adapted is None or job.adapted not in self._open
            if job.key not in self.started and ready:
                return job
        return None

    def open(self) -> list[Job]:
        """Jobs that have not ended."""
        return list(self._open.values())

    def _close(self, job: Job, outcome: Outcome) -> None:
        self.ended[job.key] = outcome
        self._open.pop(job.key, None)
