"""What an encoder may declare about itself, as an attack reads it off the classifier."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from tests.alarms.test_checkup import classifier, images
from tests.fakes import Toy
from torch import Tensor

from zsrobust.errors import ModelError


def test_an_encoder_that_declares_nothing_is_neither_random_nor_replaced() -> None:
    model = classifier(Toy(size=12))
    assert (model.samples, model.surrogate) == (1, None)


def test_a_surrogate_ends_in_the_same_head() -> None:
    class Smooth(Toy):
        def encode_differentiable(self, pixels: Tensor) -> Tensor:
            return 2 * self.encode_pixels(pixels)

    model, pixels = classifier(Smooth(size=12)), images(4)
    assert model.surrogate is not None
    torch.testing.assert_close(model.surrogate(pixels), model(pixels))


@pytest.mark.parametrize("declared", [0, -1, True, 2.5, "many"])
def test_samples_must_be_a_number_of_draws(declared: object) -> None:
    encoder = Toy(size=12)
    encoder.samples = declared
    with pytest.raises(ModelError, match=r"'toy' declares samples = .*at least 1"):
        _ = classifier(encoder).samples


def test_samples_are_the_encoders() -> None:
    encoder = Toy(size=12)
    encoder.samples = 7
    assert classifier(encoder).samples == 7


def test_lowered_is_bfloat16_unless_the_encoder_knows_better() -> None:
    plain, pixels = classifier(Toy(size=12)), images(4)
    exact = plain(pixels)
    with plain.lowered():
        rough = plain(pixels)
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).abs().max()) < 0.1 * float(exact.abs().max())

    class Own(Toy):
        entered = False

        @contextlib.contextmanager
        def lowered(self) -> Iterator[None]:
            self.entered = True
            yield

    encoder = Own(size=12)
    with classifier(encoder).lowered():
        assert encoder.entered
