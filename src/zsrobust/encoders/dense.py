"""Features of the patches beside those of the image: what text-guided attention looks at."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from zsrobust.encoders.base import Encoder
from zsrobust.errors import ModelError


def dense(encoder: Encoder, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Raw features of the images and of their patches; differentiable, through any prompt.

    A patch's features are its last hidden state through the tower's last LayerNorm and projection, as the class
    token's are.

    Args:
        encoder: A CLIP of transformers, prompted or not.
        pixels: ``(B, 3, h, w)`` in [0, 1].

    Returns:
        ``(B, D)``, as :meth:`~zsrobust.encoders.base.Encoder.encode_pixels` gives, and ``(B, N, D)``, row by row.

    Raises:
        ModelError: The encoder is another one; SigLIP, for example, pools its patches by attention and has no
            projection for a single one.
    """
    model = _clip(encoder)
    seen: list[Any] = []
    watch = model.vision_model.encoder.layers[-1].register_forward_hook(lambda _, __, output: seen.append(output))
    try:
        features = encoder.encode_pixels(pixels)
    finally:
        watch.remove()
    hidden: Tensor = seen[0] if isinstance(seen[0], Tensor) else seen[0][0]
    count = model.vision_model.embeddings.num_patches
    patches: Tensor = model.visual_projection(model.vision_model.post_layernorm(hidden[:, 1 : 1 + count]))
    return features, patches


def _clip(encoder: Any) -> Any:
    """Transformers' CLIPModel within the encoder, or within the base of a prompted one."""
    model = getattr(getattr(encoder, "base", encoder), "model", None)
    if getattr(getattr(model, "config", None), "model_type", None) != "clip":
        raise ModelError(f"'{encoder.name}' has no features of single patches: that takes a CLIP of transformers")
    return model
