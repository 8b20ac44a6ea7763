"""Square against its published rules, a plain loop, closed forms, and the published code."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from pyautoattack.square import SquareAttack
from tests import fakes
from tests.fakes import CLASSES, Bumpy, Linear, Toy, predicted
from torch import Tensor, nn

from zsrobust.attacks.checks import enforce, judge
from zsrobust.attacks.lanes import gather, stream
from zsrobust.attacks.probe import Lanes, Probe
from zsrobust.attacks.square import Square, bump, shares
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.errors import ConfigError
from zsrobust.losses import margin
from zsrobust.randomness import uniform
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat

SHAPE = (3, 7, 8)
NORMS = [("linf", 0.02), ("l2", 0.12)]


images = partial(fakes.images, shape=SHAPE)


def oracle(norm: str, eps: float, model: nn.Module, queries: int, seed: int = 0) -> SquareAttack:
    return SquareAttack(model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, n_queries=queries, seed=seed)


# The published rules


def test_the_share_of_the_image_falls_as_published() -> None:
    full = shares(10_000)
    for query, halvings in [(0, 0), (10, 0), (11, 1), (50, 1), (51, 2), (200, 2), (500, 3), (8000, 8), (9999, 9)]:
        assert full[query] == 0.8 / 2**halvings
    half = shares(5000)
    assert half == full[::2], "5000 queries pass through the schedule twice as fast"
    for queries in (5000, 500):
        published = oracle("linf", 0.1, nn.Identity(), queries)
        assert shares(queries) == [published.p_selection(query) for query in range(queries)]
    unstretched = oracle("linf", 0.1, nn.Identity(), 5000)
    unstretched.rescale_schedule = False
    assert shares(5000, horizon=10_000) == [unstretched.p_selection(query) for query in range(5000)]
    assert shares(5000, horizon=10_000) == full[:5000]


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 9, 26])
def test_the_bump_is_the_published_one(side: int) -> None:
    published = oracle("l2", 0.1, nn.Identity(), 10)
    published.device = torch.device("cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = published.eta(side)  # by chance on its side
    assert any(torch.allclose(own, theirs, atol=1e-6) for own in (bump(side), bump(side).T))
    assert float(bump(side).norm()) == pytest.approx(1, abs=1e-6)


class Constant(nn.Module):
    """Never broken, nothing is ever an improvement; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen.append(pixels.clone())
        return torch.tensor([[1.0, 0.0, 0.5]]).expand(len(pixels), 3)


def test_linf_queries_are_stripes_with_one_square_of_the_due_side_and_every_pixel_is_at_eps_or_at_the_box() -> None:
    model, pixels, eps = Constant(), images(1), 0.1
    attack = Square(Threat("linf", eps), 200)
    outcome = attack.search(model, pixels, torch.tensor([0]), seed=0, examples=[4])
    assert int(outcome.forwards) == len(model.seen) == 201, "the start and each query"
    start, proposals = model.seen[0], torch.cat(model.seen[1:])
    for asked in (start, proposals):
        at_eps = (asked == (pixels + eps).clamp(0, 1)) | (asked == (pixels - eps).clamp(0, 1))
        assert bool(at_eps.all())
    up, free = start > pixels, (pixels > 0) & (pixels < 1)
    assert bool(((up | ~free).all(2) | (~up | ~free).all(2)).all()), "the start is made of vertical stripes"
    reached = torch.zeros(SHAPE[1:], dtype=torch.bool)
    for share, proposal in zip(shares(200), proposals, strict=True):
        changed = (proposal != start[0]).any(0)
        reached |= changed
        side = min(max(round(math.sqrt(share * 56)), 1), 7)
        for line in (changed.any(1), changed.any(0)):
            where = line.nonzero().squeeze(1).tolist()
            assert not where or where[-1] - where[0] < side
    assert bool(reached.all()), "the last row and column too"


