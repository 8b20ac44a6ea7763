"""FAB against closed-form distances, the published code, and exact counts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.fab_pt import FABAttack_PT
from tests.fakes import CLASSES, SHAPE, Bumpy, Linear, Toy, images, predicted
from torch import Tensor, nn

from zsrobust.attacks.base import Attack, Outcome
from zsrobust.attacks.checks import enforce, judge
from zsrobust.attacks.fab import FAB, SEARCH
from zsrobust.attacks.lanes import gather, stream
from zsrobust.attacks.probe import Lanes, Probe
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.encoders.huggingface import from_folder
from zsrobust.errors import ConfigError
from zsrobust.losses import margin
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat

seeds = st.integers(0, 2**16)


def mlp(classes: int = 10, *, seed: int = 0, scale: float = 6.0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Linear(60, 48), nn.Linear(48, 48), nn.Linear(48, classes)
    for layer in layers:
        layer.weight.data *= scale ** (1 / 2)
    return nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def nearest(attack: FAB, model: nn.Module, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Runs to the bitter end: nearest adversarial point (B, 3, H, W) at any distance, and that distance (B,)."""
    none = torch.full_like(labels, -1)
    plan = attack.rivals(lambda: model(pixels).detach(), labels, none)
    found, reach = pixels.clone(), torch.full((len(labels),), torch.inf)
    for run in range(plan.shape[1]):
        lanes = Lanes(pixels.clone(), labels.clone(), none.clone())
        runs, probe, index = attack.runs(lanes), Probe(model, lanes, attack.threat), torch.arange(len(labels))
        lanes.enter(index, pixels, labels, none, plan[:, run])
        runs.enter(index, [(0, i, attack.key, run) for i in range(len(labels))])
        while bool(lanes.live.any()):
            with probe.quiet():
                lanes.live &= ~runs.round(probe)
        closer = runs.reach < reach
        reach = torch.where(closer, runs.reach, reach)
        found[closer] = runs.found[closer]
    return found, reach


def downhill(model: Linear, labels: Tensor) -> Tensor:
    """Gradient of the margin of a binary linear model: (B, 3, H, W)."""
    return (model.weight[labels] - model.weight[1 - labels]).detach().view(-1, *SHAPE)


def true_distance(model: Linear, pixels: Tensor, labels: Tensor, norm: str) -> Tensor:
    """(B,) distance to the boundary of a binary linear model: L∞ within the box (inf: out of reach), L2 without it."""
    slope, gap = downhill(model, labels), margin(model(pixels), labels).detach()
    if norm == "l2":
        return gap / slope.flatten(1).norm(dim=1)
    low, high = torch.zeros(len(labels), dtype=torch.float64), torch.ones(len(labels), dtype=torch.float64)
    for _ in range(50):
        middle = (low + high) / 2
        worst = (pixels - middle.view(-1, 1, 1, 1) * slope.sign()).clamp(0, 1)
        safe = gap + (slope * (worst - pixels)).flatten(1).sum(1) > 0
        low, high = torch.where(safe, middle, low), torch.where(safe, high, middle)
    return torch.where(high < 1 - 1e-9, high, torch.inf).float()


# Closed forms


@given(seeds, st.sampled_from(["linf", "l2"]), st.sampled_from([None, 9]), st.sampled_from([0.01, 1.0, 100.0]))
@settings(max_examples=12)
def test_it_finds_the_distance_to_the_boundary_of_a_binary_linear_model(
    seed: int, norm: str, targets: int | None, scale: float
) -> None:
    model, pixels = Linear.random(2, SHAPE, seed=seed, scale=scale), images(10, seed, inner=norm == "l2")
    labels = predicted(model, pixels)
    truth = true_distance(model, pixels, labels, norm)
    unit = Threat("l2").steepest(downhill(model, labels)).flatten(1).abs().amax(1)
    sure = truth * unit < 0.4 if norm == "l2" else truth.isfinite()  # L2: where the box is inactive
    found, reach = nearest(FAB(Threat(norm, 0.01), 10, targets=targets), model, pixels, labels)
    assert int(sure.sum()) > 3
    torch.testing.assert_close(reach[sure], truth[sure], rtol=1e-2, atol=1e-5)
    assert bool((reach >= truth * (1 - 1e-3)).all())
    assert bool((predicted(model, found) != labels)[sure].all())
    torch.testing.assert_close(Threat(norm).size(found - pixels)[sure], reach[sure])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targets", [None, 9])
