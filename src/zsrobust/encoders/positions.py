"""Another input size for a ViT: position embeddings interpolated, config and preprocessing changed with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from zsrobust.encoders.huggingface import HuggingFaceEncoder, assembled
from zsrobust.encoders.preprocessing import Preprocessing
from zsrobust.errors import ConfigError, ModelError
from zsrobust.geometry import Geometry

_POSITIONS = "vision_model.embeddings.position_embedding.weight"


def interpolated(positions: Tensor, grid: int, *, extra: int) -> Tensor:
    """Position embeddings of a square grid for another one.

    Bicubic with antialiasing in float32, as open_clip's ``resize_pos_embed`` does (src/open_clip/model.py).

    Args:
        positions: (extra + g², W) float32.
        grid: Patches along a side of the new image.
        extra: Tokens before the patches (1, the class token, or 0); they are kept.

    Returns:
        (extra + grid², W).
    """
    kept, patches = positions[:extra], positions[extra:]
    side = round(len(patches) ** 0.5)
    image = patches.T.reshape(1, -1, side, side)
    fitted = nn.functional.interpolate(image, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([kept, fitted[0].flatten(1).T])


def resized(encoder: HuggingFaceEncoder, size: int) -> HuggingFaceEncoder:
    """A new encoder whose visual tower takes ``size``×``size`` pixels; ``encoder`` itself if it does already.

    Raises:
        ConfigError: ``size`` is no multiple of the patches.
        ModelError: the preprocessing resizes and crops to two different sizes, so the new one is not determined.
    """
    vision = encoder.model.config.vision_config
    if isinstance(size, bool) or not isinstance(size, int) or size < 1 or size % vision.patch_size:
        raise ConfigError(f"size={size} is no multiple of the model's patches of {vision.patch_size} pixels")
    old = encoder.input_size
    if (size, size) == old:
        return encoder
    if old[0] != old[1]:
        raise ModelError(f"{encoder.name} takes {old[0]}x{old[1]} pixels; only square inputs can be resized")
    state = {name: tensor.detach().clone() for name, tensor in encoder.model.state_dict().items()}
    extra = 1 if encoder.model.config.model_type == "clip" else 0
    state[_POSITIONS] = interpolated(state[_POSITIONS].float(), size // vision.patch_size, extra=extra)
    config = type(encoder.model.config).from_dict(encoder.model.config.to_dict())
    config.vision_config.image_size = size
    attention = encoder.model.config._attn_implementation
    model = assembled(type(encoder.model), config, state, encoder.name, attention)
    told: dict[str, object] = {
        **encoder.provenance,
        "resized": {"from": old[0], "to": size, "how": "bicubic, antialias"},
    }
    name = f"{encoder.name}:size={size}"
    return HuggingFaceEncoder(model, encoder.reader, _preprocessing(encoder, size), name=name, provenance=told)


def _preprocessing(encoder: HuggingFaceEncoder, size: int) -> Preprocessing:
    given = encoder.preprocessing
    old, geometry = given.input_size[0], given.geometry
    source: dict[str, Any] = dict(given.source)
    pair = {"height": size, "width": size}
    if geometry.resize == (old, old) and geometry.crop in (None, (old, old)):
        crop = None if geometry.crop is None else (size, size)
        changed = Geometry(resize=(size, size), crop=crop, interpolation=geometry.interpolation)
        source |= {"size": pair} if crop is None else {"size": pair, "crop_size": pair}
    elif geometry.resize == old and geometry.crop in (old, (old, old)):
        changed = Geometry(resize=size, crop=(size, size), interpolation=geometry.interpolation)
        source |= {"size": _shortest(source.get("size"), size), "crop_size": pair}
    else:
        raise ModelError(
            f"{encoder.name} resizes to one size and crops to another ({geometry.describe()}): what it would be for "
            f"{size} pixels is not guessed"
        )
    return replace(given, input_size=(size, size), geometry=changed, source=source)


def _shortest(old: object, size: int) -> object:
    return {"shortest_edge": size} if isinstance(old, Mapping) else size