def test_l2_starts_at_a_grid_of_bumps_of_equal_length() -> None:
    model, pixels, eps = Constant(), images(2, shape=(3, 22, 21), inner=True), 0.3
    Square(Threat("l2", eps), 1).search(model, pixels, torch.tensor([0, 0]), seed=0, examples=range(2))
    delta = (model.seen[0] - pixels) / eps
    assert delta.flatten(1).norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
    outside = delta.clone()
    for row, column in itertools.product(range(5), range(5)):
        tile = delta[:, :, 1 + 4 * row : 5 + 4 * row, 4 * column : 4 * column + 4]
        for one in tile.flatten(0, 1) * 75**0.5:
            assert any(torch.allclose(one, form, atol=1e-4) for b in (bump(4), bump(4).T) for form in (b, -b))
        outside[:, :, 1 + 4 * row : 5 + 4 * row, 4 * column : 4 * column + 4] = 0
    assert int(outside.count_nonzero()) == 0
    assert not torch.equal(delta[0], delta[1]), "each example has a start of its own"


# A plain loop over examples, channels and queries


def plain_l2_proposal(point: Tensor, image: Tensor, draws: Tensor, side: int, eps: float) -> Tensor:
    """Algorithm 3 with slices: (3, H, W)."""
    delta = (point - image).clone()
    total = float(delta.norm())
    corners = [int(u * (size - side + 1)) for u, size in zip(draws[:4].tolist(), 2 * delta.shape[1:], strict=True)]
    taker, giver = ((slice(r, r + side), slice(c, c + side)) for r, c in (corners[:2], corners[2:]))
    union = torch.zeros(delta.shape[1:])
    union[taker] = union[giver] = 1
    pattern = bump(side) if draws[4] < 0.5 else bump(side).T
    windows = []
    for channel in range(3):
        old = delta[channel][taker].clone()
        new = pattern * (-1 if draws[5 + channel] < 0.5 else 1) + old / max(float(old.norm()), 1e-12)
        mass = max(eps**2 - total**2, 0) / 3 + float((delta[channel] * union).square().sum())
        windows.append(new / max(float(new.norm()), 1e-12) * math.sqrt(mass))
    for channel in range(3):
        delta[channel][giver] = 0
        delta[channel][taker] = windows[channel]
    return (image + delta * eps / delta.norm()).clamp(0, 1)


def plain_linf_proposal(point: Tensor, image: Tensor, draws: Tensor, side: int, eps: float) -> Tensor:
    """Algorithm 2 with slices: (3, H, W)."""
    proposal = point.clone()
    row, column = (int(u * (size - side + 1)) for u, size in zip(draws[:2].tolist(), point.shape[1:], strict=True))
    for channel in range(3):
        proposal[channel, row : row + side, column : column + side] += -2 * eps if draws[2 + channel] < 0.5 else 2 * eps
    return torch.maximum(torch.minimum(proposal, image + eps), image - eps).clamp(0, 1)


