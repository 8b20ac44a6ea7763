"""Texts → token ids, the way the checkpoint was trained."""

from __future__ import annotations

import hashlib
import html
import importlib.util
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ftfy
from torch import Tensor

from zsrobust.encoders.preprocessing import read_json
from zsrobust.errors import ModelError

_VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")


def clean(text: str) -> str:
    """What open_clip does before it tokenises and transformers does not: mojibake and HTML entities repaired.

    Equal to transformers' own text on ordinary prompts; on a class name such as ``"b&amp;b"`` only this is
    what the models were trained on.
    """
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


class TextReader:
    """A checkpoint's tokenizer with its context length.

    CLIP pads to the longest text and pools at the end-of-text token; SigLIP was trained on texts padded to
    the whole context, pools at the last position and takes no attention mask. SigLIP was also trained on
    lower-case text, which not every tokenizer of the family does by itself.

    Copies of an encoder share it: it holds no weights.
    """

    def __init__(self, tokenizer: Any, *, family: str, context: int) -> None:
        """Wrap ``tokenizer`` of a ``family`` with ``context`` tokens."""
        self.tokenizer = tokenizer
        self.context = context
        self._siglip = family == "siglip"

    def __deepcopy__(self, memo: object) -> TextReader:
        """The reader itself: it never changes."""
        return self

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids ``(N, L)`` int64, and CLIP's attention mask, as the keyword arguments of the text tower.

        A text longer than the context keeps its end-of-text token and loses what is before it, with one
        warning.
        """
        cleaned = [clean(text).lower() if self._siglip else clean(text) for text in texts]
        padding = "max_length" if self._siglip else "longest"
        batch = self.tokenizer(
            cleaned, padding=padding, truncation=True, max_length=self.context, return_tensors="pt",
            return_attention_mask=True,
        )  # fmt: skip
        self._warn_truncated(cleaned, batch["attention_mask"])
        if self._siglip:
            return {"input_ids": batch["input_ids"]}
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def _warn_truncated(self, cleaned: list[str], mask: Tensor) -> None:
        full = [i for i in range(len(cleaned)) if int(mask[i].sum()) >= self.context]
        cut = [i for i in full if len(self.tokenizer(cleaned[i], verbose=False)["input_ids"]) > self.context]
        if cut:
            first = cleaned[cut[0]][:60]
            warnings.warn(
                f"{len(cut)} of {len(cleaned)} texts exceed {self.context} tokens and were cut: '{first}…'",
                stacklevel=5,  # the caller of encode_texts, past its no_grad wrapper
            )

    def digest(self) -> str:
        """sha256 of vocabulary and tokenisation rules (not of the padding state, which calls change)."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            rules: dict[str, Any] = {"vocabulary": self.tokenizer.get_vocab()}
        else:
            rules = json.loads(backend.to_str())
            rules.pop("padding", None)
            rules.pop("truncation", None)
        rules["context"] = self.context
        return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def read(folder: Path, *, family: str, config: Any) -> TextReader:
    """The tokenizer in ``folder``, checked against the text tower's ``config``.

    Raises:
        ModelError: No vocabulary, a tokenizer that needs code or a package that is not there, or one that
            does not fit the tower's vocabulary or pooling.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise ModelError(f"{folder.name} has no tokenizer (none of {', '.join(_VOCABULARIES)})")
    described = folder / "tokenizer_config.json"
    options = read_json(described) if described.is_file() else {}
    if options.get("auto_map"):
        raise ModelError(f"the tokenizer of {folder.name} needs its own code (auto_map), which is never run")
    if options.get("tokenizer_class") == "SiglipTokenizer" and importlib.util.find_spec("sentencepiece") is None:
        raise ModelError(f"the tokenizer of {folder.name} needs sentencepiece: pip install sentencepiece protobuf")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exception on broken files
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"the tokenizer of {folder.name} cannot be read: {line}") from error
    _check(tokenizer, family=family, config=config, where=folder.name)
    return TextReader(tokenizer, family=family, context=int(config.max_position_embeddings))


def _check(tokenizer: Any, *, family: str, config: Any, where: str) -> None:
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if not 0 <= largest < config.vocab_size:
        raise ModelError(f"the tokenizer of {where} has ids up to {largest}, its text tower only {config.vocab_size}")
    if family != "clip":
        return
    eos = tokenizer.eos_token_id
    if config.eos_token_id == 2:
        # Old configurations say 2 and mean "pool at the largest id": the end of text only in OpenAI's order.
        if eos != largest:
            raise ModelError(
                f"{where}: eos_token_id 2 pools at the largest token id ({largest}), but the "
                f"tokenizer ends texts with {eos}; set text_config.eos_token_id to {eos} in config.json"
            )
    elif config.eos_token_id != eos:
        raise ModelError(
            f"{where}: the text tower pools at token {config.eos_token_id}, the tokenizer ends with {eos}; "
            f"set text_config.eos_token_id to {eos} in config.json"
        )
