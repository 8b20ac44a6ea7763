"""How long models take, and how much memory, for what a product runs: images → [preprocessing →] features → scores.

Nothing here is a property of a model alone: a number is of one machine, with its versions and threads, at one time.
Models take turns, repetition by repetition, so that whatever else the machine does meets all of them alike, and ratios
are of neighbours in time.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError
from zsrobust.evaluation import device_of
from zsrobust.passes import frozen, weights_of
from zsrobust.pixels import to_pixels
from zsrobust.randomness import uniform
from zsrobust.run_folder import versions
from zsrobust.text_head import TextHead

if TYPE_CHECKING:
    from PIL.Image import Image

MIB = 2**20
CUDA_PEAK = "largest rise of what torch allocates on the GPU during a batch"
RSS_PEAK = "largest rise of the process's resident memory during a batch"
NO_PEAK = "not measured on this system"


@dataclass(frozen=True)
class Times:
    """Seconds of one batch over repetitions: median, and the range of the middle 80 %."""

    median: float
    p10: float
    p90: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Times:
        """Of the values of all repetitions, in seconds or as ratios."""
        p10, median, p90 = (float(q) for q in np.quantile(values, [0.1, 0.5, 0.9]))
        return cls(median, p10, p90, len(values))


@dataclass(frozen=True)
class Timing:
    """One model at one batch size.

    Attributes:
        model: Its name.
        batch_size: Images.
        seconds: From pixels on the device, or where an image was given from the decoded images, to scores.
        preprocessing: The part of it that is PIL's resize and crop, and the way to the device; None without an image.
        ratio: ``seconds`` over the first model's in the same repetition.
        throughput: Images a second, from the median.
        peak_bytes: Memory of one batch beyond the loaded model, as :attr:`Latency.memory` says; None: not measured.
    """

    model: str
    batch_size: int
    seconds: Times
    preprocessing: Times | None
    ratio: Times
    throughput: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Size:
    """A model's weights: how many there are, their bytes, and how many belong to the visual tower (None: unknown)."""

    model: str
    parameters: int | None
    bytes: int | None
    visual: int | None


@dataclass(frozen=True)
class Latency:
    """What :func:`latency` measured, and where.

    Attributes:
        timings: Batch sizes in their order, and for each the models in theirs.
        sizes: One for each model.
        classes: Rows of the head.
        image: What was timed: ``"noise at the model's input size"`` or the size of the decoded image.
        memory: What ``peak_bytes`` is.
        machine: Processor, cores, threads, device, load and versions.
    """

    timings: tuple[Timing, ...]
    sizes: tuple[Size, ...]
    classes: int
    image: str
    memory: str
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON."""
        return asdict(self)


def latency(
    models: Sequence[Encoder],
    *,
    batch_sizes: Sequence[int] = (1, 16),
    classes: int = 1000,
    repetitions: int = 30,
    warm_up: int = 5,
    image: Image | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Latency:
    """Times image encoder and head of each model, in the precision it was loaded in, without gradients.

    The text tower does not run: a product computes its head once. Here the head is random, since its values do not
    change the time.

    Args:
        models: On one device; ratios are to the first.
        batch_sizes: Each at least 1.
        classes: Rows of the head, at least 1.
        repetitions: Timed ones, at least 2.
        warm_up: Untimed ones before.
        image: A decoded RGB image, to time preprocessing as well; None: noise pixels of the model's input size.
        seed: Of the noise. A defence whose work depends on the image may take another time on real images.
        progress: Show a bar, on a terminal.

    Raises:
        ConfigError: a number is out of range, no model, one name twice, or models on several devices.
    """
    check(batch_sizes=batch_sizes, classes=classes, repetitions=repetitions, warm_up=warm_up, seed=seed)
    names = [model.name for model in models]
    if not models or len(set(names)) < len(names):
        raise ConfigError("no model given" if not models else "two models have the same name; a table needs them apart")
    devices = {device_of(model) for model in models}
    if len(devices) > 1:
        raise ConfigError(f"models are on several devices: {', '.join(sorted(map(str, devices)))}")
    (device,) = devices
    machine = describe_machine(device)
    timings: list[Timing] = []
    sizes = list(dict.fromkeys(batch_sizes))
    bar = tqdm(
        total=len(sizes) * (warm_up + repetitions), unit="round", disable=None if progress else True, leave=False
    )
    with bar:
        for size in sizes:
            jobs = [_job(model, size, classes, image, seed) for model in models]
            rounds = _rounds(jobs, device, warm_up, repetitions, bar.update)
            peaks = [_peak(job, device) for job in jobs]
            timings += _timings(names, size, rounds, peaks, image is not None)
    return Latency(
        timings=tuple(timings),
        sizes=tuple(_size(model) for model in models),
        classes=classes,
        image="noise at the model's input size" if image is None else f"{image.width} x {image.height}, decoded",
        memory=CUDA_PEAK if device.type == "cuda" else RSS_PEAK if _rss_peak() is not None else NO_PEAK,
        machine=machine,
    )


def check(*, batch_sizes: Sequence[int], classes: int, repetitions: int, warm_up: int, seed: int) -> None:
    """Whether :func:`latency` takes these arguments; before there are models.

    Raises:
        ConfigError: one of them is out of range.
    """
    for name, value, least in (
        ("batch size", min(batch_sizes, default=0), 1), ("classes", classes, 1), ("repetitions", repetitions, 2),
        ("warm_up", warm_up, 0), ("seed", seed, 0),
    ):  # fmt: skip
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, not {value}")


Job = tuple[Callable[[], Tensor], Callable[[Tensor], Tensor]]
"""What gives the pixels, and what makes scores of them."""


def _job(model: Encoder, size: int, classes: int, image: Image | None, seed: int) -> Job:
    device = device_of(model)
    noise = uniform([("latency", seed, i) for i in range(size)], (3, *model.input_size), device=device)
    with torch.no_grad(), frozen(model):
        width = model.encode_pixels(noise[:1]).shape[1]
    rows = normalize(uniform([("head", seed, i) for i in range(classes)], (width,), device=device) - 0.5, dim=1)
    head = TextHead(tuple(map(str, range(classes))), ("{}",), rows)

    def prepare() -> Tensor:
        if image is None:
            return noise
        return to_pixels(np.stack([model.geometry(image) for _ in range(size)])).to(device)

    def score(pixels: Tensor) -> Tensor:
        with torch.no_grad(), frozen(model):
            return head(model.encode_pixels(pixels), model.logit_scale)

    return prepare, score


def _rounds(
    jobs: Sequence[Job], device: torch.device, warm_up: int, repetitions: int, tick: Callable[[], object]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(repetitions, models, 2) seconds of preparing and of scoring."""
    seconds = np.zeros((repetitions, len(jobs), 2))
    for repetition in range(-warm_up, repetitions):
        for i, (prepare, score) in enumerate(jobs):
            _synchronise(device)
            began = time.perf_counter()
            pixels = prepare()
            _synchronise(device)
            prepared = time.perf_counter()
            score(pixels)
            _synchronise(device)
            if repetition >= 0:
                seconds[repetition, i] = prepared - began, time.perf_counter() - prepared
        tick()
    return seconds


