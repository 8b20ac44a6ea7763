"""Random CLIP and SigLIP checkpoints of a few kilobytes, saved the way checkpoints on the hub are; prompts for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zsrobust.encoders import tower
from zsrobust.encoders.huggingface import HuggingFaceEncoder, quiet
from zsrobust.encoders.prompted import PromptedEncoder
from zsrobust.encoders.visual_prompts import AddedPixels, AddedTokens, PixelLayout, TokenLayout, draw

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
# Layouts of a pixel prompt
SHAPES = [{"shape": "frame", "width": 3}, {"shape": "patch", "size": 5}, {"shape": "full"}]


def _bytes() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def _tower(**more: Any) -> dict[str, Any]:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {**shape, **more}


def clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    letters = [*_bytes(), *(letter + "</w>" for letter in _bytes())]
    vocabulary = {token: i for i, token in enumerate([*letters, "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=[("c", "a"), ("ca", "t</w>")], model_max_length=24)


def save_clip(folder: Path, *, dtype: torch.dtype = torch.float32, image_size: int = 32, seed: int = 0) -> Path:
    from transformers import CLIPConfig, CLIPModel

    with quiet():
        tokenizer = clip_tokenizer()
        tokens = len(tokenizer)
        text = _tower(
            vocab_size=tokens, max_position_embeddings=24, eos_token_id=tokens - 1, bos_token_id=tokens - 2,
            pad_token_id=tokens - 1,
        )  # fmt: skip
        vision = _tower(image_size=image_size, patch_size=8)
        torch.manual_seed(seed)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
        _make_uneven(model)
        model.to(dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    save_json(folder / "preprocessor_config.json", {
        "crop_size": image_size, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": CLIP_MEAN, "image_std": CLIP_STD,
        "resample": 3, "size": image_size,
    })  # fmt: skip
    return folder


def siglip_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", *_bytes()])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", model_input_names=["input_ids"]
    )


def save_siglip(folder: Path, *, resample: int = 2, seed: int = 1) -> Path:
    from transformers import SiglipConfig, SiglipModel

    with quiet():
        tokenizer = siglip_tokenizer()
        text = _tower(vocab_size=len(tokenizer), max_position_embeddings=20, projection_size=16)
        vision = _tower(image_size=24, patch_size=8)
        torch.manual_seed(seed)
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
        _make_uneven(model)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    save_json(folder / "preprocessor_config.json", {
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor", "image_std": [0.5, 0.5, 0.5],
        "resample": resample, "rescale_factor": 0.00392156862745098, "size": {"height": 24, "width": 24},
    })  # fmt: skip
    return folder


def _make_uneven(model: torch.nn.Module) -> None:
    """transformers' initial values are tiny and its biases zero: features would hardly depend on the input."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 0:
                parameter.add_(0.1 * torch.randn_like(parameter))


def save_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def edit_json(path: Path, **changes: object) -> None:
    """Change keys of a JSON file; None removes one."""
    content = {**json.loads(path.read_text()), **changes}
    save_json(path, {key: value for key, value in content.items() if value is not None})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def added(base: HuggingFaceEncoder, *, std: float = 1.0, **layout: Any) -> AddedPixels:
    """A pixel prompt for this model, its values drawn."""
    prompt = AddedPixels(PixelLayout(**layout), base.input_size)
    draw(dict(prompt.named_parameters()), std, seeded())
    return prompt


def appended(base: HuggingFaceEncoder, *, std: float = 1.0, **layout: Any) -> AddedTokens:
    """Token prompts for this model, their values drawn."""
    prompt = AddedTokens(TokenLayout(**({"count": 4} | layout)), *tower.blocks_and_width(base.model))
    draw(dict(prompt.named_parameters()), std, seeded(1))
    return prompt


def both(base: HuggingFaceEncoder, *, depth: str = "deep") -> PromptedEncoder:
    """The model with a frame of pixels and with tokens."""
    return PromptedEncoder(base, added(base), appended(base, depth=depth, position="learned"))


def some_pixels(count: int = 3, size: int = 40) -> Tensor:
    return torch.rand(count, 3, size, size, generator=seeded(2))
