"""A CLIP or SigLIP with a visual prompt: an encoder like any other, so that no attack can go around the prompt."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from zsrobust.encoders import huggingface, saving, tower
from zsrobust.encoders.fingerprints import digest
from zsrobust.encoders.golden import golden
from zsrobust.encoders.huggingface import HuggingFaceEncoder
from zsrobust.encoders.preprocessing import read_json
from zsrobust.encoders.visual_prompts import AddedPixels, AddedTokens, PixelLayout, TokenLayout
from zsrobust.errors import ConfigError, ModelError
from zsrobust.geometry import Geometry


class PromptedEncoder(nn.Module):
    """``base`` with a pixel prompt, token prompts, or both, as an :class:`~zsrobust.encoders.base.Encoder`.

        pixels → resize → [pixel prompt "before"] → mean, std → [pixel prompt "after"] → tower [with token prompts]

    In evaluation mode and with every parameter frozen; adaptation unfreezes what it trains.

    Attributes:
        base: The model without the prompt. Its text tower is used as it is.
        pixel: The pixel prompt, or None.
        tokens: The token prompts, or None.
        name: What results call it.
    """

    def __init__(
        self,
        base: HuggingFaceEncoder,
        pixel: AddedPixels | None = None,
        tokens: AddedTokens | None = None,
        *,
        name: str | None = None,
        provenance: Mapping[str, object] | None = None,
    ) -> None:
        """Take over ``base``; name (with ``+prompt``) and provenance are its own if None.

        Raises:
            ConfigError: There is no prompt, or it does not fit the base.
            ModelError: The base is not a CLIP or SigLIP of transformers.
        """
        super().__init__()
        if not isinstance(base, HuggingFaceEncoder):
            raise ModelError(f"only a CLIP or SigLIP of transformers can be prompted, not a {type(base).__name__}")
        if pixel is None and tokens is None:
            raise ConfigError("a prompted encoder needs a pixel prompt, token prompts, or both")
        if pixel is not None and pixel.input_size != base.input_size:
            raise ConfigError(f"a pixel prompt for {pixel.input_size} pixels does not fit images of {base.input_size}")
        self.base, self.pixel, self.tokens = base, pixel, tokens
        self.name = name or f"{base.name}+prompt"
        self.provenance = base.provenance if provenance is None else provenance
        if tokens is not None:
            self._check_tokens(tokens)
        for part in filter(None, (pixel, tokens)):
            part.to(base.mean)
        self.requires_grad_(False)
        self.eval()

    def _check_tokens(self, tokens: AddedTokens) -> None:
        blocks, width = tower.blocks_and_width(self.base.model)
        depth, _, given = tokens.tokens.shape
        if depth not in (1, blocks) or given != width:
            raise ConfigError(
                f"tokens of {given} numbers at {depth} depths do not fit a tower of {blocks} blocks and width {width}"
            )

    @property
    def provenance(self) -> Mapping[str, object]:
        """Where it comes from and what it was adapted on; under ``prompt``, what its prompt is."""
        return {**self._provenance, saving.PROMPT: self.describe_prompt()}

    @provenance.setter
    def provenance(self, told: Mapping[str, object]) -> None:
        self._provenance = {key: value for key, value in told.items() if key != saving.PROMPT}

    @property
    def input_size(self) -> tuple[int, int]:
        """``(H, W)`` of the visual tower."""
        return self.base.input_size

    @property
    def geometry(self) -> Geometry:
        """The checkpoint's own PIL resize and crop."""
        return self.base.geometry

    @property
    def resize_description(self) -> str:
        """The resize inside :meth:`encode_pixels`, as stored with results."""
        return self.base.resize_description

    @property
    def logit_scale(self) -> float:
        """``exp`` of the checkpoint's parameter."""
        return self.base.logit_scale

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.base.device

    @property
    def samples(self) -> int:
        """Draws that an attack and a verdict average over: 1 unless the pixel prompt has a random place."""
        return 1 if self.pixel is None else self.pixel.samples

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Raw image features ``(B, D)`` of ``pixels (B, 3, h, w)``, float32 in [0, 1], prompted; differentiable."""
        image = self._added("before", self.base.resized(pixels))
        image = self._added("after", self.base.normalised(image))
        return self.base.features_of(image, None if self.tokens is None else self.tokens())

    def _added(self, where: str, image: Tensor) -> Tensor:
        if self.pixel is None or self.pixel.layout.where != where:
            return image
        added: Tensor = self.pixel(image)
        return added

    def forward(self, pixels: Tensor) -> Tensor:
        """:meth:`encode_pixels`, so that hooks and ``DistributedDataParallel`` see the call."""
        return self.encode_pixels(pixels)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Raw text features ``(N, D)``: those of the base."""
        return self.base.encode_texts(texts)

    def prompt_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """``("prompt.pixel.…" or "prompt.tokens.…", parameter)`` of the prompt alone: what prompt tuning trains."""
        for part, module in (("pixel", self.pixel), ("tokens", self.tokens)):
            if module is not None:
                yield from module.named_parameters(prefix=f"{saving.PROMPT}.{part}")

    def visual_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The prompt and the base's visual tower: everything that image features depend on.

        So fine-tuning a prompted model trains its prompt as well. Names of the tower are those in the checkpoint.
        """
        yield from self.prompt_parameters()
        yield from self.base.visual_parameters()

    def set_attention(self, attention: str) -> None:
        """Switch between ``"sdpa"`` and ``"eager"`` attention; equal up to rounding, not in speed."""
        self.base.set_attention(attention)

    @contextmanager
    def lowered(self) -> Iterator[None]:
        """Inside, :meth:`encode_pixels` runs a bfloat16 copy of the visual tower, prompted as well: fast and rough."""
        with self.base.lowered():
            yield

    def fingerprint(self) -> str:
        """sha256 over all weights, the preprocessing, and the prompt with its layout."""
        layout = json.dumps(self.describe_prompt(), sort_keys=True)
        return digest(dict(self.prompt_parameters()), f"{self.base.fingerprint()} {layout}")

    def text_fingerprint(self) -> str:
        """That of the base: text features do not depend on the prompt."""
        return self.base.text_fingerprint()

    def copy(self) -> PromptedEncoder:
        """An independent encoder with the same weights and prompt."""
        return copy.deepcopy(self)

    def describe_prompt(self) -> dict[str, object]:
        """What the prompt is, JSON-able: ``pixel`` and ``tokens``, where there are such."""
        parts = {"pixel": self.pixel, "tokens": self.tokens}
        return {name: dict(part.describe()) for name, part in parts.items() if part is not None}

    def save_pretrained(self, folder: str | Path, *, provenance: Mapping[str, object] | None = None) -> Path:
        """Write a folder that ``zsrobust.load`` opens; transformers opens the base in it, without the prompt.

        Args:
            folder: New, empty, or an earlier one written by this method (which is then replaced at once).
            provenance: JSON-able additions to :attr:`provenance`.

        Returns:
            The folder.

        Raises:
            ConfigError: ``folder`` holds something else, or the provenance is not JSON-able.
            ModelError: It cannot be written.
        """
        base, prompt = self.base, {name: value.detach().cpu().contiguous() for name, value in self.prompt_parameters()}
        told = {**self.provenance, **(provenance or {}), saving.PROMPT: self.describe_prompt()}
        with huggingface.quiet():
            return saving.write(
                Path(folder), base.model, base.reader.tokenizer, base.preprocessing, told, prompt, vector=golden(self)
            )


def from_folder(
    folder: Path,
    *,
    name: str | None = None,
    provenance: Mapping[str, object] | None = None,
    attention: str = "sdpa",
) -> HuggingFaceEncoder | PromptedEncoder:
    """The encoder in a local ``folder``, with its prompt if it is a prompted one.

    Takes and raises what :func:`zsrobust.encoders.huggingface.from_folder` does; a prompt that is missing, broken or of
    another model is a ModelError too.
    """
    if not saving.holds_prompt(folder):
        return huggingface.from_folder(folder, name=name, provenance=provenance, attention=attention)
    base = huggingface.backbone(folder, name=name, provenance=provenance, attention=attention)
    found = read_json(folder / saving.STORY)[saving.PROMPT]
    try:
        pixel, tokens = _parts(base, found)
        encoder = PromptedEncoder(base, pixel, tokens, name=base.name)
    except ConfigError as error:
        raise ModelError(f"the prompt in {folder.name}/{saving.STORY} cannot be used: {error}") from error
    _fill(dict(encoder.prompt_parameters()), folder)
    saving.check_golden(encoder, folder)
    return encoder


def with_prompt(base: HuggingFaceEncoder, prompts: Mapping[str, Tensor]) -> PromptedEncoder:
    """``base`` with prompts in the layout of the TeCoA paper's code, by our names.

    Args:
        base: The model without them; it is taken over.
        prompts: ``pixel.top``, ``pixel.bottom`` (3, P, W), ``pixel.left``, ``pixel.right`` (3, H − 2P, P), added after
            normalisation; ``tokens.tokens`` (1, count, width), and ``tokens.position`` (count, width).

    Raises:
        ModelError: They do not fit the base.
    """
    top, tokens = prompts.get("pixel.top"), prompts.get("tokens.tokens")
    position = "learned" if "tokens.position" in prompts else "none"
    try:
        pixel = None if top is None else AddedPixels(PixelLayout("frame", width=top.shape[1]), base.input_size)
        layout = None if tokens is None else TokenLayout(tokens.shape[1], position=position)
        added = None if layout is None else AddedTokens(layout, *tower.blocks_and_width(base.model))
        encoder = PromptedEncoder(base, pixel, added)
    except ConfigError as error:
        raise ModelError(f"the prompts do not fit the base {base.name}: {error}") from error
    for name, parameter in encoder.prompt_parameters():
        tensor = prompts[name.removeprefix(f"{saving.PROMPT}.")]
        if tensor.shape != parameter.shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(parameter.shape)}"
            raise ModelError(f"the prompts do not fit the base {base.name}: {name} is {shapes}")
        with torch.no_grad():
            parameter.copy_(tensor)
    return encoder


def _parts(base: HuggingFaceEncoder, found: Any) -> tuple[AddedPixels | None, AddedTokens | None]:
    """What zsrobust.json describes, still zero."""
    if not isinstance(found, dict) or not set(found) <= {"pixel", "tokens"}:
        raise ConfigError(f"allowed are pixel and tokens, found {found!r}")
    try:
        pixel = PixelLayout(**found["pixel"]) if "pixel" in found else None
        tokens = TokenLayout(**found["tokens"]) if "tokens" in found else None
    except TypeError:  # no mapping, an unknown key, or no count
        raise ConfigError(f"{found!r} is not how a prompt is described") from None
    return (
        None if pixel is None else AddedPixels(pixel, base.input_size),
        None if tokens is None else AddedTokens(tokens, *tower.blocks_and_width(base.model)),
    )


def _fill(parameters: Mapping[str, nn.Parameter], folder: Path) -> None:
    """Exactly these tensors, of these shapes, float32 and finite, from the folder's prompt file."""
    where = f"{folder.name}/{saving.PROMPT_FILE}"
    try:
        tensors = load_file(folder / saving.PROMPT_FILE)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{where} is broken or incomplete: {error}") from error
    for kind, names in (("lacks", parameters.keys() - tensors), ("has an unexpected", tensors.keys() - parameters)):
        if names:
            raise ModelError(f"{where} {kind} tensor {min(names)}")
    for name, parameter in parameters.items():
        tensor = tensors[name]
        if tensor.shape != parameter.shape:
            raise ModelError(f"{where}: {name} is {tuple(tensor.shape)}, not {tuple(parameter.shape)}")
        if tensor.dtype != torch.float32 or not bool(tensor.isfinite().all()):
            raise ModelError(f"{where}: {name} is not finite float32 numbers")
        with torch.no_grad():
            parameter.copy_(tensor)
