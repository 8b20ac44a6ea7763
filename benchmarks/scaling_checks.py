"""Two small simulations behind ``docs/scaling.md``: a ring all-reduce, and an evaluation shared among processes."""

from __future__ import annotations

import heapq
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zsrobust.evaluation import BATCH_SIZE
from zsrobust.passes import ROWS
from zsrobust.sharing import pieces

ROBUST_COST = 100.0
"""Passes of an image that survives, where one that breaks at once costs 1."""


def ring_bytes(size: int, ranks: int) -> float:
    """What each of the ranks sends when a tensor of ``size`` bytes is summed around a ring: 2(N−1)/N × size."""
    return 2 * (ranks - 1) / ranks * size


def sharded_bytes(size: int, ranks: int, gathers: int) -> float:
    """What each of the ranks sends where each holds a part of the weights (FSDP2): gathers, and one reduce-scatter."""
    return (gathers + 1) * (ranks - 1) / ranks * size


def simulate_ring(values: Sequence[Sequence[float]]) -> tuple[list[list[float]], list[int]]:
    """Sums one vector of each rank around a ring, message by message.

    Reduce-scatter, then all-gather: in N − 1 rounds each, rank r sends one of N chunks to rank r + 1.

    Args:
        values: For each rank, its vector; all of one length.

    Returns:
        What each rank holds at the end, and how many numbers each has sent.
    """
    ranks, length = len(values), len(values[0])
    held = [list(vector) for vector in values]
    sent = [0] * ranks
    edges = [round(part * length / ranks) for part in range(ranks + 1)]
    for gather in (False, True):
        for turn in range(ranks - 1):
            messages = []
            for rank in range(ranks):
                part = (rank - turn + (1 if gather else 0)) % ranks
                messages.append((rank, part, held[rank][edges[part] : edges[part + 1]]))
            for rank, part, numbers in messages:
                sent[rank] += len(numbers)
                target = held[(rank + 1) % ranks]
                for place, number in enumerate(numbers, start=edges[part]):
                    target[place] = number if gather else target[place] + number
    return held, sent


@dataclass(frozen=True)
class Shared:
    """An evaluation of some images by some processes.

    Attributes:
        images: Of the task.
        processes: That share it.
        chunk: Images that a process takes at a time; None: as the program cuts them (``zsrobust.sharing.pieces``).
        rows: Of each forward pass: a pass with fewer is filled up, so it costs as much (``zsrobust.passes.ROWS``).
        robust: Share of the images that survive and so meet every step of every attack.
        way: ``"queue"``: who is done takes the next chunk. ``"fixed"``: chunk i belongs to process i mod N beforehand.
    """

    images: int
    processes: int
    chunk: int | None
    rows: int = ROWS
    robust: float = 0.4
    way: Literal["queue", "fixed"] = "queue"

    def costs(self, robust: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Rows computed for each chunk: one pass of all its images, then those that survive to the end."""
        filled, left = (self.rows * -(-images // self.rows) for images in (sizes, robust))
        return filled + (ROBUST_COST - 1) * left

    def efficiency(self, seed: int) -> float:
        """Speed-up over one process with the program's own batches, over the number of processes."""
        survives = np.random.default_rng([seed, self.images]).random(self.images) < self.robust
        longest = max(self._busy(self._costs(survives, self.chunk).tolist()))
        return float(self._costs(survives, BATCH_SIZE).sum()) / (self.processes * longest)

    def _costs(self, survives: NDArray[np.bool_], chunk: int | None) -> NDArray[np.float64]:
        if chunk is None:
            cut = pieces([range(self.images)], rows=self.rows, most=BATCH_SIZE, processes=self.processes)
            starts = [piece.positions[0] for piece in cut]
        else:
            starts = list(range(0, self.images, chunk))
        return self.costs(np.add.reduceat(survives.astype(np.int64), starts), np.diff([*starts, self.images]))

    def _busy(self, costs: Sequence[float]) -> list[float]:
        """How long each process works."""
        busy = [0.0] * self.processes
        if self.way == "fixed":
            for number, cost in enumerate(costs):
                busy[number % self.processes] += cost
            return busy
        for cost in costs:
            heapq.heappush(busy, heapq.heappop(busy) + cost)
        return busy


def over_draws(shared: Shared, *, draws: int, seed: int) -> tuple[float, float, float]:
    """Mean efficiency, and the interval that holds the middle 95 % of the draws of which images are robust."""
    values = sorted(shared.efficiency(seed * draws + number) for number in range(draws))
    cut = math.floor(0.025 * draws)
    return statistics.fmean(values), values[cut], values[draws - 1 - cut]
