"""Images that are no pixels: around them no search would find anything, and every model would look robust."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.fakes import SHAPE, Linear, images

from zsrobust.attacks.apgd import APGD
from zsrobust.attacks.fab import FAB
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.square import Square
from zsrobust.errors import ConfigError
from zsrobust.threat import Threat

BALL = Threat("linf", "4/255")
ATTACKS = [PGD(BALL, 2), APGD(BALL, 2), FAB(BALL, 2), Square(BALL, 2), PGD(Threat("linf", 0), 2)]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_images_outside_of_the_box_are_refused(attack: Any) -> None:
    model, pixels = Linear.random(3, SHAPE), images(2)
    labels = torch.zeros(2, dtype=torch.int64)
    pixels[1, 0, 0, 0], pixels[0, 0, 0, 0] = 2.5, -2
    for search in (attack, lambda *given: [*attack.stream(*given, seed=0, examples=[0, 1])]):
        with pytest.raises(ConfigError, match=r"in \[0, 1\], not from -2 to 2.5: normalising is the model's"):
            search(model, pixels, labels)
    for wrong in (images(2) * 255, images(2).log(), images(2) - 1e-6):
        with pytest.raises(ConfigError, match="pixels must be in"):
            attack(model, wrong, labels)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_black_and_white_are_allowed_and_so_is_no_image(attack: Any) -> None:
    model, pixels = Linear.random(3, SHAPE), torch.stack([torch.zeros(SHAPE), torch.ones(SHAPE)])
    assert len(attack(model, pixels, torch.zeros(2, dtype=torch.int64))) == 2
    assert len(attack(model, pixels[:0], torch.zeros(0, dtype=torch.int64))) == 0
