"""Class names and templates: the user's, else the TOML's, else the data's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zsrobust.errors import ConfigError, DataError, UnknownName
from zsrobust.tasks.source import Source, shown_names
from zsrobust.tasks.spec import DEFAULT_TEMPLATES, TaskSpec, check_classes, check_templates


def resolve_classes(spec: TaskSpec, source: Source) -> tuple[str, ...]:
    """Names before the user's; of the data's own, underscores become spaces. Empty where nobody gives any.

    Raises:
        DataError: the TOML's names are not the data's.
    """
    data = source.data_classes
    expected = spec.data_classes or spec.classes
    if data is not None and expected:
        if len(data) != len(expected):
            raise DataError(f"task '{spec.name}' has {len(expected)} classes, but {source.where} has {len(data)}")
        for number, (mine, theirs) in enumerate(zip(expected, data, strict=True)):
            same = mine == theirs if spec.data_classes else _plain(mine) == _plain(theirs)
            if not same:
                hint = (
                    ""
                    if spec.data_classes
                    else "; where the data calls its classes otherwise, list those as data_classes"
                )
                raise DataError(
                    f"task '{spec.name}': class {number} is '{mine}', but '{theirs}' in {source.where}{hint}"
                )
    if spec.classes:
        return spec.classes
    if data is None:
        return ()
    return _checked(tuple(name.replace("_", " ").strip() for name in data), source)


def rename(names: tuple[str, ...], source: Source, given: Sequence[str] | Mapping[str, str]) -> tuple[str, ...]:
    """The user's class names in place of ``names``.

    Args:
        names: Those of the TOML or the data; may be empty.
        source: The data.
        given: One for each class in order; or ``{name or data's name: new name}``; or a list of ``"name=new
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


def resolve_templates(spec: TaskSpec, source: Source) -> tuple[str, ...]:
    """The TOML's templates, else the data's, else the paper's."""
    return spec.templates or check_templates(source.templates, source.where) or DEFAULT_TEMPLATES


def _pairs(given: Sequence[str]) -> dict[str, str] | None:
    """``["n01=cat"]`` as a mapping; None for plain names."""
    with_sign = [name for name in given if "=" in name]
    if not with_sign:
        return None
    if len(with_sign) != len(given):
        plain = next(name for name in given if "=" not in name)
        raise ConfigError(f"class names are given both as 'folder=name' ({with_sign[0]}) and plainly ({plain})")
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
    return name.replace("_", " ").replace("-", " ").strip().casefold()
