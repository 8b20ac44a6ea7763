"""``zsrobust doctor``: looks for what is known to break, and says what to do. Never a traceback."""

from __future__ import annotations

import importlib
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from zsrobust.cli.command import Command
from zsrobust.errors import ZSRobustError

PACKAGES = ("zsrobust", "torch", "transformers", "huggingface_hub", "datasets", "numpy", "pillow", "safetensors")


@dataclass(kw_only=True)
class DoctorOptions:
    """Look for what is broken in this installation. Exit status 0: nothing; 1: something, with its remedy."""

    online: bool = False
    """Also see whether the Hugging Face hub ($HF_ENDPOINT) answers."""


COMMAND = Command(name="doctor", options=DoctorOptions, examples=("zsrobust doctor",))


class Broken(Exception):
    """Something does not work; the text says what, and the remedy."""


Check = Callable[[], str]


def run(options: DoctorOptions) -> int:
    """Prints a line for each check; 1 if one failed."""
    print(f"{'python':<16} {platform.python_version()} ({sys.executable})")
    for name in PACKAGES:
        print(f"{name:<16} {_version(name) or 'missing'}")
    print()
    failed = sum(not _passes(name, check) for name, check in _checks(options))
    print()
    print("Nothing is broken." if not failed else f"{failed} broken; the lines with ✗ say what to do.")
    return min(failed, 1)


def _checks(options: DoctorOptions) -> list[tuple[str, Check]]:
    checks: list[tuple[str, Check]] = [
        ("torch", _torch),
        ("numpy", _numpy),
        ("torchvision", _torchvision),
        ("torchcodec", _torchcodec),
        ("transformers", _transformers),
        ("device", _device),
        ("float32", lambda: _passes_of("float32")),
        ("bf16", lambda: _passes_of("bf16")),
        ("model 'tiny'", _tiny),
        ("cache", _cache),
        ("kept work", _kept),
    ]
    return [*checks, ("hub", _hub)] if options.online else checks


def _passes(name: str, check: Check) -> bool:
    try:
        with _quiet():
            words = check()
    except Exception as problem:  # whatever a broken installation raises
        words = str(problem) if isinstance(problem, Broken) else _line(problem)
        print(f"✗ {name:<13} {words}")
        return False
    print(f"✓ {name:<13} {words}")
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _line(problem: BaseException) -> str:
    """The first line of an error, with the cause that it hides."""
    text = " ".join(str(problem).split("\n")[0].split()) or type(problem).__name__
    return text if len(text) <= 200 else text[:199] + "…"


def _causes(problem: BaseException | None) -> str:
    texts = []
    while problem is not None:
        texts.append(str(problem))
        problem = problem.__cause__ or problem.__context__
    return " ".join(texts)


def _torch() -> str:
    try:
        torch = importlib.import_module("torch")
    except Exception as problem:
        raise Broken(
            f"cannot be imported ({_line(problem)}); reinstall it: pip install --force-reinstall torch"
        ) from None
    return f"{torch.get_num_threads()} threads (OMP_NUM_THREADS sets them), {os.cpu_count()} processors"


def _numpy() -> str:
    numpy, torch = importlib.import_module("numpy"), importlib.import_module("torch")
    try:
        same = torch.from_numpy(numpy.arange(3)).sum().item() == 3 and torch.ones(2).numpy().sum() == 2
    except Exception as problem:
        raise Broken(
            f"torch {torch.__version__} does not work with numpy {numpy.__version__} ({_line(problem)}); "
            "upgrade both: pip install --upgrade torch numpy"
        ) from None
    if not same:
        raise Broken("numbers change on the way between torch and numpy; reinstall both")
    return "torch and numpy understand each other"


def _torchvision() -> str:
    if _version("torchvision") is None:
        return "not installed, and not needed"
    try:
        importlib.import_module("torchvision")
    except Exception as problem:
        raise Broken(
            f"{_version('torchvision')} does not fit torch {_version('torch')}, so transformers cannot be imported "
            f"({_line(problem)}); it is not needed: pip uninstall torchvision, or install the build for this torch"
        ) from None
    return f"{_version('torchvision')} fits (not needed)"


def _torchcodec() -> str:
    if _version("torchcodec") is None:
        return "not installed, and not needed"
    try:
        importlib.import_module("torchcodec")
    except Exception as problem:
        raise Broken(f"cannot be loaded ({_line(problem)}); it is not needed: pip uninstall torchcodec") from None
    return "loads (not needed)"


