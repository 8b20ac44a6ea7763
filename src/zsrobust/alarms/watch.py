"""What happens inside one forward pass, seen from outside: every operation, and every module that is called.

Operations are watched below the level at which Python can hide them (a dispatch mode), so that neither a renamed
import nor a functional call escapes, and no trace function is touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

_KEPT = 8
_LINEAR = (nn.Conv2d, nn.Conv3d, nn.Conv1d, nn.Linear)


@dataclass(eq=False)
class Seen:
    """What was seen.

    Attributes:
        half: Operations that gave 16 bit floating point numbers (or fewer), with their type.
        backwards: Operations of a backward pass.
        modules: Those that were called, in order of their first call.
        calls: How often each convolution or linear layer was called, by ``id``.
        entries: The first convolutions and linear layers called, with what they were given.
    """

    half: Counter[str] = field(default_factory=Counter)
    backwards: int = 0
    modules: list[nn.Module] = field(default_factory=list)
    calls: Counter[int] = field(default_factory=Counter)
    entries: list[tuple[nn.Module, Tensor]] = field(default_factory=list)

    def note_module(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A module is about to be called."""
        if not any(module is known for known in self.modules):
            self.modules.append(module)
        if isinstance(module, _LINEAR):
            self.calls[id(module)] += 1
            if len(self.entries) < _KEPT and args and isinstance(args[0], Tensor):
                self.entries.append((module, args[0].detach().clone()))

    def note_operation(self, name: str, result: object) -> None:
        """An operation gave ``result``."""
        if torch._C._current_graph_task_id() >= 0:
            self.backwards += 1
        for tensor in result if isinstance(result, Sequence) else (result,):
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.dtype.itemsize < 4:
                self.half[f"{name} in {str(tensor.dtype).removeprefix('torch.')}"] += 1


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, seen: Seen) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = seen

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen.note_operation(str(func).removeprefix("aten.").split(".")[0], result)
        return result


@contextmanager
def watched() -> Iterator[Seen]:
    """Notes everything that this thread computes inside."""
    seen = Seen()
    handle = register_module_forward_pre_hook(seen.note_module)
    try:
        with _Operations(seen):
            yield seen
    finally:
        handle.remove()
