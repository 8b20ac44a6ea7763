"""The batches of a training run: which images a step takes, and that they are decoded before the loop asks for them.

Order and random keys are functions of (seed, epoch, step, example): they do not depend on how many processes share a
batch, nor on how many threads decode.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from zsrobust.distributed import World
from zsrobust.methods.gathering import Share, part
from zsrobust.pixels import to_pixels
from zsrobust.randomness import generator
from zsrobust.tasks import Task

Keys = list[tuple[str | int, ...]]
MOST_THREADS = 8
"""That decode: beyond that they wait for each other more than the loop waits for them."""


@dataclass(frozen=True)
class Part:
    """This process's part of the batch of a step.

    Attributes:
        keys: Of its images' random starts.
        pixels: (B, 3, H, W) in [0, 1].
        truth: (B,) int64 true labels.
        share: Which rows of the batch they are.
    """

    keys: Keys
    pixels: Tensor
    truth: Tensor
    share: Share


def steps_of(images: int, epochs: int, batch_size: int) -> int:
    """Optimizer steps of a run; the last one of an epoch takes what is left."""
    return epochs * math.ceil(images / batch_size)


def rows_at_once(batch_size: int, micro_batch: int | None, processes: int) -> int:
    """Images in the largest pass of a process: its part of a batch, or the pieces into which that is cut."""
    return min(-(-batch_size // processes), micro_batch or batch_size)


class Feed:
    """The parts of batches ``first`` … ``steps`` − 1, in order, some of them decoded ahead of the loop.

    Args:
        task: The images.
        batch_size: Of the whole batch.
        seed: Of the order.
        device: Where pixels and labels go.
        first: Step to begin with.
        steps: Of the whole run.
        world: Who shares the batches.

    Attributes:
        waited: Seconds that the loop has waited for images so far.
    """

    def __init__(
        self, task: Task, batch_size: int, seed: int, device: torch.device, *, first: int, steps: int, world: World
    ) -> None:
        self.task, self.batch_size, self.seed = task, batch_size, seed
        self.device, self.first, self.steps, self.world = device, first, steps, world
        self.waited = 0.0

    def __iter__(self) -> Iterator[Part]:
        threads = decoding_threads(self.device)
        ahead = threads + 1 if threads > 1 else 1
        pool = ThreadPoolExecutor(threads, thread_name_prefix="zsrobust-decode")
        coming: deque[Future[Part]] = deque()
        asked = self.first
        try:
            for _ in range(self.first, self.steps):
                while asked < min(self.steps, self.first + ahead):
                    coming.append(pool.submit(self.load, asked))
                    asked += 1
                start = time.monotonic()
                part = coming.popleft().result()
                self.waited += time.monotonic() - start
                if asked < self.steps:
                    coming.append(pool.submit(self.load, asked))
                    asked += 1
                yield self._moved(part)
        finally:
            pool.shutdown(cancel_futures=True)

    def load(self, step: int) -> Part:
        """This process's part of the batch of a step, on the CPU."""
        everyone = self.chosen(step)
        share = part(len(everyone), self.world.rank, self.world.size)
        own = everyone[share.first : share.first + share.rows]
        keys: Keys = [(self.seed, int(self.task.ids[i]), "adapt", step) for i in own]
        return Part(keys, to_pixels(self.task.images(own)), torch.from_numpy(self.task.labels[own]), share)

    def part(self, step: int) -> Part:
        """This process's part of the batch of a step, where the model is."""
        return self._moved(self.load(step))

    def chosen(self, step: int) -> list[int]:
        """Positions in the task of the whole batch of a step."""
        epoch, position = divmod(step, math.ceil(len(self.task) / self.batch_size))
        order = torch.randperm(len(self.task), generator=generator(self.seed, "order", epoch))
        return order[position * self.batch_size : (position + 1) * self.batch_size].tolist()

    def _moved(self, part: Part) -> Part:
        return Part(part.keys, part.pixels.to(self.device), part.truth.to(self.device), part.share)


def decoding_threads(device: torch.device) -> int:
    """Threads for images: the processor's cores that the passes leave, shared with the other processes of the machine.

    On a GPU the passes leave all cores but one; on a CPU those above torch's own threads. One thread at least: on a
    busy processor it takes its time from the passes, whatever the number.
    """
    cores = (os.cpu_count() or 1) // processes_here()
    spare = cores - (1 if device.type != "cpu" else torch.get_num_threads())
    return max(1, min(MOST_THREADS, spare))


def processes_here() -> int:
    """Processes of this job that share this machine, as torchrun says; 1 where nobody says."""
    told = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(told)) if told.isdecimal() else 1
