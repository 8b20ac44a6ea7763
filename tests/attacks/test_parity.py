"""A sample of the parity table: our ensembles beside pyautoattack's, with budgets lowered alike on both sides.

``python -m benchmarks.parity`` makes the whole table, with the published budgets.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from benchmarks import oracle
from benchmarks.parity import RADII
from benchmarks.parity_models import Specimen, specimen
from benchmarks.side_by_side import ours
from torch import Tensor, nn

from zsrobust.attacks.base import Attack
from zsrobust.attacks.suites import Member, Suite
from zsrobust.attacks.views import Part
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
    return {name: specimen(name, limit=COUNT, folder=tmp_path_factory.mktemp("parity")) for name in ("mlp", "conv")}


def shortened(members: Sequence[Member]) -> list[Attack]:
    """The members with lower budgets."""
    lower = {"steps": STEPS, "targets": TARGETS, "queries": QUERIES}

    def shorter(attack: Part) -> Part:
        return replace(attack, **{key: value for key, value in lower.items() if attack.describe().get(key)})

    return [replace(member, attack=shorter(member.attack)) for member in members]


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


class First(nn.Module):
    """The logits of the first few classes."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, logits: Tensor) -> Tensor:
        return logits[:, : self.count]


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_where_few_classes_crash_the_oracle_ours_runs_and_is_as_strong_as_what_works_there(
    classes: int, specimens: dict[str, Specimen]
) -> None:
    whole, threat = specimens["mlp"], Threat("linf", "28/255")
    model, among = nn.Sequential(whole.model, First(classes)), whole.labels < classes
    pixels, labels = whole.pixels[among], whole.labels[among]
    for attack in ("apgd-t", "fab-t"):
        with pytest.raises(IndexError):
            oracle.ensemble(
                model, pixels, labels, Threat("linf", "1/255"), batch_size=COUNT, attacks=[attack],
                budgets={attack: {"n_iter": 1}},
            )  # fmt: skip
    works = oracle.ensemble(
        model, pixels, labels, threat, batch_size=COUNT, attacks=["apgd-ce", "square"], budgets=THEIRS
    )
    suite = Suite("autoattack", threat).for_classes(classes)
    assert suite.name == "autoattack-few"
    own = ours(model, pixels, labels, shortened(suite.members(classes)))
    assert 0 < int(works.broken.sum()) < len(labels), "the case must hold both verdicts"
    assert int((~own.broken).sum()) <= int((~works.broken).sum())


def test_the_adapter_counts_every_row_and_leaves_no_trace(specimens: dict[str, Specimen]) -> None:
    of, passed = specimens["mlp"], []
    parameter, state, tracer = next(of.model.parameters()), torch.get_rng_state(), sys.gettrace()
    parameter.grad = kept = torch.full_like(parameter, 7.0)
    handle = of.model.register_forward_hook(lambda module, args, output: passed.append(len(args[0])))
    answer = oracle.ensemble(
        of.model, of.pixels, of.labels, Threat("linf", "4/255"), batch_size=16, attacks=["apgd-ce", "fab-t"],
        budgets={"apgd-ce": {"n_iter": 4}, "fab-t": {"n_iter": 2, "n_target_classes": 1}},
    )  # fmt: skip
    handle.remove()
    assert answer.total.forwards == sum(passed)
    ascent, fab = answer.members["apgd-ce"], answer.members["fab-t"]
    assert ascent.backwards == 5 * answer.given["apgd-ce"]
    assert ascent.forwards == 6 * answer.given["apgd-ce"]
    assert fab.backwards == 2 * answer.given["fab-t"]
    assert torch.equal(torch.get_rng_state(), state)
    assert sys.gettrace() is tracer
    assert parameter.grad is kept
    assert torch.equal(kept, torch.full_like(kept, 7.0))
