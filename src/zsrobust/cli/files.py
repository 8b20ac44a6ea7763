"""Options in configuration files and shipped recipes, checked before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsrobust.cli.command import Option
from zsrobust.cli.tokens import split
from zsrobust.errors import ConfigError, UnknownName
from zsrobust.yaml_files import as_mapping, looks_like_file, parsed, shipped, text_of


def read(spec: str, options: Mapping[str, Option]) -> dict[str, Any]:
    """The mapping in a YAML file, or in the shipped recipe of that name, with keys that the command knows.

    Raises:
        UnknownName: neither a file nor a recipe.
        ConfigError: not readable, not YAML, not a mapping, or a key that the command does not have, or that is there
            twice, by its other name too.
    """
    if looks_like_file(spec) or Path(spec).exists():
        text = text_of(Path(spec).expanduser(), "configuration file")
    else:
        known = shipped()
        if spec not in known:
            raise UnknownName("recipe", spec, known)
        text = known[spec]
    content = parsed(text, spec)
    return {} if content is None else _checked(as_mapping(content, spec, "options"), options, spec)


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
        if key in checked:
            raise ConfigError(f"{spec}: {prefix}{key} is given twice, the second time as '{written}'")
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
