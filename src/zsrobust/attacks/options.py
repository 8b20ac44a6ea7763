"""What may be written after an attack's name: ``NAME[:WORD][:option=value]…``.

An attack's options are the parameters of the function that makes it, typed by their annotations, so that nothing has to
be declared twice. The parameter after the threat is the word: in ``pgd:20`` it is ``steps``. ``mode`` and ``precision``
belong to the evaluation, not to one attack, and cannot be written.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from zsrobust.errors import ConfigError, UnknownName

Mode = Literal["exact", "fast", "float32"]
"""``exact``: a bfloat16 scout goes ahead of the standard suites, and every attack runs fully in float32. ``fast``:
everything in bfloat16, every break verified in float32. ``float32``: no bfloat16 anywhere."""

Length = Annotated[float, "length"]
"""An annotation: in pixel range [0, 1], written like ε."""

RESERVED = ("mode", "precision")
OF_A_MODEL = ("base", "activation", "size", "adapted_on")
"""Options of a written model (:mod:`zsrobust.models`)."""

_OPTION = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)


@dataclass(frozen=True)
class Written:
    """An attack as it was written, not yet understood.

    Attributes:
        text: All of it.
        name: What it is registered under.
        word: What follows the name, None for nothing.
        options: Option → value, as written.
    """

    text: str
    name: str
    word: str | None
    options: Mapping[str, str]


def read(text: str, names: Iterable[str]) -> Written:
    """Takes ``text`` apart. A name may have a colon in it (``apgd:ce``), and so may a word (``transfer:a:b``).

    Raises:
        UnknownName: no such attack.
        ConfigError: an option that is there twice.
    """
    known = set(names)
    rest = text.strip().split(":")
    options: dict[str, str] = {}
    while len(rest) > 1 and _OPTION.fullmatch(rest[-1]):
        option, _, value = rest.pop().partition("=")
        if option in options:
            raise ConfigError(f"attack '{text}' has the option '{option}' twice")
        options[option] = value.strip()
    pair, head = ":".join(rest[:2]), rest[0]
    family = {name for name in known if name == head or name.startswith(f"{head}:")}
    if pair in known:
        name, rest = pair, rest[2:]
    elif len(family) > 1:  # fab and fab:t: what follows such a name is part of a name
        raise UnknownName("attack", pair, family)
    elif head in known:
        name, rest = head, rest[1:]
    else:
        raise UnknownName("attack", head, known)
    return Written(text.strip(), name, ":".join(rest) or None, options)


def within(written: Written, word: str, default: str) -> Written:
    """An attack that takes another one as its ``word``: the options are that one's, and stand behind it."""
    options = dict(written.options)
    first = written.word or options.pop(word, default)
    inner = ":".join([first, *(f"{name}={value}" for name, value in options.items() if name != word)])
    return replace(written, word=inner, options={name: options[name] for name in options if name == word})


def of_a_model(written: Written, word: str) -> Written:
    """An attack that takes a model as its ``word``: the model's own options stay with it."""
    own = [f"{name}={value}" for name, value in reversed([*written.options.items()]) if name in OF_A_MODEL]
    rest = {name: value for name, value in written.options.items() if name not in OF_A_MODEL}
    model = rest.get(word) if written.word is None else written.word
    if not own or model is None:
        return written
    whole = ":".join([model, *own])
    return (
        replace(written, word=whole, options=rest) if written.word else replace(written, options=rest | {word: whole})
    )


def only_one_owner(written: Written, word: str) -> None:
    """Whether it is clear whose the options of an attack are that takes a model as its ``word``.

    Raises:
        ConfigError: the model is behind a defence, which may have options too.
    """
    model = written.word or written.options.get(word, "")
    options = {name: value for name, value in sorted(written.options.items()) if name != word}
    if "+" not in model or not options:
        return
    own = " ".join(f"--{name} {value}" for name, value in options.items())
    are = "are" if len(options) > 1 else "is"
    raise ConfigError(
        f"attack '{written.text}' does not say whether {', '.join(options)} {are} of the transfer or of the defence: "
        f"beside {written.name}:{model}, {own} {are} of the transfer; a defence with options comes as a model, "
        "from Python: Transfer(wrapped(load(MODEL), 'ttc:steps=3'), threat)"
    )


