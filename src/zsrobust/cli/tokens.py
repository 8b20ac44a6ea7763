"""Words of the command line → options with their values, before anything is typed.

Done here and not by argparse for what people expect: ``--save-images`` is ``--save_images``, ``--tasks a,b`` and
``--tasks a --tasks b`` are lists, a lone ``--pictures`` is true, and an unknown option gets the nearest name.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from jsonargparse import get_loader

from zsrobust.cli.command import Command, Option
from zsrobust.errors import ConfigError


@dataclass
class Words:
    """What was written.

    Attributes:
        configs: ``--config`` files and recipes, in order.
        values: Option → what was written after it, each time.
        help: ``--help`` is there.
        print_config: ``--print_config`` is there.
    """

    configs: list[str] = field(default_factory=list)
    values: dict[str, list[str]] = field(default_factory=dict)
    help: bool = False
    print_config: bool = False


def read(command: Command, options: Mapping[str, Option], argv: Sequence[str]) -> Words:
    """Sorts ``argv``.

    Raises:
        ConfigError: an unknown option (with the nearest name), one without its value, or a word too many.
    """
    words = Words()
    names = {alias: known.name for known in options.values() for alias in (known.name, *known.aliases)}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            words.help = True
        elif word in ("--print_config", "--print-config"):
            words.print_config = True
        elif not word.startswith("-") or word == "-":
            _positional(command, word, words, options)
        else:
            written, equals, value = word.partition("=")
            name = _name(command, written, names, options)
            if not equals:
                value = _value(written, options.get(name), rest)
            if name == "config":
                words.configs.append(value)
            else:
                words.values.setdefault(name, []).append(value)
    return words


def _positional(command: Command, word: str, words: Words, options: Mapping[str, Option]) -> None:
    if command.positional is None:
        raise ConfigError(
            f"zsrobust {command.name} takes only options, not '{word}' (see zsrobust {command.name} --help)"
        )
    if command.positional == "config":
        words.configs.append(word)
    elif options[command.positional].kind != "list" and command.positional in words.values:
        raise ConfigError(f"one word too many: '{word}' (usage: zsrobust {command.name} {command.usage})")
    else:
        words.values.setdefault(command.positional, []).append(word)


def _name(command: Command, written: str, names: Mapping[str, str], options: Mapping[str, Option]) -> str:
    """The option meant by ``--save-images``, or by ``--method_options.scale``."""
    plain = written.lstrip("-").replace("-", "_")
    if written.startswith("--"):
        if plain == "config":
            return plain
        if plain in names:
            return names[plain]
        mapping = next(
            (o.name for o in options.values() if o.kind == "mapping" and plain.startswith(f"{o.name}.")), None
        )
        if mapping is not None:
            return plain
    near = difflib.get_close_matches(plain, ["config", *names], n=1, cutoff=0.5)
    hint = f"; did you mean --{near[0]}?" if near else ""
    raise ConfigError(f"unknown option {written}{hint} (zsrobust {command.name} --help lists all)")


def _value(written: str, known: Option | None, rest: list[str]) -> str:
    if known is not None and known.kind == "flag":
        return rest.pop(0) if rest and rest[0] in ("true", "false") else "true"
    if not rest or rest[0].startswith("--"):
        raise ConfigError(f"option {written} needs a value")
    return rest.pop(0)


def for_jsonargparse(options: Mapping[str, Option], values: Mapping[str, Sequence[str]]) -> list[str]:
    """One ``--name=value`` an option; lists become JSON. Entries of mappings are left to :func:`entries`."""
    known = {name: written for name, written in values.items() if name in options}
    return [f"--{name}={_one(options[name], written)}" for name, written in known.items()]


def entries(options: Mapping[str, Option], values: Mapping[str, Sequence[str]], target: dict[str, Any]) -> None:
    """Puts ``--tuning_options.token.count 4`` where it belongs in ``target``, beside what is there already.

    jsonargparse would replace the whole of ``token``, and read 4 as a text.

    Raises:
        ConfigError: an entry of something that has none.
    """
    for name, written in values.items():
        if name in options:
            continue
        *path, last = name.split(".")
        here: Any = target
        for key in path:
            if not isinstance(here.setdefault(key, {}), dict):
                raise ConfigError(f"option --{name}: {key} is {here[key]!r}, which has no entries")
            here = here[key]
        here[last] = _typed(written[-1])


def _typed(text: str) -> Any:
    """A number, true, null, list or mapping as in a YAML file; else the text."""
    try:
        return get_loader("yaml")(text)
    except yaml.YAMLError:
        return text


def _one(known: Option, written: Sequence[str]) -> str:
    if known.kind != "list":
        return written[-1]
    return json.dumps([item for text in written for item in _items(text, known)])


def _items(text: str, known: Option) -> Sequence[Any]:
    """What ``a,b`` or ``[a, b]`` lists; a template may begin with a bracket and be no list."""
    listed = _typed(text) if text.startswith("[") else None
    if isinstance(listed, list) and all(isinstance(one, str | int | float) for one in listed):
        return listed
    if text.startswith("[") and text.endswith("]"):
        raise ConfigError(f"option --{known.name} {text}: no list of texts; quote what has {{}}, : or , in it")
    return split(text, commas=known.commas)


def split(text: str, *, commas: bool = True) -> list[str]:
    """``"a, b"`` → ``["a", "b"]``; without ``commas`` the text is one item."""
    return [item.strip() for item in text.split(",") if item.strip()] if commas else [text]
