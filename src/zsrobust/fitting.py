"""The largest batch that fits into memory, found by trying real steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

import torch
from torch import nn

from zsrobust.distributed import World, total
from zsrobust.errors import ConfigError
from zsrobust.memory import available, peak_of, ran_out, release, resident
from zsrobust.methods.gathering import Share
from zsrobust.methods.targets import fewest
from zsrobust.pixels import to_pixels
from zsrobust.tasks import Task
from zsrobust.training_data import Part, processes_here
from zsrobust.training_step import Step

MOST = 1024
"""Images in a batch that is found; a larger one must be named."""
PROBE = 8
"""Images of the first of two steps that are measured on a CPU; the second has twice as many."""
SHARE = 0.8
"""Of the memory that is free, what a step may take: other programs want some, and measuring is not exact."""


def fitting_batch(step: Step, task: Task, world: World) -> int:
    """The largest power of two, at most 1,024 and at most the task, of which each process can take its part.

    Weights, optimizer and random state are afterwards what they were.

    Args:
        step: Is tried; not distributed yet.
        task: Gives the images.
        world: Who shares a batch.

    Raises:
        ConfigError: not even the smallest batch fits, or this system does not measure memory.
    """
    most = _power(min(MOST, len(task)))
    own = _power(-(-most // world.size), up=True)  # a process's part of the largest

    def work(rows: int) -> None:
        _tried(step, task, rows)

    if step.device.type == "cuda":
        found = _until_it_fails(work, own, step.device)
    else:
        found = _by_growth(work, own, available() // processes_here())
    every = torch.zeros(world.size, device=step.device)
    every[world.rank] = found
    least = int(total(every).min())
    batch = min(most, least * _power(world.size))
    if batch < fewest(step.method):
        raise ConfigError("no batch fits into memory: use a smaller model, precision bf16, or checkpoint_activations")
    return batch


def _power(number: int, *, up: bool = False) -> int:
    """The largest power of two that is at most ``number``; ``up``: the smallest that is at least."""
    return int(2 ** ((number - 1).bit_length() if up else number.bit_length() - 1))


def _tried(step: Step, task: Task, rows: int) -> None:
    """A whole step on so many images; everything is restored."""
    chosen = [i % len(task) for i in range(rows)]
    share = Share(0, rows, rows)
    pixels, truth = to_pixels(task.images(chosen)), torch.from_numpy(task.labels[chosen])
    part = Part([("batch size", i) for i in range(rows)], pixels.to(step.device), truth.to(step.device), share)
    random_state = torch.get_rng_state()
    before = {name: parameter.detach().clone() for name, parameter in step.parameters.items()}
    try:
        step.try_once(part)
    finally:
        restored(step.parameters, before)
        step.optimizer.state = defaultdict(dict)
        step.optimizer.zero_grad(set_to_none=True)
        torch.set_rng_state(random_state)


@torch.no_grad()
def restored(parameters: Mapping[str, nn.Parameter], before: Mapping[str, torch.Tensor]) -> None:
    """Puts values back in place."""
    for name, value in before.items():
        parameters[name].copy_(value)


def _until_it_fails(work: Callable[[int], None], most: int, device: torch.device) -> int:
    """Twice as many until memory runs out: there trying is quick, and an error that can be caught."""
    found, rows = 0, 1
    while rows <= most:
        try:
            work(rows)
        except Exception as error:
            if not ran_out(error):
                raise
            break
        found, rows = rows, 2 * rows
    release(device)
    return found


def _by_growth(work: Callable[[int], None], most: int, free: int) -> int:
    """As many as what two small steps took at their peak allows: on a CPU a step that is too large kills the process.

    What a step takes is a constant (gradients, the optimizer's state) and so much for each image.
    """
    before, room = resident(), SHARE * free
    if most == 1:
        return 1
    few, many = (min(PROBE, most // 2), min(2 * PROBE, most))
    work(1)  # the first step also loads code
    small, large = (peak_of(lambda: work(rows)) - before for rows in (few, many))  # noqa: B023
    each = max((large - small) / (many - few), large / (64 * many), 1.0)  # a measured slope of nothing is noise
    constant = max(0.0, large - each * many)
    fits = int((room - constant) // each)
    return _power(min(fits, most)) if fits >= 1 else 0