def test_verdicts_on_a_binary_linear_model_are_the_closed_form(norm: str, targets: int | None) -> None:
    model, pixels = Linear.random(2, SHAPE, seed=1), images(60, inner=norm == "l2")
    labels = predicted(model, pixels)
    truth = true_distance(model, pixels, labels, norm)
    threat = Threat(norm, eps := float(truth.median()))
    outcome = FAB(threat, 20, targets=targets).search(model, pixels, labels, seed=0, examples=range(60))
    sure = (truth / eps - 1).abs() > 1e-2
    assert torch.equal((predicted(model, outcome.pixels) != labels)[sure], (truth < eps)[sure])
    assert torch.equal(outcome.claimed, predicted(model, outcome.pixels) != labels)
    assert 0 < int(outcome.claimed.sum()) < 60
    torch.testing.assert_close(enforce(threat, outcome.pixels, pixels)[0], outcome.pixels, atol=1e-6, rtol=0)


def test_where_the_box_holds_no_other_class_it_says_so() -> None:
    model = Linear(torch.stack([torch.zeros(60), torch.ones(60)]), torch.tensor([61.0, 0.0]))
    pixels, labels = images(4), torch.zeros(4, dtype=torch.int64)
    outcome = FAB(Threat("linf", 1.0), 5).search(model, pixels, labels, seed=0, examples=range(4))
    assert not bool(outcome.claimed.any())
    assert outcome.forwards.tolist() == [10] * 4  # nothing adversarial was seen: no final search


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targets", [None, 9])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_among_few_classes_the_nearest_boundary_is_found(norm: str, targets: int | None, classes: int) -> None:
    model, pixels = Linear.random(classes, SHAPE, seed=2), images(20, inner=True)
    labels = predicted(model, pixels)
    gaps = model(pixels).detach()
    gaps = gaps.gather(1, labels[:, None]) - gaps
    slopes = (model.weight[labels][:, None] - model.weight[None]).detach()
    steepness = slopes.abs().sum(2) if norm == "linf" else slopes.norm(dim=2)
    truth = (gaps / steepness).scatter(1, labels[:, None], torch.inf).amin(1)
    _, reach = nearest(FAB(Threat(norm, 0.01), 20, targets=targets), model, pixels, labels)
    torch.testing.assert_close(reach, truth, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("options", [{}, {"targets": 2}, {"restarts": 2}])
def test_at_eps_0_nothing_happens(norm: str, options: dict[str, int]) -> None:
    model, pixels = Bumpy(SHAPE, 4), images(6)
    assert torch.equal(FAB(Threat(norm, 0), 3, **options)(model, pixels, predicted(model, pixels)), pixels)


@pytest.mark.parametrize("targets", [None, 2])
def test_a_target_is_reached_and_no_other_class_counts(targets: int | None) -> None:
    model, pixels = Linear.random(5, SHAPE), images(20)
    labels = predicted(model, pixels)
    aims = (labels + 1 + torch.arange(20) % 4) % 5
    attack = FAB(Threat("linf", 1.0), 40, targets=targets)
    found = attack(model, pixels, labels, targets=aims)
    assert torch.equal(predicted(model, found), aims)
    near = FAB(Threat("linf", 1e-3), 3, targets=targets)(model, pixels, labels, targets=aims)
    assert not bool((predicted(model, near) == aims).any())


# The published code


@pytest.mark.parametrize(("norm", "theirs"), [("linf", "Linf"), ("l2", "L2")])
@pytest.mark.parametrize("targets", [None, 4])
def test_it_is_as_near_as_the_published_code(norm: str, theirs: str, targets: int | None) -> None:
    model, pixels = mlp(), images(16)
    labels = predicted(model, pixels)
    published = FABAttack_PT(
        model, norm=theirs, n_iter=15, eps=0.1, targeted=targets is not None, device=torch.device("cpu")
    )
    distances = []
    for target in range(2, 2 + (targets or 1)):
        published.target_class = target
        points = published.attack_single_run(pixels, labels, is_targeted=targets is not None)
        away = predicted(model, points) != labels
        distances.append(torch.where(away, Threat(norm).size(points - pixels), torch.inf))
    reference = torch.stack(distances).amin(0)
    _, reach = nearest(FAB(Threat(norm, 0.1), 15, targets=targets), model, pixels, labels)
    ratio = reach / reference
    assert bool((ratio < 1.01).all())
    assert 0.99 < float(ratio.median()) < 1.001
    for eps in (0.5, 1.0, 2.0):
        bound = eps * float(reference.median())
        sure = (reference / bound - 1).abs() > 0.01
        outcome = FAB(Threat(norm, bound), 15, targets=targets).search(
            model, pixels, labels, seed=0, examples=range(16)
        )
        assert torch.equal(outcome.claimed[sure], (reference <= bound)[sure])


# Lanes


def run(attack: FAB, model: nn.Module, pixels: Tensor, labels: Tensor, *, leave: bool) -> Outcome:
    found = stream(attack, model, pixels, labels, seed=3, examples=range(len(pixels)), leave=leave)
    return gather(found, pixels)


@pytest.mark.parametrize("options", [{}, {"targets": 2}, {"targets": 2, "restarts": 2}])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.02), ("l2", 0.15)])
def test_leaving_early_changes_no_verdict_and_saves_passes(norm: str, eps: float, options: dict[str, int]) -> None:
    model, pixels = mlp(4), images(24)
    labels = predicted(model, pixels)
    attack = FAB(Threat(norm, eps), 6, **options)
    early, late = (run(attack, model, pixels, labels, leave=leave) for leave in (True, False))
    assert 2 < int(early.claimed.sum()) < 22
    assert torch.equal(early.claimed, late.claimed)
    assert torch.equal(early.pixels[early.claimed], late.pixels[early.claimed])
    assert bool((early.forwards <= late.forwards).all())
    assert int(early.backwards.sum()) < int(late.backwards.sum())
    # who stays pays for every step: a gradient for the rival (or for each other class) and a look; 3 looks at the end
    runs, classes = options.get("targets", 1) * options.get("restarts", 1), 1 if options else 3
    planning = 1 if options else 0
    assert set(early.backwards[~early.claimed].tolist()) == {6 * runs * classes}
    assert set(early.forwards[~early.claimed].tolist()) == {planning + runs * (6 * classes + 6 + SEARCH)}


