"""Class names × templates → one unit embedding a class, computed once and never inside an attack.

What was computed is kept in memory and in the cache folder (:mod:`zsrobust.cache`), by the content of text tower,
tokenizer and texts, and by what else rounding depends on: the kind of device, torch's version, the batch size.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import secrets
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from zsrobust import cache as cache_folder
from zsrobust.errors import ConfigError
from zsrobust.passes import float32_only

if TYPE_CHECKING:
    from zsrobust.encoders.base import Encoder

_BAR_FROM_TEXTS = 2_000
_ALIKE = 1 - 1e-6
"""Cosine above which two texts are one: their logits differ by at most 0.0015 of the scale."""
_BLOCK = 1024
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
    @torch.inference_mode(False)  # what is remembered is for attacks too
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
            encoder: Its text tower. With a ``text_fingerprint()`` the result is remembered in memory and on
                disk; an encoder without one is encoded anew each time.
            class_names: Distinct; may contain braces.
            templates: Each with ``{}`` exactly once.
            batch_size: Texts in one forward.
            cache: A folder that keeps embeddings between processes, in place of the one that
                ``ZSROBUST_CACHE`` stands for. One that cannot be written is done without, after a warning.

        Raises:
            ConfigError: No or duplicate class names, or a template without exactly one ``{}``.
        """
        names, patterns = _checked_names(class_names), _checked_templates(templates)
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size} must be at least 1")
        key = _key(encoder, names, patterns, batch_size)
        here = cache_folder.folder() if cache is None else cache
        embeddings = _recall(key, here, len(names))
        if embeddings is None:
            embeddings = _encode(encoder, names, patterns, batch_size)
            _remember(key, here, embeddings)
        else:
            embeddings = embeddings.to(getattr(encoder, "device", "cpu"))
        return cls(names, patterns, embeddings)

    @classmethod
    def of_classes(cls, encoder: Encoder, class_names: Sequence[str], templates: Sequence[str]) -> TextHead:
        """As :meth:`build`, of texts that are classes: captions may mean the same to the encoder, classes may not.

        Raises:
            ConfigError: as :meth:`build`, or two classes are the same text to the encoder: of these the second would
                always be wrong.
        """
        head = cls.build(encoder, class_names, templates)
        if (twins := _twins(head.embeddings)) is not None:
            one, other = (repr(head.class_names[i]) for i in twins)
            raise ConfigError(
                f"classes {one} and {other} are the same text to model '{encoder.name}', which may ignore case and "
                "spaces and cuts off what is too long: give them other names, or select one"
            )
        return head


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
    means: list[Tensor] = []
    waiting: list[Tensor] = []  # features of classes that are not whole yet
    for start in bar:
        waiting.append(encoder.encode_texts(texts[start : start + batch_size]).float())
        features = torch.cat(waiting)
        whole = len(features) // len(templates) * len(templates)
        if whole:
            means.append(normalize(features[:whole], dim=-1).view(-1, len(templates), features.shape[1]).mean(dim=1))
        waiting = [features[whole:].clone()]  # a view would hold on to the batch
    return normalize(torch.cat(means), dim=-1)


def _twins(embeddings: Tensor) -> tuple[int, int] | None:
    """The first two of ``(C, D)`` unit rows that are one, but for rounding; None where there are none."""
    with float32_only(embeddings.device):
        for start in range(0, len(embeddings), _BLOCK):
            alike = embeddings[start : start + _BLOCK] @ embeddings[start:].T > _ALIKE
            found = alike.triu(1).nonzero()
            if len(found):
                first, second = (start + found[0]).tolist()
                return first, second
    return None


def _key(encoder: Encoder, names: tuple[str, ...], templates: tuple[str, ...], batch_size: int) -> str | None:
    fingerprint = getattr(encoder, "text_fingerprint", None)
    if fingerprint is None:
        return None
    device = torch.device(getattr(encoder, "device", "cpu"))
    content = json.dumps(["zsrobust.text_head/2", fingerprint(), names, templates, batch_size, *_kernels(device)])
    return hashlib.sha256(content.encode()).hexdigest()


def _kernels(device: torch.device) -> tuple[str, ...]:
    """What stands for the way that a device rounds."""
    if device.type == "cuda":
        return torch.__version__, torch.cuda.get_device_name(device)
    return torch.__version__, device.type, platform.machine(), torch.backends.cpu.get_cpu_capability()


def _recall(key: str | None, here: Path | None, classes: int) -> Tensor | None:
    """The ``(C, D)`` embeddings on the CPU, from memory or disk; None if they have to be computed."""
    if key is None:
        return None
    if key in _memory:
        _memory.move_to_end(key)
        return _memory[key]
    if here is None or not (path := _file(here, key)).is_file():
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        stored = load(path.read_bytes())
        embeddings, checksum = stored["embeddings"], stored["sha256"]
    except (SafetensorError, OSError, KeyError):
        return None  # a cache is never worth an error: computed again and replaced
    if embeddings.ndim != 2 or len(embeddings) != classes or not torch.equal(checksum, _checksum(embeddings)):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # used now: others are evicted before it
    _keep(key, embeddings)
    return embeddings


def _remember(key: str | None, here: Path | None, embeddings: Tensor) -> None:
    if key is None:
        return
    stored = embeddings.detach().cpu().clone().contiguous()
    _keep(key, stored)
    if here is None:
        return
    from safetensors.torch import save

    path = _file(here, key)
    fresh = path.with_name(f".{key}.{secrets.token_hex(4)}.tmp")
    content = save({"embeddings": stored, "sha256": _checksum(stored)})
    try:
        if cache_folder.make_room(here, len(content)):
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(content)
            os.replace(fresh, path)  # two processes write the same bytes, each to a file of its own
    except OSError as problem:
        cache_folder.warn_once(here, problem)
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)


def _file(here: Path, key: str) -> Path:
    return here / "text" / f"{key}.safetensors"


def _checksum(embeddings: Tensor) -> Tensor:
    """(32,) uint8: sha256 of the values; the file's format has none of its own."""
    digest = hashlib.sha256(embeddings.numpy().tobytes()).digest()
    return torch.tensor(list(digest), dtype=torch.uint8)


def _keep(key: str, embeddings: Tensor) -> None:
    _memory[key] = embeddings
    while len(_memory) > _REMEMBERED:
        _memory.popitem(last=False)
