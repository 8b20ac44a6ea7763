"""What tells two losses of one name apart: a digest of what they compute, the same in every process."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor

_LARGEST = 4096
"""Numbers of a tensor that are read; of a larger one only the shape counts."""

_DEPTH = 12
_PLAIN = (type(None), type(...), int, float, complex, str, bytes)


def described(loss: Callable[..., object]) -> dict[str, object]:
    """``loss``, its name; and of a loss of one's own ``loss_code``, a digest of its code, defaults and state.

    Constants and functions of its own module that it uses count too; what it takes from other modules, by name only.
    Python's version is in the digest, since it decides the code.
    """
    name = getattr(loss, "__name__", type(loss).__name__)
    home = _home(loss)
    if isinstance(loss, FunctionType) and home.partition(".")[0] == __name__.partition(".")[0]:
        return {"loss": name}
    told = _Reader(home).told(loss)
    return {"loss": name, "loss_code": hashlib.sha256(told.encode()).hexdigest()[:16]}


def _home(loss: Any) -> str:
    """The module it was written in; ``__module__`` is another one's after ``functools.wraps``."""
    if isinstance(loss, partial):
        return _home(loss.func)
    if isinstance(loss, MethodType):
        return _home(loss.__func__)
    return str(loss.__globals__.get("__name__")) if isinstance(loss, FunctionType) else type(loss).__module__


class _Reader:
    """Writes a value down without addresses."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.seen: set[int] = set()

    def told(self, value: Any, depth: int = _DEPTH) -> str:
        """What a value is; the same text for the same value."""
        if isinstance(value, _PLAIN):
            return repr(value)
        if depth == 0:
            return _kind(value)
        if isinstance(value, tuple | list):
            return f"[{','.join(self.told(part, depth - 1) for part in value)}]"
        if isinstance(value, set | frozenset):
            return f"{{{','.join(sorted(self.told(part, depth - 1) for part in value))}}}"
        if isinstance(value, dict):
            return self.told([*value.items()], depth - 1)
        if isinstance(value, CodeType):
            return self.told([value.co_code, value.co_consts, value.co_names, value.co_freevars], depth - 1)
        if isinstance(value, Tensor | np.ndarray | np.generic):
            numbers = value.tolist() if math.prod(value.shape) <= _LARGEST else None
            return self.told([str(value.dtype), tuple(value.shape), numbers], depth - 1)
        if isinstance(value, type | ModuleType):
            return f"{getattr(value, '__module__', '')}.{value.__name__}"
        if isinstance(value, partial):
            return self.told([value.func, value.args, value.keywords], depth - 1)
        if isinstance(value, MethodType):
            return self.told([value.__func__, value.__self__], depth - 1)
        return self._once(value, depth)

    def _once(self, value: Any, depth: int) -> str:
        """Functions and objects, which may lead back to themselves."""
        if id(value) in self.seen:
            return "again"
        self.seen.add(id(value))
        if isinstance(value, FunctionType):
            return self._function(value, depth)
        calls = [getattr(type(value), name, None) for name in ("__call__", "forward")]
        code = [call for call in calls if isinstance(call, FunctionType)]
        return self.told([_kind(value), code, getattr(value, "__dict__", {})], depth - 1)

    def _function(self, function: FunctionType, depth: int) -> str:
        if _home(function) != self.module:
            return f"{_home(function)}.{function.__qualname__}"
        known = function.__globals__
        used = {name: known[name] for name in sorted(_names(function.__code__)) if name in known}
        # Other globals, a model say, are large, and change while a program runs.
        used = {name: value for name, value in used.items() if isinstance(value, (*_PLAIN, tuple, FunctionType))}
        cells = [_content(cell) for cell in function.__closure__ or ()]
        parts = [function.__code__, function.__defaults__, function.__kwdefaults__, cells, used]
        return self.told(parts, depth - 1)


def _names(code: CodeType) -> set[str]:
    """That the code uses, with what is written inside it."""
    inner = [_names(part) for part in code.co_consts if isinstance(part, CodeType)]
    return {*code.co_names}.union(*inner)


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return ...


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
