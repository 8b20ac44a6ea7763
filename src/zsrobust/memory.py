"""How much memory there is, how much work takes at its peak, and whether an error says that it has run out."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path

import torch

from zsrobust.errors import ConfigError

_SIGNS = ("not enough memory", "can't allocate memory", "out of memory")


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory has run out; on a CPU torch has only a text for that."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return type(error) is RuntimeError and any(sign in str(error).lower() for sign in _SIGNS)


def release(device: torch.device) -> None:
    """Gives back what is not used any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def available() -> int:
    """Bytes of main memory that this process can still have: the machine's, and its container's limit.

    Raises:
        ConfigError: this system does not say.
    """
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        free = int(found[1]) * 1024 if found else 0
    except OSError:
        free = 0
    if not free:
        raise ConfigError("this system does not say how much memory is free: batch_size auto needs a number here")
    return min([free, *_left_in_container()])


def _left_in_container() -> list[int]:
    folder = Path("/sys/fs/cgroup")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            return [max(0, int((folder / limit).read_text()) - int((folder / used).read_text()))]
        except (OSError, ValueError):  # there is none, or it says "max"
            continue
    return []


def resident() -> int:
    """Bytes of main memory that this process has now."""
    return _status("VmRSS")


def peak_of(work: Callable[[], None]) -> int:
    """Bytes of main memory that this process has while it does ``work``, at most.

    Raises:
        ConfigError: this system does not say.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark is the present from here on
    except OSError:
        raise ConfigError("this system does not measure memory: batch_size auto needs a number here") from None
    work()
    return _status("VmHWM")


def _status(name: str) -> int:
    try:
        found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found is None:
        raise ConfigError("this system does not measure memory: batch_size auto needs a number here")
    return int(found[1]) * 1024
