"""A visual tower in bfloat16, for passes that may be rough: where an attack proposes and float32 decides.

Compared with autocast nothing is cast back and forth, and of CLIP's last block only what leaves the tower is computed:
the row of the class token (its keys and values need the others, its query and everything after do not).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_VISUAL = ("vision_model", "visual_projection")


class Lowered:
    """A bfloat16 copy of the visual tower of ``model``, made when it is first asked for, that follows its weights.

    Args:
        model: transformers' CLIP or SigLIP with both towers.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.state: list[tuple[int, int]] = []
        self.made: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Lowered:
        return Lowered(copy.deepcopy(self.model, memo))

    def tower(self, weights: Iterable[nn.Parameter]) -> Any:
        """The copy, with ``get_image_features``; ``weights`` are the visual tower's own, whose changes it follows."""
        state = [(weight.data_ptr(), weight._version) for weight in weights]
        if self.made is None or self.state != state:
            self.made, self.state = _copy(self.model), state
        return self.made


def _copy(model: Any) -> Any:
    lower = copy.copy(model)
    lower._modules = dict(model._modules)
    for name in _VISUAL:
        if name in lower._modules:
            lower._modules[name] = copy.deepcopy(model._modules[name]).to(torch.bfloat16)
    if next(model.parameters()).device.type == "cpu":
        lower.vision_model.config._attn_implementation = "eager"  # the fast one in bfloat16 on CPUs
    if model.config.model_type == "clip":
        layers = lower.vision_model.encoder.layers
        layers[-1] = _ClassTokenBlock(layers[-1])
    return lower


class _ClassTokenBlock(nn.Module):
    """CLIP's last block for the first token alone: (B, N, D) → (B, 1, D)."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        block, attention = self.block, self.block.self_attn
        normed = block.layer_norm1(hidden_states)
        query, keys, values = (
            part.unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)
            for part in (attention.q_proj(normed[:, :1]), attention.k_proj(normed), attention.v_proj(normed))
        )
        mixed = functional.scaled_dot_product_attention(query, keys, values, scale=attention.scale)
        first = hidden_states[:, :1] + attention.out_proj(mixed.transpose(1, 2).flatten(2))
        result: Tensor = first + block.mlp(block.layer_norm2(first))
        return result
