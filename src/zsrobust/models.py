"""Models as people write them: ``MODEL[:option=value ...][+DEFENCE[:option=value ...] ...]``.

MODEL is what :func:`zsrobust.load` takes (a registered name, a folder, a weight file, a hub id) or a run folder of
``zsrobust adapt``. Options are those of :func:`zsrobust.load`: ``base=``, ``activation=``, ``size=`` and
``adapted_on=TASK,TASK``; defences are :data:`zsrobust.defences.DEFENCES`, the first one next to the model. Registered
names and existing paths go before the grammar: the longest beginning of the text that is one is the model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zsrobust.distributed import world
from zsrobust.encoders import ENCODERS, Encoder, load, weight_file
from zsrobust.errors import ConfigError, ModelError, UnknownName

MODEL = "model"
"""Where in its run folder an adapted model is."""
OPTIONS = ("base", "activation", "size", "adapted_on")


@dataclass(frozen=True)
class Written:
    """A model as it was written.

    Attributes:
        model: Name, path or hub id.
        options: Of the model, as text.
        defences: What follows each ``+``, for :func:`zsrobust.defences.wrapped`.
    """

    model: str
    options: dict[str, str]
    defences: tuple[str, ...]


def read(text: str) -> Written:
    """Takes a written model apart; nothing is opened.

    Raises:
        UnknownName: no such option.
        ConfigError: what follows ``:`` is no ``option=value``, an option is there twice, or a ``+`` stands alone.
    """
    model = _model(text)
    head, *defences = text[len(model) :].split("+")
    first, *parts = re.split(r":(?=\w+=)", head)  # other colons belong to a value, as in base=C:\\models
    if first:
        raise ConfigError(f"model '{text}': '{first}' is not :option=value, with {', '.join(OPTIONS)}")
    options: dict[str, str] = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name not in OPTIONS:
            raise UnknownName("model option", name, OPTIONS)
        if name in options or not value.strip():
            raise ConfigError(f"model '{text}' has the option '{name}' " + ("twice" if name in options else "empty"))
        options[name] = value.strip()
    if not all(part.strip() for part in defences):
        raise ConfigError(f"model '{text}': '+' stands before a defence, as in {model}+ttc")
    return Written(model, options, tuple(defences))


def _model(text: str) -> str:
    """The part that names the model: the longest beginning that is a name or a path, else all before an option."""
    ends = [len(text), *reversed([found.start() for found in re.finditer(r"[:+]", text)])]
    for end in ends:
        if end and _exists(text[:end]):
            return text[:end]
    start = len("hf-hub:") if text.startswith("hf-hub:") else 2 if re.match(r"[A-Za-z]:[\\/]", text) else 0
    found = re.search(r"[:+]", text[start:])
    return text[: start + found.start()] if found else text


def _exists(text: str) -> bool:
    try:
        return text in ENCODERS or Path(text).expanduser().exists()
    except (OSError, RuntimeError):  # too long for a path, or no such home
        return False


def choose_device(device: str) -> str:
    """``"auto"`` is cuda where there is one, else the CPU. Apple's mps has to be asked for: it is not tested.

    In a job of several processes ``"auto"`` and ``"cuda"`` are the GPU of this process, ``"cuda:1"`` is for all.

    Raises:
        ConfigError: there are fewer GPUs than processes on this machine.
    """
    chosen = device
    if device == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    me = world()
    if chosen != "cuda" or me.alone:
        return chosen
    there = torch.cuda.device_count()
    if me.local_rank >= there:
        raise ConfigError(
            f"process {me.rank} has no GPU: this machine has {there}; start as many processes on it with "
            f"--nproc-per-node {there or 1}, or take --device cpu"
        )
    return f"cuda:{me.local_rank}"


def load_model(model: str | Encoder, *, device: str = "auto", attention: str = "sdpa") -> Encoder:
    """The encoder that ``model`` writes; an encoder is returned as it is. An adapted model is called after its run.

    Raises:
        ZSRobustError: as :func:`zsrobust.load`, :func:`read` and :func:`zsrobust.defences.wrapped`.
    """
    if not isinstance(model, str):
        return model
    written = read(model)
    options = _typed(written.options)
    # "auto" is decided by measurement, when rows and precision are known: see zsrobust.tuned.
    encoder = _opened(written.model, options, choose_device(device), "sdpa" if attention == "auto" else attention)
    if written.defences:
        from zsrobust.defences import wrapped

        for text in written.defences:
            encoder = wrapped(encoder, text)
    return encoder


def _typed(options: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = dict(options)
    if "size" in found:
        if not found["size"].isdecimal():
            raise ConfigError(f"size={found['size']} is no number of pixels, as in size=336")
        found["size"] = int(found["size"])
    if "base" in found:
        # A file does not say its activation; neither does one that is a base.
        its = {"activation": options.get("activation")} if weight_file(options["base"]) else {}
        found["base"] = _opened(options["base"], its, "cpu", "sdpa")
    return found


def _opened(model: str, options: dict[str, Any], device: str, attention: str) -> Encoder:
    """One model without defences."""
    folder = Path(model).expanduser()
    if model in ENCODERS or not folder.is_dir():
        return load(model, device=device, attention=attention, **options)
    whole = any((folder / name).exists() for name in ("config.json", "open_clip_config.json"))
    if not whole and (folder / MODEL).is_dir():
        folder = folder / MODEL
    elif not whole and (folder / "checkpoints").is_dir():
        raise ModelError(f"{folder} is a run of adapt that is not finished: run its command again")
    encoder = load(folder, device=device, attention=attention, **options)
    if folder.name != MODEL:
        return encoder
    sized = f":size={options['size']}" if "resized" in encoder.provenance and "size" in options else ""
    return named_after(encoder, folder.parent, sized)


def named_after(encoder: Encoder, run: Path, ending: str = "") -> Encoder:
    """The encoder, called after the run folder that it is in."""
    named: Any = encoder
    named.name = run.resolve().name + ending
    return encoder


def what_was_found(encoder: Encoder) -> str:
    """One line for people: the format a model was read from and what was decided; empty for Hugging Face's layout."""
    provenance = encoder.provenance
    if "format" not in provenance:
        return ""
    decided: Any = provenance.get("conversion") or []
    return f"Read   {encoder.name}: {'; '.join(map(str, [provenance['format'], *decided]))}"
