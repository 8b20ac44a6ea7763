"""What fingerprints are made of: weights, bit for bit, and what else decides what a tower computes with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor, uint8

_DECISIVE = ("hidden_act", "num_attention_heads", "layer_norm_eps")
"""Of a tower's configuration: other values fit the same weights and give other features."""


def digest(state: Mapping[str, Tensor], extra: str) -> str:
    """sha256 over ``extra`` and named tensors."""
    found = hashlib.sha256(extra.encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.reshape(-1).view(uint8).numpy().data)
    return found.hexdigest()


def beside_weights(config: Any, tokenizer: Any) -> str:
    """What decides the function of a tower beside its weights, as JSON.

    Args:
        config: The tower's own configuration in transformers.
        tokenizer: The checkpoint's: it says where CLIP's text tower pools if its ``eos_token_id`` is 2, the old rule
            (:func:`zsrobust.encoders.texts.read` has checked that the two agree).
    """
    found = {key: getattr(config, key) for key in _DECISIVE}
    if config.model_type == "clip_text_model":
        found["pools_at"] = tokenizer.eos_token_id if config.eos_token_id == 2 else config.eos_token_id
    return json.dumps(found)