def plain(
    attack: Square, model: nn.Module, image: Tensor, label: int, start: Tensor, key: tuple[object, ...]
) -> tuple[int, Tensor]:
    """One run, from its start: passes made up to the first success or to the end, and the point reached."""
    norm, eps, point, best = attack.threat.norm, attack.threat.eps, start, math.inf
    propose, numbers = (plain_linf_proposal, 5) if norm == "linf" else (plain_l2_proposal, 8)
    draws = uniform([key], (attack.queries, numbers), device=image.device)[0]
    height, width = image.shape[1:]
    candidate = start
    for query, share in enumerate([*shares(attack.queries), 0.0]):
        with torch.no_grad():
            value = float(margin(model(candidate[None]), torch.tensor([label])))
        if value < best:
            best, point = value, candidate
        if value < 0 or query == attack.queries:
            return query + 1, point
        side = max(round(math.sqrt(share * height * width)), 1 if norm == "linf" else 3)
        side = min(side + (norm == "l2" and side % 2 == 0), height, width)
        candidate = propose(point, image, draws[query], side, eps)
    raise AssertionError


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.008), ("l2", 0.09)])
def test_lanes_at_different_queries_do_what_a_plain_loop_does(norm: str, eps: float) -> None:
    model, pixels = Bumpy(SHAPE, 4), images(24)
    model.rows = 8  # lanes are refilled, so that runs in them are at different queries, and their windows of two sizes
    labels, attack = predicted(model, pixels), Square(Threat(norm, eps), 40)
    outcome = attack.search(model, pixels, labels, seed=3, examples=range(24))
    lanes = Lanes(pixels.clone(), labels, torch.full_like(labels, -1))
    runs = attack.runs(lanes)
    runs.enter(torch.arange(24), [(3, i, "square", 0) for i in range(24)])
    passes = []
    for i in range(24):
        key = (3, i, "square", 0, "queries")
        made, point = plain(attack, model, pixels[i], int(labels[i]), runs.points[i], key)
        passes.append(made)
        torch.testing.assert_close(outcome.pixels[i], point, atol=2e-5, rtol=0)
    assert outcome.forwards.tolist() == passes
    assert 2 < sum(made > 40 for made in passes) < 22, "the case must hold both verdicts"
    assert len(set(passes)) > 5
    assert int(outcome.backwards.sum()) == 0


@pytest.mark.parametrize(("norm", "eps"), NORMS)
def test_the_margin_never_rises_and_points_are_in_ball_and_box(norm: str, eps: float) -> None:
    model, pixels = Bumpy(SHAPE, 3), images(8)
    labels, threat = predicted(model, pixels), Threat(norm, eps)
    lanes = Lanes(pixels.clone(), labels, torch.full_like(labels, -1))
    runs, probe, asked = Square(threat, 40).runs(lanes), Probe(model, lanes, threat), []
    model.register_forward_pre_hook(lambda module, args: asked.append(args[0].clone()))
    lanes.live[:] = True
    runs.enter(torch.arange(8), [(0, i) for i in range(8)])
    gaps = runs.gaps.clone()
    for _ in range(41):
        runs.round(probe)
        assert bool((runs.gaps <= gaps).all())
        gaps = runs.gaps.clone()
        torch.testing.assert_close(threat.project(asked[-1], pixels), asked[-1], atol=1e-6, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(margin(model(runs.points), labels), gaps, atol=1e-4, rtol=1e-4)


# Closed forms


@pytest.mark.parametrize("eps", [0.01, 0.1, 1.0])
def test_linf_reaches_the_worst_case_of_a_binary_linear_model_in_ball_and_box(eps: float) -> None:
    shape = (3, 2, 3)
    model, pixels = Linear.random(2, shape, scale=0.3), images(12, shape=shape)
    labels = predicted(model, pixels)
    slope = (model.weight[labels] - model.weight[1 - labels]).detach().view(-1, *shape)
    at_worst = margin(model((pixels - eps * slope.sign()).clamp(0, 1)), labels).detach()
    # In the end windows are one pixel of 6, with 8 combinations of signs: 480 queries try them all.
    found = Square(Threat("linf", eps), 500)(model, pixels, labels)
    survives = predicted(model, found) == labels
    assert torch.equal(survives, at_worst > 0)
    torch.testing.assert_close(margin(model(found), labels)[survives], at_worst[survives], atol=1e-4, rtol=1e-4)


def test_l2_stays_within_the_worst_case_of_a_binary_linear_model_and_comes_nearer_than_the_published_code() -> None:
    shape, eps, labels = (3, 10, 10), 0.4, torch.zeros(12, dtype=torch.int64)
    weight = Linear.random(2, shape).weight.detach()
    model, pixels = Linear(weight, torch.tensor([100.0, 0.0])), images(12, shape=shape, inner=True)  # nobody breaks
    published = oracle("l2", eps, model, 300)
    published.init_hyperparam(pixels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = published.attack_single_run(pixels.clone(), labels)[1]
    ours = Square(Threat("l2", eps), 300)(model, pixels, labels)
    steepest = eps * float((weight[0] - weight[1]).norm())
    falls = [(margin(model(pixels), labels) - margin(model(end), labels)).detach() / steepest for end in (ours, theirs)]
    assert float(falls[0].max()) < 1
    assert float(falls[0].mean()) > float(falls[1].mean()) > 0.25, "its windows never reach the last row and column"
    sure = Linear(weight, torch.tensor([0.0, 0.0]))
    labels = predicted(sure, pixels)
    distance = margin(sure(pixels), labels).detach() / (weight[0] - weight[1]).norm()
    radius = 0.06
    broken = predicted(sure, Square(Threat("l2", radius), 150)(sure, pixels, labels)) != labels
    assert not bool(broken[distance > radius].any())
    assert bool(broken[distance < radius / 4].all())
    assert 0 < int(broken.sum()) < 12


# As the evaluation uses it


@pytest.mark.parametrize(("norm", "eps"), NORMS)
def test_leaving_early_changes_no_verdict_and_costs_less(norm: str, eps: float) -> None:
    model, pixels = Bumpy(SHAPE, 3), images(30)
    labels, attack = predicted(model, pixels), Square(Threat(norm, eps / 2), 30, restarts=2)
    early, late = (
        gather(stream(attack, model, pixels, labels, seed=1, examples=range(30), leave=leave), pixels)
        for leave in (True, False)
    )
    assert torch.equal(early.claimed, late.claimed)
    assert torch.equal(early.claimed, predicted(model, early.pixels) != labels)
    torch.testing.assert_close(early.pixels, late.pixels, atol=1e-6, rtol=0)
    assert 0 < int(early.claimed.sum()) < 30
    assert bool((early.forwards <= late.forwards).all())
    assert int(early.forwards.sum()) < int(late.forwards.sum())
    assert early.forwards[~early.claimed].unique().tolist() == [2 * 31]
    torch.testing.assert_close(enforce(attack.threat, early.pixels, pixels)[0], early.pixels, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.03), ("l2", 0.5)])
