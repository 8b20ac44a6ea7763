"""Points on the line between a model and what became of it: weight interpolation.

Wortsman et al., *Robust fine-tuning of zero-shot models* (WiSE-FT), arXiv 2109.01903; in the code of the TeCoA paper
(cvlab-columbia/ZSRobust4FoundationModel, ``mix_alpha`` of finetuning.py) over the visual tower alone, as here:

    θ(α) = (1 − α) · θ_original + α · θ_adapted        0 ≤ α ≤ 1

θ is the visual tower and, of a prompted model, its prompt. No pixel prompt is the same function as a pixel prompt of
zeros, so against a model without one it is scaled by α. No token prompts are not the same function as tokens of zeros,
to which the image's own tokens would attend: there is no line between the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zsrobust.encoders.base import Encoder
from zsrobust.encoders.huggingface import HuggingFaceEncoder
from zsrobust.encoders.prompted import PromptedEncoder
from zsrobust.errors import ConfigError, ModelError
from zsrobust.evaluation import device_of, fingerprint_of
from zsrobust.run_folder import versions
from zsrobust.tuning.weights import writable

REFERENCE = "WiSE-FT, arXiv 2109.01903"

_PIXEL = "prompt.pixel."
_PROBE = ("a cat",)
_FUNCTION = ("hidden_act", "layer_norm_eps", "num_attention_heads", "patch_size")
"""What of the configuration of a visual tower changes its features and shows in no name and shape of its weights."""
_TOLD = ("source", "revision", "license", "adapted_on", "adaptation", "prompt", "interpolation")


def interpolate(original: Encoder, adapted: Encoder, alpha: float) -> Encoder:
    """The model at ``alpha`` of the way from ``original`` to ``adapted``. Neither is changed.

    Weights are mixed in float64 and rounded once: a weight that both have in common stays as it is, and α = 0 and α = 1
    are the ends, bit for bit. The result is on the device of ``original``; its provenance says what was mixed.

    Args:
        original: With α = 0.
        adapted: With α = 1: of the same architecture and preprocessing, and with the same text tower, bit for bit.
        alpha: In [0, 1]. Beyond the ends is refused: nothing was ever trained or measured there.

    Raises:
        ConfigError: ``alpha`` is not a number in [0, 1].
        ModelError: there is no line between the two; the message says why.
    """
    alpha = checked_alpha(alpha)
    _check_prompts(original, adapted)
    _check_outside(original, adapted)
    ends = _towers(original, adapted)
    mixed: Any = _carrier(original, adapted, alpha).copy().to(device_of(original))  # type: ignore[attr-defined]
    if 0 < alpha < 1:
        with torch.no_grad():
            for name, weight in mixed.visual_parameters():
                weight.copy_(_between(ends[0].get(name), ends[1].get(name), alpha))
    mixed.requires_grad_(False).eval()
    mixed.name = f"{adapted.name}@{shown(alpha)}"
    mixed.provenance = _story(original, adapted, alpha)
    return mixed  # type: ignore[no-any-return]


def checked_alpha(alpha: float) -> float:
    """``alpha`` if it is a number in [0, 1].

    Raises:
        ConfigError: it is not.
    """
    number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not number or not 0 <= alpha <= 1:
        raise ConfigError(f"alpha must be a number in 0..1 (0 is the original, 1 the adapted model), not {alpha!r}")
    return float(alpha)


def shown(alpha: float) -> str:
    """α as names and folders write it: ``0``, ``0.5``, ``0.75``."""
    return f"{alpha:.10g}"


def _carrier(original: Encoder, adapted: Encoder, alpha: float) -> Encoder:
    """Which of the two has everything that the mixture has."""
    if alpha in (0, 1):
        return adapted if alpha else original
    prompts = [isinstance(end, PromptedEncoder) and end.pixel is not None for end in (original, adapted)]
    return original if prompts == [True, False] else adapted


def _between(first: Tensor | None, second: Tensor | None, alpha: float) -> Tensor:
    """The weight at ``alpha``, float64 on the CPU (some devices have none); None, of one of them, stands for zeros."""
    given = [end if end is None else end.cpu().double() for end in (first, second)]
    shape = next(end for end in given if end is not None)
    start, end = (torch.zeros_like(shape) if one is None else one for one in given)
    return (1 - alpha) * start + alpha * end


def _check_prompts(original: Encoder, adapted: Encoder) -> None:
    first, second = (end.describe_prompt() if isinstance(end, PromptedEncoder) else {} for end in (original, adapted))
    if ("tokens" in first) != ("tokens" in second):
        with_tokens, without = (original, adapted) if "tokens" in first else (adapted, original)
        raise ModelError(
            f"'{with_tokens.name}' has token prompts and '{without.name}' has none: no tokens is not a point on the "
            "line to some, because a tower attends to tokens of zeros as well"
        )
    for part in sorted(first.keys() & second.keys()):
        if first[part] != second[part]:
            raise ModelError(
                f"'{original.name}' and '{adapted.name}' have {part} prompts of different shape ({first[part]} and "
                f"{second[part]}): there is no line between them"
            )


def _towers(original: Encoder, adapted: Encoder) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """What is mixed, by name."""
    first, second = (dict(writable(end, "mixed").visual_parameters()) for end in (original, adapted))
    for name in sorted(first.keys() ^ second.keys()):
        if not name.startswith(_PIXEL):
            has, lacks = (original, adapted) if name in first else (adapted, original)
            raise _different(original, adapted, f"{name} is in '{has.name}' and not in '{lacks.name}'")
    for name in sorted(first.keys() & second.keys()):
        one, other = tuple(first[name].shape), tuple(second[name].shape)
        if one != other:
            raise _different(original, adapted, f"{name} is {one} and {other}")
    return first, second


def _check_outside(original: Encoder, adapted: Encoder) -> None:
    """Everything but the weights of the visual tower is the same: kind, preprocessing, text tower, logit scale."""
    one, other = (end.base if isinstance(end, PromptedEncoder) else end for end in (original, adapted))
    if type(one) is not type(other):
        raise _different(original, adapted, f"a {type(one).__name__} and a {type(other).__name__}")
    for what in ("input_size", "geometry", "resize_description"):
        if getattr(one, what) != getattr(other, what):
            raise _different(original, adapted, f"{what} is {getattr(one, what)} and {getattr(other, what)}")
    if isinstance(one, HuggingFaceEncoder) and isinstance(other, HuggingFaceEncoder):
        configs = one.model.config.vision_config, other.model.config.vision_config
        for what in _FUNCTION:
            values = [getattr(config, what) for config in configs]
            if values[0] != values[1]:
                raise _different(original, adapted, f"{what} is {values[0]} and {values[1]}")
    _towers(one, other)
    first, second = _outside(one), _outside(other)
    for name in sorted(first.keys() | second.keys()):
        if name not in first or name not in second or not _equal(first[name], second[name]):
            raise _different(original, adapted, f"{name}, which is not mixed, is not the same in both")
    if not _same_texts(one, other):
        raise _different(original, adapted, "they read the same text differently")


def _outside(encoder: Any) -> dict[str, Tensor]:
    """Parameters and buffers, mean and std among them, that are not the visual tower's own parameters."""
    mixed = {id(weight) for _, weight in encoder.visual_parameters()}
    everything: dict[str, Tensor] = dict(encoder.named_parameters()) | dict(encoder.named_buffers())
    return {name: tensor for name, tensor in everything.items() if id(tensor) not in mixed}


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype and torch.equal(first.cpu(), second.cpu())


