"""What a recipe may say under ``adapt`` and ``evaluate``: the arguments of the two jobs, checked by type."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from zsrobust.errors import ConfigError, UnknownName
from zsrobust.hints import in_words, is_list, is_mapping, members
from zsrobust.jobs import adapt_job, evaluate_job
from zsrobust.recipe import Recipe

_OF_THE_ENGINE = {
    "adapt": {"run", "device", "tensorboard", "config", "say", "recipe", "seed", "held_out"},
    "evaluate": {"models", "run", "pictures", "save_images", "device", "config", "kind", "say"},
}

_SIZES = ("batch_size", "rows")
"""Of evaluate, at least 1; a plan needs no batch, so they would be refused only after the first adaptation."""


def defaults(job: Literal["adapt", "evaluate"]) -> dict[str, Any]:
    """Every option of the job that a recipe may set, with its default."""
    own: Callable[..., Any] = adapt_job if job == "adapt" else evaluate_job
    found = {name: () if p.default is p.empty else p.default for name, p in inspect.signature(own).parameters.items()}
    if job == "adapt":
        found |= {name: field.default for name, field in Recipe.__dataclass_fields__.items()}
        found |= {"method_options": {}, "tuning_options": {}}
    return {name: value for name, value in found.items() if name not in _OF_THE_ENGINE[job]}


def checked(job: Literal["adapt", "evaluate"], given: object, where: str) -> dict[str, Any]:
    """The options as given, known and of the right types.

    Raises:
        ConfigError: no such option (the nearest is named), or a value that it cannot take.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where} holds options of {job}, not {given!r}")
    known, hints = defaults(job), _hints(job)
    for name, value in given.items():
        if name not in known:
            about = {"seed": "; name seeds once for the study: seeds: [0, 1]"} if job == "adapt" else {}
            raise ConfigError(f"{where}: {UnknownName('option of ' + job, str(name), known)}{about.get(name, '')}")
        if not _fits(value, hints[name]):
            raise ConfigError(f"{where}: {name} must be {in_words(hints[name])}, not {value!r}")
        if job == "evaluate" and name in _SIZES and isinstance(value, int) and value < 1:
            raise ConfigError(f"{where}: {name} must be at least 1, not {value}")
    return {str(name): _exact(value, hints[name]) for name, value in given.items()}


def merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``overrides``. Options of a method (or tuning) stay with it: another one begins with its own."""
    result = dict(base)
    for name in ("method", "tuning"):
        options = f"{name}_options"
        if name in overrides and overrides[name] != base[name]:
            result[options] = {}
        if options in overrides:
            result[options] = {**result[options], **overrides[options]}
    return result | {name: value for name, value in overrides.items() if not name.endswith("_options")}


def joined(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Overrides of several levels in one.

    Args:
        parts: What to call a level → its overrides.

    Raises:
        ConfigError: two of them set the same option.
    """
    result: dict[str, Any] = {}
    owner: dict[str, str] = {}
    for called, overrides in parts.items():
        for name, value in overrides.items():
            inner = {f"{name}.{key}": entry for key, entry in value.items()} if isinstance(value, Mapping) else {}
            for one in inner or [name]:
                if one in owner:
                    raise ConfigError(f"{owner[one]} and {called} both set {one}")
                owner[one] = called
            result[name] = {**result.get(name, {}), **value} if isinstance(value, Mapping) else value
    return result


def _hints(job: str) -> dict[str, Any]:
    hints = get_type_hints(adapt_job if job == "adapt" else evaluate_job)
    return get_type_hints(Recipe) | hints if job == "adapt" else hints


def _fits(value: object, hint: Any) -> bool:
    if hint is Any:
        return True
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if is_list(hint):
        return isinstance(value, list | tuple) and all(_fits(item, get_args(hint)[0]) for item in value)
    if is_mapping(hint):
        return isinstance(value, Mapping)
    if len(members(hint)) > 1:
        return any(_fits(value, part) for part in members(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return hint in (str, bool, NoneType) and isinstance(value, hint)


def _exact(value: Any, hint: Any) -> Any:
    """1 where 1.0 is meant would make two of one job."""
    return float(value) if hint is float else value
