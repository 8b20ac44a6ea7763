"""Encoders by name: the embedded ``tiny``, local folders, hub ids, and names from other packages.

A package adds one with an entry point in the group ``zsrobust.encoders`` whose object is called without
arguments and returns an :class:`Encoder`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zsrobust.encoders import adapted_on as told
from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError, ModelError, UnknownName
from zsrobust.registry import Registry

if TYPE_CHECKING:
    import torch

__all__ = ["ENCODERS", "Encoder", "load"]

ENCODERS = Registry("encoder", {"tiny": "zsrobust.encoders.tiny:load"})

VISUAL_FILE = "visual.safetensors"
"""In an export of the visual tower alone: all of it, where the folder of transformers has no projection."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def load(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    attention: str = "sdpa",
    base: str | Path | Encoder | None = None,
    activation: str | None = None,
    size: int | None = None,
    adapted_on: str | Sequence[str] = (),
) -> Encoder:
    """The encoder called ``name_or_path``: float32, frozen, in evaluation mode, on ``device``.

    The format of a checkpoint is told from its contents; ``provenance["format"]`` says what was found where it is not a
    folder of Hugging Face's, and ``provenance["conversion"]`` what was decided on the way, and by whom.

    Args:
        name_or_path: A registered name (``"tiny"``), a local folder in the layout of Hugging Face (a prompted model is
            opened with its prompt) or of open_clip, a weight file (a full model of open_clip or OpenAI; a visual tower
            alone, as the robust-CLIP repositories publish them; a checkpoint of the TeCoA paper's code), an export of a
            visual tower, or a hub id (``"openai/clip-vit-base-patch32"``) of either layout. What starts with ``.``,
            ``/`` or ``~`` or exists is a path; a registered name goes before a path of the same name.
        revision: Branch, tag or commit of a hub id.
        device: Where the weights go.
        attention: ``"sdpa"``, or ``"eager"`` (faster in bfloat16 on CPUs).
        base: For a visual tower or prompts alone: the model they were trained on, which gives everything else. For
            open_clip's formats: a model whose tokenizer is used if the checkpoint brings none; and, for a full model in
            a single file, whose numbers of heads are those of the towers of its width.
        activation: ``"quick_gelu"`` or ``"gelu"``: needed for a full model in a single file, which does not say its
            own, also where that is the base; elsewhere it has to agree with what is known.
        size: Side of the images in pixels: position embeddings are interpolated, and the preprocessing changed with
            them. A visual tower of this size is put on a base of another one. None: as the checkpoint has it.
        adapted_on: Names of the tasks that somebody else adapted the model on, which no file says; reports then tell
            them from the others. Added to what a model of this package, or the base, says of itself. A text is one
            name, or several with commas.

    Raises:
        UnknownName: A bare word that is neither registered nor a path.
        ConfigError: An option that does not apply, is missing, or contradicts the checkpoint.
        ModelError: The checkpoint is missing, broken, of an unsupported kind, or would have to run code.
    """
    target = _device(device)
    tasks = told.read(adapted_on)
    given = str(name_or_path)
    if isinstance(name_or_path, str) and given not in ENCODERS:
        given = given.removeprefix("hf-hub:")
    from_hub = False
    options = _Options(attention, base, activation)
    file = weight_file(name_or_path if isinstance(name_or_path, Path) else given)
    if file is not None:
        from zsrobust.encoders import foreign

        encoder: Encoder = foreign.from_file(
            file, base=options.model(), activation=activation, attention=attention, size=size, adapted_on=tasks
        )
    elif isinstance(name_or_path, str) and given in ENCODERS:
        encoder = _agreeing(_registered(given, attention), options, given)
    elif isinstance(name_or_path, Path) or _is_folder(given):
        encoder = _from_folder(Path(given).expanduser(), options, name=None, provenance=None)
    elif "/" in given:
        encoder, from_hub = _from_hub(given, revision, options), True
    else:
        raise UnknownName("model", given, ENCODERS, also="there is no folder of that name, and a hub id is owner/name")
    if revision is not None and not from_hub:
        raise ConfigError(f"revision '{revision}' was given, but '{given}' is not a hub id")
    if tasks and file is None:
        told.tell(encoder, tasks)
    return _moved(encoder if size is None else _sized(encoder, size), target)


