"""The bare visual tower, twice: for LLaVA-like models, and as the repositories of robust CLIPs publish theirs.

LLaVA opens ``mm_vision_tower`` with ``CLIPVisionModel.from_pretrained`` and ``CLIPImageProcessor.from_pretrained``
(haotian-liu/LLaVA, llava/model/multimodal_encoder/clip_encoder.py). chs20/RobustVLM loads a file of open_clip's names
without ``visual.`` into ``model.visual`` (CLIP_eval/eval_utils.py).
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors.torch import save_file

from zsrobust.encoders import VISUAL_FILE, Encoder, openclip
from zsrobust.encoders.huggingface import HuggingFaceEncoder
from zsrobust.encoders.weights import SAFETENSORS
from zsrobust.errors import ModelError
from zsrobust.export.base import Request, Written, activation_of, only_clip, plain
from zsrobust.export.folder import write_json

TORCH = "visual.pt"


def write(encoder: Encoder, folder: Path, request: Request) -> Written:
    """Fill the empty ``folder``; the bare tower is converted back and compared bit for bit.

    Raises:
        ModelError: The encoder is not the weights of a ViT CLIP alone.
    """
    model = plain(encoder, "visual")
    only_clip(model, "visual")
    bare = _bare(model)
    _write_tower(model, folder)
    write_json(folder / "preprocessor_config.json", model.preprocessing.source)
    save_file(bare, folder / VISUAL_FILE, {"format": "pt"})
    torch.save(bare, folder / TORCH)
    activation = activation_of(model)
    facts = {
        "activation": activation,
        "input_size": list(model.input_size),
        "mean": list(model.preprocessing.mean),
        "std": list(model.preprocessing.std),
    }
    use = _USE.format(where=request.repo or "/absolute/path/to/this/folder", activation=activation)
    return Written("transformers", "image-feature-extraction", use, facts)


def _write_tower(model: HuggingFaceEncoder, folder: Path) -> None:
    """A ``CLIPVisionModel``, as transformers 4 writes it, in one file.

    Its names begin with ``vision_model.``; those that transformers 5 writes do not, and 4, which LLaVA has, would leave
    its tower random. Version 5 reads both.
    """
    config = copy.deepcopy(model.model.config.vision_config)
    config.architectures, config.dtype = ["CLIPVisionModel"], "float32"
    config.save_pretrained(folder)
    state = model.model.vision_model.state_dict()
    named = {f"vision_model.{name}": weight.detach().cpu().contiguous() for name, weight in state.items()}
    save_file(named, folder / SAFETENSORS, {"format": "pt"})


def _bare(model: HuggingFaceEncoder) -> dict[str, torch.Tensor]:
    prefixes = ("vision_model.", "visual_projection.")
    state = {k: v.detach().cpu() for k, v in model.model.state_dict().items() if k.startswith(prefixes)}
    found = openclip.visual_to_openclip(state)
    back = openclip.visual_from_openclip(found)
    for name, value in state.items():
        if not name.endswith("position_ids") and (name not in back or not torch.equal(back[name], value)):
            raise ModelError(f"{name} does not survive the conversion to open_clip's layout")
    return found


_USE = """## Use

| file | what it is | for |
|---|---|---|
| `config.json`, `model.safetensors`, `preprocessor_config.json` | a `CLIPVisionModel` of transformers, without the projection | LLaVA and its relatives: `mm_vision_tower` is this folder |
| `visual.safetensors` | open_clip's `model.visual.state_dict()`, with the projection | open_clip; as a base for others |
| `visual.pt` | the same tensors as a torch file without code (`weights_only=True` opens it) | RobustVLM's scripts |

```python
from transformers import CLIPImageProcessor, CLIPVisionModel

tower = CLIPVisionModel.from_pretrained("{where}")   # what LLaVA does
processor = CLIPImageProcessor.from_pretrained("{where}")
```

```python
import torch

model.visual.load_state_dict(torch.load("visual.pt", weights_only=True))   # an open_clip model of this architecture
```

A bare tower does not say its activation: this one's is **{activation}**, and the open_clip model has to have the same
(for `quick_gelu` the names that end in `-quickgelu`). It has no text tower: `zsrobust.load("visual.pt", base=...)`
takes that from the base model.
"""  # noqa: E501