def test_every_pass_is_counted() -> None:
    model, pixels, seen = mlp(4), images(20), []
    labels = predicted(model, pixels)
    model.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    outcome = run(FAB(Threat("linf", 0.02), 5), model, pixels, labels, leave=True)
    assert sum(seen) == int(outcome.forwards.sum())


def test_the_final_search_comes_nearer_when_steps_are_few() -> None:
    model, pixels = mlp(), images(16)
    labels = predicted(model, pixels)
    attack = FAB(Threat("linf", 0.1), 1, targets=1)
    published = FABAttack_PT(model, norm="Linf", n_iter=1, eps=0.1, targeted=True, device=torch.device("cpu"))
    published.target_class = 2
    points = published.attack_single_run(pixels, labels, is_targeted=True)
    before = torch.where(predicted(model, points) != labels, Threat("linf").size(points - pixels), torch.inf)
    found, after = nearest(attack, model, pixels, labels)
    hit = before.isfinite()
    assert int(hit.sum()) > 5
    assert torch.equal(after.isfinite(), hit)
    assert bool((after <= before).all())
    assert float((after / before)[hit].mean()) < 0.97
    assert bool((predicted(model, found) != labels)[hit].all())


def test_restarts_begin_at_random_points_at_half_the_radius() -> None:
    pixels = images(5, inner=True)
    for norm in ("linf", "l2"):
        threat = Threat(norm, 0.1)
        attack = FAB(threat, restarts=2)
        starts = attack.random_start(pixels, [("a", i) for i in range(5)])
        torch.testing.assert_close(threat.size(starts - pixels), torch.full((5,), 0.05))
        assert not torch.equal(starts[0] - pixels[0], starts[1] - pixels[1])
    bounds = images(5)
    starts = FAB(Threat("linf", 1.0)).random_start(bounds, [("a", i) for i in range(5)])
    assert 0 <= float(starts.min()) <= float(starts.max()) <= 1


class Saddle(nn.Module):
    """Flat at the grey image: from there no gradient leads anywhere."""

    def forward(self, pixels: Tensor) -> Tensor:
        curved = 100 * (pixels - 0.5).flatten(1).sum(1).square() - 1
        return torch.stack([torch.zeros_like(curved), curved], 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targets", [None, 1])
def test_a_restart_begins_elsewhere_and_every_example_has_its_own(norm: str, targets: int | None) -> None:
    pixels, labels = torch.full((6, *SHAPE), 0.5), torch.zeros(6, dtype=torch.int64)
    broken = []
    for restarts in (1, 2, 6):
        attack = FAB(Threat(norm, 0.02), 6, targets=targets, restarts=restarts)
        outcome = run(attack, Saddle(), pixels, labels, leave=True)
        assert torch.equal(outcome.claimed, predicted(Saddle(), outcome.pixels) != labels)
        assert bool((outcome.forwards[outcome.claimed] > 2 * 6).all())
        broken.append(outcome.claimed)
    assert not bool(broken[0].any())
    assert bool((broken[2] | ~broken[1]).all())
    assert bool(broken[2].all())
    assert not torch.equal(outcome.pixels[0], outcome.pixels[1])


def clip_classifier(folder: object) -> ZeroShotClassifier:
    encoder = from_folder(folder)  # type: ignore[arg-type]
    return ZeroShotClassifier(encoder, TextHead.build(encoder, CLASSES, ["a {}"]), rows=8)


def toy_classifier(_: object) -> ZeroShotClassifier:
    encoder = Toy(size=9, scale=200.0)
    return ZeroShotClassifier(encoder, TextHead.build(encoder, CLASSES, ["a {}"]), rows=8)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.01), ("l2", 0.15)])
