"""How far a grid is: a bar on a terminal, else one line for each job that ends."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from tqdm import tqdm

from zsrobust.study.estimate import in_words
from zsrobust.study.store import Job, Outcome


class Progress:
    """Shows it on standard error.

    Args:
        total: Jobs to do.
    """

    def __init__(self, total: int) -> None:
        self._done, self._total = 0, total
        self._bar = tqdm(
            total=total,
            unit="job",
            desc="study",
            disable=None,
            file=sys.stderr,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )
        self._stream = sys.stderr
        self._told: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def ended(self, job: Job, outcome: Outcome, called: str, *, left: int, seconds: float) -> None:
        """A job has ended.

        Args:
            job: It.
            outcome: Of it.
            called: What people call its cell.
            left: Jobs still to do.
            seconds: How long they will take.
        """
        self._done += 1
        self._total = self._done + left
        what = "adapted" if job.kind == "adapted" else "evaluated"
        took = "" if outcome.seconds is None else f" in {outcome.seconds:.0f} s"
        result = f"FAILED: {outcome.failure}" if outcome.failure is not None else f"{what}{took}"
        line = f"{self._done}/{self._total}  {called}  {result}"
        for note in outcome.notes:
            if note not in self._told:
                self._told.add(note)
                self._bar.write(f"zsrobust: note: {note}", file=self._stream)
        if self._bar.disable:
            rest = f"  (about {in_words(seconds)} left)" if left else ""
            print(line + rest, file=self._stream, flush=True)
            return
        if outcome.failure is not None:
            self._bar.write(line, file=self._stream)
        self._bar.total, self._bar.n = self._total, self._done
        self._bar.set_postfix_str(f"about {in_words(seconds)} left; {called}" if left else "")
