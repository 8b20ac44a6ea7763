"""The tiny CLIP before training: its tokenizer, its image processor and an initialised ``CLIPModel``."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

IMAGE_SIZE = 64
PATCH = 8
CONTEXT = 32
WIDTH = 128
VOCABULARY = 2048
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
START, END = "<|startoftext|>", "<|endoftext|>"

_WORD_END = "</w>"
_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def train_tokenizer(texts: Iterable[str]) -> CLIPTokenizer:
    """A byte-level BPE tokenizer in CLIP's format, of at most ``VOCABULARY`` tokens.

    The vocabulary is laid out as CLIP's: 256 bytes, 256 bytes that end a word, merges, start, end. With every byte in
    both forms, any text is encodable.
    """
    bare = Tokenizer(models.BPE(end_of_word_suffix=_WORD_END))
    bare.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bare.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    room = VOCABULARY - 2 * len(alphabet) - 2
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,  # more merges than there is room for; the first are the most frequent
        initial_alphabet=alphabet,
        end_of_word_suffix=_WORD_END,
        show_progress=False,
    )
    bare.train_from_iterator(texts, trainer)
    merges = [tuple(merge) for merge in json.loads(bare.to_str())["model"]["merges"]][:room]
    tokens = [
        *alphabet,
        *(letter + _WORD_END for letter in alphabet),
        *("".join(pair) for pair in merges),
        START,
        END,
    ]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT)


def build_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """An initialised model (from torch's global seed), in float32, with eager attention.

    Eager attention is the fastest on a CPU at 65 tokens.
    """
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "projection_dim": WIDTH,
    }
    # transformers pools at the *largest* token when eos_token_id is 2, a legacy of OpenAI's first configuration.
    assert tokenizer.eos_token_id not in (None, 2)
    text = CLIPTextConfig(
        **tower,
        num_hidden_layers=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(**tower, num_hidden_layers=5, image_size=IMAGE_SIZE, patch_size=PATCH)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH)
    config._attn_implementation = "eager"
    model = CLIPModel(config)
    with torch.no_grad():
        positions = model.vision_model.embeddings.position_embedding.weight
        positions[1:] = grid_positions(IMAGE_SIZE // PATCH, WIDTH)
    return model


def grid_positions(side: int, width: int) -> torch.Tensor:
    """(side * side, width) waves over rows and columns, where the position embeddings start from.

    CLIP starts them at random, far smaller than what the patches contribute, and then "top left" takes long to learn.
    """
    periods = 3 * 12 ** (torch.arange(width // 4) / (width // 4 - 1))  # 3 to 36 patches
    phase = 2 * torch.pi * torch.arange(side)[:, None] / periods
    waves = torch.cat([phase.sin(), phase.cos()], dim=1)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    return 0.3 * torch.cat([rows, columns], dim=2).reshape(side * side, width)


def image_features(model: CLIPModel, pixels: torch.Tensor) -> torch.Tensor:
    """(B, 3, 64, 64) pixels in [0, 1] -> (B, 128) unit features."""
    features = model.get_image_features(pixel_values=standardised(pixels)).pooler_output
    return torch.nn.functional.normalize(features.float(), dim=-1)


def partial_image_features(model: CLIPModel, pixels: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Features from some of the patches only, which makes a training step cheaper (FLIP, arXiv 2212.00794).

    Args:
        model: The model.
        pixels: (B, 3, 64, 64) in [0, 1].
        kept: (B, N) numbers of the patches that each image keeps, in [0, 64); all of them give ``image_features``.

    Returns:
        (B, 128) unit features.
    """
    tower = model.vision_model
    tokens = tower.embeddings(standardised(pixels))
    patches = tokens[:, 1:].gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))
    hidden = tower.pre_layrnorm(torch.cat([tokens[:, :1], patches], dim=1))
    hidden = tower.encoder(inputs_embeds=hidden).last_hidden_state
    features = model.visual_projection(tower.post_layernorm(hidden[:, 0]))
    return torch.nn.functional.normalize(features.float(), dim=-1)


def standardised(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels in [0, 1] minus CLIP's mean, over CLIP's standard deviation."""
    mean, std = pixels.new_tensor(MEAN).view(3, 1, 1), pixels.new_tensor(STD).view(3, 1, 1)
    return (pixels - mean) / std


def text_features(model: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """N texts -> (N, 128) unit features."""
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt")
    features = model.get_text_features(**tokens).pooler_output
    return torch.nn.functional.normalize(features.float(), dim=-1)


def save_folder(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a complete Hugging Face CLIP folder: weights (float32), configuration, tokenizer, image processor."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": IMAGE_SIZE},
        "resample": 3,  # PIL's bicubic
        "do_center_crop": True,
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