@pytest.mark.parametrize(
    ("build", "options"),
    [(toy_classifier, {}), *[(b, {"targets": 2, "restarts": 2}) for b in (toy_classifier, clip_classifier)]],
)
def test_batch_size_order_and_company_change_nothing(
    build, options: dict[str, int], norm: str, eps: float, random_clip_folder
) -> None:
    model, pixels = build(random_clip_folder), images(20, shape=(3, 12, 12))
    labels = judge(model, pixels, torch.zeros(20, dtype=torch.int64)).predictions
    attack = FAB(Threat(norm, eps), 2, **options)
    whole = attack.search(model, pixels, labels, seed=5, examples=range(20))
    assert 0 < int(whole.claimed.sum()) < 20
    torch.testing.assert_close(enforce(attack.threat, whole.pixels, pixels)[0], whole.pixels, atol=1e-6, rtol=0)
    shuffled = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    for batch_size in (1, 7, 64):
        for chosen in shuffled.split(batch_size)[:2]:
            part = attack.search(model, pixels[chosen], labels[chosen], seed=5, examples=chosen.tolist())
            assert torch.equal(part.pixels, whole.pixels[chosen])
            assert torch.equal(part.claimed, whole.claimed[chosen])
            assert torch.equal(part.forwards, whole.forwards[chosen])
            assert torch.equal(part.backwards, whole.backwards[chosen])


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    model, pixels = mlp(3), images(6)
    labels = predicted(model, pixels)
    model.train(training)
    first = next(model.parameters())
    first.grad = kept = torch.full_like(first, 7.0)
    FAB(Threat("linf", 0.01), 3)(model, pixels, labels)
    assert model.training is training
    assert first.grad is kept
    assert torch.equal(kept, torch.full_like(kept, 7.0))
    assert all(p.requires_grad and (p is first or p.grad is None) for p in model.parameters())


def test_a_break_claimed_in_bfloat16_holds_in_float32() -> None:
    model, pixels = mlp(), images(30)
    labels = predicted(model, pixels)
    attack = FAB(Threat("linf", 0.015), 6, targets=2, precision="bfloat16")
    outcome = run(attack, model, pixels, labels, leave=True)
    assert 5 < int(outcome.claimed.sum()) < 25
    assert torch.equal(outcome.claimed, predicted(model, outcome.pixels) != labels)


# Names and options


def test_names_and_description() -> None:
    threat = Threat("linf", "4/255")
    assert FAB(threat).name == "fab"
    assert FAB(threat, targets=9).name == "fab:t"
    assert FAB(threat, 50, targets=3, restarts=2, beta=0.8).name == "fab:t:steps=50:targets=3:restarts=2:beta=0.8"
    assert FAB(threat, 50).key == FAB(threat, targets=9).key
    assert isinstance(FAB(threat), Attack)
    assert FAB(threat, targets=9).describe() == {
        "name": "fab:t", "steps": 100, "targets": 9, "restarts": 1, "alpha_max": 0.1, "beta": 0.9, "eta": 1.05,
        "precision": "float32", "gradient": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "at least 1 step"),
        ({"restarts": 0}, "restarts ≥ 1"),
        ({"targets": 0}, "at least 1 target"),
        ({"alpha_max": 0.0}, "alpha_max must be above 0"),
        ({"beta": 1.1}, "at most 1"),
        ({"eta": float("nan")}, "eta must be at least 1"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FAB(Threat(), **options)  # type: ignore[arg-type]


def test_among_many_classes_only_fab_t_is_offered() -> None:
    model, pixels = Linear.random(101, SHAPE), images(3)
    labels = predicted(model, pixels)
    with pytest.raises(ConfigError, match=r"101 classes .* use fab:t"):
        FAB(Threat("linf", 0.01), 2)(model, pixels, labels)
    assert model.weight.requires_grad
    outcome = FAB(Threat("linf", 0.01), 2, targets=9).search(model, pixels, labels, seed=0, examples=range(3))
    assert int(outcome.backwards.max()) <= 9 * 2
