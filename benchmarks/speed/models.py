"""Models with random weights, of real sizes: speed does not depend on what a weight is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

import zsrobust as zr
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.encoders.huggingface import HuggingFaceEncoder, quiet
from zsrobust.encoders.preprocessing import Preprocessing
from zsrobust.geometry import Geometry
from zsrobust.text_head import TextHead

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Shape:
    """The sizes of a CLIP.

    Attributes:
        name: What results call it.
        size: Pixels on a side.
        patch: Likewise, of a patch.
        width, layers, heads: Of the visual tower.
        embedding: Width of the features.
        text_width, text_layers, text_heads: Of the text tower.
        tokens: In a text.
    """

    name: str
    size: int
    patch: int
    width: int
    layers: int
    heads: int
    embedding: int
    text_width: int
    text_layers: int
    text_heads: int
    tokens: int


VIT_B_32 = Shape("CLIP ViT-B/32", 224, 32, 768, 12, 12, 512, 512, 12, 8, 77)
MINIATURE = Shape("CLIP miniature", 32, 8, 64, 2, 4, 32, 32, 2, 4, 16)
SHAPES = {"vit-b-32": VIT_B_32, "miniature": MINIATURE}


def random_encoder(shape: Shape, device: str = "cpu", *, attention: str = "sdpa") -> HuggingFaceEncoder:
    """A CLIP of this shape with random weights, always the same, and the embedded model's tokenizer."""
    reader: Any = zr.load("tiny").reader  # type: ignore[attr-defined]
    config = CLIPConfig(
        vision_config={
            "image_size": shape.size, "patch_size": shape.patch, "hidden_size": shape.width,
            "intermediate_size": 4 * shape.width, "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads, "projection_dim": shape.embedding,
        },
        text_config={
            "hidden_size": shape.text_width, "intermediate_size": 4 * shape.text_width,
            "num_hidden_layers": shape.text_layers, "num_attention_heads": shape.text_heads,
            "max_position_embeddings": shape.tokens, "projection_dim": shape.embedding,
            "vocab_size": len(reader.tokenizer), "eos_token_id": reader.tokenizer.eos_token_id,
            "bos_token_id": reader.tokenizer.bos_token_id,
        },
        projection_dim=shape.embedding,
    )  # fmt: skip
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel._from_config(config, attn_implementation=attention)  # type: ignore[no-untyped-call]
    geometry = Geometry(resize=shape.size, crop=shape.size)
    preprocessing = Preprocessing(CLIP_MEAN, CLIP_STD, (shape.size, shape.size), geometry, {})
    encoder = HuggingFaceEncoder(model, reader, preprocessing, name=f"random {shape.name}", provenance={})
    return encoder.to(device)


def prompts(encoder: HuggingFaceEncoder, classes: int) -> Tensor:
    """(C, N) token numbers of C texts as long as they can be; each ends as a text does."""
    own = encoder.model.config.text_config
    ids = torch.randint(5, own.vocab_size, (classes, own.max_position_embeddings), generator=_numbers(1))
    ids[ids == own.eos_token_id] = 4
    ids[:, -1] = own.eos_token_id
    return ids.to(encoder.device)


@torch.no_grad()
def classifier(encoder: HuggingFaceEncoder, tokens: Tensor | int) -> ZeroShotClassifier:
    """The classifier of texts (C, N), or of so many random unit texts."""
    if isinstance(tokens, int):
        width = encoder.model.config.projection_dim
        texts = torch.randn(tokens, width, generator=_numbers(2)).to(encoder.device)
    else:
        found = [encoder.model.get_text_features(input_ids=part) for part in torch.split(tokens, 64)]
        texts = torch.cat([getattr(part, "pooler_output", part) for part in found])
    units = nn.functional.normalize(texts, dim=-1)
    names = tuple(f"class {i}" for i in range(len(units)))
    return ZeroShotClassifier(encoder, TextHead(names, ("{}",), units))


def images(batch: int, size: int, classes: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) noise in [0, 1] and (B,) labels."""
    pixels = torch.rand(batch, 3, size, size, generator=_numbers(3))
    return pixels.to(device), torch.randint(classes, (batch,), generator=_numbers(4)).to(device)


def _numbers(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
