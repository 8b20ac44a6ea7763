"""Runs that are killed with SIGKILL at a chosen moment, and resumed.

Usage: ``python -m tests.killed_runs adapt|evaluate FOLDER``.

One interpreter imports torch and forks a process for each attempt, so that every kill is a real one and still cheap.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.fakes import Toy, labelled_by, task

from zsrobust import checkpoint
from zsrobust.adaptation import adapt
from zsrobust.attacks.pgd import PGD, fgsm
from zsrobust.metrics import MetricsFile
from zsrobust.recording import evaluate_into, settings
from zsrobust.records import RecordFile
from zsrobust.run_folder import RunFolder
from zsrobust.threat import Threat
from zsrobust.training_step import Step

STEPS, EVERY, LOG = 12, 3, 2


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(calls: int, of: Any, name: str, last: Callable[..., None] | None = None) -> None:
    """Lets ``of.name`` be called ``calls`` times; the next call kills, having done ``last`` first."""
    original, done = getattr(of, name), [0]

    def wrapped(*args: Any, **options: Any) -> Any:
        if done[0] == calls:
            if last is not None:
                last(*args, **options)
            die()
        done[0] += 1
        return original(*args, **options)

    setattr(of, name, wrapped)


def train(folder: Path, optimizer: str) -> None:
    threat = Threat("linf", "8/255")
    adapted = adapt(
        Toy(), task=task(18), attack=PGD(threat, 2), run=folder, epochs=4, batch_size=7, lr=0.1, warmup=0.25,
        optimizer=optimizer, weight_decay=0.01, checkpoint_every=EVERY, log_every=LOG, progress=False,
    )  # fmt: skip
    save_file(dict(adapted.state_dict()), folder / "final.safetensors")  # type: ignore[attr-defined]


def half_a_line(self: MetricsFile, step: int, values: object) -> None:
    with Path(str(self._path)).open("a") as stream:
        stream.write('{"step": ')


MOMENTS: dict[
    str, tuple[Callable[[], None], int]
] = {  # name → (how to die, the step of the newest whole checkpoint then)
    "in step 5": (lambda: after(4, Step, "learn"), 3),
    "in the checkpoint at 6, weights written": (lambda: after(1, checkpoint, "_save_tensors"), 3),
    "in the checkpoint at 6, all written but not renamed": (lambda: after(3, checkpoint, "_sync"), 3),
    "in the checkpoint at 6, renamed": (lambda: after(4, checkpoint, "_sync"), 6),
    "while old metrics are rewritten": (lambda: after(0, os, "replace"), 6),
    "in the middle of a line of metrics": (lambda: after(1, MetricsFile, "write", half_a_line), 9),
    "in the last step": (lambda: after(STEPS - 9 - 1, Step, "learn"), 9),
}


def evaluate(folder: Path, die_at: int | None) -> None:
    encoder = Toy(scale=50.0)
    blobs = [labelled_by(encoder, task(20, name=name, seed=seed), wrong=[1, 8]) for seed, name in enumerate("ab")]
    threats = [Threat("linf", "1/255"), Threat("linf", "4/255")]
    attacks = [a for t in threats for a in (fgsm(t), PGD(t, 3))]
    run = RunFolder(folder, kind="evaluate", settings=settings(attacks, rows=4, device=torch.device("cpu")))
    seen = [0]

    def watch(_: object) -> None:
        seen[0] += 1
        if seen[0] == die_at:
            die()

    with run.records:
        evaluate_into(run, encoder, blobs, attacks, seed=0, batch_size=6, watch=watch)


def half_a_record(self: RecordFile, records: Any) -> None:
    with self.path.open("ab") as stream:
        stream.write(records[0].to_json().encode()[:40])


def attempt(work: Callable[[], None], *, killed: bool) -> None:
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    expected = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL if killed else status == 0
    if not expected:
        sys.exit(f"a process ended with {status}, killed was {killed}")


def both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def work() -> None:
        first()
        second()

    return work


def killed_training(folder: Path, optimizer: str) -> None:
    def again() -> None:
        train(folder / "killed", optimizer)

    attempt(lambda: train(folder / "whole", optimizer), killed=False)
    for name, (dying, step) in MOMENTS.items():
        attempt(both(dying, again), killed=True)
        last = checkpoint.latest(folder / "killed" / "checkpoints")
        if last is None or last.name != f"step-{step:08d}":
            sys.exit(f"killed {name}, the newest checkpoint is {last}, not of step {step}")
    attempt(again, killed=False)
    attempt(again, killed=False)  # a finished run changes nothing


def killed_evaluation(folder: Path) -> None:
    attempt(lambda: evaluate(folder / "whole", None), killed=False)
    attempt(lambda: evaluate(folder / "killed", 1), killed=True)
    attempt(lambda: evaluate(folder / "killed", 7), killed=True)
    torn = both(lambda: after(2, RecordFile, "append", half_a_record), lambda: evaluate(folder / "killed", None))
    attempt(torn, killed=True)
    attempt(lambda: evaluate(folder / "killed", None), killed=False)


if __name__ == "__main__":
    torch.optim.SGD([torch.zeros(1)]).step()  # imports half of torch, once for all
    if sys.argv[1] == "adapt":
        for name in ("sgd", "adamw"):
            killed_training(Path(sys.argv[2]) / name, name)
    else:
        killed_evaluation(Path(sys.argv[2]))
