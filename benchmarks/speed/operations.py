"""The matrix products of a pass through CLIP, counted, and the floor: the time that they alone take.

An operation is a multiplication or an addition; a product of (m, k) by (k, n) has 2 m k n. Normalisations, activations
and softmax are not counted: they are what stands between a pass and its floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Part = Literal["patches", "linear", "attention", "head"]
Pass = Literal["forward", "attack", "training", "reference"]

_PASSES: dict[Pass, dict[Part, tuple[str, ...]]] = {
    # attack: also towards the pixels, no weight gets a gradient. training: towards the weights, which ends at the
    # patches. reference: towards pixels and weights, and the texts of the head are computed too.
    "forward": {"patches": ("f",), "linear": ("f",), "attention": ("f",), "head": ("f",)},
    "attack": {"patches": ("f", "x"), "linear": ("f", "x"), "attention": ("f", "x", "w"), "head": ("f", "x")},
    "training": {
        "patches": ("f", "w"), "linear": ("f", "x", "w"), "attention": ("f", "x", "w"), "head": ("f", "x"),
    },
    "reference": dict.fromkeys(("patches", "linear", "attention", "head"), ("f", "x", "w")),
}  # fmt: skip


@dataclass(frozen=True)
class Product:
    """``count`` products of (rows, inner) by (inner, columns), each of ``groups`` pairs of matrices."""

    part: Part
    count: int
    groups: int
    rows: int
    inner: int
    columns: int

    @property
    def operations(self) -> int:
        """Of one product in one direction, times ``count``."""
        return 2 * self.count * self.groups * self.rows * self.inner * self.columns


@dataclass(frozen=True)
class Tower:
    """The sizes of a transformer tower.

    Attributes:
        tokens: Of an image or a text.
        width: Numbers in a token.
        layers: Blocks.
        heads: Of attention.
        hidden: Width inside the MLP.
        embedding: Width of the features.
        patch: Numbers in a patch of the image; 0 for text.
    """

    tokens: int
    width: int
    layers: int
    heads: int
    hidden: int
    embedding: int
    patch: int = 0

    @classmethod
    def visual(cls, config: Any) -> Tower:
        """Of transformers' CLIP configuration."""
        own = config.vision_config
        tokens = (own.image_size // own.patch_size) ** 2 + 1
        return cls(
            tokens, own.hidden_size, own.num_hidden_layers, own.num_attention_heads, own.intermediate_size,
            config.projection_dim, 3 * own.patch_size**2,
        )  # fmt: skip

    @classmethod
    def text(cls, config: Any) -> Tower:
        """Likewise; texts are as long as they can be."""
        own = config.text_config
        return cls(
            own.max_position_embeddings, own.hidden_size, own.num_hidden_layers, own.num_attention_heads,
            own.intermediate_size, config.projection_dim,
        )  # fmt: skip

    def products(self, batch: int) -> list[Product]:
        """Of a forward pass of so many images or texts."""
        rows, each = batch * self.tokens, self.width // self.heads
        patches = [Product("patches", 1, 1, batch * (self.tokens - 1), self.patch, self.width)] if self.patch else []
        return [
            *patches,
            Product("linear", 4 * self.layers, 1, rows, self.width, self.width),
            Product("linear", self.layers, 1, rows, self.width, self.hidden),
            Product("linear", self.layers, 1, rows, self.hidden, self.width),
            Product("attention", self.layers, batch * self.heads, self.tokens, each, self.tokens),
            Product("attention", self.layers, batch * self.heads, self.tokens, self.tokens, each),
            Product("linear", 1, 1, batch, self.width, self.embedding),
        ]


def head(batch: int, classes: int, embedding: int) -> Product:
    """Features (batch, embedding) against the texts of all classes."""
    return Product("head", 1, 1, batch, embedding, classes)


def operations(products: Sequence[Product], kind: Pass) -> int:
    """Of a pass with these products."""
    return sum(len(_PASSES[kind][product.part]) * product.operations for product in products)


def step_products(config: Any, batch: int, classes: int) -> list[Product]:
    """What a pass through visual tower and head multiplies."""
    return [*Tower.visual(config).products(batch), head(batch, classes, config.projection_dim)]


def reference_products(config: Any, batch: int, classes: int) -> list[Product]:
    """The same with the texts of all classes through the text tower."""
    return [*step_products(config, batch, classes), *Tower.text(config).products(classes)]


class Floor:
    """The matrix products of a pass and nothing else, at their own shapes and precision: a work to be timed.

    Args:
        products: Of a forward pass.
        kind: Which directions are multiplied.
        dtype: Of the numbers.
        device: Where.
    """

    def __init__(self, products: Sequence[Product], kind: Pass, dtype: torch.dtype, device: str) -> None:
        self.operations = operations(products, kind)
        self._pairs: list[tuple[int, Tensor, Tensor]] = []
        for product in products:
            left = torch.rand(product.groups, product.rows, product.inner, device=device, dtype=dtype)
            right = torch.rand(product.groups, product.inner, product.columns, device=device, dtype=dtype)
            out = torch.rand(product.groups, product.rows, product.columns, device=device, dtype=dtype)
            ways = {"f": (left, right), "x": (out, right.transpose(1, 2)), "w": (left.transpose(1, 2), out)}
            for way in _PASSES[kind][product.part]:
                first, second = ways[way]
                if product.groups == 1:
                    first, second = first[0], second[0]
                self._pairs.append((product.count, first, second))

    def __call__(self) -> None:
        """All products, once."""
        with torch.no_grad():
            for count, left, right in self._pairs:
                for _ in range(count):
                    torch.matmul(left, right)
