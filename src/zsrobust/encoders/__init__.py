"""Encoders by name: the embedded ``tiny``, local folders, hub ids, and names from other packages.

A package adds one with an entry point in the group ``zsrobust.encoders`` whose object is called without
arguments and returns an :class:`Encoder`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError, ModelError, UnknownName
from zsrobust.registry import Registry

if TYPE_CHECKING:
    import torch

__all__ = ["ENCODERS", "Encoder", "load"]

ENCODERS = Registry("encoder", {"tiny": "zsrobust.encoders.tiny:load"})

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def load(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    attention: str = "sdpa",
) -> Encoder:
    """The encoder called ``name_or_path``: float32, frozen, in evaluation mode, on ``device``.

    Args:
        name_or_path: A registered name (``"tiny"``), a local folder in the Hugging Face layout (a prompted model is
            opened with its prompt), or a hub id
            (``"openai/clip-vit-base-patch32"``). What starts with ``.``, ``/`` or ``~`` or exists as a folder
            is a folder; a registered name goes before a folder of the same name.
        revision: Branch, tag or commit of a hub id.
        device: Where the weights go.
        attention: ``"sdpa"``, or ``"eager"`` (faster in bfloat16 on CPUs).

    Raises:
        UnknownName: A bare word that is neither registered nor a folder.
        ConfigError: An option that does not apply.
        ModelError: The checkpoint is missing, broken, of an unsupported kind, or would have to run code.
    """
    target = _device(device)
    given = str(name_or_path)
    from_hub = False
    if isinstance(name_or_path, str) and given in ENCODERS:
        encoder = _registered(given, attention)
    elif isinstance(name_or_path, Path) or _is_folder(given):
        from zsrobust.encoders.prompted import from_folder

        encoder = from_folder(Path(given).expanduser(), attention=attention)
    elif "/" in given:
        encoder, from_hub = _from_hub(given, revision, attention), True
    else:
        raise UnknownName("model", given, ENCODERS, also="there is no folder of that name, and a hub id is owner/name")
    if revision is not None and not from_hub:
        raise ConfigError(f"revision '{revision}' was given, but '{given}' is not a hub id")
    return _moved(encoder, target)


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


def _from_hub(repo: str, revision: str | None, attention: str) -> Encoder:
    if not _HUB_ID.fullmatch(repo):
        raise ModelError(f"'{repo}' is neither a folder nor a hub id (owner/name)")
    from zsrobust.encoders import hub
    from zsrobust.encoders.prompted import from_folder

    folder, commit = hub.fetch(repo, revision=revision)
    source = {"source": repo, "revision": commit}
    return from_folder(folder, name=repo, provenance=source, attention=attention)


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
