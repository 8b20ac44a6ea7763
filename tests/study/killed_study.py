"""A study that is killed with SIGKILL at chosen moments, and resumed: ``python -m tests.study.killed_study FOLDER``."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tests.killed_runs import after, attempt, both, half_a_record
from tests.study import small

from zsrobust import checkpoint, jobs
from zsrobust.records import RecordFile
from zsrobust.study import cells
from zsrobust.study.recipe import read
from zsrobust.study.runner import study
from zsrobust.study.store import Store

MOMENTS: list[Callable[[], None]] = [
    lambda: after(1, checkpoint, "_save_tensors"),  # in the first checkpoint
    lambda: after(2, checkpoint, "_sync"),  # in a later one
    lambda: after(0, jobs, "save"),  # trained, not saved
    lambda: after(1, Store, "finish"),  # saved, not noted
    lambda: after(1, Store, "tidy"),  # noted, not tidied up
    lambda: after(1, RecordFile, "append", half_a_record),  # in a line of records
    lambda: after(3, cells, "write_atomically"),  # in cells.json
    lambda: after(1, Store, "finish"),  # evaluated, not noted
]


def run(folder: Path, recipe: Path, workers: int) -> None:
    failures = study([read(str(recipe))], run=folder / "studies", store=folder / "store", jobs=workers)
    if failures:
        sys.exit(str(failures))


def descendants(parent: int) -> list[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(stat.parent.name)] = int(fields[1])
    found = [parent]
    for one in found:
        found += [child for child, its in parents.items() if its == one]
    return found[1:]


def killed_workers(folder: Path, recipe: Path) -> None:
    """Two workers whose parent is killed must end by themselves, and leave nothing half done behind."""
    process = os.fork()
    if process == 0:
        run(folder, recipe, 2)
        os._exit(0)
    while not list(folder.glob("store/evaluated/*/records.jsonl")):
        if os.waitpid(process, os.WNOHANG) != (0, 0):
            sys.exit("the study ended before it could be killed")
        time.sleep(0.005)
    workers = descendants(process)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        if time.monotonic() > deadline:
            sys.exit(f"of the workers {workers} some outlive their parent")
        time.sleep(0.05)
    if len(workers) < 2:
        sys.exit(f"there were no two workers: {workers}")


def main(folder: Path) -> None:
    recipe = small.write(folder, seeds=[0], unadapted=False)
    attempt(lambda: run(folder / "whole", recipe, 1), killed=False)
    again = lambda: run(folder / "killed", recipe, 1)  # noqa: E731
    for dying in MOMENTS:
        attempt(both(dying, again), killed=True)
    attempt(again, killed=False)
    killed_workers(folder / "workers", recipe)
    attempt(lambda: run(folder / "workers", recipe, 1), killed=False)


if __name__ == "__main__":
    torch.optim.SGD([torch.zeros(1)]).step()  # imports half of torch, once for all
    main(Path(sys.argv[1]))