def _transformers() -> str:
    found = _version("transformers")
    if found is None:
        raise Broken("missing: pip install 'transformers>=5,<6'")
    if not found.startswith("5."):
        raise Broken(f"{found} is installed, 5.x is needed: pip install 'transformers>=5,<6'")
    try:
        getattr(importlib.import_module("transformers"), "CLIPModel")  # noqa: B009
    except Exception as problem:
        causes = _causes(problem)
        if "torchvision" in causes:
            raise Broken("cannot be imported because of torchvision: pip uninstall torchvision") from None
        raise Broken(
            f"cannot be imported ({_line(problem)}); pip install --force-reinstall 'transformers>=5,<6'"
        ) from None
    return "CLIPModel can be imported"


def _device() -> str:
    torch = importlib.import_module("torch")
    from zsrobust.models import choose_device

    used = choose_device("auto")
    if used == "cuda":
        return (
            f"cuda: {torch.cuda.get_device_name()} ({torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB)"
        )
    if torch.version.cuda is not None:
        return f"cpu: torch is built for CUDA {torch.version.cuda} but finds no usable GPU"
    if torch.backends.mps.is_available():
        return "cpu; Apple's mps is there and used when asked for (--device mps), but it is not tested"
    return "cpu: this torch is built without CUDA"


def _passes_of(precision: str) -> str:
    """A small transformer forward and backward to the pixels, as an attack does it."""
    torch = importlib.import_module("torch")
    from zsrobust.models import choose_device

    device = choose_device("auto")
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0).to(device)
    patches = torch.nn.Conv2d(3, 64, 8, 8).to(device)
    pixels = torch.rand(2, 3, 48, 48, device=device, requires_grad=True)
    with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
        resized = torch.nn.functional.interpolate(
            pixels, size=(32, 32), mode="bicubic", antialias=True, align_corners=False
        )
        features = layer(patches(resized).flatten(2).transpose(1, 2)).mean(1)
    (gradient,) = torch.autograd.grad(features.float().square().sum(), pixels)
    if not bool(gradient.isfinite().all()) or not bool(gradient.abs().sum() > 0):
        raise Broken(f"gradients are zero or not finite on {device}; use another --device or --precision")
    return f"forward and backward passes work on {device}"


def _tiny() -> str:
    from zsrobust.encoders import load

    try:
        encoder: Any = load("tiny")
    except ZSRobustError as problem:
        raise Broken(f"{problem}; the wheel is not whole: reinstall zsrobust") from None
    millions = sum(p.numel() for p in encoder.parameters()) / 1e6
    return f"loads: {millions:.1f} million weights, {encoder.input_size[0]} pixels"


def _cache() -> str:
    constants = importlib.import_module("huggingface_hub.constants")
    folder = Path(constants.HF_HOME)
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as problem:
        raise Broken(f"{folder} cannot be written ({problem.strerror}); set HF_HOME to a folder that can") from None
    return f"{folder} can be written"


def _kept() -> str:
    """The folder of decoded pixels and text heads; see zsrobust.cache."""
    from zsrobust import cache

    try:
        here, bound = cache.folder(), cache.bound()
    except ZSRobustError as problem:
        raise Broken(str(problem)) from None
    if here is None:
        return (
            f"pixels and text heads are not kept on disk ({cache.FOLDER_VARIABLE}={os.environ[cache.FOLDER_VARIABLE]})"
        )
    there = next(place for place in (here, *here.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as problem:
        raise Broken(
            f"{here} cannot be written ({problem.strerror}), so nothing is kept; "
            f"set {cache.FOLDER_VARIABLE} to a folder that can, or to off"
        ) from None
    taken = sum(file.bytes for file in cache.kept(here)) / 1e9
    return (
        f"{here} has {taken:.2f} of at most {bound / 1e9:.2f} GB ({cache.BYTES_VARIABLE}) of pixels and text heads; "
        "delete the folder to empty it"
    )


def _hub() -> str:
    httpx, constants = importlib.import_module("httpx2"), importlib.import_module("huggingface_hub.constants")
    try:
        answer = httpx.get(constants.ENDPOINT, timeout=10, follow_redirects=True)
    except Exception as problem:
        raise Broken(f"{constants.ENDPOINT} does not answer ({_line(problem)}); set HF_ENDPOINT to a mirror") from None
    return f"{constants.ENDPOINT} answers ({answer.status_code})"
