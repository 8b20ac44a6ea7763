"""What is chosen by measurement on the device: attention kernels, and rows of a pass; and whether compiling works.

What was chosen rounds in its own way, so it is part of a run: it is stored, and whoever resumes the run takes it from
there and measures nothing. In a job of several processes the first one chooses for all.
"""

from __future__ import annotations

import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from zsrobust import checkpoint
from zsrobust.distributed import broadcast, total, world
from zsrobust.encoders import switches
from zsrobust.encoders.base import Encoder
from zsrobust.encoders.huggingface import ATTENTIONS
from zsrobust.errors import ConfigError
from zsrobust.evaluation import device_of
from zsrobust.memory import available, ran_out, release
from zsrobust.passes import float32_only, frozen
from zsrobust.randomness import seeded, uniform

T = TypeVar("T")

Passes = Literal["float32", "bf16", "fp16", "lowered"]
"""Arithmetic of measured passes: float32; autocast, as adaptation does; or the encoder's ``lowered()``."""

SECONDS = 1.5
"""After so long a measurement of attention ends, once every kind had its turn."""
REPEATS = 7
GAIN = 0.05
"""By how much another attention must be faster to be preferred, and what a smaller pass may lose to the best."""
FEWEST, MOST = 16, 512
"""Rows that are tried, where they fit."""
LONG = 10.0
"""Seconds of a pass after which no larger one is tried."""


def best_attention(encoder: Encoder, *, rows: int, passes: Passes = "float32") -> str:
    """The fastest attention for ``rows`` images a pass, forward and back to the pixels; ``"sdpa"`` where it is close.

    Medians of passes that take turns; where memory runs out, of half as many images. The encoder is left as it was.
    """
    if switches.inside(encoder) is None:
        return switches.OWN
    return _that_fit(lambda fewer: _fastest(encoder, fewer, passes), rows, encoder)


def _fastest(encoder: Encoder, rows: int, passes: Passes) -> str:
    model: Any = switches.inside(encoder)
    taken: dict[str, list[float]] = {attention: [] for attention in ATTENTIONS}
    with switches.as_before([encoder]), seeded(0):
        pixels = _noise(encoder, rows)
        switches.set_compiled(encoder, "none")
        for attention in taken:  # the first pass also loads code
            model.set_attention(attention)
            _pass(encoder, pixels[:1], passes)
        begun = time.perf_counter()
        while len(taken["sdpa"]) < REPEATS and (not taken["sdpa"] or time.perf_counter() - begun < SECONDS):
            for attention, seconds in taken.items():
                model.set_attention(attention)
                seconds.append(_pass(encoder, pixels, passes))
    medians = {attention: statistics.median(seconds) for attention, seconds in taken.items()}
    fastest = min(medians, key=medians.__getitem__)
    return fastest if medians[fastest] < (1 - GAIN) * medians["sdpa"] else "sdpa"


def best_rows(encoder: Encoder, *, passes: Passes = "float32") -> int:
    """The smallest power of two, 16 to 512, whose passes do as many images a second as the best, less 5 %.

    Passes are forward and back to the pixels, at the model's input size. Doubling ends where it gains less than 2 %,
    where a pass takes 10 seconds, and where memory ends: on a GPU when an allocation fails, on a CPU before, since
    there the system would kill the process. Where 16 do not fit, fewer.
    """
    with switches.as_before([encoder]), seeded(0):
        switches.set_compiled(encoder, "none")
        noise = _noise(encoder, 1)
        needed = _kept_by(lambda: _pass(encoder, noise, passes))  # this pass also loads code
        room = _room(device_of(encoder)) // max(1, needed)
        speeds = _speeds(encoder, noise, passes, most=min(MOST, room))
    if not speeds:
        raise _no_room(encoder)
    return min(rows for rows, speed in speeds.items() if speed >= (1 - GAIN) * max(speeds.values()))


def _speeds(encoder: Encoder, noise: Tensor, passes: Passes, *, most: int) -> dict[int, float]:
    """Rows of a pass → images a second."""
    found: dict[int, float] = {}
    rows = FEWEST
    while rows > most > 0:
        rows //= 2
    while 1 <= rows <= most:
        pixels = noise.expand(rows, -1, -1, -1).contiguous()
        try:
            took = min(_pass(encoder, pixels, passes) for _ in range(2))
        except Exception as error:
            if not ran_out(error):
                raise
            if found or rows == 1:
                break
            most, rows = rows // 2, rows // 2
            continue
        finally:
            release(pixels.device)
        found[rows] = rows / took
        slower = rows // 2 in found and found[rows] < 1.02 * found[rows // 2]
        if slower or took > LONG:
            break
        rows *= 2
    return found


def _that_fit(work: Callable[[int], T], rows: int, encoder: Encoder) -> T:
    """What ``work`` gives for ``rows``, or for half as many and so on where memory runs out."""
    while rows:
        try:
            return work(rows)
        except Exception as error:
            if not ran_out(error):
                raise
        rows //= 2
        release(device_of(encoder))
    raise _no_room(encoder)


def _no_room(encoder: Encoder) -> ConfigError:
    return ConfigError(f"not one image fits into memory in a pass of {encoder.name}: use a smaller model")


def _noise(encoder: Encoder, rows: int) -> Tensor:
    return uniform([("measured", i) for i in range(rows)], (3, *encoder.input_size), device=device_of(encoder))


