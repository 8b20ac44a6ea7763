"""CLIP weights between the layout of OpenAI and open_clip and that of transformers, bit for bit.

The two hold the same numbers: query, key and value are one matrix there and three here, and the projections are
transposed. Names as in mlfoundations/open_clip, src/open_clip/model.py and transformer.py (``CLIP``,
``CustomTextCLIP``, ``VisionTransformer``), and in transformers, models/clip/modeling_clip.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from zsrobust.encoders.openclip_config import ACTIVATIONS, HEAD_WIDTH, clip_config, mlp_ratio, model_cfg
from zsrobust.errors import ModelError

__all__ = [
    "ACTIVATIONS", "HEAD_WIDTH", "clip_config", "from_openclip", "is_buffer", "mlp_ratio", "model_cfg",
    "refuse_foreign", "text_facts", "to_openclip", "visual_facts", "visual_from_openclip", "visual_to_openclip",
    "without_prefix",
]  # fmt: skip

VISUAL = "visual."

_BLOCK = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}  # fmt: skip
_VISUAL = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "ln_post.weight": "vision_model.post_layernorm.weight",
    "ln_post.bias": "vision_model.post_layernorm.bias",
    "proj": "visual_projection.weight",
}
_TEXT = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
}
_TRANSPOSED = ("visual_projection.weight", "text_projection.weight")
_BUFFERS = ("attn_mask", "input_resolution", "context_length", "vocab_size", "position_ids")
_IN_PROJ = re.compile(r"attn\.in_proj_(weight|bias)")
_OURS = re.compile(r"encoder\.layers\.(\d+)\.(.+)")
_THEIRS = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")


def to_openclip(state: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """A ``CLIPModel``'s weights in the flat layout of open_clip's ``CLIP``.

    Args:
        state: ``state_dict()`` of a ``CLIPModel``.
        config: Its ``CLIPConfig``; what open_clip cannot be told is refused (:func:`model_cfg`).

    Returns:
        New tensors, contiguous; :func:`from_openclip` gives ``state`` back bit for bit.

    Raises:
        ModelError: A tensor is missing, left over, or of a model that open_clip does not have.
    """
    model_cfg(config)
    kept = {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}
    visual = {name: kept.pop(name) for name in list(kept) if name.startswith(("vision_model.", "visual_projection."))}
    found = {VISUAL + name: tensor for name, tensor in visual_to_openclip(visual).items()}
    found["logit_scale"] = _taken(kept, "logit_scale").clone()
    return found | _renamed(kept, _TEXT, "text_model.")


def visual_to_openclip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The visual tower alone: ``vision_model.…`` and ``visual_projection.…`` → keys without ``visual.``.

    This is what ``model.visual.state_dict()`` is in open_clip, and what robust visual towers are published as.

    Raises:
        ModelError: A tensor is missing or left over.
    """
    return _renamed(dict(state), _VISUAL, "vision_model.")


