"""From the records of one cell to its outcomes, and where a task and a model belong."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsrobust.records import SCOUT, UNKNOWN, Record
from zsrobust.report.load import Model, Task
from zsrobust.report.merge import Suite
from zsrobust.report.results import Defended, Row
from zsrobust.statistics import auroc, balanced_accuracy, wilson

Attacks = Mapping[str, Mapping[int, Record]]
"""Attack → example → its record, of one cell under one threat."""


@dataclass(frozen=True)
class Counted:
    """The finished examples of a cell under a threat, in the order of evaluation.

    Attributes:
        ids: (n,) int64, rows of the source split.
        images: n cluster keys.
        labels: (n,) int64, class indices.
        clean: (n,) bool, right when clean.
        robust: (n,) bool, right when clean and under every attack.
        clean_margin: (n,) float64.
        robust_margin: (n,) float64, the worst over the clean image and every attack on it.
    """

    ids: NDArray[np.int64]
    images: tuple[str, ...]
    labels: NDArray[np.int64]
    clean: NDArray[np.bool_]
    robust: NDArray[np.bool_]
    clean_margin: NDArray[np.float64]
    robust_margin: NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """A row and the outcomes behind it; ``attacks`` holds the records of the counted examples only."""

    row: Row
    counted: Counted
    attacks: Attacks
    suites: Sequence[Suite]


def count(
    clean: Mapping[int, Record], blocks: Sequence[Sequence[int]], attacks: Attacks, suites: Sequence[Suite]
) -> Counted:
    """Outcomes of the blocks in which every example is finished.

    An example is finished when it is wrong when clean, or when each suite has broken it or has given it to all its
    attacks. Within a block those that break are finished sooner than those that survive, so an unfinished block is
    left out whole.
    """

    def finished(example: int) -> bool:
        return not clean[example].correct or all(_settled(suite, attacks, example) for suite in suites)

    records = [clean[e] for block in blocks if all(map(finished, block)) for e in block]
    under_attack = [[done[r.example] for done in attacks.values() if r.example in done] for r in records]
    return Counted(
        ids=np.array([r.example for r in records], dtype=np.int64),
        images=tuple(r.image for r in records),
        labels=np.array([r.label for r in records], dtype=np.int64),
        clean=np.array([r.correct for r in records], dtype=bool),
        robust=np.array(
            [r.correct and all(a.correct for a in rs) for r, rs in zip(records, under_attack, strict=True)], dtype=bool
        ),
        clean_margin=np.array([r.margin for r in records]),
        robust_margin=np.array(
            [min([r.margin, *(a.margin for a in rs)]) for r, rs in zip(records, under_attack, strict=True)]
        ),
    )


def _settled(suite: Suite, attacks: Attacks, example: int) -> bool:
    known = {attack: attacks[attack][example] for attack in suite.attacks if example in attacks[attack]}
    # A run that goes on in another mode has no scout any more, or begins to have one.
    needed = {attack for attack in suite.attacks if attack != f"{suite.name}/{SCOUT}"}
    return needed <= known.keys() or any(not record.correct for record in known.values())


def of_examples(attacks: Attacks, counted: Counted) -> dict[str, dict[int, Record]]:
    """The records of the counted examples."""
    kept = set(counted.ids.tolist())
    return {name: {e: r for e, r in done.items() if e in kept} for name, done in attacks.items()}


def two_class_scores(counted: Counted, classes: int) -> dict[str, Any]:
    """Balanced accuracy and AUROC, clean and robust, as fields of a row; all None unless there are two classes.

    The score of an image is its margin, signed so that it is high for class 1. An attack stops at its first success,
    so the robust AUROC is an upper bound too.
    """
    two = classes == 2 and len(set(counted.labels.tolist())) == 2
    sign = np.where(counted.labels == 1, 1.0, -1.0)

    def score(function: Callable[[], float]) -> float | None:
        return function() if two else None

    return {
        "clean_balanced_accuracy": score(lambda: balanced_accuracy(counted.clean, counted.labels)),
        "robust_balanced_accuracy": score(lambda: balanced_accuracy(counted.robust, counted.labels)),
        "clean_auroc": score(lambda: auroc(sign * counted.clean_margin, counted.labels == 1)),
        "robust_auroc": score(lambda: auroc(sign * counted.robust_margin, counted.labels == 1)),
    }


def two_numbers(counted: Counted, attacks: Attacks, settings: Mapping[str, Mapping[str, Any]]) -> Defended | None:
    """Robust accuracy under the attacks that ignore the defence, and under those through it; None without the former.

    A transfer is neither: it asks the defended model at every step and climbs another one.

    Args:
        counted: Finished examples.
        attacks: Their records.
        settings: Of each attack; ``oblivious`` true says that it ignores the defence, ``transfer`` true that it climbs
            another model.
    """
    oblivious = [name for name in attacks if settings[name].get("oblivious") is True]
    if not oblivious:
        return None
    n, right = len(counted.ids), set(counted.ids[counted.clean].tolist())

    def standing(names: Collection[str]) -> int:
        return len(right - {e for name in names for e, record in attacks[name].items() if not record.correct})

    adaptive = [name for name in attacks if name not in oblivious and settings[name].get("transfer") is not True]
    ignored, through = standing(oblivious), standing(adaptive)
    return Defended(
        oblivious=ignored / n,
        oblivious_interval=wilson(ignored, n),
        adaptive=through / n if adaptive else None,
        adaptive_interval=wilson(through, n) if adaptive else None,
    )


def tier_of(task: Task, adapted_on: frozenset[str]) -> str:
    """``adapted``, ``related`` or ``unrelated``; ``unknown`` where a model was adapted on nobody knows what."""
    if task.name in adapted_on:
        return "adapted"
    if not adapted_on.isdisjoint(task.follows_from):
        return "related"
    return "unknown" if UNKNOWN in adapted_on else "unrelated"


def pick_pairs(models: Sequence[Model]) -> tuple[tuple[tuple[str, str], ...], list[str]]:
    """(before, after) names, each adapted model with the unadapted one it came from; and sentences on the others.

    A model that does not say what it came from is paired with the first unadapted one. One that came from a model that
    is not here, or is here for another size of images only, is not paired: a change against another one would not be
    what the adaptation did.
    """
    unadapted = [model for model in models if not model.adapted_on]
    pairs, notes = [], []
    for model in models:
        if not model.adapted_on or not unadapted:
            continue
        base, source = _origins(model)
        before = _first([*base, *source], [one for one in unadapted if _resized(one) == _resized(model)])
        if before is None and base:
            where = "not in this report"
            if _first(base, unadapted) is not None:
                where = "in this report for another size of images only"
            notes.append(f"{model.name} was adapted from {base[-1]}, which is {where}, so no change is given.")
            continue
        if before is None:
            before = unadapted[0]
            notes.append(
                f"{model.name} does not say which model it was adapted from: its changes are against {before.name}, "
                "the first unadapted one."
            )
        pairs.append((before.name, model.name))
    return tuple(pairs), notes


def _origins(model: Model) -> tuple[list[str], list[str]]:
    """Names and fingerprints of the model that it was adapted from, the surest first; and where it was loaded from.

    The latter is its base's where zsrobust adapted it, and its own where others did.
    """
    told, how = model.provenance, model.provenance.get("adaptation")
    base = [how.get("base_fingerprint"), how.get("base")] if isinstance(how, Mapping) else []
    base += [told.get(key) for key in ("parent", "base", "base_model")]
    return [o for o in base if isinstance(o, str)], [o for o in [told.get("source")] if isinstance(o, str)]


def _resized(model: Model) -> object:
    """From and to which size its visual tower was made to fit; None where it is as it came."""
    return model.provenance.get("resized")


def _first(origins: Sequence[str], models: Sequence[Model]) -> Model | None:
    """The model that one of the origins is, by fingerprint, name, or where it was loaded from."""
    known = [
        *((model.fingerprint, model) for model in models),
        *((model.name, model) for model in models),
        *((model.provenance.get("source"), model) for model in models),
    ]
    return next((model for origin in origins for name, model in known if name == origin), None)
