"""The configuration of a ViT CLIP in the words of open_clip and in those of transformers.

Keys and defaults as in mlfoundations/open_clip, src/open_clip/model.py (``CLIPVisionCfg``, ``CLIPTextCfg``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from zsrobust.errors import ModelError

ACTIVATIONS = ("quick_gelu", "gelu")
"""As transformers' ``hidden_act`` and our option call them; open_clip says ``quick_gelu: true`` or not."""
HEAD_WIDTH = 64
"""open_clip's default (model.py, ``CLIPVisionCfg.head_width``), and that of every model of OpenAI."""


def model_cfg(config: Any) -> dict[str, Any]:
    """A ``CLIPConfig`` in the words of open_clip's ``model_cfg``; :func:`clip_config` gives it back.

    Raises:
        ModelError: open_clip cannot be told that: an activation, normalisation or end of text of another kind.
    """
    vision, text = config.vision_config, config.text_config
    activations = {vision.hidden_act, text.hidden_act}
    if len(activations) > 1 or not activations <= set(ACTIVATIONS):
        shown = " and ".join(sorted(map(str, activations)))
        raise ModelError(f"open_clip has one activation for both towers, quick_gelu or gelu, not {shown}")
    if any(part.layer_norm_eps != 1e-5 for part in (vision, text)):
        raise ModelError(f"open_clip's layer_norm_eps is 1e-05, not {vision.layer_norm_eps} or {text.layer_norm_eps}")
    if text.eos_token_id not in (2, text.vocab_size - 1):
        raise ModelError(
            f"open_clip pools texts at the largest token ({text.vocab_size - 1}), this model at {text.eos_token_id}"
        )
    found: dict[str, Any] = {
        "embed_dim": config.projection_dim,
        "vision_cfg": {
            "image_size": vision.image_size,
            "layers": vision.num_hidden_layers,
            "width": vision.hidden_size,
            "patch_size": vision.patch_size,
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
        },
    }
    head = vision.hidden_size // vision.num_attention_heads
    if head != HEAD_WIDTH:
        found["vision_cfg"]["head_width"] = head
    for part, cfg in ((vision, found["vision_cfg"]), (text, found["text_cfg"])):
        if part.intermediate_size != 4 * part.hidden_size:
            cfg["mlp_ratio"] = mlp_ratio(part.hidden_size, part.intermediate_size)
    if activations == {"quick_gelu"}:
        found["quick_gelu"] = True
    return found


def mlp_ratio(width: int, inner: int) -> float:
    """The ratio with which ``int(width * ratio)``, open_clip's rule, is ``inner``: not always ``inner / width``."""
    ratio = inner / width
    while int(width * ratio) < inner:
        ratio = math.nextafter(ratio, math.inf)
    return ratio


# What else model.py of open_clip has (CLIPVisionCfg, CLIPTextCfg), with the value that means a plain ViT CLIP. Keys
# that are not here are refused unless they are empty: a model trained with them would give other features.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "no_ln_pre": (False,), "pos_embed_type": ("learnable",), "final_ln_after_pool": (False,),
    "pool_type": ("tok", "argmax"), "attentional_pool": (False,), "global_average_pool": (False,),
    "input_patchnorm": (False,), "embed_cls": (False,), "no_causal_mask": (False,), "proj_bias": (False,),
    "proj_type": ("linear",), "block_type": ("default",), "ln_post_emb": (False,),
}  # fmt: skip
_WITHOUT_EFFECT = {
    "patch_dropout", "output_tokens", "pad_id", "attn_pooler_queries", "attn_pooler_heads", "n_queries",
    "hf_tokenizer_name", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias",
    "timm_drop", "timm_drop_path", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type",
}  # fmt: skip
"""While training, for the shape of outputs, or of a part that the model does not have."""
_VISION_KEYS = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size"}
_TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "tokenizer_kwargs"}
_OUTER_KEYS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "nonscalar_logit_scale"}