@dataclass(frozen=True)
class _Options:
    """What decides how a checkpoint is read."""

    attention: str
    base: str | Path | Encoder | None
    activation: str | None

    def model(self) -> Encoder | None:
        """The base, opened; where it is a file, which does not say its activation, with the one that was given."""
        if not isinstance(self.base, str | Path):
            return self.base
        return load(self.base, activation=self.activation if weight_file(self.base) else None)


def _from_folder(
    folder: Path, options: _Options, *, name: str | None, provenance: Mapping[str, object] | None
) -> Encoder:
    from zsrobust.encoders import foreign, prompted

    attention = options.attention
    if foreign.is_openclip(folder):
        return foreign.from_folder(
            folder, base=options.model(), activation=options.activation, attention=attention, name=name,
            provenance=provenance,
        )  # fmt: skip
    found = prompted.from_folder(folder, name=name, provenance=provenance, attention=attention)
    return _agreeing(found, options, folder.name)


def _agreeing(encoder: Encoder, options: _Options, given: str) -> Encoder:
    """The encoder itself, where the options have nothing to add to it."""
    if options.base is not None:
        raise ConfigError(f"base was given, but '{given}' is a whole model: base is for towers, prompts and open_clip")
    if options.activation is not None:
        from zsrobust.encoders.activations import activation_of, agreed, checked

        model = getattr(getattr(encoder, "base", encoder), "model", None)
        if getattr(getattr(model, "config", None), "model_type", None) != "clip":
            raise ConfigError(f"activation was given, but '{given}' is no CLIP of transformers")
        agreed(checked(options.activation), activation_of(model), said_by=f"the config of {given}")
    return encoder


def _sized(encoder: Encoder, size: int) -> Encoder:
    from zsrobust.encoders.huggingface import HuggingFaceEncoder
    from zsrobust.encoders.positions import resized

    if isinstance(size, int) and encoder.input_size == (size, size):
        return encoder
    if not isinstance(encoder, HuggingFaceEncoder):
        raise ConfigError(f"size={size} was given, but {encoder.name} is not a plain CLIP or SigLIP of transformers")
    return resized(encoder, size)


def weight_file(model: str | Path) -> Path | None:
    """The one file that ``model`` means, if it means a file: itself, or an export's visual tower."""
    if isinstance(model, str) and model in ENCODERS:
        return None
    path = Path(model).expanduser()
    if (path / "export.json").is_file() and (path / VISUAL_FILE).is_file():
        return path / VISUAL_FILE
    return path if path.is_file() else None


def _registered(name: str, attention: str) -> Encoder:
    encoder = ENCODERS[name]()
    if not isinstance(encoder, Encoder):
        kind = type(encoder).__name__
        raise ModelError(f"encoder '{name}' ({ENCODERS.address(name)}) is a {kind} without the Encoder protocol")
    if attention != "sdpa":
        switch = getattr(encoder, "set_attention", None)
        if switch is None:
            raise ConfigError(f"attention '{attention}' was given, but encoder '{name}' has no set_attention")
        switch(attention)
    return encoder


def _is_folder(given: str) -> bool:
    return given.startswith((".", "/", "~")) or "\\" in given or given.count("/") > 1 or Path(given).is_dir()


def _from_hub(repo: str, revision: str | None, options: _Options) -> Encoder:
    if not _HUB_ID.fullmatch(repo):
        raise ModelError(f"'{repo}' is neither a folder nor a hub id (owner/name)")
    from zsrobust.encoders import hub

    folder, commit = hub.fetch(repo, revision=revision)
    source = {"source": repo, "revision": commit}
    return _from_folder(folder, options, name=repo, provenance=source)


def _device(device: str | torch.device) -> torch.device:
    import torch

    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        line = str(error).strip().splitlines()[0]
        raise ConfigError(f"device '{device}' cannot be used here: {line}") from error
    return target


def _moved(encoder: Encoder, device: torch.device) -> Encoder:
    from torch import nn

    if isinstance(encoder, nn.Module):
        encoder.to(device)
    return encoder
