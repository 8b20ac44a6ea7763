"""Where a query finds what is right for it: ranks from 1, with ties counted against the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

KS = (1, 5, 10)
"""The K of R@K."""

TIE = 1e-6
"""Cosines closer than this are equal: features are float32, and kernels round differently from row to row. Without it a
model that gives all images the same features would find some of them."""

_CELLS = 2**22


def ranks(
    queries: NDArray[np.float32], candidates: NDArray[np.float32], own: Sequence[NDArray[np.int64]]
) -> NDArray[np.int64]:
    """The rank of each query's best own candidate among the foreign ones.

        rank(q) = 1 + #{ c not in own(q) : cos(q, c) > max over own(q) of cos(q, ·) − TIE }

    so R@K is the share of queries with rank ≤ K. Own candidates do not stand in each other's way: the rank of the best
    own one in the full order is the same. The products are float64.

    Args:
        queries: (Q, D) unit rows (of a random encoder: means of unit rows).
        candidates: (C, D) likewise.
        own: For each query the numbers of the candidates that are right, at least one.

    Returns:
        (Q,) from 1 to C.

    Raises:
        ValueError: a feature is not finite, or a query has no right candidate.
    """
    if not (np.isfinite(queries).all() and np.isfinite(candidates).all()):
        raise ValueError("features that are NaN or infinite have no ranks")
    if any(len(right) == 0 for right in own):
        raise ValueError("a query without a right candidate has no rank")
    gallery = candidates.astype(np.float64).T
    found = np.empty(len(queries), dtype=np.int64)
    rows = max(1, _CELLS // max(1, len(candidates)))
    for first in range(0, len(queries), rows):
        scores = queries[first : first + rows].astype(np.float64) @ gallery
        for row, score in enumerate(scores):
            right = own[first + row]
            above = score > score[right].max() - TIE
            found[first + row] = 1 + int(above.sum()) - int(above[right].sum())
    return found