def takes(build: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options of the attack that ``build`` makes; the word is the one that is not keyword-only."""
    parameters = list(inspect.signature(build).parameters.values())[1:]
    return {p.name: p for p in parameters if p.name not in RESERVED and p.kind is not p.VAR_KEYWORD}


def word_of(build: Callable[..., Any]) -> str | None:
    """The option that is the word after the name; None where nothing may follow it."""
    return next((name for name, p in takes(build).items() if p.kind is not p.KEYWORD_ONLY), None)


def has(build: Callable[..., Any], option: str) -> bool:
    """Whether ``build`` takes ``option``."""
    return option in takes(build) or (option not in RESERVED and _anything(build))


def arguments(build: Callable[..., Any], written: Written, given: Mapping[str, object], mode: Mode) -> dict[str, Any]:
    """Keyword arguments for ``build``; what was written after the name wins over ``given``.

    Args:
        build: Makes the attack.
        written: What the user wrote.
        given: Options that were given apart; their types are checked, and texts are read as if written.
        mode: Of the evaluation.

    Raises:
        UnknownName: an option that the attack does not take; the message says what it takes.
        ConfigError: a value of another type.
    """
    check_mode(mode)
    known, word = takes(build), word_of(build)
    for option in {**given, **written.options}:
        if not has(build, option):
            raise _refused(written, option, known)
    values: dict[str, object] = {**given, **written.options}
    if word is None and written.word is not None:
        if known:
            takings = ", ".join(f"{name}=…" for name in sorted(known))
            raise ConfigError(f"attack '{written.text}': nothing but {takings} may follow {written.name}")
        raise ConfigError(f"attack '{written.name}' takes no argument and no options")
    if word is not None and written.word is not None:
        if word in written.options:
            raise ConfigError(f"attack '{written.text}' has the option '{word}' twice")
        values[word] = _word(written, known[word])
    elif word is not None and word not in values and known[word].default is inspect.Parameter.empty:
        values[word] = None
    found = {name: _typed(written, known.get(name), name, value) for name, value in values.items()}
    return found | _reserved(build, mode)


def check_mode(mode: str) -> None:
    """Whether there is such a mode.

    Raises:
        UnknownName: there is not.
    """
    if mode not in get_args(Mode):
        raise UnknownName("mode", mode, get_args(Mode))


def precision_of(mode: Mode) -> Literal["float32", "bfloat16"]:
    """Of the passes of every attack but the scout; see :data:`Mode`."""
    return "bfloat16" if mode == "fast" else "float32"


def _reserved(build: Callable[..., Any], mode: Mode) -> dict[str, object]:
    parameters = inspect.signature(build).parameters
    values: dict[str, object] = {"mode": mode, "precision": precision_of(mode)}
    return {name: value for name, value in values.items() if name in parameters}


def _anything(build: Callable[..., Any]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(build).parameters.values())


def _refused(written: Written, option: str, known: Mapping[str, object]) -> ConfigError:
    if not known:
        return ConfigError(f"attack '{written.name}' takes no argument and no options, not {option} either")
    return UnknownName(f"option of attack '{written.name}'", option, known)


def _word(written: Written, parameter: inspect.Parameter) -> object:
    assert written.word is not None
    if "int" in _kinds(parameter) and not written.word.isdecimal():
        what = f"the number of {parameter.name}, as in {written.name}:20"
        raise ConfigError(f"attack '{written.text}': what follows the colon is {what}")
    return written.word


def _kinds(parameter: inspect.Parameter | None) -> set[str]:
    """The annotation as words: ``"int | None"`` → int and None."""
    if parameter is None or parameter.annotation is inspect.Parameter.empty:
        return set()
    annotation = parameter.annotation
    if isinstance(annotation, str):
        return {part.strip() for part in annotation.split("|")}
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return {"Length" if part == Length else inspect.formatannotation(part) for part in parts}


def _typed(written: Written, parameter: inspect.Parameter | None, name: str, value: object) -> object:
    kinds = _kinds(parameter)
    if isinstance(value, str):
        return _from_text(written, kinds, name, value)
    whole, real = isinstance(value, Integral), isinstance(value, Real)
    wrong = ("int" in kinds and not whole) or (kinds & {"float", "Length"} and not real)
    if value is not None and (wrong or (isinstance(value, bool) and "bool" not in kinds)):
        raise _wrong(written, kinds, name, value)
    return value


def _from_text(written: Written, kinds: set[str], name: str, value: str) -> object:
    if "Length" in kinds:
        from zsrobust.threat import parse_eps  # with torch, which listing names must not need

        return parse_eps(value, name)
    try:
        if "int" in kinds and value.isdecimal():
            return int(value)
        if "float" in kinds:
            return float(value)
    except ValueError:
        pass
    if kinds & {"int", "float"}:
        raise _wrong(written, kinds, name, value)
    return value


def _wrong(written: Written, kinds: set[str], name: str, value: object) -> ConfigError:
    what = "a whole number" if "int" in kinds else "a number"
    return ConfigError(f"attack '{written.text}': {name} must be {what}, not '{value}'")
