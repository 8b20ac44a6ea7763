"""One process, two processes, two with a restart in the middle: is it the same result?

    python -m benchmarks.equality [--folder runs/equality] [--out benchmarks/results/equality.json]

The commands that people type, under torchrun with gloo, one thread a process; a restart is a SIGKILL of all processes
as soon as there is something to go on from. Evaluation: records compared as they are written, sorted. Adaptation: the
loss of each step, and every adapted weight, against those of one process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load_file

from zsrobust.latency import describe_machine

EVALUATE = (
    "evaluate", "tiny", "--tasks", "digits,world-shape", "--attacks", "pgd:10,apgd:margin-t:steps=10:targets=2",
    "--threat", "linf:4/255", "--limit", "96", "--batch_size", "32",
)  # fmt: skip
ADAPT = (
    "adapt", "--model", "tiny", "--task", "world-compositions", "--threat", "linf:4/255", "--limit", "310",
    "--batch_size", "25", "--epochs", "2", "--lr", "2e-4", "--optimizer", "adamw", "--checkpoint_every", "5",
    "--log_every", "1",
)  # fmt: skip


def started(arguments: Sequence[str], run: Path, processes: int) -> subprocess.Popen[bytes]:
    """The command."""
    own = [sys.executable, "-m", "zsrobust", *arguments, "--run", str(run)]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "--"]
        own = [sys.executable, *launcher, *own[2:]]
    told = os.environ | {"OMP_NUM_THREADS": "1"}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(own, stdout=quiet, stderr=quiet, env=told)


def whole(arguments: Sequence[str], run: Path, processes: int) -> None:
    """Runs the command to its end."""
    if started(arguments, run, processes).wait():
        raise SystemExit(f"{' '.join(arguments)} failed: run it by hand")


def cut(arguments: Sequence[str], run: Path, processes: int, begun: Callable[[Path], bool]) -> None:
    """Runs the command until it has ``begun``, and kills all of it."""
    process = started(arguments, run, processes)
    while not begun(run):
        if process.poll() is not None:
            raise SystemExit("it ended before it was to be killed: nothing was restarted")
        time.sleep(0.05)
    for one in [process.pid, *descendants(process.pid)]:  # torchrun gives each process a group of its own
        os.kill(one, signal.SIGKILL)
    process.wait()


def descendants(parent: int) -> list[int]:
    """Processes that ``parent`` started, and theirs."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
    found = [parent]
    for one in found:
        found += [child for child, its in parents.items() if its == one]
    return found[1:]


def some_records(run: Path) -> bool:
    """More than the clean ones of the first task."""
    file = run / "records.jsonl"
    return file.exists() and file.read_bytes().count(b"\n") > 130


def a_checkpoint(run: Path) -> bool:
    """At step 5 or later."""
    return any(run.glob("checkpoints/step-*/state.json"))


WAYS: dict[str, Callable[[Sequence[str], Path, Callable[[Path], bool]], None]] = {
    "one process": lambda a, run, _: whole(a, run, 1),
    "two processes": lambda a, run, _: whole(a, run, 2),
    "two, killed, then two": lambda a, run, begun: (cut(a, run, 2, begun), whole(a, run, 2))[1],
    "two, killed, then one": lambda a, run, begun: (cut(a, run, 2, begun), whole(a, run, 1))[1],
    "one, killed, then two": lambda a, run, begun: (cut(a, run, 1, begun), whole(a, run, 2))[1],
}


def records(run: Path) -> list[str]:
    """Sorted lines."""
    return sorted((run / "records.jsonl").read_text().splitlines())


def losses(run: Path) -> list[float]:
    """Of every step."""
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Of the adapted model."""
    return load_file(run / "model" / "model.safetensors")


def compared(folder: Path, ways: Sequence[str]) -> list[dict[str, object]]:
    """A row for each way."""
    first = folder / "evaluate" / ways[0].replace(" ", "-"), folder / "adapt" / ways[0].replace(" ", "-")
    expected, curve, adapted = records(first[0]), losses(first[1]), weights(first[1])
    rows: list[dict[str, object]] = []
    for way in ways:
        run, trained = folder / "evaluate" / way.replace(" ", "-"), folder / "adapt" / way.replace(" ", "-")
        found, mine = records(run), weights(trained)
        rows.append(
            {
                "way": way,
                "records": len(found),
                "records_that_differ": len(set(found) ^ set(expected)),
                "steps": len(losses(trained)),
                "largest_difference_of_losses": max(abs(a - b) for a, b in zip(losses(trained), curve, strict=True)),
                "largest_difference_of_weights": max(float((mine[n] - adapted[n]).abs().max()) for n in adapted),
                "largest_weight": max(float(w.abs().max()) for w in adapted.values()),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/equality"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/equality.json"))
    arguments = parser.parse_args()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    for way, run in WAYS.items():
        name = way.replace(" ", "-")
        run(EVALUATE, arguments.folder / "evaluate" / name, some_records)
        run(ADAPT, arguments.folder / "adapt" / name, a_checkpoint)
        print(f"{way}: done", flush=True)
    rows = compared(arguments.folder, list(WAYS))
    print("| | records | that differ | steps | loss differs by at most | weights differ by at most |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row['way']} | {row['records']} | {row['records_that_differ']} | {row['steps']} | "
            f"{row['largest_difference_of_losses']:.1e} | {row['largest_difference_of_weights']:.1e} |"
        )
    told = {
        "machine": describe_machine(torch.device("cpu")), "evaluate": list(EVALUATE), "adapt": list(ADAPT), "rows": rows
    }  # fmt: skip
    arguments.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
