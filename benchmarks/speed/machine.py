"""The machine: what it is, how busy it was, and how much memory a process took at most."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

GIB = 2**30


def machine(device: str) -> dict[str, Any]:
    """Processor, cores, threads, memory, device, and the load before anything was measured."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else (None,) * 3
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": processor(),
        "architecture": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16_instructions": _flags() & {"avx512_bf16", "amx_bf16"} != set(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory_gib": _memory(),
        "device": device if device == "cpu" else f"{device}: {torch.cuda.get_device_name(device)}",
        "load_before": load[0],
    }


def processor() -> str:
    """The processor's own name, where the system tells it."""
    found = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _flags() -> set[str]:
    found = re.search(r"^flags\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return set(found[1].split()) if found else set()


def _memory() -> float | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE)
    return round(int(found[1]) / 2**20, 1) if found else None


def peak_rise(work: Callable[[], object], device: str) -> int:
    """Bytes by which ``work`` raises the memory of this process (or of the GPU) at most, over what it was before.

    Of a fresh process: one that has freed much before would hide a rise.

    Raises:
        OSError: the system does not tell (it is not Linux).
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    if not sys.platform.startswith("linux"):
        raise OSError("peak memory is read from /proc, which this system does not have")
    with suppress(OSError):  # without it the peak holds loading as well: never too little
        Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    found = re.search(rf"^{key}:\s*(\d+) kB$", _read("/proc/self/status"), re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/self/status has no {key}")
    return int(found[1]) * 1024


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
