"""Who does the jobs: this process, or several that keep their models and tasks open from job to job."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

from zsrobust.study.bench import Bench
from zsrobust.study.store import Job, Outcome, Store

_THREADS = "OMP_NUM_THREADS"


class Workers(Protocol):
    """Takes jobs while one is free, and gives them back done."""

    def free(self) -> bool:
        """Whether another job can be started."""
        ...

    def busy(self) -> list[Job]:
        """Jobs that were started and not given back."""
        ...

    def start(self, job: Job) -> None:
        """Hands over a job."""
        ...

    def next(self) -> tuple[Job, Outcome]:
        """Waits for a job to end."""
        ...


class Alone:
    """This process does them."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._job: Job | None = None

    def free(self) -> bool:
        """Whether another job can be started."""
        return self._job is None

    def busy(self) -> list[Job]:
        """The job at hand."""
        return [] if self._job is None else [self._job]

    def start(self, job: Job) -> None:
        """It is done when it is asked for."""
        self._job = job

    def next(self) -> tuple[Job, Outcome]:
        """Does the job."""
        assert self._job is not None
        job, outcome = self._job, self._bench.do(self._job)
        self._job = None
        return job, outcome


@dataclass
class _Worker:
    process: BaseProcess
    line: Connection
    job: Job | None = None


class Several:
    """Processes, each started when there is a job for it.

    Args:
        count: Number of them.
        threads: Of each.
        store: Where results go.
        device: ``"auto"``, or torch's name.
    """

    def __init__(self, count: int, *, threads: int, store: Path, device: str) -> None:
        self._count, self._threads, self._store, self._device = count, threads, store, device
        self._workers: list[_Worker] = []

    def free(self) -> bool:
        """Whether another job can be started."""
        return len(self.busy()) < self._count

    def busy(self) -> list[Job]:
        """Jobs that were started and not given back."""
        return [worker.job for worker in self._workers if worker.job is not None]

    def start(self, job: Job) -> None:
        """Gives the job to an idle process, or to a new one."""
        self._workers = [one for one in self._workers if one.job is not None or one.process.is_alive()]
        worker = next((one for one in self._workers if one.job is None), None) or self._hire()
        worker.job = job
        worker.line.send(job)

    def next(self) -> tuple[Job, Outcome]:
        """Waits for a process to finish its job, or to die."""
        at_work = {worker.line: worker for worker in self._workers if worker.job is not None}
        worker = at_work[next(line for line in at_work if line in wait(list(at_work)))]
        job = worker.job
        assert job is not None
        try:
            outcome: Outcome = worker.line.recv()
            worker.job = None
        except (EOFError, OSError):  # the end of the pipe that the process held was closed with it
            worker.process.join()
            self._workers.remove(worker)
            outcome = Outcome(error=_death(worker.process.exitcode))
        return job, outcome

    def dismiss(self) -> None:
        """Ends all; what is half done goes on at the next start."""
        for worker in self._workers:
            worker.line.close()  # one without a job ends by itself
            if worker.job is not None:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
        self._workers = []

    def _hire(self) -> _Worker:
        spawn = multiprocessing.get_context("spawn")
        mine, theirs = spawn.Pipe()
        process = spawn.Process(target=_work, args=(theirs, self._threads, str(self._store), self._device), daemon=True)
        with _threads_of_children(self._threads):
            process.start()
        theirs.close()
        worker = _Worker(process, mine)
        self._workers.append(worker)
        return worker


def _work(line: Connection, threads: int, store: str, device: str) -> None:
    """Does what comes in until nobody is there to ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch
    from tqdm import tqdm

    torch.set_num_threads(threads)
    tqdm.set_lock(threading.RLock())  # its own is shared between processes, and one that is ended leaves it behind
    bench = Bench(Store(Path(store)), device)
    while True:
        try:
            job: Job = line.recv()
        except EOFError:
            return
        line.send(bench.do(job))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # killed: nothing is left to tell, and all that was written is whole


@contextmanager
def _threads_of_children(threads: int) -> Iterator[None]:
    """Some libraries read the number when they are imported."""
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = str(threads)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_THREADS]
        else:
            os.environ[_THREADS] = before


def _death(status: int | None) -> str:
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        hint = ": out of memory? fewer --jobs need less" if name == "SIGKILL" else ""
        return f"its worker was ended by {name}{hint}"
    return f"its worker ended with status {status}"
