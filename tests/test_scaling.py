"""The counts and simulations behind docs/scaling.md, against what really runs."""

from __future__ import annotations

import random

import pytest
import torch
from benchmarks.scaling import Step, Tower
from benchmarks.scaling_checks import Shared, over_draws, ring_bytes, sharded_bytes, simulate_ring
from benchmarks.tower_counts import SHAPES, kept, kept_by, visual
from torch.utils.flop_counter import FlopCounterMode

import zsrobust as zr
from zsrobust.passes import frozen


@pytest.fixture(scope="module")
def tiny():
    return zr.load("tiny", attention="eager")


@pytest.fixture(scope="module")
def tower():
    return Tower.of("tiny")


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_a_ring_of_messages_sums_and_sends_what_the_formula_says(ranks):
    draw = random.Random(ranks)
    vectors = [[float(draw.randrange(100)) for _ in range(ranks * 5)] for _ in range(ranks)]
    held, sent = simulate_ring(vectors)
    assert held == [[sum(column) for column in zip(*vectors, strict=True)]] * ranks
    assert sent == [ring_bytes(ranks * 5, ranks)] * ranks


def test_gathering_and_summing_apart_send_what_a_ring_does():
    assert sharded_bytes(80, 4, gathers=1) == ring_bytes(80, 4) == 120
    assert sharded_bytes(80, 4, gathers=6) == 3.5 * ring_bytes(80, 4)


def test_a_ring_copes_with_a_length_that_does_not_divide():
    held, sent = simulate_ring([[float(r * i) for i in range(11)] for r in range(4)])
    assert held == [[6.0 * i for i in range(11)]] * 4
    assert sum(sent) == 2 * 3 * 11


def test_counted_weights_are_those_of_the_model(tiny, tower):
    trained = sum(p.numel() for _, p in tiny.visual_parameters())
    assert (tower.trained, tower.model) == (trained, sum(p.numel() for p in tiny.model.parameters()))
    assert {n for n, _ in tiny.visual_parameters()} == set(visual(tiny.model))


def test_operations_of_a_step_are_those_of_pgd_and_a_training_pass(tiny, tower):
    model = tiny.copy()
    for _, parameter in model.visual_parameters():
        parameter.requires_grad_(True)
    pixels = torch.rand(3, 3, 64, 64)
    attack = zr.PGD(zr.Threat("linf", "4/255"), steps=2)
    ours: list[torch.Tensor] = []

    def value(points):
        # The flop counter watches modules, and cannot watch one whose input is a leaf of autograd.grad.
        return model.encode_pixels(points * 1.0).sum(1)

    with FlopCounterMode(display=False) as counter:
        with frozen(model):
            ours.append(attack.perturb(value, pixels, keys=[(0, i) for i in range(3)]))
        value(ours[0]).sum().backward()
    assert counter.get_total_flops() == 3 * tower.operations.step(2)


@pytest.mark.parametrize("attack", [True, False])
def test_bytes_kept_are_those_of_a_real_pass(tiny, attack):
    model = tiny.copy().model
    for parameter in visual(model).values():
        parameter.requires_grad_(True)
    counted = kept(SHAPES["tiny"], attack=attack, bf16=False, attention="eager")
    real = kept_by(model, torch.rand(3, 3, 64, 64), attack=attack, bf16=False)
    assert real == counted.fixed + 3 * counted.image
    assert 0 < counted.checkpointed(SHAPES["tiny"]) < counted.image


def test_more_attack_steps_or_faster_links_never_lower_the_efficiency(tower):
    def made(k, link):
        return Step(tower, 8, 32.0, k, 1e12, link)

    for hidden in (False, True):
        rising = [made(k, 1e7).efficiency(hidden=hidden) for k in (0, 2, 10)]
        assert rising == sorted(rising)
        assert rising[0] < rising[-1] <= 1
    assert made(2, 1e7).efficiency(hidden=False) < made(2, 1e9).efficiency(hidden=False)
    assert made(2, made(2, 1e9).needed).efficiency(hidden=False) == pytest.approx(0.95)
    assert Step(tower, 8, made(2, 1e9).enough, 2, 1e12, 1e9).efficiency(hidden=False) == pytest.approx(0.95)


def test_sharing_gives_the_efficiency_that_is_known():
    assert Shared(256, 8, 32, robust=0.0).efficiency(0) == 1.0  # eight equal pieces
    assert Shared(256, 8, 32, robust=1.0).efficiency(0) == 1.0
    assert Shared(256, 8, 256, robust=1.0).efficiency(0) == 1 / 8  # one piece: seven processes watch
    assert Shared(512, 2, 8, robust=1.0).efficiency(0) == 8 / 32  # three rows of four are filled up
    assert Shared(4096, 4, 256, robust=1.0).efficiency(0) == 1.0
    queue, dealt = (over_draws(Shared(2000, 8, 64, way=way), draws=40, seed=1)[0] for way in ("queue", "fixed"))
    assert queue >= dealt
