"""Weights from a folder, without running anything that the folder brings.

The files are read here and not by transformers, for three reasons: a broken shard is named, a pickle only
ever meets torch's weights-only loader, and a checkpoint without a tensor is refused instead of filled with
random numbers.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zsrobust.encoders.preprocessing import read_json
from zsrobust.errors import ModelError

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"
WEIGHT_FILES = (SAFETENSORS, f"{SAFETENSORS}.index.json", PICKLE, f"{PICKLE}.index.json")


def wanted_files(names: list[str], *, where: str) -> list[str]:
    """Which files hold the weights: safetensors where there are any, else ``.bin``.

    Returns:
        The weight files, and their index where they are sharded.

    Raises:
        ModelError: None of them is there; the message says what is there instead.
    """
    for whole in (SAFETENSORS, PICKLE):
        if whole in names:
            return [whole]
        index = f"{whole}.index.json"
        if index in names:
            stem, suffix = whole.rsplit(".", 1)
            return [index, *(n for n in names if n.startswith(f"{stem}-") and n.endswith(f".{suffix}"))]
    other = sorted(n for n in names if n.endswith((".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf")))
    found = f"found {', '.join(other[:5])}" if other else "no weight file found"
    raise ModelError(f"{where} has neither {SAFETENSORS} nor {PICKLE} ({found})")


def read(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the checkpoint in ``folder``, as float32 on the CPU.

    Raises:
        ModelError: A file is missing, truncated, no weight file at all, or a pickle that would run code.
    """
    chosen = wanted_files([path.name for path in folder.iterdir()], where=folder.name)
    shards = _shards(folder, chosen[0]) if chosen[0].endswith(".index.json") else chosen
    state: dict[str, Tensor] = {}
    for shard in shards:
        tensors = _read_file(folder / shard)
        twice = sorted(state.keys() & tensors.keys())
        if twice:
            raise ModelError(f"{folder.name}: tensor {twice[0]} is in more than one shard")
        state.update(tensors)
    return {name: as_float32(name, tensor, folder.name) for name, tensor in state.items()}


def _shards(folder: Path, index: str) -> list[str]:
    placed = read_json(folder / index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise ModelError(f"{folder.name}/{index} has no weight_map")
    shards = sorted({str(name) for name in placed.values()})
    for shard in shards:
        if Path(shard).name != shard:
            raise ModelError(f"{folder.name}/{index} points outside its folder: {shard!r}")
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise ModelError(f"{folder.name}: {len(missing)} of {len(shards)} shards are missing ({missing[0]}, …)")
    return shards


def contents(path: Path) -> dict[str, Any]:
    """Everything in one weight file, whatever its format; which one it is is read off its first bytes.

    Numpy scalars and ``argparse.Namespace``, which training code stores beside its weights, become placeholders
    that hold nothing: not even their constructors are called.

    Raises:
        ModelError: Missing, broken, a TorchScript archive, or a pickle that would run code.
    """
    where = f"{path.parent.name}/{path.name}"
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ModelError(f"{where} cannot be read: {error.strerror or error}") from error
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(f"{where} is a pointer of git-lfs, not the file: fetch it with 'git lfs pull'")
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return dict(_read_safetensors(path, where))
    return _read_pickle(path, where, inert=True)


def _read_file(path: Path) -> dict[str, Tensor]:
    where = f"{path.parent.name}/{path.name}"
    if path.suffix == ".safetensors":
        return _read_safetensors(path, where)
    loaded = _read_pickle(path, where)
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()):
        raise ModelError(f"{where} is not a dictionary of tensors by name")
    return loaded


def _read_safetensors(path: Path, where: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{where} is broken or incomplete ({path.stat().st_size} bytes): {error}") from error


class _Inert:
    """In place of an object that is not a weight: takes any arguments, keeps none."""

    def __new__(cls, *_: object, **__: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


_NO_WEIGHTS = (
    "argparse.Namespace", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype",
)  # fmt: skip


def _read_pickle(path: Path, where: str, *, inert: bool = False) -> dict[str, Any]:
    if _is_torchscript(path):
        raise ModelError(
            f"{where} is a TorchScript archive (as OpenAI's ViT-B-32.pt): it holds code, refused; use the same model "
            "from the hub (openai/clip-vit-base-patch32, …), or save its state_dict() as safetensors"
        )
    allowed: list[Any] = [(_Inert, name) for name in _NO_WEIGHTS] if inert else []
    try:
        with torch.serialization.safe_globals(allowed):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch says the same for a pickle that wants to call something and for bytes that are no pickle.
        if "GLOBAL" in str(error) or "unrecognized function" in str(error):
            wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
            raise ModelError(
                f"{where} would run code when opened; refused (safetensors files cannot)"
                + (f": it asks for {wanted[1]}; whoever trusts it can save its tensors alone" if wanted else "")
            ) from error
        raise ModelError(f"{where} is broken or no torch checkpoint") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{where} is broken or incomplete ({path.stat().st_size} bytes)") from error
    if not isinstance(loaded, dict):
        raise ModelError(f"{where} is not a dictionary of tensors")
    return loaded


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def as_float32(name: str, tensor: Tensor, where: str) -> Tensor:
    """A copy in float32.

    Raises:
        ModelError: It is quantised, or holds NaN or infinity.
    """
    if name.endswith("position_ids"):  # old checkpoints store this integer buffer; transformers drops it
        return tensor
    if not tensor.is_floating_point() or tensor.element_size() < 2:
        raise ModelError(f"{where}: tensor {name} is {tensor.dtype}: quantised checkpoints are refused")
    # A copy, because tensors inside a mapped file are not aligned and kernels then round differently: the same
    # weights would give other last bits in a copied or adapted model than in a loaded one.
    tensor = tensor.to(torch.float32, copy=True)
    if not torch.isfinite(tensor).all():
        raise ModelError(f"{where}: tensor {name} holds NaN or infinity")
    return tensor
