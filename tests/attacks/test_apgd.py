"""APGD against what is known: closed forms, the published code step by step, and exact counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from tests.fakes import CLASSES, SHAPE, Bumpy, Linear, Toy, images, predicted
from torch import Tensor, nn

from zsrobust.attacks.apgd import APGD, periods, surface_start
from zsrobust.attacks.base import Attack, Outcome
from zsrobust.attacks.checks import enforce, judge
from zsrobust.attacks.lanes import Key, gather, stream
from zsrobust.attacks.probe import Lanes, Probe
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.errors import ConfigError
from zsrobust.losses import cross_entropy, dlr, margin
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat

LOSSES = ["ce", "dlr", "margin", "dlr-t", "margin-t"]
seeds = st.integers(0, 2**16)


def run(attack: APGD, model: nn.Module, pixels: Tensor, labels: Tensor, *, leave: bool = True) -> Outcome:
    return gather(stream(attack, model, pixels, labels, seed=3, examples=range(len(pixels)), leave=leave), pixels)


# Closed forms


@given(seeds, st.sampled_from([0.003, 0.1, 0.6]), st.sampled_from(["ce", "margin", "margin-t"]))
@settings(max_examples=20)
def test_apgd_reaches_the_worst_case_of_a_binary_linear_model_in_the_linf_ball_and_the_box(
    seed: int, eps: float, loss: Any
) -> None:
    model, pixels = Linear.random(2, SHAPE, seed=seed), images(8, seed)
    labels, threat = predicted(model, pixels), Threat("linf", eps)
    downhill = (model.weight[labels] - model.weight[1 - labels]).detach().view(-1, *SHAPE)
    worst = margin(model((pixels - eps * downhill.sign()).clamp(0, 1)), labels).detach()
    found = APGD(threat, 10, loss=loss)(model, pixels, labels)
    broken, sure = predicted(model, found) != labels, worst.abs() > 1e-4
    assert torch.equal(broken[sure], (worst < 0)[sure])
    torch.testing.assert_close(margin(model(found), labels)[~broken], worst[~broken], rtol=1e-4, atol=1e-4)


@given(seeds, st.sampled_from([0.02, 0.3]))
@settings(max_examples=10)
def test_apgd_reaches_the_worst_case_of_a_binary_linear_model_in_the_l2_ball(seed: int, eps: float) -> None:
    model, pixels = Linear.random(2, SHAPE, seed=seed), images(8, seed, inner=True)
    labels = predicted(model, pixels)
    slope = (model.weight[labels] - model.weight[1 - labels]).detach()
    worst = margin(model(pixels), labels).detach() - eps * slope.norm(dim=1)
    found = APGD(Threat("l2", eps), 50)(model, pixels, labels)
    broken, sure = predicted(model, found) != labels, worst.abs() > 1e-2
    assert torch.equal(broken[sure], (worst < 0)[sure])
    torch.testing.assert_close(margin(model(found), labels)[~broken], worst[~broken], rtol=0, atol=1e-2)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_users_target_is_reached_by_every_loss(loss: Any) -> None:
    model, pixels = Linear.random(5, SHAPE), images(20)
    labels = predicted(model, pixels)
    targets = (labels + 1 + torch.arange(20) % 4) % 5
    found = APGD(Threat("linf", 1.0), 60, loss=loss)(model, pixels, labels, targets=targets)
    assert torch.equal(predicted(model, found), targets)
    weak = APGD(Threat("linf", 1e-4), 3, loss=loss)(model, pixels, labels, targets=targets)
    assert not bool((predicted(model, weak) == targets).any())


# Checkpoints


def test_at_100_steps_the_checkpoints_are_those_of_the_paper() -> None:
    period, shorter, least = periods(100)
    checkpoints, at = [], period
    while at <= 100:
        checkpoints.append(at)
        period = max(period - shorter, least)
        at += period
    assert checkpoints == [22, 41, 57, 70, 80, 87, 93, 99]


def halvings(*scripts: Sequence[float]) -> list[list[int]]:
    """After which of 100 steps the step size is halved, where the objective has these values, one script a lane."""
    values, width = torch.tensor(scripts), len(scripts)

    class Script:
        now = 0

        def climb(self, points: Tensor, objective: object, wanted: Tensor) -> tuple[Tensor, Tensor]:
            self.now += 1
            return values[:, self.now - 1], torch.zeros_like(points)

        def look(self, points: Tensor, wanted: Tensor) -> None:
            pass

    lanes = Lanes(images(width), torch.zeros(width, dtype=torch.int64), torch.full((width,), -1))
    lanes.live[:] = True
    state, script, sizes = APGD(Threat()).runs(lanes), Script(), []
    state.enter(torch.arange(width), [(i,) for i in range(width)])
    while not bool(state.round(script).all()):  # type: ignore[arg-type]
        sizes.append(state.sizes.clone())  # type: ignore[attr-defined]
    halved = torch.stack(sizes).diff(dim=0) < 0
    return [(column.nonzero().squeeze(1) + 1).tolist() for column in halved.T]


def test_a_step_size_is_halved_where_the_objective_rises_in_three_quarters_of_the_steps_or_less() -> None:
    def zigzag(falls: int) -> list[float]:
        """A value that rises by 1 in each step, but falls in the last ``falls`` of the first 22."""
        steps = torch.ones(101)
        steps[23 - falls : 23] = -0.5
        return steps.cumsum(0).tolist()

    assert halvings(zigzag(5), zigzag(6)) == [[], [22]]  # 17 and 16 rises of 22


def test_a_step_size_is_halved_where_nothing_was_gained_since_the_last_checkpoint_unless_it_was_halved_there() -> None:
    # Always rising, never as high as at the start; at the first checkpoint, as after a halving, that is no reason.
    never_back = [1000.0, *range(1, 101)]
    assert halvings(never_back, list(range(101))) == [[41, 70, 87, 99], []]


# Against the published code, from the same start


class Mlp(nn.Module):
    """A small network that keeps every batch it was asked about."""

    def __init__(self, seed: int, classes: int = 10) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(60, 48), nn.Tanh(), nn.Linear(48, classes))
        self.layers[1].weight.data *= 2
        self.layers[3].weight.data *= 2
        self.seen: list[Tensor] = []

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen.append(pixels.detach().clone())
        logits: Tensor = self.layers(pixels)
        return logits


@dataclass(frozen=True)
class From(APGD):
    """APGD from points that the test chose."""

    starts: Any = None

    def start(self, pixels: Tensor, keys: Sequence[Key]) -> Tensor:
        return torch.stack([self.starts[key[1]] for key in keys])  # type: ignore[index]


def climbed(model: Mlp, loss: Any, count: int) -> Tensor:
    """(count, B) highest loss so far in the last ``count`` batches that the model was asked about."""
    with torch.no_grad():
        return torch.stack([loss(model.layers(points)) for points in model.seen[-count:]]).cummax(0).values


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.04), ("linf", 0.12), ("l2", 0.2), ("l2", 0.4)])
@pytest.mark.parametrize("name", ["ce", "dlr", "dlr-t"])
@pytest.mark.parametrize("steps", [2, 7, 40])
@pytest.mark.filterwarnings("ignore:there are .* points with zero gradient")  # the oracle's, of images broken at once
def test_from_the_same_start_it_takes_the_published_codes_way(norm: str, eps: float, name: Any, steps: int) -> None:
    model, threat, pixels = Mlp(seed=steps), Threat(norm, eps), images(80, seed=1)
    labels = predicted(model, pixels)
    start = surface_start(threat, pixels, [(i,) for i in range(80)])

    kind = APGDAttack_targeted if name == "dlr-t" else APGDAttack
    options: dict[str, Any] = {} if name == "dlr-t" else {"loss": name}
    oracle = kind(model, n_iter=steps, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, **options)
    oracle.init_hyperparam(pixels)
    oracle.y_target = model.layers(pixels).detach().topk(2, dim=1).indices[:, 1]
    survives = oracle.attack_single_run(pixels, labels, x_init=start)[1].bool()
    loss = {"ce": lambda z: cross_entropy(z, labels), "dlr": lambda z: dlr(z, labels)}.get(
        name, lambda z: oracle.dlr_loss_targeted(z, labels)
    )
    theirs = climbed(model, loss, steps + 1)

    model.seen.clear()
    attack = From(threat, steps, loss=name, targets=9 if name != "dlr-t" else 1, starts=start)
    found = run(attack, model, pixels, labels, leave=False)
    assert len(model.seen) == steps + 1 + (name == "dlr-t")  # the clean logits that name the target
    ours = climbed(model, loss, steps + 1)
    assert 2 < int(survives.sum()) < 78, "the case must hold both verdicts"
    assert torch.equal(predicted(model, found.pixels) == labels, survives)
    apart = (ours - theirs).abs().amax(0)
    # The two round an L2 length differently, and where a run has converged, rounding can decide a checkpoint: as many
    # of the oracle's own runs part when it computes in double precision (2 in 100, and up to 1 in 10 in a case).
    assert float((apart > 1e-4).float().mean()) <= (0.1 if norm == "l2" else 0)
    assert float(apart.median()) < 1e-6


def test_the_start_is_on_the_surface_of_the_ball_and_in_the_box() -> None:
    pixels, keys = images(30, inner=True), [(i, "start") for i in range(30)]
    for threat in (Threat("linf", 0.1), Threat("l2", 0.3)):
        points = surface_start(threat, pixels, keys)
        torch.testing.assert_close(threat.size(points - pixels), torch.full((30,), threat.eps))
        assert torch.equal(surface_start(threat, pixels[7:9], keys[7:9]), points[7:9])
    within = (surface_start(Threat("linf", 0.1), pixels, keys) - pixels).abs() / 0.1
    assert float(within.median()) == pytest.approx(0.5, abs=0.05)  # uniform but for the scale, not at the corners
    edge = images(30)
    for threat in (Threat("linf", 0.5), Threat("l2", 4.0)):
        points = surface_start(threat, edge, keys)
        torch.testing.assert_close(enforce(threat, points, edge)[0], points, rtol=0, atol=1e-6)


# Verdicts do not hang on cost or company


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.004), ("l2", 0.02)])
@pytest.mark.parametrize("loss", LOSSES)
def test_leaving_early_changes_no_verdict_only_the_cost(norm: str, eps: float, loss: Any) -> None:
    model, pixels, threat = Bumpy(SHAPE, 5), images(40), Threat(norm, eps)
    labels = predicted(model, pixels)
    attack = APGD(threat, 8, loss=loss, restarts=2, **({"targets": 3} if loss.endswith("-t") else {}))
    early, late = (run(attack, model, pixels, labels, leave=leave) for leave in (True, False))
    broken = predicted(model, early.pixels) != labels
    assert 0 < int(broken.sum()) < 40
    assert torch.equal(broken, early.claimed)
    assert torch.equal(broken, late.claimed)
    for found in (early, late):
        torch.testing.assert_close(enforce(threat, found.pixels, pixels)[0], found.pixels, rtol=0, atol=1e-6)

    runs, targeted = (6, 1) if loss.endswith("-t") else (2, 0)  # each 8 steps: 9 points, no gradient at the last
    assert set(early.forwards[~broken].tolist()) == {9 * runs + targeted}
    assert set(early.backwards[~broken].tolist()) == {8 * runs}
    assert int(early.forwards.sum()) < int(late.forwards.sum())
    assert int(early.backwards.sum()) < int(late.backwards.sum())


@pytest.mark.parametrize(
    ("loss", "norm", "eps"), [("ce", "linf", 0.02), ("dlr", "l2", 0.5), ("margin-t", "linf", 0.02)]
)
def test_batch_size_order_and_company_change_nothing(loss: Any, norm: str, eps: float) -> None:
    encoder = Toy(size=9, scale=200.0)
    model = ZeroShotClassifier(encoder, TextHead.build(encoder, CLASSES, ["a {}"]), rows=8)
    pixels = images(24, shape=(3, 12, 12))
    labels = judge(model, pixels, torch.zeros(24, dtype=torch.int64)).predictions
    attack = APGD(Threat(norm, eps), 5, loss=loss, restarts=2)
    whole = attack.search(model, pixels, labels, seed=5, examples=range(24))
    assert 0 < int((judge(model, whole.pixels, labels).predictions != labels).sum()) < 24
    late = gather(stream(attack, model, pixels, labels, seed=5, examples=range(24), leave=False), pixels)
    assert torch.equal(late.pixels, whole.pixels)
    shuffled = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    for batch_size in (1, 7, 64):
        for chosen in shuffled.split(batch_size)[:4]:
            part = attack.search(model, pixels[chosen], labels[chosen], seed=5, examples=chosen.tolist())
            assert torch.equal(part.pixels, whole.pixels[chosen])
            assert torch.equal(part.forwards, whole.forwards[chosen])
            assert torch.equal(part.backwards, whole.backwards[chosen])


def test_a_run_that_enters_late_takes_the_same_way_as_alone() -> None:
    """Lane 1 begins four rounds after lane 0; lane 0 is then given another image in the middle of its run."""
    model, pixels, attack = Bumpy(SHAPE, 4), images(3), APGD(Threat("linf", 0.03), 30, loss="margin")
    labels = predicted(model, pixels)
    model.rows = 2  # type: ignore[assignment]

    def ways(schedule: dict[int, tuple[int, int]], rounds: int) -> Tensor:
        """(rounds, 2, …) points and books after each round; ``schedule``: round → (lane, image) to begin."""
        lanes = Lanes(pixels[:2].clone(), labels[:2].clone(), torch.full((2,), -1))
        probe, state, seen = Probe(model, lanes, attack.threat), attack.runs(lanes), []
        for now in range(rounds):
            if now in schedule:
                lane, image = schedule[now]
                index, chosen = torch.tensor([lane]), [image]
                lanes.enter(index, pixels[chosen], labels[chosen], torch.tensor([-1]), torch.tensor([-1]))
                state.enter(index, [(0, image)])
            state.round(probe)
            books = [getattr(state, name) for name in ("taken", "sizes", "period", "waited", "rises", "halved", "top")]
            seen.append(torch.cat([state.points.flatten(1), torch.stack(books, 1)], 1))  # type: ignore[attr-defined]
        return torch.stack(seen)

    together = ways({0: (0, 0), 4: (1, 1), 17: (0, 2)}, 34)
    assert torch.equal(together[:17, 0], ways({0: (0, 0)}, 17)[:, 0])
    assert torch.equal(together[4:34, 1], ways({0: (1, 1)}, 30)[:, 1])
    assert torch.equal(together[17:34, 0], ways({0: (0, 2)}, 17)[:, 0])


def test_more_restarts_or_targets_never_break_fewer() -> None:
    model, pixels, threat = Bumpy(SHAPE, 5, frequency=400.0), images(60), Threat("linf", 0.0005)
    labels = predicted(model, pixels)
    for options in ([{"restarts": n} for n in (1, 2, 6)], [{"targets": n} for n in (1, 2, 4)]):
        attacks = [APGD(threat, 1, loss="margin-t", **{"targets": 1, **one}) for one in options]
        fewest, more, most = (predicted(model, attack(model, pixels, labels, seed=1)) != labels for attack in attacks)
        assert bool((more | ~fewest).all())
        assert bool((most | ~more).all())
        assert int(fewest.sum()) < int(most.sum())


# Borders


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", LOSSES)
def test_at_eps_0_nothing_happens(norm: str, loss: Any) -> None:
    model, pixels = Bumpy(SHAPE, 4), images(6)
    assert torch.equal(APGD(Threat(norm, 0), 3, loss=loss)(model, pixels, predicted(model, pixels)), pixels)


@pytest.mark.parametrize(("classes", "works"), [(2, 3), (3, 4), (4, 5)])
def test_few_classes_are_attacked_or_refused_in_words(classes: int, works: int) -> None:
    model, pixels = Linear.random(classes, SHAPE), images(6)
    labels = predicted(model, pixels)
    for loss in ("ce", "margin", "margin-t", "dlr", "dlr-t")[:works]:
        found = APGD(Threat("linf", 0.5), 10, loss=loss)(model, pixels, labels)  # type: ignore[arg-type]
        assert bool((predicted(model, found) != labels).all())
    for loss in ("dlr", "dlr-t")[works - 3 :]:
        with pytest.raises(ConfigError, match=f"DLR loss needs at least . classes, not {classes}: use apgd:margin"):
            APGD(Threat("linf", 0.5), 10, loss=loss)(model, pixels, labels)  # type: ignore[arg-type]


def test_targets_are_the_nearest_classes_and_at_most_all_others() -> None:
    logits = torch.tensor([[4.0, 1.0, 3.0, 2.0], [1.0, 4.0, 3.0, 2.0]])
    labels, none = torch.tensor([0, 0]), torch.tensor([-1, -1])
    plan = APGD(Threat(), loss="dlr-t", restarts=2).rivals(lambda: logits, labels, none)
    assert plan.tolist() == [[2, 3, 1] * 2, [1, 2, 3] * 2]
    assert APGD(Threat(), loss="dlr-t", targets=1).rivals(lambda: logits, labels, none).tolist() == [[2], [1]]
    assert APGD(Threat(), restarts=3).rivals(lambda: logits, labels, none).tolist() == [[-1] * 3] * 2


@pytest.mark.parametrize("loss", ["ce", "dlr-t"])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_and_the_images_are_left_as_they_were(loss: Any, training: bool) -> None:
    model, pixels = Linear.random(5, SHAPE).train(training), images(6)
    labels, before = predicted(model, pixels), pixels.clone()
    model.bias.requires_grad_(False)
    model.weight.grad = kept = torch.full_like(model.weight, 7.0)
    needed: list[bool] = []
    model.register_forward_pre_hook(
        lambda module, args: needed.append(any(p.requires_grad for p in module.parameters()))
    )
    with torch.no_grad():
        found = APGD(Threat("linf", 1e-3), 3, loss=loss)(model, pixels, labels)
    assert needed
    assert not any(needed), "no weight gradient may be computed"
    assert model.training is training
    assert (model.weight.requires_grad, model.bias.requires_grad) == (True, False)
    assert model.weight.grad is kept
    assert bool((kept == 7).all())
    assert model.bias.grad is None
    assert torch.equal(pixels, before)
    assert not torch.equal(found, pixels)


# Names and options


def test_names_hold_what_is_not_the_default() -> None:
    threat = Threat("linf", "4/255")
    assert [APGD(threat, loss=loss).name for loss in LOSSES] == [f"apgd:{loss}" for loss in LOSSES]  # type: ignore[arg-type]
    assert APGD(threat, 50, restarts=5).name == "apgd:ce:steps=50:restarts=5"
    assert APGD(threat, loss="dlr-t", targets=3).name == "apgd:dlr-t:targets=3"
    assert APGD(threat, loss="dlr-t").describe() == {
        "name": "apgd:dlr-t", "steps": 100, "loss": "dlr-t", "restarts": 1, "targets": 9, "start": "surface",
        "step_size": "2ε, halved at checkpoints", "momentum": 0.75, "rho": 0.75, "precision": "float32",
        "gradient": True,
    }  # fmt: skip
    assert APGD(threat).describe()["targets"] is None
    # A loss has its own starts, whatever the length.
    assert APGD(threat).key == APGD(threat, 5, restarts=3).key != APGD(threat, loss="dlr").key
    assert isinstance(APGD(threat), Attack)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "at least 1 step"),
        ({"restarts": 0}, "restarts ≥ 1"),
        ({"loss": "dlr-t", "targets": 0}, "at least 1 target"),
        ({"loss": "drl"}, "unknown APGD loss 'drl'; did you mean 'dlr'"),
        ({"loss": "ce", "targets": 3}, "apgd:ce takes no targets; apgd:dlr-t and apgd:margin-t do"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        APGD(Threat(), **options)
