"""Numbers of attacks as Python's own, whoever made them: a numpy number cannot be written into a result."""

from __future__ import annotations

import operator
from dataclasses import fields
from typing import Any

from zsrobust.errors import ConfigError


def settle(attack: Any) -> None:
    """Puts plain numbers into the fields of a frozen dataclass that are declared as ``int`` or ``float``.

    Whole numbers stay whole where a float is declared.

    Raises:
        ConfigError: not such a number. An attack counts its steps up to one that is whole, else it never ends.
    """
    for field in fields(attack):
        kinds = [kind.strip() for kind in str(field.type).split("|")]
        value = getattr(attack, field.name)
        if not {"int", "float"} & {*kinds} or (value is None and "None" in kinds):
            continue
        called = f"{type(attack).__name__}'s {field.name}"
        object.__setattr__(attack, field.name, _whole(called, value) if "int" in kinds else _real(called, value))


def _whole(called: str, value: Any) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise ConfigError(f"{called} must be a whole number, not {value!r}")


def _real(called: str, value: Any) -> float:
    try:
        if not isinstance(value, bool | str | bytes):
            return operator.index(value) if hasattr(value, "__index__") else float(value)
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"{called} must be a number, not {value!r}")