def from_openclip(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A full model of OpenAI or open_clip as weights of a ``CLIPModel``.

    Args:
        state: Keys flat (``visual.…``, ``transformer.…``), with the text tower under ``text.`` (``CustomTextCLIP``), or
            either below ``module.`` (``DataParallel``).

    Returns:
        New tensors by transformers' names, and what the shapes say: ``layout`` (``"flat"`` or ``"text."``), and of each
        tower what :func:`clip_config` needs.

    Raises:
        ModelError: No such model: what it is instead, where that can be seen.
    """
    plain = without_prefix(state, "module.")
    refuse_foreign(plain)
    visual = {name.removeprefix(VISUAL): value for name, value in plain.items() if name.startswith(VISUAL)}
    rest = {n: v for n, v in plain.items() if not n.startswith(VISUAL) and not is_buffer(n)}
    if not visual:
        raise ModelError("no tensor of a visual tower (visual.…) among the weights")
    scale = rest.pop("logit_scale", None)
    if not rest:
        raise ModelError("only a visual tower, no text tower among the weights: name a base model (base=…)")
    if scale is None or scale.numel() != 1:
        raise ModelError("the weights have no logit_scale" if scale is None else "logit_scale is not one number")
    layout = "text." if any(name.startswith("text.") for name in rest) else "flat"
    found = visual_from_openclip(visual)
    found |= _from(without_prefix(rest, "text."), _TEXT, "text_model.", "text tower")
    found["logit_scale"] = scale.reshape(()).clone()
    return found, {"layout": layout, **visual_facts(found), **text_facts(found)}


def visual_from_openclip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of :func:`visual_to_openclip`; ``module.`` prefixes are taken off.

    Raises:
        ModelError: No visual tower of a ViT CLIP: what is missing or left over.
    """
    plain = without_prefix(state, "module.")
    refuse_foreign({VISUAL + name: tensor for name, tensor in plain.items()})
    kept = {name: tensor for name, tensor in plain.items() if not is_buffer(name)}
    if "token_embedding.weight" in kept:
        raise ModelError("a text tower is where the visual tower should be (token_embedding.weight among its tensors)")
    return _from(kept, _VISUAL, "vision_model.", "visual tower")


def _renamed(state: dict[str, Tensor], names: Mapping[str, str], tower: str) -> dict[str, Tensor]:
    """Ours → theirs, of one tower; empties ``state``."""
    found: dict[str, Tensor] = {}
    for theirs, ours in names.items():
        tensor = _taken(state, ours)
        found[theirs] = (tensor.t() if ours in _TRANSPOSED else tensor).contiguous().clone()
    back = {ours: theirs for theirs, ours in _BLOCK.items()}
    for number in _blocks(state, tower, _OURS):
        old, new = f"{tower}encoder.layers.{number}.", f"transformer.resblocks.{number}."
        for kind in ("weight", "bias"):
            parts = [_taken(state, f"{old}self_attn.{part}_proj.{kind}") for part in "qkv"]
            found[f"{new}attn.in_proj_{kind}"] = torch.cat(parts)
            for ours, theirs in back.items():
                found[f"{new}{theirs}.{kind}"] = _taken(state, f"{old}{ours}.{kind}").contiguous().clone()
    if state:
        raise ModelError(f"{len(state)} tensors have no place in open_clip's layout ({min(state)})")
    return found


def _from(given: Mapping[str, Tensor], names: Mapping[str, str], tower: str, what: str) -> dict[str, Tensor]:
    """Theirs → ours, of one tower."""
    state, found = dict(given), {}
    for theirs, ours in names.items():
        tensor = _formed(state, theirs, what)
        found[ours] = (tensor.t() if ours in _TRANSPOSED else tensor).contiguous().clone()
    for number in _blocks(state, "", _THEIRS):
        old, new = f"transformer.resblocks.{number}.", f"{tower}encoder.layers.{number}."
        for kind in ("weight", "bias"):
            whole = _formed(state, f"{old}attn.in_proj_{kind}", what)
            if whole.shape[0] % 3:
                raise ModelError(f"{old}attn.in_proj_{kind} of the {what} is not query, key and value")
            for part, tensor in zip("qkv", whole.chunk(3), strict=True):
                found[f"{new}self_attn.{part}_proj.{kind}"] = tensor.contiguous().clone()
            for theirs, ours in _BLOCK.items():
                found[f"{new}{ours}.{kind}"] = _formed(state, f"{old}{theirs}.{kind}", what).contiguous().clone()
    if state:
        raise ModelError(f"the {what} has {len(state)} tensors that a ViT CLIP does not have ({min(state)})")
    return found


def _blocks(state: Iterable[str], tower: str, pattern: re.Pattern[str]) -> list[int]:
    """The numbers of the blocks, from 0 without a gap."""
    found = {int(match[1]) for name in state if (match := pattern.fullmatch(name.removeprefix(tower)))}
    if not found or found != set(range(len(found))):
        raise ModelError("the weights have no blocks" if not found else "a block is missing among the weights")
    return sorted(found)


def _taken(state: dict[str, Tensor], name: str, what: str = "model") -> Tensor:
    if name not in state:
        raise ModelError(f"the {what} lacks {name}")
    return state.pop(name)


def _formed(state: dict[str, Tensor], name: str, what: str) -> Tensor:
    """A tensor by open_clip's name, of as many dimensions as it has there."""
    tensor = _taken(state, name, what)
    flat = name.endswith("bias") or re.search(r"\bln_|^class_embedding", name)
    wanted = 4 if name == "conv1.weight" else 1 if flat else 2
    if tensor.ndim != wanted:
        raise ModelError(f"{name} of the {what} is {tuple(tensor.shape)}: {tensor.ndim} dimensions, not {wanted}")
    return tensor


def is_buffer(name: str) -> bool:
    """Of OpenAI's archives and of old versions: what follows from the shapes and holds nothing that was learned."""
    return name.rpartition(".")[2] in _BUFFERS


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """``state`` with ``prefix`` off the names that have it.

    Raises:
        ModelError: Two names become one.
    """
    found = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    if len(found) < len(state):
        raise ModelError(f"tensors are there twice, with and without '{prefix}'")
    return found


_FOREIGN = (
    ("visual.trunk.", "its visual tower is a timm model (ConvNeXt, EVA, SigLIP, …), which CLIPModel does not have"),
    ("text_decoder.", "it is a CoCa, whose image features come from an attentional pooler"),
    ("visual.attn_pool", "its visual tower pools with attention (CoCa and relatives)"),
    ("visual.attnpool.", "its visual tower is a ResNet"),
    ("visual.layer1.", "its visual tower is a ResNet"),
    ("visual.cls_token", "its visual tower is an EVA"),
    ("visual.blocks.", "its visual tower is an EVA"),
    ("text.transformer.encoder.", "its text tower is a transformers model of its own (BERT, XLM-R, …)"),
    ("text.transformer.embeddings.", "its text tower is a transformers model of its own (BERT, XLM-R, …)"),
    ("text.cls_emb", "its text tower has a class token (CoCa)"),
    ("logit_bias", "it was trained as SigLIP; take the transformers version of it (google/siglip-…)"),
)


def refuse_foreign(state: Iterable[str]) -> None:
    """Says which other architecture names of tensors belong to.

    Raises:
        ModelError: They are those of a model that is no ViT CLIP.
    """
    names = list(state)
    for prefix, reason in _FOREIGN:
        if any(name.startswith(prefix) for name in names):
            raise ModelError(f"not a ViT CLIP: {reason}")
    if any(name.endswith((".ls_1.gamma", ".ls_2.gamma")) for name in names):
        raise ModelError("not a ViT CLIP: its blocks have layer scales")


def visual_facts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Width, depth, patch and image size of a visual tower, from shapes in transformers' layout.

    Raises:
        ModelError: The shapes contradict each other.
    """
    patch = state["vision_model.embeddings.patch_embedding.weight"]
    width, channels, side, other = patch.shape
    positions = state["vision_model.embeddings.position_embedding.weight"].shape[0]
    grid = round((positions - 1) ** 0.5)
    if channels != 3 or side != other or grid * grid + 1 != positions:
        raise ModelError(
            f"the visual tower has patches {tuple(patch.shape)} and {positions} positions: not square RGB images"
        )
    return {
        "image_size": grid * side,
        "patch_size": side,
        "vision_width": width,
        "vision_layers": len(_blocks(state, "vision_model.", _OURS)),
        "vision_mlp": state["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "embed_dim": state["visual_projection.weight"].shape[0],
    }


def text_facts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Width, depth, context and vocabulary of a text tower, from shapes in transformers' layout."""
    vocabulary, width = state["text_model.embeddings.token_embedding.weight"].shape
    return {
        "context_length": state["text_model.embeddings.position_embedding.weight"].shape[0],
        "vocab_size": vocabulary,
        "text_width": width,
        "text_layers": len(_blocks(state, "text_model.", _OURS)),
        "text_mlp": state["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
    }
