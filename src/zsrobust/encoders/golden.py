"""A golden vector: a few numbers that a model gives for a fixed image and a fixed text.

Stored with every model that is saved and compared when it is opened again, so that another activation, another tower
or another precision is noticed; to the eye of a single accuracy most of them would pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zsrobust.encoders.base import Encoder
from zsrobust.errors import ModelError
from zsrobust.passes import float32_only

KEY = "golden"
"""In zsrobust.json."""
NUMBERS = 8
TEXT = "a cat"
SEED = 20_230_501
TOLERANCE = 2e-4
"""Largest difference allowed, as a share of the root mean square of the stored numbers. Float32 kernels of different
machines and batch shapes differ by about 1e-6 of it; weights rounded to float16 by 3e-4 and more, to bfloat16 by eight
times that."""


@torch.no_grad()
def golden(encoder: Encoder) -> dict[str, Any]:
    """The golden vector of ``encoder``, JSON-able.

    Returns:
        ``image`` and ``text``: 8 numbers each, evenly spaced in the raw features of one noise image (uniform in [0, 1],
        of the encoder's input size) and of the text "a cat"; float32, in evaluation mode, without autocast and TF32.
    """
    generator = torch.Generator().manual_seed(SEED)
    pixels = torch.rand(1, 3, *encoder.input_size, generator=generator)
    training = isinstance(encoder, nn.Module) and encoder.training
    if training:
        encoder.eval()  # type: ignore[attr-defined]
    try:
        # A random patch takes its place from the global generator: here always the same one.
        with torch.random.fork_rng(devices=[]), float32_only(_device(encoder)):
            texts = encoder.encode_texts([TEXT])
            torch.manual_seed(SEED)
            image = encoder.encode_pixels(pixels.to(texts.device))
    finally:
        if training:
            encoder.train()  # type: ignore[attr-defined]
    return {"image": _some(image), "text": _some(texts)}


def _device(encoder: Encoder) -> torch.device:
    weights = encoder.parameters() if isinstance(encoder, nn.Module) else iter(())
    return next((weight.device for weight in weights), torch.device("cpu"))


def _some(features: Tensor) -> list[float]:
    row = features[0].float().cpu()
    places = torch.linspace(0, len(row) - 1, min(NUMBERS, len(row))).round().long()
    return [float(number) for number in row[places]]


def check(encoder: Encoder, stored: object, where: str) -> None:
    """Compares with the golden vector that was stored when the model was saved.

    Args:
        encoder: The model as it was opened.
        stored: What :func:`golden` gave then.
        where: File that says so, for the message.

    Raises:
        ModelError: A difference above :data:`TOLERANCE`, with its likely cause; or ``stored`` is no golden vector.
    """
    found = golden(encoder)
    if not _is_golden(stored, found):
        raise ModelError(f"{where}: the golden vector is not {NUMBERS} numbers for an image and for a text")
    assert isinstance(stored, Mapping)
    apart = {part: _apart(found[part], stored[part]) for part in ("image", "text")}
    if max(apart.values()) <= TOLERANCE:
        return
    shown = " and ".join(f"{part} features by {size:.2%}" for part, size in apart.items() if size > TOLERANCE)
    raise ModelError(
        f"{where}: the model differs from the one that was saved, {shown}; {_cause(encoder, stored, apart)}"
    )


def _is_golden(stored: object, found: Mapping[str, Any]) -> bool:
    if not isinstance(stored, Mapping) or stored.keys() != found.keys():
        return False
    return all(
        isinstance(stored[part], list)
        and len(stored[part]) == len(found[part])
        and all(isinstance(number, int | float) and math.isfinite(number) for number in stored[part])
        for part in found
    )


def _apart(found: list[float], stored: list[float]) -> float:
    """Largest difference as a share of the root mean square of what is stored."""
    scale = math.sqrt(sum(number**2 for number in stored) / max(1, len(stored)))
    return max((abs(a - b) for a, b in zip(found, stored, strict=True)), default=0.0) / max(scale, 1e-12)


def _cause(encoder: Encoder, stored: Mapping[str, Any], apart: Mapping[str, float]) -> str:
    if swapped := _other_activation(encoder, stored):
        return swapped
    if max(apart.values()) < 0.02:
        return "as little as another precision of the weights does (float16, bfloat16)"
    if apart["text"] <= TOLERANCE:
        return "likely another visual tower, or another mean and std"
    if apart["image"] <= TOLERANCE:
        return "likely another text tower or tokenizer"
    return "likely the weights of another model"


def _other_activation(encoder: Encoder, stored: Mapping[str, Any]) -> str:
    """Whether the other activation gives the stored numbers: then that is the cause, without doubt."""
    model: Any = getattr(getattr(encoder, "base", encoder), "model", None)
    config = getattr(model, "config", None)
    if getattr(config, "model_type", None) != "clip":
        return ""
    from zsrobust.encoders.activations import activation_of, set_activation

    now = activation_of(model)
    other = {"gelu": "quick_gelu", "quick_gelu": "gelu"}.get(now)
    if other is None:
        return ""
    set_activation(model, other)
    try:
        found = golden(encoder)
    finally:
        set_activation(model, now)
    if max(_apart(found[part], stored[part]) for part in found) > TOLERANCE:
        return ""
    return f"its activation was {other} and config.json says {now} (hidden_act)"
