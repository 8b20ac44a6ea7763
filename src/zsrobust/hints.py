"""Type hints in plain words, for messages about values that do not fit: ``a whole number``, ``one of sgd, adamw``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

_ONE = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}
_MANY = {int: "whole numbers", float: "numbers", str: "texts"}


def members(hint: Any) -> tuple[Any, ...]:
    """The members of a union; of anything else, itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def is_list(hint: Any) -> bool:
    """True for ``list[...]`` and ``Sequence[...]``."""
    return get_origin(hint) in (list, Sequence)


def is_mapping(hint: Any) -> bool:
    """True for ``dict[...]`` and ``Mapping[...]``."""
    return get_origin(hint) in (dict, Mapping)


def in_words(hint: Any) -> str:
    """What may be written where a value of this type is wanted.

    Classes that nobody can write in a file or on a command line (an open task beside its name) are left out.
    """
    told = [_one(part) for part in members(hint)]
    return " or ".join(dict.fromkeys(words for words in told if words)) or str(hint)


def _one(part: Any) -> str:
    if get_origin(part) is Literal:
        return f"one of {', '.join(map(str, get_args(part)))}"
    if is_list(part):
        return f"a list of {_many(get_args(part)[0])}"
    return "names with values" if is_mapping(part) else _ONE.get(part, "")


def _many(item: Any) -> str:
    kinds = [kind for kind in members(item) if not (kind is int and float in members(item))]  # every int is a number
    return " or ".join(_MANY[kind] for kind in kinds if kind in _MANY) or "values"