def _timings(
    names: Sequence[str],
    size: int,
    rounds: np.ndarray[Any, np.dtype[np.float64]],
    peaks: Sequence[int | None],
    prepared: bool,
) -> Iterator[Timing]:
    whole = rounds.sum(axis=2) if prepared else rounds[:, :, 1]
    for i, name in enumerate(names):
        seconds = Times.of(whole[:, i].tolist())
        yield Timing(
            model=name,
            batch_size=size,
            seconds=seconds,
            preprocessing=Times.of(rounds[:, i, 0].tolist()) if prepared else None,
            ratio=Times.of((whole[:, i] / whole[:, 0]).tolist()),
            throughput=size / seconds.median,
            peak_bytes=peaks[i],
        )


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _peak(job: Job, device: torch.device) -> int | None:
    """Bytes that one batch needs at its peak; None where the system cannot tell."""
    prepare, score = job
    pixels = prepare()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        score(pixels)
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - held)
    if device.type != "cpu" or _rss_peak() is None:
        return None
    _give_back()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew from here
    before, start = _status("VmRSS"), _rss_peak()
    score(pixels)
    after = _rss_peak()
    if before is None or start is None or after is None or start > before + MIB:  # the peak was not set back
        return None
    return max(0, after - before)


def _give_back() -> None:
    """Freed memory to the system: a batch that reuses it would look as if it needed none."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc only


def _rss_peak() -> int | None:
    """Most resident bytes of this process; None where there is no /proc, or where its peak cannot be set back."""
    return _status("VmHWM") if os.access("/proc/self/clear_refs", os.W_OK) else None


def _status(key: str) -> int | None:
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return None


def _size(model: Encoder) -> Size:
    weights = weights_of(model)
    named = getattr(model, "visual_parameters", None)
    return Size(
        model=model.name,
        parameters=sum(weight.numel() for weight in weights) or None,
        bytes=sum(weight.numel() * weight.element_size() for weight in weights) or None,
        visual=None if named is None else sum(weight.numel() for _, weight in named()),
    )


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Processor, cores, threads, device, load and versions, JSON-able."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = None
    with suppress(OSError, AttributeError):
        load = round(os.getloadavg()[0], 2)
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "load_average": load,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "versions": versions(),
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """So many CPU threads inside; None: as they are.

    Raises:
        ConfigError: fewer than one.
    """
    if number is not None and number < 1:
        raise ConfigError(f"threads must be at least 1, not {number}")
    before = torch.get_num_threads()
    torch.set_num_threads(before if number is None else number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
