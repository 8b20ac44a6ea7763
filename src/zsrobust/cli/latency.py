"""``zsrobust latency``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from zsrobust.cli.command import WHOLE, Command, also
from zsrobust.errors import ConfigError

if TYPE_CHECKING:
    from zsrobust.latency import Latency, Times


@dataclass(kw_only=True)
class LatencyOptions:
    """How long does a model take, and how much memory? Several models are compared with the first.

    Times what a product runs: image encoder and head, and with --image the preprocessing of a decoded image too. The
    text tower does not run: its head is computed once. Models are taken as 'zsrobust evaluate' takes them.
    """

    models: list[str] = field(default_factory=list, metadata=also("model") | WHOLE)
    """Models, also written without --models."""
    batch_sizes: list[int] = field(default_factory=lambda: [1, 16], metadata=also("batch_size"))
    """Images at a time."""
    classes: int = 1000
    """Classes of the head; at least 1."""
    image: str | None = None
    """An image file, to time preprocessing (resize and crop) as well. null: noise of the model's input size."""
    repetitions: int = 30
    """Timed batches of each size; at least 2."""
    warm_up: int = 5
    """Untimed batches before them."""
    threads: int | None = None
    """CPU threads. null: torch's choice."""
    seed: int = 0
    """Of the noise; not negative."""
    out: str | None = None
    """JSON file for the numbers, with machine and versions. null: none."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda, cuda:1 or mps."""


COMMAND = Command(
    name="latency",
    options=LatencyOptions,
    usage="MODEL... [--OPTION VALUE ...]",
    positional="models",
    examples=(
        "zsrobust latency tiny runs/mine --batch_sizes 1,16 --out latency.json",
        "zsrobust latency tiny tiny+ttc --image photo.jpg --threads 1",
    ),
)


def run(options: LatencyOptions) -> None:
    """Measures, and prints a table."""
    if not options.models:
        raise ConfigError("no model given: zsrobust latency MODEL... (for example: tiny)")
    from zsrobust.latency import latency, threads
    from zsrobust.models import load_model
    from zsrobust.run_folder import write_atomically
    from zsrobust.tasks.images import decode

    image = None if options.image is None else decode(Path(options.image).expanduser())
    models = [load_model(model, device=options.device) for model in options.models]
    with threads(options.threads):
        found = latency(
            models, batch_sizes=options.batch_sizes, classes=options.classes, repetitions=options.repetitions,
            warm_up=options.warm_up, image=image, seed=options.seed,
        )  # fmt: skip
    _tell(found)
    if options.out is not None:
        text = json.dumps({"format": "zsrobust.latency/1", **found.to_dict()}, indent=1, ensure_ascii=False)
        write_atomically(Path(options.out).expanduser(), text.encode())
        print(f"\nWritten  {options.out}")


def _tell(found: Latency) -> None:
    from rich.console import Console

    here = found.machine
    on_gpu = "" if here["device"] == "cpu" else f"{here['device']}, "
    print(
        f"Machine  {on_gpu}{here['processor']}, {_counted(here['cores'], 'core')}, torch on {_counted(here['threads'], 'thread')}"
    )
    named = ", ".join(f"{name} {here['versions'][name]}" for name in ("python", "torch", "zsrobust"))
    print(f"Versions {named}")
    n = found.timings[0].seconds.n
    print(f"Timed    {found.image}, image encoder and head of {found.classes:,} classes, {n} repetitions")
    for size in found.sizes:
        print(f"Model    {size.model}: {_weights(size.parameters, size.bytes, size.visual)}")
    Console(highlight=False, markup=False).print(_table(found))
    print(f"Memory   {found.memory}")
    if here["load_average"] is not None and here["load_average"] > 0.5 * here["cores"]:
        print(
            f"Note     the machine was busy (load {here['load_average']:g} on {here['cores']} cores): measure again when"
        )
        print("         it is idle, before you believe a time or a ratio")


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _weights(parameters: int | None, size: int | None, visual: int | None) -> str:
    if parameters is None or size is None:
        return "parameters unknown"
    tower = "" if visual is None else f", {visual / 1e6:.2f} M of them in the visual tower"
    return f"{parameters / 1e6:.2f} M parameters, {size / 2**20:.1f} MiB{tower}"


def _table(found: Latency) -> object:
    from rich import box
    from rich.table import Table as Grid

    prepared = found.timings[0].preprocessing is not None
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column("model", overflow="ellipsis", no_wrap=True, max_width=22)
    heads = ["batch", "ms, median\n(p10–p90)", "x first\n(p10–p90)", "images\n/ s", "peak\nMiB"]
    if prepared:
        heads.insert(2, "of it\nprepare")
    for head in heads:
        grid.add_column(head, justify="right", no_wrap=True)
    last = None
    for one in found.timings:
        if last not in (None, one.batch_size):
            grid.add_section()
        last = one.batch_size
        cells = [one.model, f"{one.batch_size}", _times(one.seconds, 1000)]
        if one.preprocessing is not None:
            cells.append(_digits(1000 * one.preprocessing.median))
        peak = "" if one.peak_bytes is None else f"{one.peak_bytes / 2**20:.1f}"
        grid.add_row(*cells, _times(one.ratio, 1), _digits(one.throughput), peak)
    return grid


def _times(times: Times, unit: float) -> str:
    median, p10, p90 = (_digits(unit * value) for value in (times.median, times.p10, times.p90))
    return f"{median} ({p10}–{p90})"


def _digits(value: float) -> str:
    """Three significant digits: ``0.123``, ``12.3``, ``1,230``."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"
