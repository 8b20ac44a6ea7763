"""One job in several processes: who this process is, and how it agrees with the others.

The engine is ``torch.distributed``; the processes are started by ``torchrun`` (or by whoever sets the same variables of
the environment). Everything here is the identity in a job of one process. What a process may wait long for goes through
the group's key-value store and is polled: a collective would give up after half an hour, and could not say who died.

Every process beats in the store while it is in :func:`joined`, and leaves its last words there when an error stops it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from zsrobust.errors import ConfigError, RunError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

BEAT = 2.0
"""Seconds between two signs of life."""
PATIENCE = 60.0
"""Seconds without one after which a process counts as dead. torchrun notices a death on its own machine in a second."""
AGREE = 5.0
"""Seconds that a process waits for the first one to report the same error."""

LOGS = "logs"
"""Where in a run folder the processes that are not the first write what they have to say."""

_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """This process among the processes of its job.

    Attributes:
        rank: Its number, 0 to ``size`` − 1.
        size: Processes.
        local_rank: Its number on its machine, which is that of its GPU.
    """

    rank: int
    size: int
    local_rank: int

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether it is the only one."""
        return self.size == 1


class Stopped(RunError):
    """Another process of the job is gone."""

    def __init__(self, process: int | None) -> None:
        """Name ``process``, None where it is not known."""
        who = "a process" if process is None else f"process {process}"
        super().__init__(f"{who} of this job stopped; the same command goes on from what is there")
        self.process = process


class OfOneProcess(RunError):
    """An error that this process has and the first one has not: it must be said although only that one speaks."""


