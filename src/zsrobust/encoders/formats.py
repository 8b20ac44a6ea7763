"""Which format a weight file has, told from its contents and never from its name.

    found in the file                                   format
    visual.… and a text tower, flat or below text.      a full model of OpenAI or open_clip
    state_dict with such keys, perhaps below module.    a training checkpoint of open_clip
    visual.… alone, or conv1.weight, class_embedding …  a visual tower, as RobustVLM publishes FARE and TeCoA
    vision_encoder_state_dict                           a checkpoint of the TeCoA paper's finetuning.py
    state_dict and add_prompter                         one of its visual_prompt.py: prompts alone

Seen in mlfoundations/open_clip (src/open_clip/factory.py), chs20/RobustVLM (CLIP_eval/eval_utils.py) and
cvlab-columbia/ZSRobust4FoundationModel (finetuning.py, visual_prompt.py, models/prompters.py, replace/model.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from zsrobust.encoders import openclip
from zsrobust.encoders.weights import as_float32
from zsrobust.errors import ModelError


@dataclass(frozen=True)
class Contents:
    """What a weight file holds, float32.

    Attributes:
        kind: ``"full"``, ``"visual"`` or ``"prompts"``.
        format: The same for people.
        state: By open_clip's names; of a visual tower without ``visual.``; empty where there are prompts alone.
        prompts: Visual prompts by our own names (``pixel.top``, ``tokens.tokens``, …).
        precision: In which the file has the weights.
    """

    kind: Literal["full", "visual", "prompts"]
    format: str
    state: dict[str, Tensor]
    prompts: dict[str, Tensor] = field(default_factory=dict)
    precision: str = "float32"


def recognise(found: Mapping[str, Any], where: str) -> Contents:
    """What is in a file that :func:`zsrobust.encoders.weights.contents` has read.

    Raises:
        ModelError: Nothing that is a CLIP, or of an architecture that cannot be mapped: what it is.
    """
    try:
        if "vision_encoder_state_dict" in found:
            return _finetuned(found, where)
        if "add_prompter" in found:
            return _prompts_alone(found, where)
        inner = found.get("state_dict")
        if isinstance(inner, Mapping):
            return _plain(inner, where, "open_clip training checkpoint, ")
        return _plain(found, where, "")
    except ModelError as error:
        told = str(error)
        raise ModelError(told if told.startswith(where) else f"{where}: {told}") from None


def _plain(found: Mapping[str, Any], where: str, start: str) -> Contents:
    tensors = openclip.without_prefix(_tensors(found, where), "module.")
    names = tensors.keys()
    if any(name.startswith(("vision_model.", "text_model.")) for name in names):
        raise ModelError("it has transformers' names, but no config.json: give the folder that holds both")
    openclip.refuse_foreign(names)
    visual = {n.removeprefix(openclip.VISUAL): t for n, t in tensors.items() if n.startswith(openclip.VISUAL)}
    rest = [name for name in names if not name.startswith(openclip.VISUAL) and not openclip.is_buffer(name)]
    if visual and any(name != "logit_scale" for name in rest):
        layout = "text. layout" if any(name.startswith("text.") for name in rest) else "flat layout"
        found = _float32(tensors, where)
        return Contents("full", f"{start}open_clip full model, {layout}", found, precision=_precision(tensors))
    if visual or "class_embedding" in tensors:
        kind = "visual tower alone" + (" (visual. prefix)" if visual else " (bare)")
        found = _float32(visual or tensors, where)
        return Contents("visual", start + kind, found, precision=_precision(tensors))
    openclip.refuse_foreign(openclip.VISUAL + name for name in names)
    if any(name.removeprefix("text.") == "token_embedding.weight" for name in names):
        raise ModelError("it is a text tower; a visual tower, or a model with both, is needed")
    raise ModelError(f"no CLIP that is known here: its first tensors are {', '.join(sorted(names)[:3]) or 'none'}")


def _finetuned(found: Mapping[str, Any], where: str) -> Contents:
    tower = openclip.without_prefix(_tensors(found["vision_encoder_state_dict"], where), "module.")
    position = tower.pop("prompt_pos_embedding", None)
    prompts = _prompts(found, position, where)
    precision = _precision({**tower, **prompts})
    told = "checkpoint of the TeCoA paper's code, visual tower" + (" and visual prompts" if prompts else "")
    return Contents("visual", told, _float32(tower, where), _float32(prompts, where), precision)


def _prompts_alone(found: Mapping[str, Any], where: str) -> Contents:
    # Their positions are zeros that visual_prompt.py neither trains nor saves (replace/model.py).
    prompts = _prompts(found, None, where)
    if not prompts:
        raise ModelError("its prompts are empty and it has no visual tower: nothing to open")
    told = "checkpoint of the TeCoA paper's code, visual prompts alone"
    return Contents("prompts", told, {}, _float32(prompts, where), _precision(prompts))


_PADS = {"pad_up": "top", "pad_down": "bottom", "pad_left": "left", "pad_right": "right"}


def _prompts(found: Mapping[str, Any], position: Tensor | None, where: str) -> dict[str, Tensor]:
    """Prompts of models/prompters.py by our names; what cannot be told from the file alone is refused.

    A frame of width 0 and 0 tokens are none.
    """
    pixel, token = (
        openclip.without_prefix({} if found.get(key) is None else _tensors(found[key], where), "module.")
        for key in ("state_dict", "add_prompter")
    )
    prompts: dict[str, Tensor] = {}
    if "patch" in pixel:
        raise ModelError(
            "it holds a patch prompt: the fixed and the random one of the paper's code are stored alike, so it cannot "
            "be told which this is"
        )
    if pixel:
        if pixel.keys() != _PADS.keys():
            raise ModelError(f"its pixel prompt is no frame of four strips ({', '.join(sorted(pixel)[:4])})")
        if any(strip.numel() for strip in pixel.values()):
            prompts |= {f"pixel.{ours}": _first(pixel[theirs], theirs) for theirs, ours in _PADS.items()}
    if token:
        if token.keys() != {"prompt"}:
            raise ModelError(f"its token prompts are made by more than tokens ({', '.join(sorted(token)[:3])}, …)")
        tokens = token["prompt"]
        if tokens.numel():
            if tokens.ndim != 3:
                raise ModelError(f"its token prompts are {tuple(tokens.shape)}, not (1, count, width)")
            prompts["tokens.tokens"] = tokens
            if position is not None:
                prompts["tokens.position"] = position
    return prompts


def _first(tensor: Tensor, name: str) -> Tensor:
    if tensor.ndim != 4 or len(tensor) != 1:
        raise ModelError(f"its prompt {name} is {tuple(tensor.shape)}, not (1, 3, height, width)")
    return tensor[0]


def _tensors(found: Any, where: str) -> dict[str, Tensor]:
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()
    ):
        raise ModelError(f"{where} is not a dictionary of tensors by name")
    return dict(found)


def _float32(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Without buffers."""
    return {n: as_float32(n, tensor, where) for n, tensor in tensors.items() if not openclip.is_buffer(n)}


def _precision(tensors: Mapping[str, Tensor]) -> str:
    """Of all but buffers."""
    kinds = {str(tensor.dtype).removeprefix("torch.") for n, tensor in tensors.items() if not openclip.is_buffer(n)}
    return " and ".join(sorted(kinds - {"float32"})) or "float32"
