"""PGD and FGSM against what is known: closed forms, an exhaustive search, exact counts; and their names and options."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes import SHAPE, Bumpy, Linear, images, predicted
from torch import Tensor, nn

from zsrobust.attacks import parse
from zsrobust.attacks.base import Attack
from zsrobust.attacks.checks import enforce
from zsrobust.attacks.pgd import PGD, fgsm
from zsrobust.errors import ConfigError, UnknownName
from zsrobust.losses import cross_entropy, margin, margin_loss
from zsrobust.randomness import uniform
from zsrobust.threat import Threat

seeds = st.integers(0, 2**16)


def downhill(model: Linear, labels: Tensor) -> Tensor:
    """Gradient of the margin of a binary linear model: (B, 3, H, W)."""
    return (model.weight[labels] - model.weight[1 - labels]).detach().view(-1, *SHAPE)


# Closed forms


@given(seeds, st.sampled_from([0.003, 0.1, 0.6, 1.0]), st.sampled_from([0.1, 1.0, 4.0]))
@settings(max_examples=30)
def test_pgd_reaches_the_worst_case_of_a_binary_linear_model_in_the_linf_ball_and_the_box(
    seed: int, eps: float, scale: float
) -> None:
    model, pixels = Linear.random(2, SHAPE, seed=seed, scale=scale), images(8, seed)
    labels, threat = predicted(model, pixels), Threat("linf", eps)
    worst = (pixels - eps * downhill(model, labels).sign()).clamp(0, 1)
    at_worst = margin(model(worst), labels).detach()
    found = PGD(threat, 20)(model, pixels, labels)
    broken = predicted(model, found) != labels
    sure = at_worst.abs() > 1e-4 * scale
    assert torch.equal(broken[sure], (at_worst < 0)[sure])
    # who is not broken was driven all the way
    torch.testing.assert_close(margin(model(found), labels)[~broken], at_worst[~broken], rtol=1e-4, atol=1e-4 * scale)


@given(seeds, st.sampled_from([0.02, 0.3]))
@settings(max_examples=30)
def test_pgd_reaches_the_worst_case_of_a_binary_linear_model_in_the_l2_ball(seed: int, eps: float) -> None:
    model, pixels = Linear.random(2, SHAPE, seed=seed), images(8, seed, inner=True)
    labels = predicted(model, pixels)
    slope = downhill(model, labels)
    at_worst = margin(model(pixels), labels).detach() - eps * slope.flatten(1).norm(dim=1)
    found = PGD(Threat("l2", eps), 20, step_size=eps)(model, pixels, labels)
    broken = predicted(model, found) != labels
    sure = at_worst.abs() > 1e-3
    assert torch.equal(broken[sure], (at_worst < 0)[sure])
    torch.testing.assert_close(margin(model(found), labels)[~broken], at_worst[~broken], rtol=0, atol=1e-3)


def test_pgd_at_a_confident_margin_still_follows_the_exact_gradient() -> None:
    # From a margin of 17 on a float32 softmax says 1, and a naive cross-entropy has no gradient through the label.
    pixels, labels = images(6, inner=True), torch.zeros(6, dtype=torch.int64)
    weight = torch.randn(2, 60, generator=torch.Generator().manual_seed(0))
    model = Linear(weight, torch.tensor([60.0, 0.0]))
    worst = pixels - 0.1 * downhill(model, labels).sign()
    found = PGD(Threat("linf", 0.1), 20)(model, pixels, labels)
    torch.testing.assert_close(margin(model(found), labels), margin(model(worst), labels))


def test_at_eps_1_an_image_of_another_class_is_found_wherever_the_box_holds_one() -> None:
    for seed in range(10):
        model, pixels = Linear.random(2, SHAPE, seed=seed, scale=0.3), images(4, seed)
        labels = predicted(model, pixels)
        corner = (downhill(model, labels) < 0).float()
        exists = predicted(model, corner) != labels
        found = PGD(Threat("linf", 1.0), 20)(model, pixels, labels)
        assert torch.equal(predicted(model, found) != labels, exists)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_at_eps_0_nothing_happens(norm: str) -> None:
    model, pixels = Bumpy(SHAPE, 4), images(10)
    labels = predicted(model, pixels)
    for attack in (PGD(Threat(norm, 0), 5, restarts=2), fgsm(Threat(norm, 0))):
        assert torch.equal(attack(model, pixels, labels), pixels)


def test_a_targeted_attack_reaches_its_target_on_a_linear_model() -> None:
    model, pixels = Linear.random(5, SHAPE), images(40)
    labels = predicted(model, pixels)
    targets = (labels + 1 + torch.arange(40) % 4) % 5
    found = PGD(Threat("linf", 1.0), 40)(model, pixels, labels, targets=targets)
    assert torch.equal(predicted(model, found), targets)
    weak = PGD(Threat("linf", 1e-4), 5)(model, pixels, labels, targets=targets)
    assert not bool((predicted(model, weak) == targets).any())


# FGSM


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_is_one_step_of_size_eps_from_the_image(norm: str) -> None:
    model, pixels = Linear.random(3, SHAPE, scale=0.01), images(10, inner=True)
    labels, threat = predicted(model, pixels), Threat(norm, "4/255")
    slope = pixels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(slope), labels, reduction="sum"), slope)
    expected = pixels + threat.eps * threat.steepest(gradient)
    torch.testing.assert_close(fgsm(threat)(model, pixels, labels), expected, atol=1e-6, rtol=0)
    assert fgsm(threat) == PGD(threat, 1, step_size=threat.eps, random_start=False)


# Against an exhaustive search


def exhaustive(
    attack: PGD, model: nn.Module, pixels: Tensor, labels: Tensor, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Plain PGD, every step of every restart for everybody: first success (−1: none), closest to it, and that point."""
    first = torch.full((len(pixels),), -1)
    best, points = torch.full((len(pixels),), -torch.inf), pixels.clone()
    tick = itertools.count()
    for restart in range(attack.restarts):
        draws = uniform([(seed, i, "pgd", restart) for i in range(len(pixels))], SHAPE, device=pixels.device)
        x = attack.threat.random_start(pixels, draws)
        for step in range(attack.steps + 1):
            x = x.detach().requires_grad_()
            logits = model(x)
            values = cross_entropy(logits, labels)
            now, success = next(tick), logits.argmax(1) != labels
            closeness = -margin(logits, labels)
            take = (first < 0) & (success | (closeness > best))
            best, points = (
                torch.where(take, closeness, best).detach(),
                torch.where(take.view(-1, 1, 1, 1), x, points).detach(),
            )
            first = torch.where((first < 0) & success, now, first)
            if step < attack.steps:
                (gradient,) = torch.autograd.grad(values.sum(), x)
                x = attack.threat.project(x + attack.alpha * attack.threat.steepest(gradient), pixels)
    return first, best, points


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.005), ("l2", 0.03)])
@pytest.mark.parametrize("restarts", [1, 3])
def test_leaving_early_changes_no_verdict_and_every_pass_is_counted(norm: str, eps: float, restarts: int) -> None:
    pixels = images(60)
    net = Bumpy(SHAPE, 4)
    labels = predicted(net, pixels)
    attack = PGD(Threat(norm, eps), 4, step_size=eps / 8, restarts=restarts)  # too short to cross: starts matter
    first, best, points = exhaustive(attack, net, pixels, labels, seed=3)
    assert 5 < int((first < 0).sum()) < 55, "the case must hold both verdicts"
    assert int(first.max()) > attack.steps or restarts == 1, "a later restart must matter"

    seen = []
    handle = net.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    outcome = attack.search(net, pixels, labels, seed=3, examples=range(60))
    handle.remove()
    assert torch.equal(predicted(net, outcome.pixels) != labels, first >= 0)
    torch.testing.assert_close(outcome.pixels, points, atol=1e-6, rtol=0)
    torch.testing.assert_close(-margin(net(outcome.pixels), labels), best, atol=1e-4, rtol=1e-4)
    assert torch.equal(outcome.claimed, first >= 0)

    per_run = attack.steps + 1
    evaluations = torch.where(first < 0, restarts * per_run, first + 1)
    runs, last = first // per_run, first % per_run
    backwards = torch.where(
        first < 0, restarts * attack.steps, runs * attack.steps + (last + 1).clamp_max(attack.steps)
    )
    assert torch.equal(outcome.forwards, evaluations)
    assert torch.equal(outcome.backwards, backwards)
    assert sum(seen) == int(evaluations.sum())


