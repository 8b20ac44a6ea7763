"""The random numbers of a model in our hand: the same draw again, or another one, and nobody's generator disturbed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def draw(number: int) -> Iterator[None]:
    """Global generators (torch, numpy, Python) begin at ``number`` inside and are as they were afterwards.

    A random model that is asked twice under the same number is one fixed function: its gradient can then be compared
    with its differences. A generator of the model's own is out of reach.
    """
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(number)
            np.random.seed(number % 2**32)
            random.seed(number)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
