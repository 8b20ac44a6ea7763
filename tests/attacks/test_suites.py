"""Suites: which attacks are in them for how many classes, and what the paper's own code runs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.fakes import SHAPE, Linear, images, predicted
from torch import Tensor, nn

from zsrobust.attacks.apgd import APGD
from zsrobust.attacks.base import Attack, Streaming
from zsrobust.attacks.binding import expand
from zsrobust.attacks.checks import enforce, judge
from zsrobust.attacks.fab import FAB
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.published import Released, clipped_margin_loss
from zsrobust.attacks.square import Square
from zsrobust.attacks.suites import SUITES, Member, Suite
from zsrobust.errors import ConfigError, UnknownName
from zsrobust.losses import cross_entropy, margin
from zsrobust.randomness import uniform
from zsrobust.records import suite_of
from zsrobust.threat import Threat

LINF = Threat("linf", "4/255")


def titles(name: str, classes: int, mode: Any = "float32") -> list[str]:
    suite = Suite(name, LINF, mode).for_classes(classes)
    names = [member.name for member in suite.members(classes)]
    assert all(one.startswith(f"{suite.name}/") for one in names)
    return [one.removeprefix(f"{suite.name}/") for one in names]


def no_source(_: object) -> Any:
    raise AssertionError("no transfer attack, no source")


@pytest.mark.parametrize("name", ["autoattack", "autoattack-few"])
def test_members_of_the_standard_and_of_what_stands_in_for_it(name: str) -> None:
    assert titles(name, 2) == ["apgd:ce", "apgd:margin", "fab:t", "square"]
    assert titles(name, 3) == ["apgd:ce", "apgd:dlr", "apgd:margin-t", "fab:t", "square"]
    for classes in (4, 9, 10, 1000):
        assert titles(name, classes) == ["apgd:ce", "apgd:dlr-t", "fab:t", "square"]
    assert titles(name, 10, "fast") == titles(name, 10, "float32")
    assert titles(name, 10, "exact") == ["scout", *titles(name, 10, "float32")]


def test_the_budgets_are_the_published_ones() -> None:
    attacks = [member.attack for member in Suite("autoattack", LINF, "float32").members(10)]
    assert attacks == [
        APGD(LINF, 100, loss="ce", restarts=1),
        APGD(LINF, 100, loss="dlr-t", restarts=1, targets=9),
        FAB(LINF, 100, restarts=1, targets=9),
        Square(LINF, 5000, restarts=1, horizon=10_000),
    ]


def test_the_standard_is_never_weakened_under_its_own_name() -> None:
    for classes in range(2, 10):
        assert Suite("autoattack", LINF, "fast").for_classes(classes) == Suite("autoattack-few", LINF, "fast")
        with pytest.raises(ConfigError, match=f"'autoattack' needs 10 classes, not {classes}; autoattack-few is for"):
            Suite("autoattack", LINF).members(classes)
        assert all(
            one.name.startswith("autoattack-few/") for one in expand(Suite("autoattack", LINF), classes, no_source)
        )
    assert Suite("autoattack", LINF).for_classes(10) == Suite("autoattack", LINF)


@pytest.mark.parametrize("name", ["autoattack", "autoattack-few", "rand", "paper", "paper:aa"])
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("mode", ["exact", "fast", "float32"])
def test_what_is_written_about_members(name: str, classes: int, mode: Any) -> None:
    members = expand(Suite(name, LINF, mode), classes, no_source)
    assert len({member.name for member in members}) == len(members)
    for member in members:
        described = member.describe()
        json.dumps(described)
        assert (described["name"], described["suite"]) == (member.name, member.name.partition("/")[0])
        scout = member.name.endswith("/scout")
        assert described["precision"] == ("bfloat16" if mode == "fast" or scout else "float32")
        assert not scout or mode == "exact"
        assert isinstance(member, Attack)
        assert isinstance(member, Streaming)
        assert member.threat == LINF


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_every_member_runs_for_any_number_of_classes(norm: str, classes: int) -> None:
    # The public implementations crash below 10 classes. The ball is so large that each attack succeeds within it.
    model, pixels = Linear.random(classes, SHAPE, scale=0.3), images(4, inner=True)
    labels, threat = predicted(model, pixels), Threat(norm, 0.4 if norm == "linf" else 3.0)
    for attack in expand(Suite("autoattack", threat), classes, no_source):
        outcome = attack.search(model, pixels, labels, seed=0, examples=range(4))
        allowed, _ = enforce(threat, outcome.pixels, pixels)
        assert bool((judge(model, allowed, labels).predictions != labels).all()), attack.name


@pytest.mark.parametrize("name", ["autoattack-few", "rand", "paper:aa"])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_every_member_can_aim_at_a_target_for_any_number_of_classes(name: str, classes: int) -> None:
    model, pixels = Linear.random(classes, SHAPE, scale=0.3), images(4, inner=True)
    labels = predicted(model, pixels)
    targets, threat = (labels + 1) % classes, Threat("linf", 0.4)
    for member in Suite(name, threat).members(classes):
        short = isinstance(member.attack, APGD)
        attack = replace(member, attack=replace(member.attack, steps=10)) if short else member
        outcome = attack.search(model, pixels, labels, seed=0, examples=range(4), targets=targets)
        allowed, _ = enforce(threat, outcome.pixels, pixels)
        assert torch.equal(judge(model, allowed, labels).predictions, targets), attack.name


def test_members_stream_and_take_targets_as_the_attack_itself() -> None:
    model, pixels = Linear.random(4, SHAPE), images(6)
    labels = predicted(model, pixels)
    attack = PGD(LINF, 3)
    member = Member(attack, "mine")
    targets = (labels + 1) % 4
    for aims in (None, targets):
        found, alone = (
            one.search(model, pixels, labels, seed=1, examples=range(6), targets=aims) for one in (member, attack)
        )
        assert torch.equal(found.pixels, alone.pixels)
    positions = torch.cat([index for index, _ in member.stream(model, pixels, labels, seed=1, examples=range(6))])
    assert sorted(positions.tolist()) == list(range(6))


class Noisy(nn.Module):
    """A linear model with noise on its logits; counts how often it is drawn."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.linear = Linear.random(classes, SHAPE)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.linear(pixels)
        return logits + 0.1 * torch.randn_like(logits)


