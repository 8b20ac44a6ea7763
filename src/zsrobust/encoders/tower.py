"""The visual towers of transformers 5, with or without tokens of our own among theirs.

Without tokens a tower is called as it is. With tokens its parts are called one after the other, because transformers
has no place to put them in; no block, embedding or pooling is written again here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def features(model: Any, image: Tensor, tokens: Tensor | None = None) -> Tensor:
    """Raw image features (B, D).

    Args:
        model: transformers' CLIP or SigLIP with both towers.
        image: (B, 3, H, W), resized and normalised.
        tokens: (L, P, W) prompts of the tower's width W. The first P are appended to the embedded image; the l-th P
            after them take the place of what block l − 1 made of those before. L is 1 or the number of blocks. None:
            no prompts.
    """
    if tokens is None:
        return pooled(model.get_image_features(pixel_values=image))
    visual = model.vision_model
    hidden = visual.embeddings(image)
    own = hidden.shape[1]
    hidden = _with(hidden, tokens[0])
    clip = model.config.model_type == "clip"
    if clip:
        hidden = visual.pre_layrnorm(hidden)
    for number, block in enumerate(visual.encoder.layers):
        if 0 < number < len(tokens):
            hidden = _with(hidden[:, :own], tokens[number])
        hidden = block(hidden, None)
    if clip:
        projected: Tensor = model.visual_projection(visual.post_layernorm(hidden[:, 0]))
        return projected
    # What the blocks made of the prompts is dropped, as it is in CLIP, whose features are those of the class token: the
    # pooling attends to what it was trained on.
    seen: Tensor = visual.head(visual.post_layernorm(hidden[:, :own]))
    return seen


def _with(hidden: Tensor, tokens: Tensor) -> Tensor:
    """(B, N, W) and (P, W) → (B, N + P, W)."""
    return torch.cat([hidden, tokens.to(hidden.dtype).expand(hidden.shape[0], -1, -1)], 1)


def pooled(output: Any) -> Tensor:
    """Transformers 5 wraps the projected embedding; transformers 4 returned it."""
    found: Tensor = getattr(output, "pooler_output", output)
    return found


def blocks_and_width(model: Any) -> tuple[int, int]:
    """Number of blocks, and numbers in a token, of the visual tower."""
    config = model.config.vision_config
    return int(config.num_hidden_layers), int(config.hidden_size)
