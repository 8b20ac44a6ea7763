"""A folder that open_clip opens with ``local-dir:`` and, once pushed, with ``hf-hub:``.

File names and keys as in mlfoundations/open_clip, src/open_clip/factory.py (``create_model``, ``get_tokenizer``),
constants.py and transform.py (``PreprocessCfg``). Weights are in its flat layout (``CLIP``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from zsrobust.encoders import Encoder, openclip, saving
from zsrobust.encoders.golden import golden
from zsrobust.encoders.huggingface import HuggingFaceEncoder, quiet
from zsrobust.encoders.openclip_config import model_cfg
from zsrobust.encoders.preprocessing import Preprocessing
from zsrobust.errors import ModelError
from zsrobust.export.base import Request, Written, activation_of, only_clip, plain
from zsrobust.export.folder import write_json

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
_OPENAI = {"<|startoftext|>": 49406, "<|endoftext|>": 49407, "!": 0, "a</w>": 320}
"""Size 49408 and these ids: the vocabulary that open_clip brings along (its SimpleTokenizer)."""


def write(encoder: Encoder, folder: Path, request: Request) -> Written:
    """Fill the empty ``folder``; what was written is converted back and compared bit for bit.

    Raises:
        ModelError: open_clip has no such model, preprocessing or prompt.
    """
    model = plain(encoder, "open_clip")
    only_clip(model, "open_clip")
    config = model_cfg(model.model.config)
    own_words = not _openai_vocabulary(model)
    if own_words:
        config["text_cfg"]["hf_tokenizer_name"] = request.repo or request.title
    preprocess = preprocess_cfg(model.preprocessing)
    (folder / WEIGHTS).write_bytes(save(_weights(model), {"format": "pt"}))
    write_json(folder / CONFIG, {"model_cfg": config, "preprocess_cfg": preprocess})
    with quiet():
        model.reader.tokenizer.save_pretrained(folder)
    write_json(folder / saving.STORY, saving.content(model.provenance, golden(model)))
    facts = {"activation": activation_of(model), "input_size": list(model.input_size), "layout": "flat"}
    use = _use(request, own_words, "`quick_gelu: true`" if config.get("quick_gelu") else "GELU: without `quick_gelu`")
    return Written("open_clip", "zero-shot-image-classification", use, facts)


def _weights(model: HuggingFaceEncoder) -> dict[str, torch.Tensor]:
    """In the flat layout, on the CPU, after a round trip that lost nothing."""
    state = {name: value.detach().cpu() for name, value in model.model.state_dict().items()}
    found = openclip.to_openclip(state, model.model.config)
    back, _ = openclip.from_openclip(found)
    for name, value in state.items():
        if name not in back or not torch.equal(back[name], value):
            raise ModelError(f"{name} does not survive the conversion to open_clip's layout")
    return found


def _openai_vocabulary(model: HuggingFaceEncoder) -> bool:
    vocabulary = model.reader.tokenizer.get_vocab()
    return len(vocabulary) == 49408 and all(vocabulary.get(token) == number for token, number in _OPENAI.items())


def preprocess_cfg(preprocessing: Preprocessing) -> dict[str, Any]:
    """The ``preprocess_cfg`` of open_clip for a checkpoint's own preprocessing.

    Raises:
        ModelError: open_clip cannot be told that: a crop of another size than the resize, or another filter.
    """
    geometry, size = preprocessing.geometry, preprocessing.input_size
    if geometry.interpolation not in ("bicubic", "bilinear"):
        raise ModelError(f"open_clip resizes with bicubic or bilinear, not {geometry.interpolation}")
    if geometry.resize == size:
        mode = "squash"
    elif geometry.resize == size[0] == size[1]:
        mode = "shortest"
    else:
        raise ModelError(
            f"open_clip resizes to the size of its crop, this checkpoint does {geometry.describe()}: its images would "
            "be other ones"
        )
    return {
        "size": list(size),
        "mode": "RGB",
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "interpolation": geometry.interpolation,
        "resize_mode": mode,
        "fill_color": 0,
    }


def _use(request: Request, own_words: bool, activation: str) -> str:
    where = f"hf-hub:{request.repo}" if request.repo else "local-dir:path/to/this/folder"
    note = ""
    if own_words:
        note = (
            "\nThe vocabulary is not OpenAI's. `local-dir:` takes the tokenizer files of this folder; `hf-hub:` takes "
            f"those of `{request.repo or request.title}`, which is why it has to be pushed under the name it was "
            "exported for (`--push-to-hub`).\n"
        )
    return _USE.format(where=where, config=CONFIG, weights=WEIGHTS, activation=activation) + note


_USE = """## Use

```python
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("{where}")
tokenizer = open_clip.get_tokenizer("{where}")
```

`{config}` says the architecture with its activation ({activation}) and the preprocessing, `{weights}` holds
both towers in open_clip's flat layout. `zsrobust.load` opens the same folder, with its provenance (`zsrobust.json`).
"""
