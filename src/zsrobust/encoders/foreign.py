"""Other people's checkpoints as encoders: open_clip's, visual towers alone, the TeCoA paper's prompts.

What a file does not say is decided by the user or by the base model, never guessed; what was decided, and by whom, is
in the provenance under ``format`` and ``conversion``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from zsrobust.encoders import hub, openclip, saving, texts, weights
from zsrobust.encoders.activations import activation_of, agreed, checked
from zsrobust.encoders.base import Encoder
from zsrobust.encoders.formats import Contents, recognise
from zsrobust.encoders.huggingface import ATTENTIONS, HuggingFaceEncoder, assembled, model_class_of, quiet
from zsrobust.encoders.positions import resized
from zsrobust.encoders.preprocessing import Preprocessing, read_json
from zsrobust.encoders.prompted import PromptedEncoder, with_prompt
from zsrobust.errors import ConfigError, ModelError
from zsrobust.geometry import Geometry
from zsrobust.records import UNKNOWN

T = TypeVar("T")

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""OpenAI's, and open_clip's default (src/open_clip/constants.py)."""


def is_openclip(folder: Path) -> bool:
    """Whether ``folder`` is in open_clip's layout; where it is in transformers' as well, that goes first."""
    if not (folder / hub.OPENCLIP_CONFIG).is_file():
        return False
    config = folder / "config.json"
    return not config.is_file() or read_json(config).get("model_type") is None