def test_more_restarts_from_the_same_starts_never_break_fewer() -> None:
    net, pixels = Bumpy(SHAPE, 4), images(60)
    labels = predicted(net, pixels)
    attacks = [PGD(Threat("linf", 0.005), 2, step_size=1e-3, restarts=n) for n in (1, 2, 6)]
    broken = [predicted(net, attack(net, pixels, labels, seed=1)) != labels for attack in attacks]
    for fewer, more in itertools.pairwise(broken):
        assert bool((more | ~fewer).all())
    assert int(broken[0].sum()) < int(broken[2].sum())


class Basin(nn.Module):
    """Of two classes; the first is nowhere lost, and least sure at a point in the middle of a ball around 0.5."""

    def forward(self, pixels: Tensor) -> Tensor:
        depth = (10 * (pixels - 0.51)).square().flatten(1).mean(1)
        return torch.stack([1 + depth, torch.zeros_like(depth)], 1)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.3)])
def test_the_reported_point_is_the_best_on_the_way_not_the_last_one(norm: str, eps: float) -> None:
    # A step far too large jumps to and fro across the deepest point.
    model, pixels, labels = Basin(), torch.full((40, *SHAPE), 0.5), torch.zeros(40, dtype=torch.int64)
    visited: list[Tensor] = []
    handle = model.register_forward_pre_hook(lambda module, args: visited.append(args[0].detach().clone()))
    found = PGD(Threat(norm, eps), 4, step_size=2 * eps)(model, pixels, labels)
    handle.remove()
    assert [len(points) for points in visited] == [40] * 5, "nobody leaves: every pass is one iterate of all"
    margins = torch.stack([margin(model(points), labels) for points in visited])
    torch.testing.assert_close(margin(model(found), labels), margins.amin(0))
    assert int((margins[-1] > 1.01 * margins.amin(0)).sum()) > 10, "the last point must often be a worse one"


