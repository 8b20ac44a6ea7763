"""A ViT CLIP with the parameter names and the arithmetic of open_clip, built from torch's own parts, to open a folder.

Written from mlfoundations/open_clip, src/open_clip/model.py and transformer.py: what ``create_model("local-dir:…")``
would build from the same ``model_cfg``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, ratio: float, activation: type[nn.Module]) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, int(width * ratio)))
        self.mlp.add_module("gelu", activation())
        self.mlp.add_module("c_proj", nn.Linear(int(width * ratio), width))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, layers: int, *block: Any) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(*block) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self, cfg: dict[str, Any], out: int, activation: type[nn.Module]) -> None:
        super().__init__()
        width, patch = cfg["width"], cfg["patch_size"]
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty((cfg["image_size"] // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        heads = width // cfg.get("head_width", 64)
        self.transformer = Transformer(cfg["layers"], width, heads, cfg.get("mlp_ratio", 4.0), activation)
        self.proj = nn.Parameter(torch.empty(width, out))

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv1(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class CLIP(nn.Module):
    def __init__(self, cfg: dict[str, Any]) -> None:
        super().__init__()
        activation = QuickGELU if cfg.get("quick_gelu") else nn.GELU
        text, out = cfg["text_cfg"], cfg["embed_dim"]
        self.visual = Visual(cfg["vision_cfg"], out, activation)
        width = text["width"]
        self.transformer = Transformer(text["layers"], width, text["heads"], text.get("mlp_ratio", 4.0), activation)
        self.token_embedding = nn.Embedding(text["vocab_size"], width)
        self.positional_embedding = nn.Parameter(torch.empty(text["context_length"], width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, out))
        self.logit_scale = nn.Parameter(torch.empty(()))

    def encode_text(self, ids: Tensor) -> Tensor:
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)
        x = self.ln_final(self.transformer(x, mask))
        return x[torch.arange(len(x)), ids.argmax(-1)] @ self.text_projection


def from_folder(folder: Path) -> tuple[CLIP, dict[str, Any]]:
    """The model with every tensor of the file in its place, and ``preprocess_cfg``."""
    config = json.loads((folder / "open_clip_config.json").read_text())
    model = CLIP(config["model_cfg"])
    model.load_state_dict(load_file(folder / "open_clip_model.safetensors"), strict=True)
    return model.eval(), config["preprocess_cfg"]
