"""The attack on retrieval: known answers, the budget, and what it may never do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.fakes import Toy
from tests.retrieval.toys import Plane, captioned, grey
from torch.nn.functional import normalize

from zsrobust.attacks import parse
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.defences import wrapped
from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError
from zsrobust.pixels import to_pixels
from zsrobust.randomness import Draws
from zsrobust.retrieval.attack import climber, hard_gap, search, soft_gap, units
from zsrobust.retrieval.captions import CaptionSet
from zsrobust.retrieval.ranks import ranks
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat

LINF = Threat("linf", 0.1)


def model_of(encoder: Encoder, captions: CaptionSet, rows: int = 4) -> ZeroShotClassifier:
    return ZeroShotClassifier(encoder, TextHead.build(encoder, captions.texts, ("{}",)), rows=rows)


def features_of(model: ZeroShotClassifier, pixels: torch.Tensor) -> NDArray[np.float32]:
    return units(model, pixels, seed=0, examples=range(len(pixels)))


def pixels_of(captions: CaptionSet) -> torch.Tensor:
    return to_pixels(captions.task.images(range(len(captions))))


def test_the_losses_are_their_equations() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    own = torch.tensor([[True, False, True, False]])
    foreign, mine = np.log(np.exp(2) + np.exp(4)), np.log(np.exp(1) + np.exp(3))
    assert soft_gap(logits, own).item() == pytest.approx(foreign - mine, abs=1e-6)
    assert hard_gap(logits, own).item() == 1.0


@pytest.mark.parametrize("attack", ["pgd:5", "cw:5", "fgsm", "apgd:ce:steps=5", "apgd:margin:steps=5"])
def test_on_a_plane_the_worst_case_is_known(attack: str) -> None:
    # Means 0.35, 0.45 and 0.55, 0.65; ε = 0.1 moves each mean by ±0.1: only what is that close to 1/2 is lost.
    captions = grey([0.35, 0.45, 0.55, 0.65], [["dark"], ["dark"], ["light"], ["light"]])
    model, pixels = model_of(Plane(), captions), pixels_of(captions)
    outcome = search(climber(parse(attack, LINF)), model, pixels, captions.own_texts, seed=0, examples=range(4))
    assert ranks(features_of(model, pixels), model.head.embeddings.numpy(), captions.own_texts).tolist() == [1, 1, 1, 1]
    found = ranks(features_of(model, outcome.pixels), model.head.embeddings.numpy(), captions.own_texts)
    assert found.tolist() == [1, 2, 2, 1]
    moved = outcome.pixels.flatten(1).mean(1) - pixels.flatten(1).mean(1)
    torch.testing.assert_close(moved, torch.tensor([0.1, 0.1, -0.1, -0.1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("threat", [Threat("linf", "8/255"), Threat("l2", 0.5)])
@pytest.mark.parametrize("attack", ["pgd:4:restarts=2", "apgd:ce:steps=4"])
def test_the_budget_holds_and_the_batch_does_not_matter(attack: str, threat: Threat) -> None:
    captions = captioned()
    model, pixels = model_of(Toy(), captions), pixels_of(captions)
    found = climber(parse(attack, threat))
    together = search(found, model, pixels, captions.own_texts, seed=3, examples=range(6))
    assert bool(threat.allows(threat.size(together.pixels - pixels)).all())
    assert float(together.pixels.min()) >= 0
    assert float(together.pixels.max()) <= 1
    assert together.backwards.tolist() == [4 * getattr(found, "restarts", 1)] * 6
    for i in (0, 5):
        own, one = captions.own_texts[i : i + 1], pixels[i : i + 1]
        alone = search(found, model, one, own, seed=3, examples=[i])
        assert torch.equal(alone.pixels[0], together.pixels[i])


def test_more_restarts_never_give_a_better_rank() -> None:
    captions = captioned(seed=1)
    model, pixels = model_of(Toy(seed=1), captions), pixels_of(captions)
    texts = model.head.embeddings.numpy()
    found = []
    for restarts in (1, 3):
        attack = climber(parse(f"pgd:3:restarts={restarts}", Threat("linf", "16/255")))
        outcome = search(attack, model, pixels, captions.own_texts, seed=0, examples=range(6))
        found.append(ranks(features_of(model, outcome.pixels), texts, captions.own_texts))
    assert (found[1] >= found[0]).all()
    assert found[1].sum() > ranks(features_of(model, pixels), texts, captions.own_texts).sum()


def test_the_text_tower_runs_before_the_attack_only_and_weights_are_left_alone() -> None:
    captions, encoder = captioned(), Toy()
    model, before = model_of(encoder, captions), encoder.fingerprint()
    calls = encoder.text_calls
    search(climber(parse("pgd:3", LINF)), model, pixels_of(captions), captions.own_texts, seed=0, examples=range(6))
    assert encoder.text_calls == calls
    assert encoder.fingerprint() == before
    assert all(p.grad is None and not p.requires_grad for p in encoder.parameters())


def test_a_random_models_features_are_the_mean_of_draws_that_go_by_seed_and_example() -> None:
    captions, encoder = captioned(), wrapped(Toy(), "resizing:noise=60/255:samples=3")
    model, pixels = model_of(encoder, captions), pixels_of(captions)
    before = torch.get_rng_state()
    together = units(model, pixels, seed=3, examples=range(6))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(units(model, pixels[4:], seed=3, examples=[4, 5]), together[4:])
    assert not np.allclose(units(model, pixels, seed=4, examples=range(6)), together)
    with torch.no_grad(), Draws(pixels.device, 3, 5, "verdict"):
        draws = torch.cat([encoder.encode_pixels(pixels[5:]) for _ in range(3)])
    torch.testing.assert_close(torch.from_numpy(together[5]), normalize(draws, dim=1).mean(0))


def test_nothing_is_changed_at_zero() -> None:
    captions = captioned()
    model, pixels = model_of(Toy(), captions), pixels_of(captions)
    attack = climber(parse("apgd:ce", Threat("linf", 0)))
    assert torch.equal(search(attack, model, pixels, captions.own_texts, seed=0, examples=range(6)).pixels, pixels)


@pytest.mark.parametrize("attack", ["square", "autoattack", "apgd:dlr", "fab", "paper:pgd"])
def test_what_cannot_be_aimed_is_refused(attack: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be aimed at retrieval; pgd, cw, fgsm, apgd:ce and apgd:margin can"):
        climber(parse(attack, LINF))