# The use in adaptation


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.5)])
def test_perturb_makes_exactly_k_steps_for_everybody_and_returns_the_last_iterate(norm: str, eps: float) -> None:
    net, pixels, threat = Bumpy(SHAPE, 4), images(12), Threat(norm, eps)
    labels = predicted(net, pixels)
    labels[::2] = (labels[::2] + 1) % 4  # half of them are misclassified from the start
    keys = [(0, i, "adapt", 7) for i in range(12)]
    calls: list[Tensor] = []

    def objective(points: Tensor) -> Tensor:
        calls.append(points.detach().clone())
        return cross_entropy(net(points), labels)

    attack = PGD(threat, 3, step_size=eps / 2)
    found = attack.perturb(objective, pixels, keys=keys)
    assert [len(points) for points in calls] == [12, 12, 12]

    x = threat.random_start(pixels, uniform(keys, SHAPE, device=pixels.device))
    for point in calls:
        torch.testing.assert_close(point, x, atol=1e-6, rtol=0)
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(net(x), labels).sum(), x)
        x = threat.project(x + eps / 2 * threat.steepest(gradient), pixels).detach()
    torch.testing.assert_close(found, x, atol=1e-6, rtol=0)
    assert enforce(threat, found, pixels)[1].max() <= eps * 1.0001
    assert not found.requires_grad


def test_a_trajectory_of_perturb_does_not_depend_on_the_batch() -> None:
    model, pixels = Linear.random(4, SHAPE, scale=3.0), images(9)
    labels = predicted(model, pixels)
    attack = PGD(Threat("l2", 0.5), 4)  # in L2 the size of a gradient would show, were it not for its own length

    def run(chosen: list[int]) -> Tensor:
        keys = [(0, i) for i in chosen]
        return attack.perturb(lambda p: cross_entropy(model(p), labels[chosen]), pixels[chosen], keys=keys)

    whole = run(list(range(9)))
    for chosen in ([0], [4, 2], [8, 7, 6, 5, 4, 3, 2, 1, 0]):
        torch.testing.assert_close(run(chosen), whole[chosen], atol=1e-6, rtol=0)


