"""A sample of the parity table: our ensembles beside pyautoattack's, with budgets lowered alike on both sides.

``python -m benchmarks.parity`` makes the whole table, with the published budgets.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks import oracle
from benchmarks.parity import RADII
from benchmarks.parity_models import MODELS, Specimen, images, sample
from benchmarks.side_by_side import ours
from torch import Tensor, nn

from zsrobust.attacks.base import Attack
from zsrobust.attacks.suites import Member, Suite
from zsrobust.threat import Threat

STEPS, TARGETS, QUERIES = 20, 3, 200
THEIRS = {
    "apgd-ce": {"n_iter": STEPS},
    "apgd-t": {"n_iter": STEPS, "n_target_classes": TARGETS},
    "fab-t": {"n_iter": STEPS, "n_target_classes": TARGETS},
    "square": {"n_queries": QUERIES},
}
COUNT = 40


@pytest.fixture(scope="module")
def specimens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Specimen]:
    return {name: sample(name, limit=COUNT, folder=tmp_path_factory.mktemp("parity")) for name in ("mlp", "conv")}


def shortened(members: Sequence[Member]) -> list[Attack]:
    """The members with lower budgets."""
    lower = {"steps": STEPS, "targets": TARGETS, "queries": QUERIES}
    return [
        replace(m, attack=replace(m.attack, **{k: v for k, v in lower.items() if getattr(m.attack, k, None)}))
        for m in members
    ]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_the_ensemble_is_never_weaker_than_the_oracle_by_more_than_one_example(
    name: str, norm: str, specimens: dict[str, Specimen]
) -> None:
    of, threat = specimens[name], Threat(norm, RADII[name][norm][1])
    theirs = oracle.ensemble(
        of.model, of.pixels, of.labels, threat, batch_size=COUNT, attacks=list(oracle.MEMBERS), budgets=THEIRS
    )
    own = ours(of.model, of.pixels, of.labels, shortened(Suite("autoattack", threat).members(10)))
    assert 5 <= int(theirs.broken.sum()) <= 35, "the case must hold both verdicts"
    assert int((~own.broken).sum()) <= int((~theirs.broken).sum()) + 1
    assert int((own.broken != theirs.broken).sum()) <= 2
