"""A folder that transformers opens: what ``save_pretrained`` writes."""

from __future__ import annotations

from pathlib import Path

from zsrobust.encoders import Encoder
from zsrobust.export.base import Request, Written, activation_of, plain


def write(encoder: Encoder, folder: Path, request: Request) -> Written:
    """Fill the empty ``folder``.

    Raises:
        ModelError: The encoder is not weights alone (a prompt, a defence).
    """
    model = plain(encoder, "hf")
    model.save_pretrained(folder)
    where = request.repo or "path/to/this/folder"
    facts = {"activation": activation_of(model), "input_size": list(model.input_size)}
    return Written("transformers", "zero-shot-image-classification", _USE.format(where=where), facts)


_USE = """## Use

```python
import torch
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{where}", dtype=torch.float32)
processor = AutoProcessor.from_pretrained("{where}")
```

or, with attacks and evaluations, `zsrobust.load("{where}")`.
"""