def test_batch_size_order_and_company_change_nothing(norm: str, eps: float) -> None:
    encoder, pixels = Toy(size=9, scale=200.0), images(16, shape=(3, 12, 12))
    model = ZeroShotClassifier(encoder, TextHead.build(encoder, CLASSES, ["a {}"]), rows=8)
    labels = judge(model, pixels, torch.zeros(16, dtype=torch.int64)).predictions
    attack = Square(Threat(norm, eps), 12, restarts=2)
    whole = attack.search(model, pixels, labels, seed=5, examples=range(16))
    assert 0 < int(whole.claimed.sum()) < 16
    shuffled = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    for batch_size in (1, 7, 64):
        for chosen in shuffled.split(batch_size)[:3]:
            part = attack.search(model, pixels[chosen], labels[chosen], seed=5, examples=chosen.tolist())
            assert torch.equal(part.pixels, whole.pixels[chosen])
            assert torch.equal(part.forwards, whole.forwards[chosen])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_at_eps_0_nothing_happens(norm: str) -> None:
    model, pixels = Bumpy(SHAPE, 4), images(4)
    assert torch.equal(Square(Threat(norm, 0), 5)(model, pixels, predicted(model, pixels)), pixels)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 1.0), ("l2", 4.0)])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_a_target_is_reached_with_few_classes_too(norm: str, eps: float, classes: int) -> None:
    model, pixels = Linear.random(classes, SHAPE), images(9)
    labels = predicted(model, pixels)
    targets = (labels + 1 + torch.arange(9) % (classes - 1)) % classes
    attack = Square(Threat(norm, eps), 150)
    assert torch.equal(predicted(model, attack(model, pixels, labels, targets=targets)), targets)
    assert not bool((predicted(model, attack(model, pixels, labels)) == labels).any())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_of_a_few_pixels_and_images_that_are_not_square_are_searched(norm: str) -> None:
    for shape in [(3, 1, 1), (3, 2, 2), (3, 3, 11), (3, 12, 12)]:
        model, pixels = Linear.random(2, shape, scale=0.01), images(3, shape=shape)
        found = Square(Threat(norm, 0.1), 20)(model, pixels, predicted(model, pixels))
        assert bool(found.isfinite().all())
        assert not torch.equal(found, pixels)


