"""What a search is told about a model: precision that cannot lie, draws averaged, surrogates and guides climbed."""

from __future__ import annotations

import pytest
import torch
from tests.fakes import Linear
from torch import Tensor, nn

from zsrobust.attacks.checks import judge
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.square import Square
from zsrobust.errors import ModelError, UnknownName
from zsrobust.losses import margin
from zsrobust.threat import Threat

SHAPE = (3, 4, 5)
THREAT = Threat("linf", "3/255")


def images(count: int, seed: int = 0) -> Tensor:
    return 0.3 + 0.4 * torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def breakable(count: int = 40) -> tuple[Linear, Tensor, Tensor]:
    """A linear model, images, and labels of which about half can be broken."""
    model, pixels = Linear.random(2, SHAPE, scale=0.3), images(count)
    with torch.no_grad():
        logits = model(pixels)
        model.bias[0] -= (logits[:, 0] - logits[:, 1]).median()
        return model, pixels, model(pixels).argmax(1)


class Lying(nn.Module):
    """Gives the opposite answer under autocast."""

    def __init__(self, honest: Linear, *, always: bool = True) -> None:
        super().__init__()
        self.honest, self.always, self.lies, self.truths = honest, always, 0, 0

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.honest(pixels)
        if torch.is_autocast_enabled("cpu"):
            self.lies += len(pixels)
            return -logits
        self.truths += len(pixels)
        return logits


def test_a_break_that_only_low_precision_sees_does_not_count() -> None:
    honest, pixels, labels = breakable()
    liar = Lying(honest)
    attack = PGD(THREAT, 10, precision="bfloat16")
    outcome = attack.search(liar, pixels, labels, seed=0, examples=range(40))
    verdict = judge(honest, outcome.pixels, labels)
    assert torch.equal(outcome.claimed, verdict.predictions != labels)
    # the liar's gradient leads away from the break, so nothing breaks that random starts do not
    assert int(outcome.claimed.sum()) <= 4
    # a refuted claim has to come closer before it is looked at again
    assert 40 <= liar.truths <= 40 * 11
    assert int(outcome.forwards.sum()) == liar.lies + liar.truths


def test_an_unknown_precision_is_no_low_precision() -> None:
    model, pixels, labels = breakable(4)
    with pytest.raises(UnknownName, match="precision 'float16'"):
        PGD(THREAT, 2, precision="float16").search(model, pixels, labels, seed=0, examples=range(4))  # type: ignore[arg-type]


def test_low_precision_finds_what_float32_finds_where_it_does_not_matter() -> None:
    model, pixels, labels = breakable()
    runs = [
        PGD(THREAT, 10, precision=p).search(model, pixels, labels, seed=0, examples=range(40))
        for p in ("float32", "bfloat16")
    ]
    assert 5 < int(runs[0].claimed.sum()) < 35
    assert int((runs[0].claimed != runs[1].claimed).sum()) <= 1
    verdict = judge(model, runs[1].pixels, labels)
    assert torch.equal(verdict.predictions != labels, runs[1].claimed)


