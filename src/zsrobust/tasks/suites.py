"""Suites: names for lists of tasks, accepted wherever several tasks are.

``paper15`` and ``paper16`` are the sets that TeCoA's code evaluates (cvlab-columbia/ZSRobust4FoundationModel, utils.py)
without its Country211, which is not among the paper's; ``farevlm13`` those of FARE's zero-shot table (chs20/RobustVLM).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Suite:
    """A list of tasks.

    Attributes:
        description: One sentence.
        tasks: Their names; empty: all tasks whose name begins with ``prefix``.
        prefix: See above.
    """

    description: str
    tasks: tuple[str, ...] = ()
    prefix: str = ""

    def members(self, known: Iterable[str]) -> tuple[str, ...]:
        """The names of the suite's tasks, given those of all tasks."""
        return self.tasks or tuple(name for name in known if name.startswith(self.prefix))


_PAPER15 = (
    "cifar10", "cifar100", "stl10", "caltech101", "caltech256", "pets", "cars", "food101", "flowers102", "aircraft",
    "sun397", "dtd", "eurosat", "pcam", "hateful-memes",
)  # fmt: skip
_FAREVLM13 = (
    "caltech101", "cars", "cifar10", "cifar100", "dtd", "eurosat", "aircraft", "flowers102", "imagenet-r",
    "imagenet-sketch", "pcam", "pets", "stl10",
)  # fmt: skip

SUITES: dict[str, Suite] = {
    "paper16": Suite("The TeCoA paper's tasks: ImageNet and the fifteen it never adapts to.", ("imagenet", *_PAPER15)),
    "paper15": Suite("The TeCoA paper's tasks without ImageNet.", _PAPER15),
    "farevlm13": Suite("The thirteen zero-shot tasks of FARE's code (RobustVLM), without ImageNet.", _FAREVLM13),
    "world": Suite("Every task of the rendered world; no files, no downloads.", prefix="world-"),
}
"""Name → suite."""