def clip_config(model_cfg: Mapping[str, Any], activation: str) -> Any:
    """The ``CLIPConfig`` of transformers for a ``model_cfg`` of open_clip.

    Args:
        model_cfg: ``embed_dim``, ``vision_cfg`` and ``text_cfg`` as in open_clip_config.json; what is left out has
            open_clip's default.
        activation: ``"quick_gelu"`` or ``"gelu"``.

    Raises:
        ModelError: It describes another architecture than a ViT CLIP: which.
    """
    from transformers import CLIPConfig

    vision, text = (model_cfg.get(key) or {} for key in ("vision_cfg", "text_cfg"))
    if not isinstance(vision, Mapping) or not isinstance(text, Mapping):
        raise ModelError("the model_cfg of open_clip cannot be used: vision_cfg and text_cfg have to be JSON objects")
    _check_cfg(model_cfg, vision, text)
    try:
        width, text_width = int(vision.get("width", 768)), int(text.get("width", 512))
        vocabulary = int(text.get("vocab_size", 49408))
        vision_config: dict[str, Any] = {
            "hidden_size": width,
            "intermediate_size": int(width * float(vision.get("mlp_ratio", 4.0))),
            "num_hidden_layers": int(vision.get("layers", 12)),
            "num_attention_heads": width // int(vision.get("head_width", HEAD_WIDTH)),
            "image_size": _square(vision.get("image_size", 224)),
            "patch_size": _square(vision.get("patch_size", 16)),
        }
        text_config: dict[str, Any] = {
            "hidden_size": text_width,
            "intermediate_size": int(text_width * float(text.get("mlp_ratio", 4.0))),
            "num_hidden_layers": int(text.get("layers", 12)),
            "num_attention_heads": int(text.get("heads", 8)),
            "max_position_embeddings": int(text.get("context_length", 77)),
            "vocab_size": vocabulary,
            "eos_token_id": vocabulary - 1,
            "bos_token_id": vocabulary - 2,
            "pad_token_id": vocabulary - 1,
        }
        embed_dim = int(model_cfg["embed_dim"])
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ModelError(f"the model_cfg of open_clip cannot be used: {type(error).__name__} {error}") from None
    for name, part in (("vision", vision_config), ("text", text_config)):
        heads = part["num_attention_heads"]
        if heads < 1 or part["hidden_size"] % heads:
            raise ModelError(f"the {name} tower of width {part['hidden_size']} cannot have {heads} heads")
        part |= {"hidden_act": activation, "projection_dim": embed_dim}
    return CLIPConfig(
        vision_config=vision_config, text_config=text_config, projection_dim=embed_dim, architectures=["CLIPModel"]
    )


def _check_cfg(outer: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any]) -> None:
    if name := vision.get("timm_model_name"):
        raise ModelError(f"not a ViT CLIP: its visual tower is a timm model ({name}), which CLIPModel does not have")
    if name := text.get("hf_model_name"):
        raise ModelError(f"not a ViT CLIP: its text tower is a transformers model of its own ({name})")
    if "multimodal_cfg" in outer:
        raise ModelError("not a ViT CLIP: it is a CoCa (multimodal_cfg), with an attentional pooler")
    if isinstance(vision.get("layers"), list | tuple):
        raise ModelError(f"not a ViT CLIP: its visual tower is a ResNet (layers {list(vision['layers'])})")
    if outer.get("init_logit_bias") is not None:
        raise ModelError("not a ViT CLIP: it was trained as SigLIP; take the transformers version (google/siglip-…)")
    _check_tokenizer(text)
    for where, cfg, known in (
        ("model_cfg", outer, _OUTER_KEYS), ("vision_cfg", vision, _VISION_KEYS), ("text_cfg", text, _TEXT_KEYS)
    ):  # fmt: skip
        for key, value in cfg.items():
            if key in known or key in _WITHOUT_EFFECT or value is None or value is False or value in ({}, []):
                continue
            if key == "init_logit_scale" or value in _PLAIN.get(key, ()):
                continue
            raise ModelError(f"not a plain ViT CLIP: {where} has {key}: {value!r}, which CLIPModel does not have")


def _check_tokenizer(text: Mapping[str, Any]) -> None:
    # open_clip's tokenizer.py: SimpleTokenizer and HFTokenizer clean texts like this unless they are told otherwise.
    usual = {"clean": "whitespace" if text.get("hf_tokenizer_name") else "lower"}
    given = text.get("tokenizer_kwargs") or usual
    if given != usual:
        raise ModelError(f"its texts are prepared as tokenizer_kwargs {given!r} say, which is not done here")


def _square(size: Any) -> int:
    if isinstance(size, list | tuple):
        if len(set(size)) != 1:
            raise ModelError(f"images and patches have to be square, not {size}")
        size = size[0]
    return int(size)
