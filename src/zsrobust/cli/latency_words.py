"""What ``zsrobust latency`` prints.

Apart from the options, because jsonargparse resolves every import of their module, those for type checkers too.
"""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table as Grid

from zsrobust.latency import Latency, Times


def tell(found: Latency) -> None:
    """Prints machine, models and the table."""
    here = found.machine
    on_gpu = "" if here["device"] == "cpu" else f"{here['device']}, "
    cores, threads = _counted(here["cores"], "core"), _counted(here["threads"], "thread")
    print(f"Machine  {on_gpu}{here['processor']}, {cores}, torch on {threads}")
    named = ", ".join(f"{name} {here['versions'][name]}" for name in ("python", "torch", "zsrobust"))
    print(f"Versions {named}")
    n = found.timings[0].seconds.n
    print(f"Timed    {found.image}, image encoder and head of {found.classes:,} classes, {n} repetitions")
    for size in found.sizes:
        print(f"Model    {size.model}: {_weights(size.parameters, size.bytes, size.visual)}")
    Console(highlight=False, markup=False).print(_table(found))
    print(f"Memory   {found.memory}")
    if here["load_average"] is not None and here["load_average"] > 0.5 * here["cores"]:
        print(f"Note     the machine was busy (load {here['load_average']:g} on {cores}): measure again")
        print("         when it is idle, before you believe a time or a ratio")


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _weights(parameters: int | None, size: int | None, visual: int | None) -> str:
    if parameters is None or size is None:
        return "parameters unknown"
    tower = "" if visual is None else f", {visual / 1e6:.2f} M of them in the visual tower"
    return f"{parameters / 1e6:.2f} M parameters, {size / 2**20:.1f} MiB{tower}"


def _table(found: Latency) -> object:
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