def from_folder(
    folder: Path,
    *,
    base: Encoder | None = None,
    activation: str | None = None,
    attention: str = "sdpa",
    name: str | None = None,
    provenance: Mapping[str, object] | None = None,
) -> HuggingFaceEncoder:
    """The encoder in a folder of open_clip: ``open_clip_config.json`` beside the weights.

    Where zsrobust.json is beside them too, what it says stays, and its golden vector is compared.

    Args:
        folder: The folder.
        base: A model whose tokenizer is used where the folder brings none.
        activation: Has to agree with the config, if given.
        attention: ``"sdpa"`` or ``"eager"``.
        name: What results call it; the folder's name if None.
        provenance: Where it comes from, where that is more than a folder.

    Raises:
        ModelError: Missing, broken, an architecture that cannot be mapped, or not the model that was saved.
        ConfigError: An option contradicts the config.
    """
    found = read_json(folder / hub.OPENCLIP_CONFIG)
    cfg = found.get("model_cfg")
    where = f"{folder.name}/{hub.OPENCLIP_CONFIG}"
    if not isinstance(cfg, dict):
        raise ModelError(f"{where} has no model_cfg")
    stored = "quick_gelu" if cfg.get("quick_gelu") else "gelu"
    chosen = agreed(checked(activation), stored, said_by=where)
    config = _named(where, lambda: openclip.clip_config(cfg, chosen))
    path = next((folder / name for name in hub.OPENCLIP_WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise ModelError(f"{folder.name} has neither {' nor '.join(hub.OPENCLIP_WEIGHTS)}")
    contents = recognise(weights.contents(path), f"{folder.name}/{path.name}")
    if contents.kind != "full":
        raise ModelError(f"{folder.name}/{path.name} is not a full model, but a {contents.format}")
    prepared = _preprocessing(found.get("preprocess_cfg") or {}, config.vision_config.image_size, where)
    story = saving.story(folder, provenance or {})
    story["format"] = f"open_clip folder, {contents.format.rpartition(', ')[2]}"
    story["conversion"] = [f"activation {chosen} ({hub.OPENCLIP_CONFIG})", _precision(contents)]
    encoder = _full(contents, config, prepared, folder, base, attention, name or folder.resolve().name, story)
    saving.check_golden(encoder, folder)
    return encoder


def from_file(
    path: Path,
    *,
    base: Encoder | None = None,
    activation: str | None = None,
    attention: str = "sdpa",
    size: int | None = None,
    adapted_on: Sequence[str] = (),
) -> HuggingFaceEncoder | PromptedEncoder:
    """The encoder in one weight file; its format is told from its contents.

    Args:
        path: ``.pt``, ``.bin``, ``.pth.tar``, ``.safetensors``, …: the name does not matter.
        base: Of a file with a visual tower or prompts alone, the model that they were trained on; of a full model, one
            whose tokenizer is used where none is beside the file, and whose numbers of heads are taken for towers of
            its width.
        activation: Needed for a full model, which does not say its own; of a tower alone it is the base's.
        attention: ``"sdpa"`` or ``"eager"``.
        size: A visual tower of this size may be on a base of another one, which is opened at this size then. Nothing
            else is resized here.
        adapted_on: What the file's own weights were adapted on; what the base was adapted on is added.

    Raises:
        ModelError: Broken, code, an architecture that cannot be mapped, or one that does not fit the base.
        ConfigError: An option that is needed, or contradicts the base.
    """
    checked(activation)
    if attention not in ATTENTIONS:
        raise ConfigError(f"attention '{attention}' is not one of {', '.join(ATTENTIONS)}")
    contents = recognise(weights.contents(path), path.name)
    name = _called(path)
    story: dict[str, Any] = {"source": path.name, "revision": None, "format": contents.format}
    story["adapted_on"] = list(dict.fromkeys(adapted_on))
    if contents.kind != "full":
        found = _on_base(contents, path.name, base, activation, name, story, size)
        found.set_attention(attention)
        return found
    state, facts = _named(path.name, lambda: openclip.from_openclip(contents.state))
    if activation is None:
        raise ConfigError(
            f"{path.name} does not say its activation: give activation=quick_gelu (OpenAI's and most models fine-tuned "
            "from them) or activation=gelu (open_clip's default)"
        )
    cfg, heads = _named(path.name, lambda: full_cfg(facts, base))
    config = _named(path.name, lambda: openclip.clip_config(cfg, activation))
    story["conversion"] = [
        f"activation {activation} (given)",
        heads,
        "mean, std, bicubic resize and crop of OpenAI's CLIP (the file has none)",
        _precision(contents),
    ]
    prepared = _preprocessing({}, facts["image_size"], path.name)
    return _full(contents, config, prepared, path.parent, base, attention, name, story, state)


# Names of folders and files that say nothing of the model in them.
_ANY = re.compile(r"model|visual|pytorch_model|open_clip_(pytorch_)?model|weights|models|checkpoints?|ckpts?")
_OF_A_RUN = re.compile(r"final|best|last|latest|checkpoint|model_best|(epoch|step)_\d+")
"""What training code calls its files in every run: RobustVLM ``final.pt``, the TeCoA paper's code
``model_best.pth.tar`` beside ``checkpoint.pth.tar``, open_clip ``epoch_32.pt``."""


def _called(path: Path) -> str:
    """The file's name without its ending; with the folder's, or that alone, where every folder has such a file."""
    name = path.name
    for suffix in (".tar", ".pth", ".pt", ".bin", ".ckpt", ".safetensors"):
        name = name.removesuffix(suffix)
    folders = [folder.name for folder in Path(os.path.abspath(path)).parents if not _ANY.fullmatch(folder.name)]
    if not name or not folders[0]:
        return name or path.name
    if _OF_A_RUN.fullmatch(name):
        return f"{folders[0]}-{name}"
    return folders[0] if _ANY.fullmatch(name) else name


def _precision(contents: Contents) -> str:
    return f"weights stored in {contents.precision}, used in float32"


def _named(where: str, action: Callable[[], T]) -> T:
    """``action()``, with the file's name before what went wrong."""
    try:
        return action()
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from None


_SURE_WIDTH = 1024
"""Up to here the ViT CLIPs of OpenAI and open_clip have heads of 64 numbers; wider visual towers have 80, 88, 104 or
112 (open_clip's src/open_clip/model_configs: ViT-H-14, ViT-g-14, ViT-bigG-14, ViT-e-14)."""


def full_cfg(facts: Mapping[str, Any], base: Encoder | None) -> tuple[dict[str, Any], str]:
    """What the shapes of a full model say, as open_clip's model_cfg, and where its numbers of heads come from.

    Args:
        facts: As :func:`zsrobust.encoders.openclip.from_openclip` gives them.
        base: Its towers, where they have the same width, say how many heads.

    Raises:
        ModelError: Nothing says how many, and heads of 64 numbers would be a guess; or the base is no CLIP.
    """
    vision, text = facts["vision_width"], facts["text_width"]
    source = None if base is None else _clip(base)
    heads, told = _heads("visual", vision, source)
    text_heads, text_told = _heads("text", text, source)
    cfg = {
        "embed_dim": facts["embed_dim"],
        "vision_cfg": {
            "image_size": facts["image_size"], "patch_size": facts["patch_size"], "width": vision,
            "head_width": vision // heads, "layers": facts["vision_layers"],
            "mlp_ratio": openclip.mlp_ratio(vision, facts["vision_mlp"]),
        },
        "text_cfg": {
            "context_length": facts["context_length"], "vocab_size": facts["vocab_size"], "width": text,
            "heads": text_heads, "layers": facts["text_layers"],
            "mlp_ratio": openclip.mlp_ratio(text, facts["text_mlp"]),
        },
    }  # fmt: skip
    return cfg, f"heads {heads} ({told}) and {text_heads} ({text_told})"


def _heads(tower: str, width: int, base: HuggingFaceEncoder | None) -> tuple[int, str]:
    """Number of heads of a tower that does not say it, and who does."""
    if base is not None:
        config = base.model.config.vision_config if tower == "visual" else base.model.config.text_config
        if config.hidden_size == width:
            return int(config.num_attention_heads), f"{tower}, of {base.name}"
    if width > _SURE_WIDTH or width % openclip.HEAD_WIDTH:
        raise ModelError(
            f"its {tower} tower of width {width} may have heads of another width than {openclip.HEAD_WIDTH}: give "
            f"base=MODEL, a CLIP of the same width, or open a folder that holds its {hub.OPENCLIP_CONFIG} and the "
            f"weights as {' or '.join(hub.OPENCLIP_WEIGHTS)}"
        )
    return width // openclip.HEAD_WIDTH, f"{tower}, width / {openclip.HEAD_WIDTH} as all of OpenAI's"


def _full(
    contents: Contents,
    config: Any,
    prepared: Preprocessing,
    folder: Path,
    base: Encoder | None,
    attention: str,
    name: str,
    story: dict[str, Any],
    state: dict[str, Tensor] | None = None,
) -> HuggingFaceEncoder:
    """A full model of open_clip with all that belongs to it."""
    if attention not in ATTENTIONS:
        raise ConfigError(f"attention '{attention}' is not one of {', '.join(ATTENTIONS)}")
    if state is None:
        state, _ = _named(folder.name, lambda: openclip.from_openclip(contents.state))
    with quiet():
        model = assembled(model_class_of("clip"), config, state, name, attention)
        reader, said_by = _tokenizer(folder, config.text_config, base, name)
    story["conversion"] = [*story["conversion"], f"tokenizer of {said_by}"]
    return HuggingFaceEncoder(model, reader, prepared, name=name, provenance=story)


def _tokenizer(folder: Path, config: Any, base: Encoder | None, name: str) -> tuple[texts.TextReader, str]:
    """CLIP's tokenizer, from the folder, the base, or what is in the cache; never from the network."""
    if any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json")):
        return texts.read(folder, family="clip", config=config), folder.name
    if base is not None:
        source = _clip(base)
        tokenizer = source.reader.tokenizer
        if len(tokenizer) != config.vocab_size or tokenizer.eos_token_id != config.vocab_size - 1:
            raise ModelError(
                f"the tokenizer of the base {source.name} has {len(tokenizer)} tokens and ends texts with "
                f"{tokenizer.eos_token_id}; {name} has {config.vocab_size} and ends them with the last"
            )
        return texts.TextReader(tokenizer, family="clip", context=int(config.max_position_embeddings)), source.name
    cached = hub.cached_tokenizer() if config.vocab_size == 49_408 else None
    if cached is not None:
        return texts.read(cached, family="clip", config=config), "OpenAI's CLIP in the local cache"
    raise ModelError(
        f"{name} brings no tokenizer: give base=MODEL, a CLIP with the same one (for example "
        f"base={hub.TOKENIZERS[0]}), or put its tokenizer.json beside the weights"
    )


def _clip(base: Encoder) -> HuggingFaceEncoder:
    if not isinstance(base, HuggingFaceEncoder) or base.model.config.model_type != "clip":
        raise ModelError(f"the base {base.name} is not a plain CLIP of transformers")
    return base


def _on_base(
    contents: Contents,
    where: str,
    base: Encoder | None,
    activation: str | None,
    name: str,
    story: dict[str, Any],
    size: int | None,
) -> HuggingFaceEncoder | PromptedEncoder:
    """A visual tower, prompts, or both, with the rest from the base model."""
    state = _named(where, lambda: openclip.visual_from_openclip(contents.state)) if contents.state else {}
    facts = _named(where, lambda: openclip.visual_facts(state)) if state else {}
    if base is None:
        what = (
            f"a visual tower of width {facts['vision_width']}, patches of {facts['patch_size']} and "
            f"{facts['image_size']} pixels" if facts else "visual prompts"
        )  # fmt: skip
        raise ConfigError(
            f"{where} holds only {what}, no text tower: name the model it was trained from, for example "
            f"base={hub.TOKENIZERS[0]}"
        )
    source = _clip(base)
    known = agreed(activation, activation_of(source.model), said_by=f"the base {source.name}")
    encoder = _fitting(facts, source, where, size).copy()
    _put(state, encoder, where)
    # Towers and prompts are published because they were trained further, on what the base was adapted on before.
    before: Any = source.provenance.get("adapted_on") or []
    story["adapted_on"] = list(dict.fromkeys([*before, *(story["adapted_on"] or [UNKNOWN])]))
    story["base_model"] = source.provenance.get("source", source.name)
    story["conversion"] = [
        f"text tower, tokenizer, preprocessing and logit scale of {source.name}"
        + ("" if encoder.input_size == source.input_size else f", opened at {size} pixels"),
        f"activation {known} (the base's)",
        _precision(contents),
    ]
    if "license" in source.provenance:
        story["base_license"] = source.provenance["license"]
    if "resized" in encoder.provenance:
        story["resized"] = encoder.provenance["resized"]
    encoder.provenance = story
    found = _named(where, lambda: with_prompt(encoder, contents.prompts)) if contents.prompts else encoder
    found.name = name
    return found


def _fitting(facts: Mapping[str, Any], base: HuggingFaceEncoder, where: str, size: int | None) -> HuggingFaceEncoder:
    """The base, if the tower fits it; opened at ``size`` if the tower has that and nothing else is different."""
    if not facts:
        return base
    vision = base.model.config.vision_config
    pairs = (
        ("width", "vision_width", vision.hidden_size), ("blocks", "vision_layers", vision.num_hidden_layers),
        ("patches", "patch_size", vision.patch_size), ("image size", "image_size", vision.image_size),
        ("projection", "embed_dim", base.model.config.projection_dim), ("MLP", "vision_mlp", vision.intermediate_size),
    )  # fmt: skip
    wrong = {word: f"{word} {facts[key]}, not {mine}" for word, key, mine in pairs if facts[key] != mine}
    its, only_size = facts["image_size"], list(wrong) == ["image size"]
    if only_size and size == its:
        return resized(base, its)
    if wrong:
        told = "; ".join(wrong.values()) + (f" (size={its} opens the base at that size)" if only_size else "")
        raise ModelError(f"the visual tower in {where} does not fit the base {base.name}: {told}")
    return base


def _put(state: Mapping[str, Tensor], encoder: HuggingFaceEncoder, where: str) -> None:
    mine = encoder.model.state_dict()
    for name, tensor in state.items():
        if tensor.shape != mine[name].shape:
            shapes = f"{tuple(tensor.shape)}, and {tuple(mine[name].shape)} in the base {encoder.name}"
            raise ModelError(f"{where}: {name} is {shapes}")
    encoder.model.load_state_dict({**mine, **state})


_RESAMPLE = {"bicubic": 3, "random": 3, "bilinear": 2}
"""open_clip's transform.py resizes with bicubic in evaluation where the config says random."""


def _preprocessing(cfg: Mapping[str, Any], image_size: int, where: str) -> Preprocessing:
    """From preprocess_cfg of open_clip_config.json; what it leaves out has open_clip's default."""
    if not isinstance(cfg, Mapping):
        raise ModelError(f"{where}: preprocess_cfg has to be a JSON object, not {cfg!r}")
    mode, resample = cfg.get("resize_mode") or "shortest", cfg.get("interpolation") or "bicubic"
    if mode not in ("shortest", "squash") or resample not in list(_RESAMPLE) or cfg.get("mode", "RGB") != "RGB":
        raise ModelError(
            f"{where}: a preprocessing with resize_mode {mode}, interpolation {resample} and mode "
            f"{cfg.get('mode', 'RGB')} is not reproduced here (shortest or squash, bicubic or bilinear, RGB are)"
        )
    size = cfg.get("size") or image_size
    size = size[0] if isinstance(size, list) and all(side == size[0] for side in size) else size
    if size != image_size:
        raise ModelError(f"{where}: the preprocessing ends at {size} pixels, the tower takes {image_size}")
    mean, std = _three(cfg.get("mean") or MEAN, where), _three(cfg.get("std") or STD, where)
    if min(std) <= 0:
        raise ModelError(f"{where}: std {std} is not positive")
    exact, pair = mode == "squash", {"height": image_size, "width": image_size}
    source = {
        "crop_size": pair, "do_center_crop": not exact, "do_convert_rgb": True, "do_normalize": True,
        "do_rescale": True, "do_resize": True, "image_mean": list(mean), "image_processor_type": "CLIPImageProcessor",
        "image_std": list(std), "resample": _RESAMPLE[resample], "rescale_factor": 1 / 255,
        "size": pair if exact else {"shortest_edge": image_size},
    }  # fmt: skip
    geometry = Geometry(
        resize=(image_size, image_size) if exact else image_size,
        crop=None if exact else (image_size, image_size),
        interpolation="bilinear" if _RESAMPLE[resample] == 2 else "bicubic",
    )
    return Preprocessing(mean, std, (image_size, image_size), geometry, source)


def _three(values: Any, where: str) -> tuple[float, ...]:
    try:
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        found = ()
    if len(found) != 3 or not all(map(math.isfinite, found)):
        raise ModelError(f"{where}: mean and std are three numbers each, not {values!r}")
    return found
