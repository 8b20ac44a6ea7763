"""Words and configuration files → an object of the command's options, through jsonargparse."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from zsrobust.cli import files, tokens
from zsrobust.cli.command import Command, Option, options_of
from zsrobust.errors import ConfigError
from zsrobust.hints import in_words


class Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The option's own words and its default; types are in the words."""

    def _get_help_string(self, action: argparse.Action) -> str:
        default = getattr(action.default, "value", action.default)
        if default is None or isinstance(default, bool) or default in (argparse.SUPPRESS, [], {}):
            return action.help or ""
        return f"{action.help} (default: {_shown(default).replace('%', '%%')})"


def _shown(default: object) -> str:
    if isinstance(default, dict):
        return ", ".join(f"{name} {value}" for name, value in default.items())
    return ", ".join(map(str, default)) if isinstance(default, list) else str(default)


def parse(command: Command, argv: Sequence[str]) -> Any:
    """An object of ``command.options``; None after ``--help`` or ``--print_config``, whose text was printed.

    The base recipe comes first, then configuration files in their order, then the command line.

    Raises:
        ConfigError: an unknown option or key, a value of another type, a file that cannot be used; one line.
    """
    options = options_of(command.options)
    words = tokens.read(command, options, argv)
    parser = _parser(command, options)
    if words.help:
        _start_from(parser, files.read(command.base, options) if command.base else {})
        print(parser.format_help(), end="")
        return None
    specs = [*([command.base] if command.base else []), *words.configs]
    configs = [(spec, files.read(spec, options)) for spec in specs]
    arguments = [f"--config={json.dumps(content)}" for _, content in configs]
    arguments += tokens.for_jsonargparse(options, words.values)
    try:
        namespace = parser.parse_args(arguments)
    except ArgumentError as error:
        raise _mistake(str(error.message), options, words, configs) from None
    values = namespace.as_dict()
    tokens.entries(options, words.values, values)
    found = _build(command.options, values)
    if words.print_config:
        print(dump(found), end="")
        return None
    return found


def dump(options: Any, command: str | None = None) -> str:
    """Options as YAML that ``--config`` reads back."""
    head = f"# Resolved; again with: zsrobust {command} --config THIS-FILE\n" if command else ""
    return head + yaml.safe_dump(dataclasses.asdict(options), sort_keys=False, allow_unicode=True)


def _parser(command: Command, options: Mapping[str, Option]) -> ArgumentParser:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    examples = "".join(f"\n  {line}" for line in command.examples)
    parser = ArgumentParser(
        prog=f"zsrobust {command.name}",
        usage=f"zsrobust {command.name} {command.usage}",
        description=_wrapped(inspect.getdoc(command.options) or ""),
        epilog=f"examples:{examples}" if examples else None,
        formatter_class=Help,
        exit_on_error=False,
    )
    parser.add_class_arguments(command.options, as_group=False)
    parser.add_argument("--config", action="config", help="YAML file with options; the command line wins over it.")
    for action in parser._actions:
        if action.dest == "print_config":
            action.help, action.metavar = "Print all options with their values as YAML, and do nothing else.", ""
        known = options.get(action.dest)
        if any(name.startswith(f"{action.dest}.") for name in options):
            action.help = argparse.SUPPRESS  # jsonargparse's option for a whole group
        if known is not None:
            action.help = _with_prefix(action.help or "", action.dest, options)
            action.option_strings = action.option_strings[:1]
            action.metavar = _metavar(known)
            action.choices = None
    return parser


def _with_prefix(text: str, name: str, options: Mapping[str, Option]) -> str:
    """Options that an explanation names, as they are called beside ``name``: ``--adapt.limit`` for ``--limit``."""
    prefix = name[: name.rfind(".") + 1]
    return re.sub(r"--(\w+)", lambda found: f"--{prefix}{found[1]}" if prefix + found[1] in options else found[0], text)


def _start_from(parser: ArgumentParser, content: Mapping[str, Any]) -> None:
    """Makes what a recipe says the defaults that the help shows; whoever parses gives the recipe itself."""
    for action in parser._actions:
        value = _look_up(content, action.dest)
        action.default = action.default if value is None else value


def _wrapped(text: str) -> str:
    width = min(shutil.get_terminal_size((80, 24)).columns, 100) - 2
    return "\n\n".join(textwrap.fill(paragraph, width) for paragraph in text.split("\n\n"))


def _metavar(known: Option) -> str:
    parts = get_args(known.hint) or (known.hint,)
    if known.kind != "value":
        return {"flag": "", "list": "A,B" if known.commas else "TEXT"}.get(known.kind, "...")
    if get_origin(known.hint) is Literal:
        return "|".join(map(str, parts))
    return "N" if int in parts else "X" if float in parts else "TEXT"


def _build(cls: type, values: Mapping[str, Any]) -> Any:
    """A dataclass object from nested mappings."""
    hints = get_type_hints(cls)
    return cls(
        **{
            field.name: _build(hints[field.name], values[field.name])
            if dataclasses.is_dataclass(hints[field.name])
            else values[field.name]
            for field in dataclasses.fields(cls)
        }
    )


def _mistake(
    message: str, options: Mapping[str, Option], words: tokens.Words, configs: Sequence[tuple[str, Mapping[str, Any]]]
) -> ConfigError:
    """Jsonargparse's message about a value, in one line that names the option, the value and what is allowed."""
    match = re.search(r'key "([\w.]+)"', message)
    known = options.get(match[1]) if match else None
    if known is None:
        return ConfigError(" ".join(message.split()))
    if known.name in words.values:
        given = ",".join(words.values[known.name])
        return ConfigError(f"option --{known.name} must be {in_words(known.hint)}, not '{given}'")
    for spec, content in reversed(configs):
        value = _look_up(content, known.name)
        if value is not None:
            return ConfigError(f"{spec}: {known.name} must be {in_words(known.hint)}, not {value!r}")
    return ConfigError(f"{known.name} must be {in_words(known.hint)}")


def _look_up(content: Mapping[str, Any], name: str) -> Any:
    here: Any = content
    for key in name.split("."):
        here = here.get(key) if isinstance(here, Mapping) else None
    return here
