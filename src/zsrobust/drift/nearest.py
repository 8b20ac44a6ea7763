"""What three searches among the same images return: the original with its index, a mixture, the adapted model.

They are described in :mod:`zsrobust.drift`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from zsrobust.passes import float32_only
from zsrobust.statistics import Change, Estimate, Outcomes, bootstrap_difference, bootstrap_mean, wilson

Search = Literal["before", "mixed", "reindexed"]
Measure = Literal["former", "itself", "class"]

BLOCK = 2**24
"""Cosines held at once, of each search: 64 MiB."""

Array = NDArray[np.float64]
Values = dict[tuple[Measure, int], dict[Search, Array]]


@dataclass(frozen=True)
class Finding:
    """One measure of the three searches: means over queries of a share in [0, 1], with 95 % intervals.

    Attributes:
        queries: ``"images"`` or ``"texts"``.
        measure: ``"former"``: of the ``k`` images that the original returned from its own index, the share that is
            among the ``k`` returned now (recall@k of the former neighbours; ``before`` is then 1 by definition and
            None). ``"itself"``: is an image's own embedding in the index among the ``k`` nearest to it; a tie counts
            against it. ``"class"``: of the ``k`` returned, the share that is of the query's class (of as many as the
            class has, where these are fewer).
        k: Images returned.
        n: Queries.
        before: The original with its own index.
        mixed: Queries of the adapted model, index of the original.
        reindexed: Both of the adapted model.
        gain: ``reindexed`` minus ``mixed``, paired.
        chance: What a random order would give; None where that depends on the classes.
    """

    queries: Literal["images", "texts"]
    measure: Measure
    k: int
    n: int
    before: Estimate | None
    mixed: Estimate
    reindexed: Estimate
    gain: Change
    chance: float | None


def search(
    queries: tuple[Tensor, Tensor],
    index: tuple[Tensor, Tensor],
    ks: Sequence[int],
    *,
    themselves: bool,
    classes: tuple[Tensor, Tensor] | None,
    progress: bool,
) -> Values:
    """One number a query, for each measure, k and search; nan where a class has no image to return.

    Args:
        queries: (Q, D) unit rows, of the original and of the adapted model.
        index: (n, D) unit rows, likewise.
        ks: Images returned.
        themselves: The queries are the indexed images, in the same order.
        classes: (Q,) and (n,) labels.
        progress: Show a bar.
    """
    (old, new), (old_index, new_index) = queries, index
    step = max(1, BLOCK // len(old_index))
    parts: dict[tuple[Measure, int], dict[Search, list[Tensor]]] = {}
    bar = tqdm(total=len(old), desc="searching", unit="query", disable=None if progress else True, leave=False)
    with bar, float32_only(old.device):
        for first in range(0, len(old), step):
            rows = torch.arange(first, min(first + step, len(old)), device=old.device)
            sides: dict[Search, tuple[Tensor, Tensor]] = {
                "before": (old[rows], old_index), "mixed": (new[rows], old_index), "reindexed": (new[rows], new_index)
            }  # fmt: skip
            former: dict[int, Tensor] = {}
            for which, (asked, answers) in sides.items():
                for key, values in _measures(
                    asked @ answers.T,
                    ks,
                    rows if themselves else None,
                    classes and (classes[0][rows], classes[1]),
                    former,
                ).items():
                    parts.setdefault(key, {}).setdefault(which, []).append(values)
            bar.update(len(rows))
    return {
        key: {which: torch.cat(found).numpy() for which, found in sides_of.items()} for key, sides_of in parts.items()
    }


def _measures(
    cosines: Tensor,
    ks: Sequence[int],
    own: Tensor | None,
    classes: tuple[Tensor, Tensor] | None,
    former: dict[int, Tensor],
) -> dict[tuple[Measure, int], Tensor]:
    """Measures of a block of queries; the first of the three searches fills ``former``: k → (B, n) returned or not."""
    found: dict[tuple[Measure, int], Tensor] = {}
    if own is not None:
        place = own[:, None]
        ranks = (cosines >= cosines.gather(1, place)).sum(1)  # itself included, ties before it
        found |= {("itself", k): (ranks <= k).cpu().double() for k in ks}
        cosines = cosines.scatter(1, place, -torch.inf)
    returned = cosines.topk(max(ks), dim=1).indices
    for k in ks:
        top = returned[:, :k]
        if k not in former:
            former[k] = torch.zeros_like(cosines, dtype=torch.bool).scatter_(1, top, True)
        found["former", k] = former[k].gather(1, top).sum(1).cpu().double() / k
        if classes is not None:
            asked, labels = classes
            size = torch.bincount(labels, minlength=int(asked.max()) + 1)[asked] - int(own is not None)
            right = (labels[top] == asked[:, None]).sum(1)
            found["class", k] = right.cpu().double() / size.clamp(max=k).cpu()  # 0 / 0 is nan: there is none to return
    return found


def findings(queries: Literal["images", "texts"], found: Values, others: int, seed: int) -> list[Finding]:
    """Means with intervals; ``others``: images that a query could return."""
    means = []
    order = ("former", "itself", "class")
    for measure, k in sorted(found, key=lambda key: (order.index(key[0]), key[1])):
        values = found[measure, k]
        there = ~np.isnan(values["mixed"])
        if not there.any():
            continue
        before, mixed, reindexed = (values[s][there] for s in cast(Sequence[Search], ("before", "mixed", "reindexed")))
        names = [str(i) for i in range(len(mixed))]
        chance = {"former": k / others, "itself": k / (others + 1), "class": None}[measure]
        means.append(
            Finding(
                queries, measure, k, len(mixed),
                None if measure == "former" else _share(before, seed), _share(mixed, seed), _share(reindexed, seed),
                bootstrap_difference([Outcomes(names, mixed)], [Outcomes(names, reindexed)], seed=seed), chance,
            )
        )  # fmt: skip
    return means


def _share(values: Array, seed: int) -> Estimate:
    if np.isin(values, (0.0, 1.0)).all():
        return Estimate(float(values.mean()), wilson(float(values.sum()), len(values)))
    return bootstrap_mean([Outcomes([str(i) for i in range(len(values))], values)], seed=seed)