@pytest.mark.parametrize(("own", "draws"), [(None, 20), (25, 25)])
def test_rand_draws_the_model_at_least_20_times_at_every_step(own: int | None, draws: int) -> None:
    model = Noisy(3)
    if own is not None:
        model.samples = own  # type: ignore[assignment]
    pixels = images(2)
    labels = predicted(model.linear, pixels)
    members = Suite("rand", Threat("linf", 1e-4)).members(3)
    assert [member.name for member in members] == ["rand/apgd:ce", "rand/apgd:dlr"]
    assert [member.name for member in Suite("rand", LINF).members(2)] == ["rand/apgd:ce", "rand/apgd:margin"]
    assert members[0].describe()["samples"] == 20
    torch.manual_seed(0)
    outcome = members[0].search(model, pixels[:1], labels[:1], seed=0, examples=[0])
    assert outcome.forwards.tolist() == [draws * 101]
    assert getattr(model, "samples", None) == own


def test_a_suite_that_is_none() -> None:
    with pytest.raises(UnknownName, match="unknown suite 'autoatack'; did you mean 'autoattack'"):
        Suite("autoatack", LINF)


# The paper's code


def plain(model: nn.Module, pixels: Tensor, labels: Tensor, eps: float, steps: int, cw: bool) -> list[Tensor]:
    """Its PGD, written out: all iterates; x is moved as δ is there."""
    draws = uniform([(0, i, "pgd", 0) for i in range(len(pixels))], SHAPE, device=pixels.device)
    x = (pixels + eps * (2 * draws - 1)).clamp(pixels - eps, pixels + eps).clamp(0, 1)
    iterates = [x]
    for _ in range(steps):
        x = x.detach().requires_grad_()
        logits = model(x)
        own = logits.gather(1, labels[:, None])[:, 0]
        other = logits.scatter(1, labels[:, None], -1e4).amax(1)
        value = -(own - other + 50).relu() if cw else cross_entropy(logits, labels)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        x = (x.detach() + gradient.sign() / 255).clamp(pixels - eps, pixels + eps).clamp(0, 1)
        iterates.append(x)
    return iterates


