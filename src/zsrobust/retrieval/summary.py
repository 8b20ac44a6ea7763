"""Records of ranks → recalls with intervals, and differences from the first model.

Under attack a query counts as found only if it is found clean *and* under the attack (under all attacks, for the last
line): the adversary may also leave the images alone. So a recall under attack is never above the clean one.

Intervals resample images: all captions of an image, and all images that share a caption, come along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsrobust.retrieval.ranks import KS
from zsrobust.retrieval.records import CLEAN, Ranked
from zsrobust.statistics import Interval, Outcomes, bootstrap_difference, bootstrap_mean, holm

IMAGE_TO_TEXT = "image→text"
TEXT_TO_IMAGE = "text→image"
ALL = "all attacks"


@dataclass(frozen=True)
class Recall:
    """R@K of one model.

    Attributes:
        model: Its name.
        direction: ``image→text`` or ``text→image``.
        attack: ``clean``, an attack, or ``all attacks``.
        k: How many candidates are looked at.
        n: Queries.
        candidates: Size of the gallery.
        found: Share of the queries with a right candidate among the first ``k``.
        interval: 95 %.
    """

    model: str
    direction: str
    attack: str
    k: int
    n: int
    candidates: int
    found: float
    interval: Interval


@dataclass(frozen=True)
class Change:
    """R@K of a model less that of the first one, on the same queries.

    Attributes:
        model: The other one.
        first: The first one.
        direction, attack, k, n: As in :class:`Recall`.
        change: Difference of the recalls.
        interval: 95 %.
        p: Two-sided, of no difference.
        p_holm: Corrected for all differences of the run.
    """

    model: str
    first: str
    direction: str
    attack: str
    k: int
    n: int
    change: float
    interval: Interval
    p: float
    p_holm: float


@dataclass(frozen=True)
class Summary:
    """What a report says.

    Attributes:
        captions: The set, as ``run.json`` describes it.
        threat: For example ``linf:2/255:native``.
        seed: Of the attacks.
        models: In the order they were given.
        attacks: Names.
        recalls: For each model, direction and attack one for each K that is smaller than the gallery.
        changes: Likewise for all models but the first.
    """

    captions: Mapping[str, Any]
    threat: str
    seed: int
    models: list[str]
    attacks: list[str]
    recalls: list[Recall]
    changes: list[Change]

    def to_json(self) -> dict[str, Any]:
        """As ``summary.json`` holds it."""
        return {"format": "zsrobust.retrieval.summary/1", **asdict(self)}


def summarise(
    records: Sequence[Ranked], header: Mapping[str, Any], attacks: Sequence[str], models: Sequence[str]
) -> Summary:
    """All recalls and differences.

    Args:
        records: Of every model one for each image, clean and under each attack.
        header: ``run.json``.
        attacks: In the order of the report.
        models: Likewise; the first is what the others are compared with.

    Raises:
        ValueError: a record is missing.
    """
    seen = _by_condition(records)
    images, texts = int(header["captions"]["images"]), int(header["captions"]["texts"])
    outcomes: dict[tuple[str, str, str, int], Outcomes] = {}
    recalls: list[Recall] = []
    for direction, n, candidates in ((IMAGE_TO_TEXT, images, texts), (TEXT_TO_IMAGE, texts, images)):
        clusters = _clusters(records, direction)
        for model in models:
            for attack, counted in conditions(attacks).items():
                worst = np.max([seen[model, name, direction] for name in counted], axis=0)
                if len(worst) != n:
                    raise ValueError(f"{len(worst)} of {n} queries of {direction}, model {model}, are recorded")
                for k in (k for k in KS if k < candidates):
                    found = Outcomes(clusters, (worst <= k).astype(np.float64))
                    outcomes[model, direction, attack, k] = found
                    estimate = bootstrap_mean([found])
                    recalls.append(
                        Recall(model, direction, attack, k, n, candidates, estimate.value, estimate.interval)
                    )
    return Summary(
        captions=header["captions"],
        threat=str(header["threat"]),
        seed=int(header["seed"]),
        models=list(models),
        attacks=list(attacks),
        recalls=recalls,
        changes=_changes(outcomes, models),
    )


def conditions(attacks: Sequence[str]) -> dict[str, list[str]]:
    """What a line of the report is called → the attacks a query must survive for it."""
    lines = {CLEAN: [CLEAN]} | {attack: [CLEAN, attack] for attack in attacks}
    return lines | ({ALL: [CLEAN, *attacks]} if len(attacks) > 1 else {})


def _changes(outcomes: Mapping[tuple[str, str, str, int], Outcomes], models: Sequence[str]) -> list[Change]:
    found = []
    for (model, direction, attack, k), after in outcomes.items():
        if model != models[0]:
            difference = bootstrap_difference([outcomes[models[0], direction, attack, k]], [after])
            about = (model, models[0], direction, attack, k, len(after.values))
            found.append((about, difference))
    corrected = holm([difference.p for _, difference in found])
    return [Change(*about, d.value, d.interval, d.p, p) for (about, d), p in zip(found, corrected, strict=True)]


def _by_condition(records: Sequence[Ranked]) -> dict[tuple[str, str, str], NDArray[np.int64]]:
    """(model, attack, direction) → ranks: of images in the order of their rows, of texts in that of their numbers."""
    images: dict[tuple[str, str], dict[int, int]] = {}
    texts: dict[tuple[str, str], dict[int, int]] = {}
    for record in records:
        key = (record.model, record.attack)
        images.setdefault(key, {})[record.example] = record.rank
        texts.setdefault(key, {}).update(zip(record.texts, record.text_ranks, strict=True))
    found = {(*key, IMAGE_TO_TEXT): _ordered(ranks) for key, ranks in images.items()}
    return found | {(*key, TEXT_TO_IMAGE): _ordered(ranks) for key, ranks in texts.items()}


def _ordered(ranks: Mapping[int, int]) -> NDArray[np.int64]:
    return np.array([ranks[number] for number in sorted(ranks)], dtype=np.int64)


def _clusters(records: Sequence[Ranked], direction: str) -> list[str]:
    """What each query comes from, in the order of :func:`_by_condition`.

    An image with all images that share a text with it is one cluster, named after the lowest row among them.
    """
    lowest: dict[int, int] = {}
    texts_of = {record.example: record.texts for record in records}

    def root(row: int) -> int:
        while lowest.setdefault(row, row) != row:
            row = lowest[row]
        return row

    owner: dict[int, int] = {}
    for row in sorted(texts_of):
        for text in texts_of[row]:
            low, high = sorted((root(row), root(owner.setdefault(text, row))))
            lowest[high] = low
    rows = sorted(texts_of) if direction == IMAGE_TO_TEXT else [owner[text] for text in sorted(owner)]
    return [str(root(row)) for row in rows]
