"""What every format of an export takes and gives, and which models none of them can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zsrobust.encoders import Encoder
from zsrobust.encoders.huggingface import HuggingFaceEncoder
from zsrobust.encoders.prompted import PromptedEncoder
from zsrobust.errors import ModelError
from zsrobust.text_head import TextHead


@dataclass(frozen=True)
class Request:
    """What a format is asked for.

    Attributes:
        title: What the model is to be called: its repository, or its folder.
        repo: ``owner/name`` of the hub, where it will be pushed to; None: nowhere.
        heads: Name → text head; only ONNX takes any.
    """

    title: str
    repo: str | None = None
    heads: Mapping[str, TextHead] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """What a format made of it.

    Attributes:
        library: Which opens the folder, as the hub calls it.
        pipeline: What the folder does, as the hub calls it.
        use: Markdown: which file is what, and how to open it.
        facts: JSON-able, for ``export.json``: input, activation, what was checked.
    """

    library: str
    pipeline: str
    use: str
    facts: Mapping[str, Any]


def plain(encoder: Encoder, form: str) -> HuggingFaceEncoder:
    """The model, if all of it is weights that ``form`` has a place for.

    Raises:
        ModelError: It has a prompt, a defence, or is no model of transformers.
    """
    if isinstance(encoder, PromptedEncoder):
        _refuse_random(encoder)
        raise ModelError(
            f"'{encoder.name}' has a visual prompt, which the format {form} has no place for: the folder would hold "
            "another, unprompted model; --format onnx keeps the prompt inside the graph"
        )
    if not isinstance(encoder, HuggingFaceEncoder):
        raise _foreign(encoder)
    return encoder


def deterministic(encoder: Encoder) -> HuggingFaceEncoder | PromptedEncoder:
    """The model, if it is a fixed function of the pixels: a CLIP or SigLIP, with or without a prompt.

    Raises:
        ModelError: It is random, has a defence, or is no model of transformers.
    """
    if not isinstance(encoder, HuggingFaceEncoder | PromptedEncoder):
        raise _foreign(encoder)
    _refuse_random(encoder)
    return encoder


def activation_of(encoder: HuggingFaceEncoder) -> str:
    """``"quick_gelu"`` or ``"gelu"``, of the visual tower."""
    return str(encoder.model.config.vision_config.hidden_act)


def only_clip(encoder: HuggingFaceEncoder, form: str) -> None:
    """Refuses what is not a ViT CLIP.

    Raises:
        ModelError: Another family.
    """
    family = encoder.model.config.model_type
    if family != "clip":
        raise ModelError(
            f"'{encoder.name}' is a {family}, and the format {form} holds ViT CLIPs only (open_clip keeps others in a "
            "timm tower of other names); --format hf and --format onnx take it"
        )


def _refuse_random(encoder: Encoder) -> None:
    if getattr(encoder, "samples", 1) != 1:
        raise ModelError(
            f"'{encoder.name}' is random (its prompt is at another place for every image), and its accuracy is that of "
            "many draws: a file in another format would not be the model that was measured"
        )


def _foreign(encoder: Encoder) -> ModelError:
    if hasattr(encoder, "base"):
        return ModelError(
            f"'{encoder.name}' is a model with a test-time defence, which runs when an image comes in and which no "
            "format holds; export the model without the defence, and do not quote the defended accuracy for it"
        )
    kind = type(encoder).__name__
    return ModelError(f"'{encoder.name}' is a {kind}; only a CLIP or SigLIP of transformers can be exported")
