"""YAML: the recipes in the package, and files that people write; what cannot be used is one clear line."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from zsrobust.errors import ConfigError


def shipped(*below: str) -> dict[str, str]:
    """Recipes in the package, or those in a folder ``below``, by name: name → the text of the YAML file."""
    folder = (files("zsrobust") / "recipes").joinpath(*below)
    found = [entry for entry in folder.iterdir() if entry.name.endswith(".yaml")] if folder.is_dir() else []
    named = {entry.name.removesuffix(".yaml"): entry.read_text(encoding="utf-8") for entry in found}
    return dict(sorted(named.items()))


def looks_like_file(spec: str) -> bool:
    """True for what nobody would call a recipe: it has a slash or the suffix of a YAML file."""
    return spec.endswith((".yaml", ".yml")) or "/" in spec


def text_of(path: Path, called: str) -> str:
    """The text of a file; messages call it ``called``, for example ``configuration file``.

    Raises:
        ConfigError: it cannot be read, or is not text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{called} {path} is not a text file") from None
    except OSError as error:
        raise ConfigError(f"{called} {path} cannot be read: {error.strerror}") from None


def parsed(text: str, where: str) -> Any:
    """What a YAML text holds, None where it is empty; ``1e-4`` is a number, as in YAML 1.2 and not in PyYAML.

    Raises:
        ConfigError: it is not YAML, or a key is there twice; ``where`` and the line are named.
    """
    from jsonargparse import get_loader

    try:
        _check_once(yaml.compose(text, Loader=yaml.SafeLoader), where)
        return get_loader("yaml")(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{line}: not YAML ({getattr(error, 'problem', None) or error})") from None


def _check_once(root: yaml.Node | None, where: str) -> None:
    """Refuses a mapping that has a key twice: YAML keeps the last one without a word."""
    waiting, seen = [root] if root is not None else [], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue  # what has an anchor may be there often
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        names = set()
        for key, value in node.value:
            waiting.append(value)
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else key
            if name in names:
                raise ConfigError(f"{where}, line {key.start_mark.line + 1}: '{key.value}' is given twice")
            names.add(name)


def as_mapping(content: object, where: str, what: str) -> dict[Any, Any]:
    """``content`` if it is a mapping.

    Args:
        content: What :func:`parsed` found.
        where: What messages call the file.
        what: What it must hold, for example ``options``.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: must hold {what}, one 'name: value' a line, not {type(content).__name__}")
    return content