def _same_texts(one: Any, other: Any) -> bool:
    """The same tokenizer and, up to what devices round differently, the same features."""
    prints = [end.text_fingerprint() if hasattr(end, "text_fingerprint") else None for end in (one, other)]
    features = [end.encode_texts(list(_PROBE)).cpu() for end in (one, other)]
    return prints[0] == prints[1] and torch.allclose(features[0], features[1], rtol=1e-3, atol=1e-4)


def _different(original: Encoder, adapted: Encoder, why: str) -> ModelError:
    return ModelError(f"'{original.name}' and '{adapted.name}' are not of the same base and cannot be mixed: {why}")


def _story(original: Encoder, adapted: Encoder, alpha: float) -> Mapping[str, object]:
    """Provenance: at an end that of the end, between them of both; always with what was mixed."""
    first, second = dict(original.provenance), dict(adapted.provenance)
    if alpha in (0, 1):
        told = second if alpha else first
    else:
        told = {**second, **first}
        told |= {key: second[key] for key in ("adaptation", "base") if key in second}
        tasks: list[Any] = [*first.get("adapted_on", []), *second.get("adapted_on", [])]  # type: ignore[misc]
        told["adapted_on"] = list(dict.fromkeys(tasks))
        if first.get("license") != second.get("license"):
            told.pop("license", None)  # neither holds for the mixture; both are told below
    ends = {"original": _end(original, first), "adapted": _end(adapted, second)}
    return {**told, "interpolation": {"alpha": alpha, **ends, "reference": REFERENCE}, "versions": versions()}


def _end(encoder: Encoder, provenance: Mapping[str, object]) -> dict[str, object]:
    told = {key: provenance[key] for key in _TOLD if key in provenance}
    return {"name": encoder.name, "fingerprint": fingerprint_of(encoder), **told}