class Noisy(nn.Module):
    """A linear model that adds noise to its logits."""

    def __init__(self, honest: Linear, samples: int, noise: float) -> None:
        super().__init__()
        self.honest, self.samples, self.noise = honest, samples, noise
        self.calls = 0
        self.draw = torch.Generator().manual_seed(0)

    def forward(self, pixels: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.honest(pixels)
        return logits + self.noise * torch.randn(logits.shape, generator=self.draw)


def test_a_random_model_is_averaged_and_has_no_lucky_failure() -> None:
    honest, pixels, labels = breakable()
    model = Noisy(honest, samples=5, noise=1.0)
    outcome = PGD(Threat("linf", 1e-6), 6).search(model, pixels, labels, seed=0, examples=range(40))
    assert model.calls == 5 * 7
    assert not bool(outcome.claimed.any())
    assert outcome.forwards.tolist() == [35] * 40
    # 35 draws would almost surely hold a failure of an image with a small margin; fresh draws by majority do not care
    verdict = judge(Noisy(honest, samples=101, noise=1.0), outcome.pixels, labels)
    safe = margin(honest(pixels), labels) > 0.5
    assert torch.equal(verdict.predictions[safe], labels[safe])
    lucky = judge(Noisy(honest, samples=1, noise=1.0), pixels, labels)
    assert int((lucky.predictions != labels).sum()) > int((verdict.predictions != labels).sum())


class Rounding(nn.Module):
    """Rounds its input, so that the gradient is exactly zero, and may say what to differentiate instead."""

    def __init__(self, honest: Linear) -> None:
        super().__init__()
        self.honest = honest

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.honest((pixels * 64).round() / 64)
        return logits


class Declared(Rounding):
    def surrogate(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.honest(pixels)
        return logits


def test_a_surrogate_gives_the_gradient_and_the_model_the_verdict() -> None:
    honest, pixels, labels = breakable()
    found = [
        PGD(THREAT, 10).search(kind(honest), pixels, labels, seed=0, examples=range(40))
        for kind in (Rounding, Declared)
    ]
    assert int(found[1].claimed.sum()) > int(found[0].claimed.sum()) + 5
    verdict = judge(Rounding(honest), found[1].pixels, labels)
    assert torch.equal(verdict.predictions != labels, found[1].claimed)
    survivor = int((~found[1].claimed).nonzero()[0])
    assert int(found[1].backwards[survivor]) == 10
    assert int(found[1].forwards[survivor]) == 2 * 10 + 1


class Guided(nn.Module):
    def __init__(self, model: nn.Module, guide: nn.Module) -> None:
        super().__init__()
        self.model, self.guide = model, guide

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.model(pixels)
        return logits


def test_a_guide_is_climbed_and_the_model_judges() -> None:
    honest, pixels, labels = breakable()
    same = PGD(THREAT, 10).search(honest, pixels, labels, seed=0, examples=range(40))
    guided = PGD(THREAT, 10).search(Guided(Rounding(honest), honest), pixels, labels, seed=0, examples=range(40))
    verdict = judge(Rounding(honest), guided.pixels, labels)
    assert torch.equal(verdict.predictions != labels, guided.claimed)
    assert int((guided.claimed != same.claimed).sum()) <= 3
    opposite = Linear(-honest.weight.detach(), -honest.bias.detach())
    assert (
        int(PGD(THREAT, 10).search(Guided(honest, opposite), pixels, labels, seed=0, examples=range(40)).claimed.sum())
        <= 4
    )


def test_a_guide_is_climbed_through_its_own_surrogate() -> None:
    honest, pixels, labels = breakable()
    found = [
        PGD(THREAT, 10).search(Guided(honest, kind(honest)), pixels, labels, seed=0, examples=range(40))
        for kind in (Rounding, Declared)
    ]
    assert int(found[1].claimed.sum()) > int(found[0].claimed.sum()) + 5
    survivor = int((~found[1].claimed).nonzero()[0])
    assert int(found[1].backwards[survivor]) == 10
    assert int(found[1].forwards[survivor]) == 3 * 10 + 1  # the guide, its surrogate and the model


def test_a_model_with_a_surrogate_is_not_climbed_where_there_is_a_guide() -> None:
    honest, pixels, labels = breakable()
    guided = [
        PGD(THREAT, 10).search(Guided(kind(honest), honest), pixels, labels, seed=0, examples=range(40))
        for kind in (Rounding, Declared)
    ]
    assert torch.equal(guided[0].pixels, guided[1].pixels)
    assert torch.equal(guided[0].forwards, guided[1].forwards)


def test_no_derivative_is_a_zero_gradient_not_a_broken_image() -> None:
    class Root(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            flat = pixels.flatten(1)
            return torch.stack([(flat - flat.detach()).abs().sqrt().sum(1), -torch.ones(len(flat))], 1)

    pixels, labels = images(3), torch.zeros(3, dtype=torch.int64)
    outcome = PGD(THREAT, 3, random_start=False).search(Root(), pixels, labels, seed=0, examples=range(3))
    assert torch.equal(outcome.pixels, pixels)


def test_a_model_that_autograd_does_not_reach_is_one_clear_error() -> None:
    honest, pixels, labels = breakable(4)

    def detour(points: Tensor) -> Tensor:
        return torch.from_numpy(honest(points).detach().numpy())

    with pytest.raises(ModelError, match="the model has no gradient: autograd does not reach the pixels"):
        PGD(THREAT, 3).search(detour, pixels, labels, seed=0, examples=range(4))
    assert Square(THREAT, 50).search(detour, pixels, labels, seed=0, examples=range(4)).pixels.shape == pixels.shape


@pytest.mark.parametrize("restarts", [1, 3])
def test_a_point_outside_the_ball_is_never_kept(restarts: int) -> None:
    from zsrobust.attacks.lanes import Runs, no_rivals, stream

    class Straying(PGD):
        def runs(self, lanes):
            class Far(Runs):
                def __init__(self) -> None:
                    self.count = torch.zeros_like(lanes.labels)

                def enter(self, index, keys) -> None:
                    self.count[index] = 0

                def round(self, probe):
                    probe.look(1 - lanes.pixels)
                    self.count += 1
                    return self.count >= 2

            return Far()

        def rivals(self, clean, labels, aims):
            return no_rivals(labels, restarts)

    model, pixels, labels = breakable(10)
    ((index, outcome),) = list(stream(Straying(THREAT, 2), model, pixels, labels, seed=0, examples=range(10)))
    assert not bool(outcome.claimed.any())
    assert torch.equal(outcome.pixels, pixels[index])
    assert outcome.forwards.tolist() == [2 * restarts] * 10


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.25 / 255), ("linf", 1e-4), ("l2", 1e-3)])
def test_points_on_the_border_of_a_small_ball_count(norm: str, eps: float) -> None:
    model, pixels, labels = breakable()
    threat = Threat(norm, eps)
    border = threat.project(pixels + torch.sign(pixels - 0.5), pixels)
    assert bool(threat.allows(threat.size(border - pixels)).all())
    assert not bool(threat.allows(threat.size(1.01 * (border - pixels)) + 2e-6).any())
    # the image closest to the decision is broken at the border, and nowhere before
    steep = (model.weight[0] - model.weight[1]).detach()
    lengths = steep.abs().sum() if norm == "linf" else steep.norm()
    near = Linear(model.weight.detach().clone(), model.bias.detach().clone())
    with torch.no_grad():
        gap = margin(near(pixels[:1]), labels[:1])
        sign = 1.0 if int(labels[0]) == 0 else -1.0
        near.bias[0] -= sign * (gap.item() - 0.999 * eps * lengths)
    assert bool(PGD(threat, 20, step_size=eps).search(near, pixels[:1], labels[:1], seed=0, examples=[0]).claimed.all())
