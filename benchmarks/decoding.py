"""What an image costs before the model sees it: decoded each time, and read from the pixel cache.

    python -m benchmarks.decoding --data photographs.parquet [--limit 1000] [--out benchmarks/results/decoding.json]

The photographs are a parquet file, a folder or an archive, as tasks take them; the geometry is the paper's 256/224. One
thread, 50 images a call. The cache is a temporary folder, so that nothing of a user's is read or thrown away.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from zsrobust.cache import FOLDER_VARIABLE
from zsrobust.geometry import Geometry
from zsrobust.latency import describe_machine
from zsrobust.tasks import Task, task

A_CALL = 50


def passed(opened: Task, order: Sequence[int]) -> dict[str, float]:
    """Milliseconds an image, on the clock and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    for first in range(0, len(order), A_CALL):
        opened.images(order[first : first + A_CALL])
    each = 1000 / len(order)
    return {"wall_ms": each * (time.perf_counter() - wall), "processor_ms": each * (time.process_time() - processor)}


def rows(new: Callable[[], Task], folder: Path) -> dict[str, dict[str, float]]:
    """The table: pass by pass."""
    in_order = list(range(len(new())))
    shuffled = np.random.default_rng(0).permutation(len(in_order)).tolist()
    os.environ[FOLDER_VARIABLE] = "off"
    found = {"no cache on disk": passed(new(), in_order)}
    os.environ[FOLDER_VARIABLE] = str(folder)
    first = new()
    found["first use: decoded and written"] = passed(first, in_order)
    found["same process, later passes, shuffled"] = passed(first, shuffled)
    second = new()  # as another process would open it: it knows no digest yet
    found["another process, first pass"] = passed(second, in_order)
    found["another process, later passes, shuffled"] = passed(second, shuffled)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/decoding.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = rows(lambda: task(arguments.data, geometry=Geometry(256, 224), limit=arguments.limit), Path(folder))
        taken = sum(file.stat().st_blocks * 512 for file in Path(folder).rglob("*") if file.is_file())
    for name, values in found.items():
        print(f"{name:42} {values['wall_ms']:7.2f} ms an image, {values['processor_ms']:7.2f} of the processor")
    told = {
        "machine": describe_machine(torch.device("cpu")),
        "images": arguments.limit,
        "cache_bytes": taken,
        "rows": found,
    }
    arguments.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
