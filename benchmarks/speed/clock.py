"""Times of several works that take turns, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Times:
    """Seconds of one work, repetition by repetition."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float | None:
        """(largest − smallest) / median; None of a single repetition."""
        return (max(self.values) - min(self.values)) / self.median if len(self.values) > 1 else None

    @property
    def n(self) -> int:
        """Repetitions."""
        return len(self.values)

    def faster_than(self, other: Times) -> float:
        """Median over the repetitions of the other's time by ours: neighbours in time are compared."""
        return statistics.median(b / a for a, b in zip(self.values, other.values, strict=True))


def seconds(work: Work, device: str = "cpu") -> float:
    """Wall time of one call, with all that it put on the device."""
    start = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turns(
    works: Mapping[str, Work], *, repeats: int, device: str = "cpu", cold: Sequence[str] = ()
) -> dict[str, Times]:
    """Times of works that take turns: A B C A B C …, after one call of each that is not timed.

    Args:
        works: Name → what to do.
        repeats: Timed turns.
        device: Where they work.
        cold: Names that are not called beforehand: a call that takes long hardly gains by it.
    """
    for name, work in works.items():
        if name not in cold:
            seconds(work, device)
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            found[name].append(seconds(work, device))
    return {name: Times(values) for name, values in found.items()}
