"""What may be written after a defence's name: ``NAME[:option=value]…``, typed by the annotations of its class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from zsrobust.errors import ConfigError, UnknownName

Length = Annotated[float, "length"]
"""An annotation: in pixel range [0, 1], written like ε."""


def read(text: str) -> tuple[str, dict[str, str]]:
    """``"ttc:steps=2"`` → ``("ttc", {"steps": "2"})``.

    Raises:
        ConfigError: what follows the name is no ``option=value``, or an option is there twice.
    """
    name, *parts = (part.strip() for part in text.split(":"))
    options: dict[str, str] = {}
    for part in parts:
        option, equals, value = (piece.strip() for piece in part.partition("="))
        if not (option and equals and value):
            raise ConfigError(f"defence '{text}': '{part}' is not option=value, as in ttc:steps=2")
        if option in options:
            raise ConfigError(f"defence '{text}' has the option '{option}' twice")
        options[option] = value
    return name, options


def takes(build: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options of the defence that ``build`` makes: its keyword-only parameters."""
    return {p.name: p for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY}


def arguments(build: Callable[..., Any], name: str, written: Mapping[str, str]) -> dict[str, object]:
    """Keyword arguments for ``build`` from what was written.

    Raises:
        UnknownName: an option that the defence does not take; the message says what it takes.
        ConfigError: a value of another type.
    """
    known = takes(build)
    for option in written:
        if option not in known:
            raise UnknownName(f"option of defence '{name}'", option, known)
    return {option: _typed(name, known[option], value) for option, value in written.items()}


def kind_of(parameter: inspect.Parameter) -> str:
    """The annotation as a word, ``"Length"`` say, however the class's module has its annotations read."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        return annotation
    return "Length" if annotation == Length else getattr(annotation, "__name__", "")


def _typed(name: str, parameter: inspect.Parameter, value: str) -> object:
    kind = kind_of(parameter)
    called = f"{parameter.name} of defence '{name}'"
    if kind == "Length":
        from zsrobust.threat import parse_eps  # with torch, which listing names must not need

        return parse_eps(value, called)
    if kind not in ("int", "float"):
        return value
    try:
        return int(value) if kind == "int" else float(value)
    except ValueError:
        what = "a whole number" if kind == "int" else "a number"
        raise ConfigError(f"{called} must be {what}, not '{value}'") from None
