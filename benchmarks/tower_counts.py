"""What one image costs a visual tower, counted and not timed: weights, operations, bytes kept for the backward pass.

The towers are built on torch's meta device or of fake tensors: nothing is multiplied, so a tower of 600 million weights
is counted in seconds. Operations are those of matrix products and convolutions, two for each multiply-add
(``torch.utils.flop_counter``); softmax, normalisation and activations are not in them. Kept bytes are the distinct
storages that autograd saves, without the weights themselves (``saved_tensors_hooks``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPModel

from zsrobust.encoders import tower
from zsrobust.passes import frozen

Attention = Literal["sdpa", "eager"]
FLOAT32 = 4
"""Bytes."""


@dataclass(frozen=True)
class Shape:
    """A CLIP: its two towers' sizes.

    Attributes:
        text: Width, blocks, heads, vocabulary and positions of the text tower.
        activation: ``quick_gelu`` keeps more for the backward pass than ``gelu``.
        source: Where the sizes were read.
    """

    image: int
    patch: int
    width: int
    layers: int
    heads: int
    embedding: int
    text: tuple[int, int, int, int, int]
    activation: str
    source: str

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return (self.image // self.patch) ** 2 + 1

    def config(self, layers: int | None = None) -> CLIPConfig:
        """Configuration for transformers; ``layers``: of the visual tower, instead of its own."""
        width, depth, heads, vocabulary, positions = self.text
        return CLIPConfig(
            vision_config={
                "hidden_size": self.width, "intermediate_size": 4 * self.width, "num_attention_heads": self.heads,
                "num_hidden_layers": layers or self.layers, "image_size": self.image, "patch_size": self.patch,
                "hidden_act": self.activation,
            },
            text_config={
                "hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": heads,
                "num_hidden_layers": depth, "vocab_size": vocabulary, "max_position_embeddings": positions,
                "bos_token_id": 0, "eos_token_id": 2,
            },
            projection_dim=self.embedding,
        )  # fmt: skip


_OPEN_CLIP = "mlfoundations/open_clip src/open_clip/model_configs"
SHAPES = {
    "tiny": Shape(64, 8, 128, 5, 4, 128, (128, 2, 4, 2048, 32), "gelu", "the model in the wheel"),
    "vit-b-32": Shape(
        224, 32, 768, 12, 12, 512, (512, 12, 8, 49408, 77), "quick_gelu", "defaults of transformers' CLIPConfig"
    ),
    "vit-l-14": Shape(
        224, 14, 1024, 24, 16, 768, (768, 12, 12, 49408, 77), "quick_gelu", f"{_OPEN_CLIP}/ViT-L-14.json"
    ),
    "vit-h-14": Shape(224, 14, 1280, 32, 16, 1024, (1024, 12, 16, 49408, 77), "gelu", f"{_OPEN_CLIP}/ViT-H-14.json"),
}


@dataclass(frozen=True)
class Operations:
    """Of one image: of a forward pass, of a backward pass to the pixels, of one to the weights without the pixels."""

    forward: int
    to_pixels: int
    to_weights: int

    def step(self, attack_steps: int) -> int:
        """Of a training step of an adversarial method with one forward pass in each loss, as TeCoA."""
        return attack_steps * (self.forward + self.to_pixels) + self.forward + self.to_weights


@dataclass(frozen=True)
class Kept:
    """Bytes that autograd holds between forward and backward.

    Attributes:
        fixed: Whatever the batch (weights that autocast copied).
        image: For each image.
        block: Part of ``image`` that one of the tower's blocks holds.
    """

    fixed: int
    image: int
    block: int

    def checkpointed(self, shape: Shape) -> int:
        """For each image, where a block's activations are computed again: its inputs, and one block's at a time."""
        inputs = shape.layers * shape.tokens * shape.width * FLOAT32
        return self.image - (shape.layers - 1) * self.block + inputs


def model(shape: Shape, attention: Attention = "eager", layers: int | None = None) -> Any:
    """The CLIP without values, on the device that is current."""
    return CLIPModel._from_config(shape.config(layers), attn_implementation=attention).eval()


def visual(clip: Any) -> dict[str, nn.Parameter]:
    """What adaptation trains of it: name → weight."""
    return {n: p for n, p in clip.named_parameters() if n.startswith(("vision_model.", "visual_projection."))}


def weights(shape: Shape) -> tuple[int, int]:
    """Number of weights of the visual tower, and of the whole model."""
    with torch.device("meta"):
        clip = model(shape)
    return sum(p.numel() for p in visual(clip).values()), sum(p.numel() for p in clip.parameters())


def operations(shape: Shape) -> Operations:
    """Counted with the attention written out, so that each of its products is seen."""
    with torch.device("meta"):
        clip = model(shape)
        pixels = torch.rand(1, 3, shape.image, shape.image)
    forward = _counted(lambda: _features(clip, pixels).detach())
    with frozen(clip):
        attack = _counted(lambda: _features(clip, pixels.requires_grad_()).sum().backward())
    train = _counted(lambda: _features(clip, pixels.detach()).sum().backward())
    return Operations(forward, attack - forward, train - forward)


def kept(shape: Shape, *, attack: bool, bf16: bool, attention: Attention = "sdpa") -> Kept:
    """Of the pass that gives the pixels' gradient (weights frozen), or of the one that gives the weights'."""

    def measured(batch: int, layers: int) -> int:
        with FakeTensorMode():
            clip = model(shape, attention, layers)
            pixels = torch.rand(batch, 3, shape.image, shape.image)
            return kept_by(clip, pixels, attack=attack, bf16=bf16)

    one, two, shallow = measured(1, shape.layers), measured(2, shape.layers), measured(2, shape.layers - 1)
    thin = measured(1, shape.layers - 1)
    return Kept(fixed=2 * one - two, image=two - one, block=(two - one) - (shallow - thin))


def kept_by(clip: Any, pixels: Tensor, *, attack: bool, bf16: bool) -> int:
    """Bytes that autograd holds after a forward pass of ``pixels``, without the model's weights and buffers."""
    own = {t.untyped_storage()._cdata for t in (*clip.parameters(), *clip.buffers())}
    seen: dict[int, tuple[int, Tensor]] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage.nbytes(), tensor  # the tensor keeps the address from being used again
        return tensor

    def run() -> None:
        with (
            torch.autograd.graph.saved_tensors_hooks(note, lambda t: t),
            torch.autocast(pixels.device.type, torch.bfloat16, enabled=bf16),
        ):
            _features(clip, pixels.requires_grad_(attack))

    if attack:
        with frozen(clip):
            run()
    else:
        run()
    return sum(size for size, _ in seen.values())


def _features(clip: Any, pixels: Tensor) -> Tensor:
    return tower.features(clip, pixels)


def _counted(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())