def test_the_gradient_is_of_the_sum_not_of_the_mean() -> None:
    seen: list[Tensor] = []

    class Watching(Threat):
        def steepest(self, gradient: Tensor) -> Tensor:
            seen.append(gradient)
            return super().steepest(gradient)

    model, pixels = Linear.random(4, SHAPE), images(6)
    labels, attack = predicted(model, pixels), PGD(Watching("linf", 0.1), 1, random_start=False)
    attack.perturb(lambda p: cross_entropy(model(p), labels), pixels, keys=[()] * 6)
    attack.perturb(lambda p: cross_entropy(model(p), labels[:1]), pixels[:1], keys=[()])
    torch.testing.assert_close(seen[0][:1], seen[1])


# Names and options


def test_attacks_are_parsed_and_described() -> None:
    threat = Threat("linf", "4/255")
    assert parse("pgd:20", threat) == PGD(threat, 20)
    assert parse(" pgd ", threat).name == "pgd:10"
    assert parse("fgsm", threat) == fgsm(threat)
    assert fgsm(threat).name == "fgsm"
    assert PGD(threat, 1).name == "pgd:1"
    both = parse("pgd:7", threat, step_size=0.5, restarts=3)
    assert both.describe() == {
        "name": "pgd:7:step_size=127.5/255:restarts=3", "steps": 7, "step_size": 0.5, "restarts": 3,
        "random_start": True, "loss": "cross_entropy", "precision": "float32", "gradient": True,
    }  # fmt: skip
    assert isinstance(both, Attack)


def test_two_attacks_that_differ_have_two_names() -> None:
    def mine(logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels)

    threat = Threat("linf", "4/255")
    assert PGD(threat, 20, random_start=False).name == "pgd:20:random_start=False"
    assert PGD(threat, 20, loss=mine).name == "pgd:20:loss=mine"
    assert PGD(threat, 20, loss=partial(mine), restarts=2).name == "pgd:20:restarts=2:loss=partial"
    assert PGD(threat, 20, loss=margin_loss, random_start=False).name == "cw:20:random_start=False"
    assert PGD(threat, 1, random_start=False).name == fgsm(threat).name == "fgsm"
    assert fgsm(threat, loss=margin_loss).name == "fgsm:loss=margin_loss"
    assert fgsm(threat, loss=mine).name == "fgsm:loss=mine"
    assert {PGD(threat).name, PGD(threat, loss=margin_loss).name} == {"pgd:10", "cw:10"}


@pytest.mark.parametrize(("steps", "alpha"), [(1, 1.0), (2, 1.0), (5, 0.5), (20, 0.125)])
def test_the_default_step_size_lets_k_steps_cross_the_ball(steps: int, alpha: float) -> None:
    assert PGD(Threat("linf", "4/255"), steps).alpha == pytest.approx(alpha * 4 / 255)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("pgd:x", {}, "number of steps, as in pgd:20"),
        ("pgd:-3", {}, "number of steps"),
        ("pgd:²", {}, "number of steps"),
        ("pgd:0", {}, "at least 1 step"),
        ("pgd:5", {"restarts": 0}, "restarts ≥ 1"),
        ("pgd:5", {"step_size": 0.0}, "above 0"),
        ("pgd:5", {"step_size": float("nan")}, "above 0"),
        ("fgsm:3", {}, "takes no argument"),
        ("fgsm", {"restarts": 2}, "takes no argument"),
    ],
)
def test_options_that_an_attack_does_not_take_are_refused(text: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text, Threat(), **options)  # type: ignore[arg-type]


def test_an_unknown_attack_gets_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="attack 'pdg'; did you mean 'pgd'"):
        parse("pdg:20", Threat())


def test_restarts_need_random_starts() -> None:
    with pytest.raises(ConfigError, match="repeat the same run"):
        PGD(Threat(), 5, restarts=2, random_start=False)
