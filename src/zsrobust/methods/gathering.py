"""Features of a whole batch that several processes share: each has some of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zsrobust.distributed import total


@dataclass(frozen=True)
class Share:
    """Which rows of a step's batch this process has.

    Attributes:
        first: Place of its first row in the batch.
        rows: How many it has; one at least, because every process must take part in every step.
        of: Rows of the whole batch.
        counts: Whether they are its own. A batch with fewer rows than processes leaves some without: they compute the
            first row again, and what they find has weight 0.
    """

    first: int
    rows: int
    of: int
    counts: bool = True

    @property
    def whole(self) -> bool:
        """Whether this is the whole batch."""
        return self.counts and self.rows == self.of


def part(count: int, rank: int, size: int) -> Share:
    """The rows of process ``rank`` of ``size`` in a batch of ``count``: together all, none twice."""
    first, end = count * rank // size, count * (rank + 1) // size
    return Share(first, end - first, count) if end > first else Share(0, 1, count, counts=False)


def gathered(rows: Tensor, share: Share) -> Tensor:
    """The whole batch (share.of, D), of which ``rows`` (share.rows, D) are this process's; gradients find their way.

    Each process writes its rows into zeros, and the sum over the processes is the batch. The gradient of a row is the
    sum of what all processes' losses say about it. Every process must call this, forwards and backwards.
    """
    if share.whole:
        return rows
    result: Tensor = _Gathered.apply(rows, share)  # type: ignore[no-untyped-call]
    return result


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, share: Share) -> Tensor:
        ctx.share = share
        everyone = rows.new_zeros(share.of, *rows.shape[1:])
        if share.counts:
            everyone[share.first : share.first + share.rows] = rows
        return total(everyone)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        share: Share = ctx.share
        own = total(slopes[0])[share.first : share.first + share.rows]
        return own if share.counts else torch.zeros_like(own), None