def test_the_model_is_left_as_it_was_and_needs_no_gradient() -> None:
    class Steps(Linear):
        def forward(self, pixels: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            return super().forward((pixels * 8).round())

    model, pixels = Steps.random(3, SHAPE), images(6)
    labels = predicted(model, pixels)
    model.train()
    found = Square(Threat("linf", 0.3), 60)(model, pixels, labels)
    assert bool((predicted(model, found) != labels).any())
    assert model.training
    assert model.weight.requires_grad
    assert model.weight.grad is None


# Names and options


def test_names_say_what_is_not_the_default() -> None:
    threat = Threat("linf", "4/255")
    assert Square(threat).name == "square"
    assert Square(threat, 1000).name == "square:queries=1000"
    assert Square(threat, 1000, restarts=2, p_init=0.3).name == "square:queries=1000:restarts=2:p_init=0.3"
    assert Square(threat, horizon=900).name == "square:horizon=900"
    assert Square(threat).describe() == {
        "name": "square", "queries": 5000, "restarts": 1, "p_init": 0.8, "horizon": 5000,
        "precision": "float32", "gradient": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": 0}, "at least 1 query, not 0"),
        ({"restarts": 0}, "restarts ≥ 1"),
        ({"p_init": 0.0}, "share of the image, above 0 and at most 1, not 0.0"),
        ({"p_init": float("nan")}, "share of the image, above 0 and at most 1, not nan"),
    ],
)
def test_options_that_make_no_search_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Square(Threat(), **options)  # type: ignore[arg-type]


# The published code


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.03), ("l2", 0.45)])
def test_as_many_survive_as_with_the_published_code(norm: str, eps: float) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(300, 24), nn.ReLU(), nn.Linear(24, 10))
        pixels = images(200, shape=(3, 10, 10))
        labels = predicted(model, pixels)
        theirs = oracle(norm, eps, model, 500).perturb(pixels.clone(), labels)
    ours = Square(Threat(norm, eps), 500)(model, pixels, labels)
    accuracy, reference = (float((predicted(model, found) == labels).float().mean()) for found in (ours, theirs))
    assert 0.2 < reference < 0.8
    assert abs(accuracy - reference) <= 3 * math.sqrt(reference * (1 - reference) / 200)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_lanes_that_are_idle_look_ahead_and_only_shorten_the_search(norm: str) -> None:
    model, pixels = Linear.random(3, (3, 6, 6), seed=4), torch.full((3, 3, 6, 6), 0.5)
    with torch.no_grad():
        labels = model(pixels).argmax(1)
    attack = Square(Threat(norm, 0.002), 60)
    alone, calls = [], []
    model.rows = 8
    for example in range(3):
        before = model.forwards
        alone.append(attack.search(model, pixels[:1], labels[:1], seed=0, examples=[example]))
        calls.append(model.forwards - before)
    together = attack.search(model, pixels, labels, seed=0, examples=range(3))
    assert not bool(together.claimed.any())
    assert max(calls) < 50
    assert together.forwards.tolist() == [61, 61, 61]
    for example, one in enumerate(alone):
        assert torch.equal(one.pixels[0], together.pixels[example])
        assert int(one.forwards) == 61
