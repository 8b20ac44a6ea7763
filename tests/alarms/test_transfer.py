"""Transfers of the check-up: the model is asked on the way, so a source need not be its twin."""

from __future__ import annotations

from tests.alarms.test_checkup import subject
from tests.fakes import Linear, images
from torch import Tensor, nn

from zsrobust.alarms import black_box
from zsrobust.alarms.subject import Subject

SHAPE = (3, 16, 16)


class Rounded(nn.Module):
    """A model on 8-bit pixels: autograd reaches the image, and says nothing."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.inner((pixels * 255).round() / 255)
        return logits + 0 * pixels.flatten(1).sum(1, keepdim=True)


def related(share: float) -> tuple[Linear, Linear]:
    """A model, and another one that has only part of its weights in common with it."""
    source, other = (Linear.random(5, SHAPE, seed=seed, scale=0.3) for seed in (0, 1))
    mixed = (1 - share) * source.weight.detach() + share * other.weight.detach()
    return Linear(mixed, source.bias.detach().clone()), source


def on_trial(model: nn.Module, source: nn.Module, threat: str, count: int = 32) -> Subject:
    target = subject(model, images(count, shape=SHAPE), threat=threat)
    return Subject(model, target.pixels, target.labels, target.threat, others=[source])


def test_a_source_that_is_no_twin_gives_a_masked_gradient_away() -> None:
    model, source = related(0.3)
    (alarm,) = black_box.check(on_trial(Rounded(model), source, "linf:8/255"))
    assert (alarm.strength, alarm.evidence["attack"]) == ("measured", "transfer from model 1")
    broken, left = alarm.evidence["broken"], alarm.evidence["left_by_white_box"]
    assert isinstance(broken, int)
    assert isinstance(left, int)
    assert broken > left / 2, "leaving at the source's border breaks a seventh"


def test_an_honest_model_is_in_no_doubt_of_that_source() -> None:
    model, source = related(0.3)
    assert black_box.check(on_trial(model, source, "linf:0.1/255", 12)) == []
