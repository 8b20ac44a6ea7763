"""Configuration files and shipped recipes, checked before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from zsrobust.cli.command import Option
from zsrobust.cli.tokens import split
from zsrobust.errors import ConfigError, UnknownName


def recipes(*below: str) -> dict[str, str]:
    """Shipped recipes, or those in a folder ``below``: name → the text of the YAML file."""
    folder = (files("zsrobust") / "recipes").joinpath(*below)
    shipped = [entry for entry in folder.iterdir() if entry.name.endswith(".yaml")] if folder.is_dir() else []
    return {entry.name.removesuffix(".yaml"): entry.read_text(encoding="utf-8") for entry in shipped}


def read(spec: str, options: Mapping[str, Option]) -> dict[str, Any]:
    """The mapping in a YAML file, or in the shipped recipe of that name, with keys that the command knows.

    Raises:
        UnknownName: neither a file nor a recipe.
        ConfigError: not readable, not YAML, not a mapping, or a key that the command does not have.
    """
    looks_like_file = spec.endswith((".yaml", ".yml")) or "/" in spec or Path(spec).exists()
    if looks_like_file:
        text = _text(Path(spec).expanduser())
    else:
        shipped = recipes()
        if spec not in shipped:
            raise UnknownName("recipe", spec, shipped)
        text = shipped[spec]
    try:
        content = get_loader("yaml")(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{spec}{where}: not YAML ({getattr(error, 'problem', None) or error})") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{spec}: must hold options, one 'name: value' a line, not {type(content).__name__}")
    return _checked(content, options, spec)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a text file") from None
    except OSError as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error.strerror}") from None


def _checked(content: Mapping[Any, Any], options: Mapping[str, Option], spec: str, prefix: str = "") -> dict[str, Any]:
    """The same with keys as the options are called, and ``"a,b"`` made a list where a list belongs."""
    here = {name[len(prefix) :].partition(".")[0] for name in options if name.startswith(prefix)}
    aliases = {alias: known.name for known in options.values() for alias in known.aliases}
    checked: dict[str, Any] = {}
    for written, value in content.items():
        key = str(written).replace("-", "_")
        key = aliases.get(prefix + key, prefix + key)[len(prefix) :]
        if key not in here:
            place = f"key of '{prefix[:-1]}'" if prefix else "key"
            raise ConfigError(f"{spec}: {UnknownName(place, str(written), here)}")
        known = options.get(prefix + key)
        if known is None:
            if not isinstance(value, dict):
                raise ConfigError(f"{spec}: {prefix}{key} holds options of its own, not {value!r}")
            checked[key] = _checked(value, options, spec, f"{prefix}{key}.")
        else:
            checked[key] = (
                split(value, commas=known.commas) if known.kind == "list" and isinstance(value, str) else value
            )
    return checked
