"""Checkpoints as other repositories write them, made here from a small random CLIP: no foreign file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.encoders.small import CLIP_MEAN, CLIP_STD, clip_tokenizer

from zsrobust.encoders import openclip
from zsrobust.encoders.huggingface import quiet

WIDE = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
"""One head of 64 numbers, so that a file without a config has the heads that its width says."""


def save_wide_clip(folder: Path, *, activation: str = "gelu", seed: int = 3, image_size: int = 32) -> Path:
    """As small.save_clip, with towers of width 64."""
    from transformers import CLIPConfig, CLIPModel

    with quiet():
        tokenizer = clip_tokenizer()
        end = len(tokenizer) - 1
        more = {"hidden_act": activation, "projection_dim": 12}
        text = {**WIDE, **more, "vocab_size": end + 1, "max_position_embeddings": 24, "eos_token_id": end,
                "bos_token_id": end - 1, "pad_token_id": end}  # fmt: skip
        vision = {**WIDE, **more, "image_size": image_size, "patch_size": 8}
        torch.manual_seed(seed)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 0:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    pair = {"height": image_size, "width": image_size}
    content = {
        "crop_size": pair, "do_center_crop": True, "do_normalize": True, "do_resize": True, "image_mean": CLIP_MEAN,
        "image_processor_type": "CLIPImageProcessor", "image_std": CLIP_STD, "resample": 3,
        "size": {"shortest_edge": image_size},
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


def flat(model: Any) -> dict[str, torch.Tensor]:
    return openclip.to_openclip(model.state_dict(), model.config)


def custom_text(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As open_clip's CustomTextCLIP names them."""
    return {k if k.startswith(("visual.", "logit_")) else f"text.{k}": v for k, v in state.items()}


def module(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As DataParallel names them."""
    return {f"module.{name}": tensor for name, tensor in state.items()}


def bare(model: Any) -> dict[str, torch.Tensor]:
    """``model.visual.state_dict()`` in open_clip: what RobustVLM publishes."""
    return {k.removeprefix("visual."): v for k, v in flat(model).items() if k.startswith("visual.")}


def openclip_folder(folder: Path, model: Any, tokenizer: Path, *, custom: bool = False, **preprocess: Any) -> Path:
    """As open_clip's push_to_hf_hub writes a repository."""
    folder.mkdir()
    state = flat(model)
    save_file(custom_text(state) if custom else state, folder / "open_clip_model.safetensors")
    size = model.config.vision_config.image_size
    cfg = {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic", "resize_mode": "shortest", "size": size}
    content = {"model_cfg": openclip.model_cfg(model.config), "preprocess_cfg": {**cfg, **preprocess}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder)
    return folder


def tecoa(model: Any) -> dict[str, Any]:
    """What finetuning.py of the TeCoA paper's code saves after an epoch: its accuracy is a numpy number."""
    import numpy as np

    return {
        "epoch": 10,
        "state_dict": {},
        "add_prompter": {"module.prompt": torch.zeros(1, 0, 768)},
        "vision_encoder_state_dict": bare(model),
        "best_acc1": np.mean([31.5, 40.25]),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-5, "params": [0]}]},
    }


def visual_prompts(width: int, *, size: int = 32, pad: int = 3, count: int = 5) -> dict[str, Any]:
    """What its visual_prompt.py saves: four strips and some tokens."""
    import numpy as np

    strips = {"pad_up": (pad, size), "pad_down": (pad, size), "pad_left": (size - 2 * pad, pad)}
    strips["pad_right"] = strips["pad_left"]
    generator = torch.Generator().manual_seed(0)
    return {
        "epoch": 3,
        "state_dict": {f"module.{k}": torch.randn(1, 3, *v, generator=generator) for k, v in strips.items()},
        "add_prompter": {"module.prompt": torch.randn(1, count, width, generator=generator)},
        "best_acc1": np.mean([1.0]),
        "optimizer": {},
    }