def from_environment() -> World | None:
    """What torchrun says; None outside of it. Needs no torch.

    Raises:
        ConfigError: a variable is missing, or is no number that can be.
    """
    given = {name: os.environ[name] for name in _NEEDED if os.environ.get(name)}
    if "RANK" not in given and "WORLD_SIZE" not in given:
        return None
    if missing := [name for name in _NEEDED if name not in given]:
        raise ConfigError(
            f"the environment has {' and '.join(n for n in ('RANK', 'WORLD_SIZE') if n in given)} but no "
            f"{' and no '.join(missing)}: start with torchrun, which sets all of them, or unset these"
        )
    rank, size, local = (_number(name, given[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    _number("MASTER_PORT", given["MASTER_PORT"])
    if not (rank < size and local <= rank):
        raise ConfigError(f"the environment says RANK={rank}, LOCAL_RANK={local} and WORLD_SIZE={size}: that cannot be")
    return World(rank, size, local)


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"the environment says {name}={text}, which must be a whole number; torchrun sets it")
    return int(text)


def world() -> World:
    """This process in the process group; ``World(0, 1, 0)`` where there is none."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return World(0, 1, 0)
    local = os.environ.get("LOCAL_RANK", "0")
    return World(dist.get_rank(), dist.get_world_size(), int(local) if local.isdecimal() else 0)


@contextmanager
def joined() -> Iterator[World]:
    """The process group of torchrun's environment: begun here and ended here; nothing where there is one process.

    CPU tensors go through gloo, those of a GPU through nccl. A group that a program has begun itself is used as it is.
    In a program of your own::

        with zsrobust.distributed.joined():
            evaluation = zsrobust.evaluate(model, "digits", run="runs/mine")

    After an error the job is over, in every process: the same program, started again, goes on.

    Raises:
        ConfigError: the environment is incomplete.
        RunError: the other processes did not come.
        Stopped: instead of torch's own error, where another process is gone.
        OfOneProcess: instead of an error that only this process has, and this is not the first one.
    """
    import torch.distributed as dist

    own = False
    if world().alone:
        place = from_environment()
        if place is None or place.alone:
            yield world()
            return
        _begin()
        own = True
    try:
        with _beating():
            try:
                yield world()
                barrier()  # the first process may hold the store: it leaves last
            except BaseException as error:
                said = _last_words(error)
                if said is error:
                    raise
                raise said from error
    finally:
        if own:
            with suppress(RuntimeError):
                dist.destroy_process_group()


def _begin() -> None:
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        raise ConfigError("this torch was built without torch.distributed: it cannot run several processes")
    cuda = torch.cuda.is_available() and dist.is_nccl_available()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise RunError(f"the processes of this job did not meet at {address}: {_first_line(error)}") from None
    local = world().local_rank
    if cuda and local < torch.cuda.device_count():
        torch.cuda.set_device(local)


def store(prefix: str = "") -> Any:
    """The process group's key-value store, under names of our own: ``add``, ``set``, ``get`` and ``check``."""
    from torch.distributed import distributed_c10d as group

    return group.PrefixStore(f"zsrobust/{prefix}", group._get_default_store())


def broadcast(value: T) -> T:
    """The first process's value, in every process: anything that can be pickled; the others' is not looked at."""
    import torch.distributed as dist

    if world().alone:
        return value
    barrier()  # whoever comes early waits here, where a death is noticed
    box = [value if world().main else None]
    with translated():
        dist.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[return-value]


def total(tensor: Tensor) -> Tensor:
    """The sum over the processes, in every process; the given tensor is not changed."""
    import torch.distributed as dist

    if world().alone:
        return tensor
    result = tensor.detach().clone()
    with translated():
        dist.all_reduce(result)
    return result


def barrier() -> None:
    """Waits, however long, until every process has come here.

    Raises:
        Stopped: one of them is gone.
    """
    size = world().size
    if size == 1:
        return
    with translated():
        kept = store()
        arrived = kept.add("barrier", 1)
        wanted = -(-arrived // size) * size  # nobody comes a second time before all have come the first time
        wait_for(lambda: bool(kept.add("barrier", 0) >= wanted))


def wait_for(ready: Callable[[], bool]) -> None:
    """Polls until ``ready``.

    Raises:
        Stopped: another process is gone before.
    """
    watch, pause = Watch(store(), world()), 0.001
    while not ready():
        watch.look()
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


class Watch:
    """Notices that another process is gone: it said so, or gives no sign of life any more.

    The first process looks at all others, they look at it: a thousand processes do not ask about a million.

    Args:
        kept: The key-value store.
        me: Who looks.
    """

    def __init__(self, kept: Any, me: World) -> None:
        self._store = kept
        self._others = range(1, me.size) if me.main else range(1)
        self._seen: dict[int, tuple[int, float]] = {}
        self._next = 0.0

    def look(self) -> None:
        """Cheap enough to be called often.

        Raises:
            Stopped: another process is gone.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + BEAT / 4
        for rank in self._others:
            if self._store.check([f"stopped/{rank}"]):
                raise Stopped(rank)
            beats = int(self._store.add(f"beat/{rank}", 0))
            before, since = self._seen.get(rank, (-1, now))
            if beats != before:
                self._seen[rank] = beats, now
            elif beats and now - since > PATIENCE:  # without a beat at all it is in a group that nobody joined
                raise Stopped(rank)


@contextmanager
def _beating() -> Iterator[None]:
    me, kept, over = world(), store(), threading.Event()

    def beat() -> None:
        with suppress(RuntimeError):  # the store is gone with its process: who works or waits will notice
            while not over.is_set():
                kept.add(f"beat/{me.rank}", 1)
                over.wait(BEAT)

    thread = threading.Thread(target=beat, daemon=True, name="zsrobust-beat")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=BEAT)
    with suppress(RuntimeError):  # who leaves is not dead: without a beat nobody waits for the next one
        kept.add(f"beat/{me.rank}", -kept.add(f"beat/{me.rank}", 0))


@contextmanager
def translated() -> Iterator[None]:
    """Torch's errors of a connection that is gone become ours.

    Raises:
        Stopped: another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if not _lost(error):
            raise
        raise Stopped(_who()) from None


def _lost(error: BaseException) -> bool:
    """Whether torch says that it lost another process."""
    import torch.distributed as dist

    signs = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "tcpstore")
    known = isinstance(error, dist.DistError)
    return known or (type(error) is RuntimeError and any(sign in str(error).lower() for sign in signs))


def _who() -> int | None:
    """Which process is gone: the one that said so, or the one that does not beat now while others do."""
    me = world()
    with suppress(RuntimeError):
        kept = store()
        others = [rank for rank in range(me.size) if rank != me.rank]
        before = {rank: kept.add(f"beat/{rank}", 0) for rank in others}
        until = time.monotonic() + 2 * BEAT
        while time.monotonic() < until:
            for rank in others:
                if kept.check([f"stopped/{rank}"]):
                    return rank
            time.sleep(BEAT / 4)
        silent = [rank for rank in others if before[rank] and kept.add(f"beat/{rank}", 0) == before[rank]]
        return silent[0] if len(silent) == 1 else None
    return None


def _last_words(error: BaseException) -> BaseException:
    """Tells the others, and finds what there is to say for this process."""
    me = world()
    if isinstance(error, RuntimeError) and not isinstance(error, RunError) and _lost(error):
        error = Stopped(_who())
    said = _first_line(error)
    with suppress(RuntimeError):  # without a store nobody can be told
        kept = store()
        already = isinstance(error, Stopped) and error.process is not None and kept.check([f"stopped/{error.process}"])
        kept.set(f"stopped/{me.rank}", said)
        if me.main or already or not isinstance(error, Exception):
            return error
        if isinstance(error, Stopped):
            return OfOneProcess(said) if kept.add("mourned", 1) == 1 else error
        until = time.monotonic() + AGREE
        while time.monotonic() < until:
            if kept.check(["stopped/0"]):
                return error if kept.get("stopped/0").decode() == said else _of_one(me, error, said)
            time.sleep(0.05)
        return _of_one(me, error, said)
    return error if me.main or not isinstance(error, Exception) else _of_one(me, error, said)


def _of_one(me: World, error: BaseException, said: str) -> BaseException:
    known = isinstance(error, RunError | OSError) or type(error).__module__.startswith("zsrobust.")
    return OfOneProcess(f"process {me.rank}: {said}" if known else f"process {me.rank}: {type(error).__name__}: {said}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