class Notch(nn.Module):
    """Of two classes; the second rules a band of mean brightness so narrow that a step of 1/255 jumps across it."""

    def forward(self, pixels: Tensor) -> Tensor:
        brighter = 255 * (pixels - 0.5).flatten(1).mean(1)
        margin_of_first = (brighter - 0.5).abs() - 0.3
        return torch.stack([margin_of_first, torch.zeros_like(margin_of_first)], 1)


@pytest.mark.parametrize("cw", [False, True])
def test_the_papers_pgd_judges_the_last_iterate_alone(cw: bool) -> None:
    model, pixels, eps = Notch(), torch.full((60, *SHAPE), 0.5), 4 / 255
    labels = torch.zeros(60, dtype=torch.int64)
    attack = Released(LINF, 6, **({"loss": clipped_margin_loss} if cw else {}))
    iterates = plain(model, pixels, labels, eps, 6, cw)
    on_the_way = torch.stack([predicted(model, x) != labels for x in iterates]).any(0)
    at_the_end = predicted(model, iterates[-1]) != labels
    assert 0 < int(at_the_end.sum()) < int(on_the_way.sum()) < 60, "a success on the way must get lost"
    found = attack.search(model, pixels, labels, seed=0, examples=range(60))
    torch.testing.assert_close(found.pixels, iterates[-1], rtol=0, atol=1e-6)
    assert found.claimed is not None
    assert torch.equal(found.claimed, at_the_end)
    assert set(found.forwards.tolist()) == {7}
    assert set(found.backwards.tolist()) == {6}


def test_the_papers_cw_loss() -> None:
    logits = torch.tensor([[3.0, 1.0, -2.0], [0.0, 49.0, 1.0], [0.0, 60.0, 1.0], [-5.0, -9.0, -8.0]])
    labels = torch.tensor([0, 0, 0, 0])
    assert clipped_margin_loss(logits, labels).tolist() == [-52.0, -1.0, 0.0, -53.0]
    assert torch.equal(margin(logits, labels) + 50, torch.tensor([52.0, 1.0, -10.0, 53.0]))


def test_the_papers_suite() -> None:
    assert titles("paper", 10, "exact") == ["pgd:100", "apgd:ce", "apgd:dlr"]
    assert titles("paper", 2) == ["pgd:100", "apgd:ce"]
    assert titles("paper:aa", 3) == ["apgd:ce", "apgd:dlr"]
    described = Released(LINF).describe()
    assert (described["steps"], described["step_size"], described["judged"]) == (100, 1 / 255, "last iterate")


@pytest.mark.parametrize("name", sorted(SUITES))
def test_a_record_tells_of_which_suite_a_member_is(name: str) -> None:
    suite = Suite(name, LINF).for_classes(12)
    assert {suite_of(member.name) for member in suite.members(12)} == {name}


@pytest.mark.parametrize("make", [Released, lambda threat: Suite("paper", threat), lambda t: Suite("paper:aa", t)])
def test_the_papers_code_has_linf_only(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"paper.* is the paper's code, which has only linf: not l2:1.0:native"):
        make(Threat("l2", 1.0))


def test_the_papers_pgd_has_no_targets() -> None:
    model, pixels = Linear.random(3, SHAPE), images(2)
    with pytest.raises(ConfigError, match="'paper:pgd:100' cannot aim at a target"):
        Released(LINF)(model, pixels, torch.tensor([0, 0]), targets=torch.tensor([1, 1]))
