"""Class names and templates: the user's, else the TOML's, else the data's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from zsrobust.errors import ConfigError, DataError, UnknownName
from zsrobust.tasks.source import Source, shown_names
from zsrobust.tasks.spec import DEFAULT_TEMPLATES, TaskSpec, check_classes, check_templates


def by_name(spec: TaskSpec, source: Source) -> Source:
    """The data with its classes numbered as the TOML lists them, matched by name and never by place.

    A name of the data is that of the class for which it is listed in ``data_classes``, else in ``classes``; capitals,
    and what is written for a space, make no difference unless two classes differ in nothing else. Data without names is
    returned as it is: its numbers are the TOML's order.

    Raises:
        DataError: the names are not the same; those that only one of the two has are listed.
    """
    data = source.data_classes
    if data is None or not (spec.classes or spec.data_classes):
        return source
    if len(source) and int(source.labels.max()) >= len(data):
        row = int(np.argmax(source.labels >= len(data)))
        raise DataError(
            f"{source.where}: row {row} has the label {source.labels[row]}, but there are only {len(data)} class names"
        )
    place = _places(spec, data, source.where)
    if np.array_equal(place, np.arange(len(data))):
        return source
    return replace(source, labels=place[source.labels], data_classes=tuple(data[i] for i in np.argsort(place)))


def resolve_classes(spec: TaskSpec, source: Source) -> tuple[str, ...]:
    """Names before the user's, after ``by_name``: the TOML's, else the data's without underscores, else none."""
    if spec.classes:
        return spec.classes
    data = source.data_classes or tuple(names[0] for names in spec.data_classes)
    return _checked(tuple(name.replace("_", " ").strip() for name in data), source)


def rename(names: tuple[str, ...], source: Source, given: Sequence[str] | Mapping[str, str]) -> tuple[str, ...]:
    """The user's class names in place of ``names``.

    Args:
        names: Those of the TOML or the data; may be empty.
        source: The data.
        given: One for each class in the task's order; or ``{name or data's name: new name}``; or a list of ``"name=new
            name"``.

    Raises:
        ConfigError: the number is wrong, or a list has some names with ``=`` and some without.
        UnknownName: a mapping names a class that the data does not have.
    """
    if isinstance(given, str):
        raise ConfigError(f"classes = {given!r} must be a list of names")
    pairs = given if isinstance(given, Mapping) else _pairs(given)
    if pairs is not None:
        return _checked(_replaced(names, source, pairs), source)
    count = len(names) or (int(source.labels.max()) + 1 if len(source) else 0)
    listed = tuple(given)
    if len(listed) != count:
        called = f": {shown_names(source.data_classes or names)}" if names else ""
        raise ConfigError(f"class names given: {len(listed)}, but {source.where} has {count} classes{called}")
    return check_classes(listed, "classes")


def check_words(names: Sequence[str], source: Source) -> None:
    """Class names from the data must be words.

    Raises:
        ConfigError: they are WordNet ids, as ImageNet's folders are called; no text tower knows these.
    """
    if names and all(re.fullmatch(r"n\d{8}", name) for name in names):
        raise ConfigError(
            f"{source.where}: its classes are called by WordNet ids ({shown_names(names, 2)}), and a prompt would say "
            "'a photo of a n01440764': the task 'imagenet' knows the names (its data folder holds imagenet/train and "
            "imagenet/val); for others give class names, or a TOML"
        )


def resolve_templates(spec: TaskSpec, source: Source, asked: Sequence[str]) -> tuple[str, ...]:
    """What was asked for, else the TOML's templates, else the data's, else the paper's.

    Args:
        spec: The TOML.
        source: The data.
        asked: Templates, and names of the TOML's template sets: one word without braces.

    Raises:
        UnknownName: the task has no template set of that name.
        ConfigError: a template without exactly one ``{}``.
    """
    found: list[str] = []
    for text in asked:
        if not re.fullmatch(r"[\w-]+", text):
            found.append(text)
        elif text in spec.template_sets:
            found += spec.template_sets[text]
        else:
            raise UnknownName(
                f"template set of task '{spec.name}'",
                text,
                spec.template_sets,
                also="a template has a {} for the class",
            )
    given = check_templates(tuple(found), "templates")
    return given or spec.templates or check_templates(source.templates, source.where) or DEFAULT_TEMPLATES


def _places(spec: TaskSpec, data: Sequence[str], where: str) -> np.ndarray:
    """(len(data),) the TOML's number of each of the data's classes."""
    prompts = tuple((name,) for name in spec.classes)
    named = spec.data_classes or prompts
    lookups = [(write, _numbers(names, write)) for names in (named, prompts) for write in (str, _plain)]
    found = [next((lookup[write(name)] for write, lookup in lookups if write(name) in lookup), -1) for name in data]
    unknown = [name for name, number in zip(data, found, strict=True) if number < 0]
    missing = [names[0] for number, names in enumerate(named) if number not in found]
    if unknown or missing:
        sides = [f"only the data has {shown_names(unknown)}"] if unknown else []
        sides += [f"only the task has {shown_names(missing)}"] if missing else []
        hint = "" if spec.data_classes else " (where the data calls its classes otherwise, list those as data_classes)"
        raise DataError(f"task '{spec.name}': the class names of {where} are not the task's: {'; '.join(sides)}{hint}")
    for row, number in enumerate(found):
        if number in found[:row]:
            raise DataError(
                f"task '{spec.name}': '{data[found.index(number)]}' and '{data[row]}' of {where} are both its class "
                f"'{named[number][0]}'"
            )
    return np.asarray(found, dtype=np.int64)


def _numbers(names: Sequence[Sequence[str]], write: Callable[[str], str]) -> dict[str, int]:
    """A class's name as ``write`` gives it → its number; without those that two classes share."""
    numbers: dict[str, int] = {}
    shared: set[str] = set()
    for number, alternatives in enumerate(names):
        for name in alternatives:
            if numbers.setdefault(write(name), number) != number:
                shared.add(write(name))
    return {name: number for name, number in numbers.items() if name not in shared}


def _pairs(given: Sequence[str]) -> dict[str, str] | None:
    """``["n01=cat"]`` as a mapping; None for plain names."""
    with_sign = [name for name in given if "=" in name]
    if not with_sign:
        return None
    if len(with_sign) != len(given):
        plain = next(name for name in given if "=" not in name)
        raise ConfigError(
            f"class names are given both as 'folder=name' ({with_sign[0]}) and plainly ({plain}): write all in one way"
        )
    return {key.strip(): value.strip() for key, value in (name.split("=", 1) for name in given)}


def _replaced(names: tuple[str, ...], source: Source, pairs: Mapping[str, str]) -> tuple[str, ...]:
    data = source.data_classes or names
    for key in pairs:
        if key not in data and key not in names:
            raise UnknownName(f"class of {source.where}", key, data)
    return tuple(pairs.get(own, pairs.get(name, name)) for own, name in zip(data, names, strict=True))


def _checked(names: tuple[str, ...], source: Source) -> tuple[str, ...]:
    try:
        return check_classes(names, source.where)
    except ConfigError as problem:
        raise DataError(f"{problem}; give names of your own with --classes") from problem


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_/-]+", name)).strip().casefold()
