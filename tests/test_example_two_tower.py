from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from zsrobust.adaptation import adapt
from zsrobust.attacks.pgd import PGD
from zsrobust.encoders import Encoder
from zsrobust.tasks import task
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = Path(__file__).parents[1] / "examples" / "two_tower.py"
    spec = importlib.util.spec_from_file_location("two_tower", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_an_encoder_and_no_transformer(example: ModuleType) -> None:
    encoder = example.build()
    assert isinstance(encoder, Encoder)
    assert "transformers" not in Path(example.__file__).read_text()
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_the_whole_path_gives_logits_and_a_gradient(example: ModuleType) -> None:
    encoder = example.build()
    values = np.random.default_rng(0).integers(0, 256, (50, 71, 3), dtype=np.uint8)
    image = encoder.geometry(Image.fromarray(values))
    assert image.shape == (32, 32, 3)
    head = TextHead.build(encoder, ["red square", "blue ring"], ["a {}", "this is a {}"])
    for size in (32, 64):
        pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)).requires_grad_()
        logits = head(encoder.encode_pixels(pixels), encoder.logit_scale)
        assert logits.shape == (2, 2)
        (gradient,) = torch.autograd.grad(logits[:, 0].sum(), pixels)
        assert gradient.abs().amax(dim=(1, 2, 3)).min() > 0


def test_the_seed_decides_the_weights(example: ModuleType) -> None:
    texts = ["a red square", ""]
    state = torch.get_rng_state()
    first, same, other = example.build(), example.build(), example.build(seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.encode_texts(texts), same.encode_texts(texts))
    assert not torch.equal(first.encode_texts(texts), other.encode_texts(texts))
    assert not torch.equal(first.encode_texts(["red"]), first.encode_texts(["blue"]))


def test_only_the_visual_tower_is_adapted(example: ModuleType) -> None:
    encoder = example.build()
    named = dict(encoder.named_parameters())
    visual = dict(encoder.visual_parameters())
    assert set(visual) == {name for name in named if name.startswith("visual.")}
    assert all(named[name] is parameter for name, parameter in visual.items())


def test_it_can_be_adapted_and_stays_as_it_is(example: ModuleType) -> None:
    encoder = example.build()
    found = adapt(
        encoder,
        task=task("world-shape", split="train", limit=8),
        attack=PGD(Threat("linf", "4/255"), steps=1),
        epochs=1,
        batch_size=8,
    )
    before, after = dict(encoder.visual_parameters()), dict(found.visual_parameters())
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(value, dict(example.build().named_parameters())[name]) for name, value in before.items())
    assert (encoder.name, found.name) == ("conv-and-words", "conv-and-words+tecoa")