def _pass(encoder: Encoder, pixels: Tensor, passes: Passes) -> float:
    """Seconds of one pass, forward and back to the pixels, as an attack does it."""
    device = pixels.device
    _wait(device)
    begun = time.perf_counter()
    with frozen(encoder), float32_only(device), _arithmetic(encoder, passes), torch.enable_grad():
        points = pixels.detach().requires_grad_(True)
        smooth: Callable[[Tensor], Tensor] = getattr(encoder, "encode_differentiable", encoder.encode_pixels)
        torch.autograd.grad(smooth(points).float().square().sum(), points)
    _wait(device)
    return time.perf_counter() - begun


def _arithmetic(encoder: Encoder, passes: Passes) -> AbstractContextManager[object]:
    own: Callable[[], AbstractContextManager[object]] | None = getattr(encoder, "lowered", None)
    if passes == "lowered" and own is not None:
        return own()
    dtype = torch.float16 if passes == "fp16" else torch.bfloat16
    return torch.autocast(device_of(encoder).type, dtype=dtype, enabled=passes != "float32")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _kept_by(work: Callable[[], object]) -> int:
    """Bytes that a pass keeps for its way back; shared storages count once."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(seen.values())


def _room(device: torch.device) -> int:
    """Bytes that passes may keep: half of what is free, since intermediate results come on top."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) // 2
    try:
        return available() // 2
    except ConfigError:  # a system that does not say, where allocations fail as they should
        return 2**62


def _for_all(choose: Callable[[], T]) -> T:
    """The first process's choice, in every process."""
    return broadcast(choose() if world().main else None)  # type: ignore[return-value]


def evaluated_with(run: Path | None) -> Mapping[str, Any]:
    """Settings of an evaluation that has records, from ``run.json``; nothing where it is still to begin."""
    if run is None or not (run / "records.jsonl").exists():
        return {}
    try:
        found = json.loads((run / "run.json").read_text())
    except (OSError, ValueError):  # whoever resumes the run says what is wrong with it
        return {}
    return {**checkpoint.SWITCHES, **found} if isinstance(found, dict) else {}


def adapted_with(run: Path | None) -> Mapping[str, Any]:
    """Configuration of an adaptation that has a checkpoint; nothing where it is still to begin.

    Raises:
        RunError: it cannot be read.
    """
    found = {} if run is None else checkpoint.begun_with(run / "checkpoints")
    return {**checkpoint.SWITCHES, **found} if found else {}


@contextmanager
def tuned(
    encoders: Sequence[Encoder],
    before: Mapping[str, Any],
    *,
    rows: int | Literal["auto"],
    attention: str | None = None,
    compile: bool = False,
    passes: Passes = "float32",
    compiled: str = "lowered",
) -> Iterator[int]:
    """The rows of a pass; inside, attention and compiled passes of the encoders are as asked, or as chosen.

    Args:
        encoders: All of a job. What is measured is measured on the first; of the rows that fit, the fewest.
        before: What the run was begun with: :func:`evaluated_with` or :func:`adapted_with`; it wins over ``"auto"``.
            The first process's, in every process: the others may not see the run folder.
        rows: Rows of a pass, or ``"auto"``.
        attention: ``"sdpa"``, ``"eager"`` or ``"auto"``; None: as each encoder has it.
        compile: Whether passes are compiled; not in a run that was begun without, and that is said.
        passes: Arithmetic of most passes of the job.
        compiled: Which passes: ``"lowered"`` in evaluation, ``"gradients"`` in adaptation.

    Raises:
        ConfigError: an encoder has no such switch, or not one image fits into memory.
    """
    before = broadcast(before)
    with switches.as_before(encoders):
        for encoder in encoders:
            switches.set_compiled(encoder, "none")
            switches.forget_lowered(encoder)
        if rows == "auto":
            kept = before.get("rows")
            number = int(kept) if kept else _for_all(lambda: min(best_rows(one, passes=passes) for one in encoders))
        else:
            number = rows
        wanted = [attention] * len(encoders)
        if attention == "auto":
            wanted = [_attention_of(encoder, before) for encoder in encoders]
            if None in wanted:
                faster = _for_all(lambda: best_attention(encoders[0], rows=number, passes=passes))
                wanted = [kept or faster for kept in wanted]
        for model, one in zip(map(switches.inside, encoders), wanted, strict=True):
            if model is not None and one in ATTENTIONS and model.attention != one:
                model.set_attention(one)
        if compile and before.get("compile", True):
            _compile(encoders, compiled, number, passes)
        elif compile and world().main:
            warnings.warn("compile changes nothing: this run was begun without it, and goes on so", stacklevel=3)
        yield number


def _attention_of(encoder: Encoder, before: Mapping[str, Any]) -> str | None:
    """What an encoder had in the run, else what all of the run had; None where neither is told."""
    same = (entry for entry in before.get("models", []) if entry["name"] == encoder.name)
    return next((had for told in (*same, before) if (had := told.get("attention")) in ATTENTIONS), None)


def _compile(encoders: Sequence[Encoder], which: str, rows: int, passes: Passes) -> None:
    """Switches it on, and tries it before anything is stored: where it fails once, everybody goes on without."""
    arithmetic: Passes = "lowered" if which == "lowered" else passes
    for encoder in encoders:
        switches.set_compiled(encoder, which)
        with seeded(0):
            _that_fit(lambda fewer: _pass(encoder, _noise(encoder, fewer), arithmetic), rows, encoder)  # noqa: B023
    failed = sum(not switches.compiled([encoder]) for encoder in encoders)
    if float(total(torch.tensor(float(failed)))):
        for encoder in encoders:
            switches.set_compiled(encoder, "none")
