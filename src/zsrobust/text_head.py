"""Class names × templates → one unit embedding a class, computed once and never inside an attack."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from zsrobust.errors import ConfigError

if TYPE_CHECKING:
    from zsrobust.encoders.base import Encoder

_BAR_FROM_TEXTS = 2_000
_REMEMBERED = 64  # heads kept in memory; a thousand classes at width 512 are 2 MB

_memory: OrderedDict[str, Tensor] = OrderedDict()


@dataclass(frozen=True, eq=False)
class TextHead:
    """The text side of a zero-shot classifier.

    Attributes:
        class_names: One for each class, distinct.
        templates: Each contains ``{}`` once, where the class name goes.
        embeddings: ``(C, D)`` float32 unit rows: the mean over templates of unit text features, normalised
            again.
    """

    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    embeddings: Tensor

    def __call__(self, features: Tensor, scale: float) -> Tensor:
        """Logits ``(B, C)`` float32 of raw image ``features (B, D)``: ``scale`` × cosine similarity.

        float32 also under autocast: a margin of a few hundredths decides whether an attack succeeded.
        """
        with torch.autocast(features.device.type, enabled=False):
            return scale * normalize(features.float(), dim=-1) @ self.embeddings.T

    def to(self, device: str | torch.device) -> TextHead:
        """The same head with its embeddings on ``device``."""
        return TextHead(self.class_names, self.templates, self.embeddings.to(device))

    @classmethod
    def build(
        cls,
        encoder: Encoder,
        class_names: Sequence[str],
        templates: Sequence[str],
        *,
        batch_size: int = 256,
        cache: Path | None = None,
    ) -> TextHead:
        """Encode every class name in every template.

        Args:
            encoder: Its text tower. With a ``text_fingerprint()`` the result is remembered in memory, keyed
                by the content of tower, tokenizer and texts; an encoder without one is encoded anew each
                time.
            class_names: Distinct; may contain braces.
            templates: Each with ``{}`` exactly once.
            batch_size: Texts in one forward.
            cache: A folder that keeps embeddings between processes.

        Raises:
            ConfigError: No or duplicate class names, a template without exactly one ``{}``, or a cache folder
                that cannot be written.
        """
        names, patterns = _checked_names(class_names), _checked_templates(templates)
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size} must be at least 1")
        key = _key(encoder, names, patterns)
        embeddings = _recall(key, cache, len(names))
        if embeddings is None:
            embeddings = _encode(encoder, names, patterns, batch_size)
            _remember(key, cache, embeddings)
        else:
            embeddings = embeddings.to(getattr(encoder, "device", "cpu"))
        return cls(names, patterns, embeddings)


def _checked_names(class_names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(class_names, str) or not class_names:
        raise ConfigError(f"class names must be a non-empty list of texts, not {class_names!r}")
    twice = [name for name, count in Counter(class_names).items() if count > 1]
    if twice:
        raise ConfigError(f"class name '{twice[0]}' is given more than once; two classes cannot share a text")
    return tuple(class_names)


def _checked_templates(templates: Sequence[str]) -> tuple[str, ...]:
    if isinstance(templates, str) or not templates:
        raise ConfigError(f"templates must be a non-empty list of texts, not {templates!r}")
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(f"template '{template}' must contain {{}} exactly once, where the class name goes")
    return tuple(templates)


@torch.no_grad()
def _encode(encoder: Encoder, names: tuple[str, ...], templates: tuple[str, ...], batch_size: int) -> Tensor:
    from tqdm import tqdm

    # replace, not format: a class may be called "{}"
    texts = [template.replace("{}", name) for name in names for template in templates]
    starts = range(0, len(texts), batch_size)
    # disable=None: a bar on a terminal, nothing in a log file
    bar = tqdm(
        starts,
        desc="encoding class names",
        leave=False,
        disable=None if len(texts) > _BAR_FROM_TEXTS else True,
    )
    features = torch.cat([encoder.encode_texts(texts[start : start + batch_size]).float() for start in bar])
    units = normalize(features, dim=-1).view(len(names), len(templates), -1)
    return normalize(units.mean(dim=1), dim=-1)


def _key(encoder: Encoder, names: tuple[str, ...], templates: tuple[str, ...]) -> str | None:
    fingerprint = getattr(encoder, "text_fingerprint", None)
    if fingerprint is None:
        return None
    content = json.dumps(["zsrobust.text_head/1", fingerprint(), names, templates])
    return hashlib.sha256(content.encode()).hexdigest()


def _recall(key: str | None, cache: Path | None, classes: int) -> Tensor | None:
    """The ``(C, D)`` embeddings on the CPU, from memory or disk; None if they have to be computed."""
    if key is None:
        return None
    if key in _memory:
        _memory.move_to_end(key)
        return _memory[key]
    if cache is None or not (path := cache / f"{key}.safetensors").is_file():
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        embeddings = load_file(path)["embeddings"]
    except (SafetensorError, OSError, KeyError):
        return None  # a cache is never worth an error: computed again and replaced
    if embeddings.ndim != 2 or len(embeddings) != classes:
        return None
    _keep(key, embeddings)
    return embeddings


def _remember(key: str | None, cache: Path | None, embeddings: Tensor) -> None:
    if key is None:
        return
    stored = embeddings.detach().cpu().clone()
    _keep(key, stored)
    if cache is None:
        return
    from safetensors.torch import save

    path = cache / f"{key}.safetensors"
    fresh = cache / f".{key}.{secrets.token_hex(4)}.tmp"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(save({"embeddings": stored.contiguous()}))
        os.replace(fresh, path)
    except OSError as error:
        raise ConfigError(f"text cache '{cache}' cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)


def _keep(key: str, embeddings: Tensor) -> None:
    _memory[key] = embeddings
    while len(_memory) > _REMEMBERED:
        _memory.popitem(last=False)
