"""The patch embedding's gradient, against torch's convolution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zsrobust.encoders import load
from zsrobust.encoders.patches import PatchEmbedding


def both(patch: int, *, bias: bool, dtype: torch.dtype = torch.float32) -> tuple[nn.Conv2d, PatchEmbedding]:
    torch.manual_seed(patch)
    plain = nn.Conv2d(3, 24, patch, patch, bias=bias, dtype=dtype)
    fast = PatchEmbedding(3, 24, patch, patch, bias=bias, dtype=dtype)
    fast.load_state_dict(plain.state_dict())
    return plain, fast


def passed(layer: nn.Conv2d, pixels: Tensor, slope: Tensor) -> list[Tensor]:
    points = pixels.clone().requires_grad_(True)
    found = layer(points)
    wanted = [points, *(p for p in layer.parameters() if p.requires_grad)]
    return [found.detach(), *torch.autograd.grad(found, wanted, slope.to(found.dtype))]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("way", ["float32", "bfloat16", "autocast", "frozen"])
def test_forward_and_weights_are_torchs_and_pixels_are_equal_up_to_rounding(way: str, bias: bool) -> None:
    plain, fast = both(8, bias=bias)
    pixels, slope = torch.rand(5, 3, 32, 40), torch.randn(5, 24, 4, 5)
    if way == "bfloat16":
        plain, fast, pixels = plain.bfloat16(), fast.bfloat16(), pixels.bfloat16()
    if way == "frozen":
        plain.requires_grad_(False)
        fast.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        expected, found = passed(plain, pixels, slope), passed(fast, pixels, slope)
    assert len(expected) == (2 if way == "frozen" else 3 + bias)
    assert [f.dtype for f in found] == [e.dtype for e in expected]
    rough = way in ("bfloat16", "autocast")
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1.6e-2 if rough else 1e-5, atol=1e-5)
    for mine, torchs in zip(found[2:], expected[2:], strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1.6e-2 if rough else 1e-5, atol=1e-3)


def test_it_can_be_differentiated_twice() -> None:
    _, fast = both(2, bias=True, dtype=torch.float64)
    pixels = torch.rand(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fast, (pixels,))
    assert torch.autograd.gradgradcheck(lambda points: fast(points).sin(), (pixels,))


def test_an_encoder_has_it_under_the_checkpoints_own_names() -> None:
    encoder: Any = load("tiny")
    assert type(encoder.model.vision_model.embeddings.patch_embedding) is PatchEmbedding
    assert "vision_model.embeddings.patch_embedding.weight" in encoder.model.state_dict()
    points = torch.rand(2, 3, *encoder.input_size, requires_grad=True)
    nodes: set[Any] = set()
    stack: list[Any] = [encoder.encode_pixels(points).grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            stack += [parent for parent, _ in node.next_functions]
    assert not any("ConvolutionBackward" in type(node).__name__ for node in nodes)
    copied = encoder.copy()
    assert type(copied.model.vision_model.embeddings.patch_embedding) is PatchEmbedding


def test_images_that_patches_do_not_cover_go_torchs_way() -> None:
    plain, fast = both(8, bias=False)
    pixels, slope = torch.rand(1, 3, 20, 16), torch.randn(1, 24, 2, 2)
    assert all(map(torch.equal, passed(plain, pixels, slope), passed(fast, pixels, slope)))
