"""The patch: a linear model has a closed-form worst case, and what is reported fits into one square."""

from __future__ import annotations

import pytest
import torch
from tests.fakes import Linear, images, predicted
from torch import Tensor

from zsrobust.attacks import parse
from zsrobust.attacks.checks import enforce
from zsrobust.attacks.patch import Patch
from zsrobust.attacks.views import Sampled
from zsrobust.errors import ConfigError
from zsrobust.threat import Threat

SHAPE = (3, 6, 7)
THREAT = Threat("patch", 4 / 42)  # a square of 2 x 2


def worst_margins(model: Linear, pixels: Tensor, labels: Tensor, side: int) -> Tensor:
    """Lowest margin of two classes over all squares: every pixel of the best one goes to the end that hurts most."""
    towards = (model.weight[1 - labels] - model.weight[labels]).detach().view(-1, *SHAPE)
    gain = torch.where(towards > 0, towards * (1 - pixels), -towards * pixels).sum(1)
    best = gain.unfold(1, side, 1).unfold(2, side, 1).sum((-1, -2)).flatten(1).amax(1)
    logits = model(pixels).detach()
    worst: Tensor = (logits.gather(1, labels[:, None]) - logits.gather(1, 1 - labels[:, None])).squeeze(1) - best
    return worst


def test_with_all_places_it_finds_the_worst_case_of_a_linear_model() -> None:
    model, pixels = Linear.random(2, SHAPE, seed=3), images(24, shape=SHAPE)
    model.rows, labels = 8, predicted(model, pixels)
    worst = worst_margins(model, pixels, labels, 2)
    assert 12 < int((worst < 0).sum()) < 24
    places = (6 - 2 + 1) * (7 - 2 + 1)
    found = Patch(THREAT, 10, places=places)(model, pixels, labels)
    assert torch.equal(predicted(model, found) != labels, worst < 0)


def test_the_first_place_is_that_of_the_largest_gradient() -> None:
    weight = torch.full((2, *SHAPE), 1e-3)
    weight[0, :, 3:5, 4:6] = 1.0
    weight[1] = -weight[0]
    model, pixels = Linear(weight.flatten(1), torch.zeros(2)), torch.full((1, *SHAPE), 0.9)
    found = Patch(THREAT, 1, places=1, restarts=0)(model, pixels, torch.tensor([0]))
    changed = (found != pixels).any(1)[0]
    assert changed[3:5, 4:6].all()
    assert int(changed.sum()) == 4


@pytest.mark.parametrize(("places", "restarts"), [(3, 0), (0, 3)])
def test_what_it_reports_is_in_the_budget_to_the_bit(places: int, restarts: int) -> None:
    model, pixels = Linear.random(4, SHAPE, seed=1), images(12, seed=5, shape=SHAPE)
    labels = predicted(model, pixels)
    found = Patch(THREAT, 5, places=places, restarts=restarts)(model, pixels, labels)
    assert bool((found != pixels).any())
    allowed, sizes = enforce(THREAT, found, pixels)
    assert torch.equal(allowed, found)
    assert float(sizes.max()) <= 4 / 42 + 1e-7


def test_a_verdict_does_not_depend_on_the_batch() -> None:
    model, pixels = Linear.random(3, SHAPE, seed=7), images(10, seed=2, shape=SHAPE)
    model.rows, labels = 4, predicted(model, pixels)
    attack = Patch(THREAT, 4, places=1, restarts=1)
    together = attack.search(model, pixels, labels, seed=0, examples=range(10)).pixels
    alone = attack.search(model, pixels[6:7], labels[6:7], seed=0, examples=[6]).pixels
    assert torch.equal(together[6:7], alone)


def test_more_places_or_more_restarts_never_break_fewer() -> None:
    model, pixels = Linear.random(3, SHAPE, seed=2), images(10, seed=2, shape=SHAPE)
    model.rows, labels = 8, predicted(model, pixels)
    for more in ([(1, 0), (3, 0), (8, 0)], [(0, 1), (0, 4), (0, 10)]):
        attacks = [Patch(THREAT, 4, places=places, restarts=restarts) for places, restarts in more]
        found = [attack(model, pixels, labels) for attack in attacks]
        broken = [predicted(model, points) != labels for points in found]
        for fewer, later in ((0, 1), (1, 2)):  # the same runs come first, so a success stays the same image
            assert torch.equal(found[later][broken[fewer]], found[fewer][broken[fewer]])
        assert int(broken[0].sum()) < int(broken[2].sum())


def test_a_random_model_is_averaged_over() -> None:
    calm = Linear.random(2, SHAPE, seed=3)

    class Noisy(torch.nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            logits: Tensor = calm(pixels)
            return logits + 0.1 * torch.randn(len(pixels), 2)

    torch.manual_seed(0)
    pixels = images(3, shape=SHAPE)
    outcome = Patch(THREAT, 2, places=1, restarts=1).search(
        Sampled(Noisy(), 5), pixels, predicted(calm, pixels), seed=0, examples=range(3)
    )
    assert outcome.backwards.tolist() == [5 * (1 + 2) + 5 * 2] * 3  # the first run looks at the image once more


def test_names_and_refusals() -> None:
    assert parse("patch", THREAT) == Patch(THREAT)
    attack = parse("patch:steps=7:places=2:restarts=0", THREAT)
    assert attack == Patch(THREAT, 7, places=2, restarts=0)
    assert attack.name == "patch:steps=7:places=2:restarts=0"
    with pytest.raises(ConfigError, match=r"attack 'patch' cannot search linf:4/255:native, only patches"):
        parse("patch", Threat("linf", "4/255"))
    with pytest.raises(ConfigError, match="at least 1 place"):
        parse("patch:places=0:restarts=0", THREAT)
    others = "pgd:20", "fgsm", "cw", "cw-l2", "apgd:ce", "fab:t", "square", "transfer:tiny", "autoattack", "paper:pgd"
    for name in others:
        with pytest.raises(ConfigError, match=r"^attack '[\w-]+' .*cannot search patch:0\.1:native; .*$"):
            parse(name, Threat("patch", 0.1))


def test_a_patch_of_less_than_a_pixel_is_an_error() -> None:
    model, pixels = Linear.random(2, SHAPE), images(2, shape=SHAPE)
    with pytest.raises(ConfigError, match=r"less than one pixel; the smallest is patch:0\.024"):
        Patch(Threat("patch", 0.01))(model, pixels, torch.tensor([0, 1]))
