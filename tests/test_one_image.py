"""One image attacked: a random model's draws go by the seed, and by nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fakes import CLASSES, Toy
from torch import Tensor

from zsrobust.attacks import parse
from zsrobust.attacks.pgd import PGD
from zsrobust.one_image import Attacked, attack_image
from zsrobust.threat import Threat

THREAT = Threat("linf", "2/255")


class Noisy(Toy):
    """Random, and says so."""

    samples = 3

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        features = super().encode_pixels(pixels)
        return features + 0.1 * torch.randn_like(features)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def attacked(photo: Path, *, seed: int, drawn: int) -> Attacked:
    """After ``drawn`` numbers that somebody else has drawn."""
    torch.manual_seed(0)
    torch.rand(drawn)
    attack = PGD(THREAT, 3, random_start=False)
    return attack_image(photo, Noisy(), CLASSES, attack, label="cat", seed=seed)


def test_the_draws_of_a_random_model_go_by_the_seed_alone(photo: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        first, again, other = (attacked(photo, seed=s, drawn=n) for s, n in ((0, 1), (0, 2), (1, 1)))
    for name in ("clean", "found", "rounded"):
        one, same, another = (getattr(found, name) for found in (first, again, other))
        assert torch.equal(one.pixels, same.pixels)
        assert torch.equal(one.logits, same.logits)
        assert not torch.equal(one.logits, another.logits)
    assert not torch.equal(first.found.pixels, other.found.pixels)


@pytest.mark.parametrize("count", [2, 3])
def test_dlr_aims_where_there_are_few_labels(photo: Path, count: int) -> None:
    attack = parse("apgd:dlr:steps=20", Threat("linf", 1.0))
    found = attack_image(photo, Toy(scale=50.0), CLASSES[:count], attack, label="cat", target="dog")
    assert found.fooled(found.found)
