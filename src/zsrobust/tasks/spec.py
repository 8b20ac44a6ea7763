"""A task as data: the TOML file, read and checked key by key.

name = "cifar10"            as the file is called
version = 1                 raise it when anything that changes results does
description, license, reference
paper, by_hand              how the paper's split differs; what a user must do by hand to get the data
classes = [...]             names for the prompts, in label order; left out: those of the data
data_classes = [...]        the data's own names in the same order, where they differ from `classes`; an entry may be a
                            list of alternatives, one for each place that calls the class otherwise
templates = ["… {}"]        left out: those of the data, else the paper's
follows_from = [...]        tasks whose adaptation makes this one a related one
select = [...]              only these classes, and only their names
[template_sets]             openai = ["… {}", …]: chosen by name in place of the templates
[provenance]                key → the source its value was seen in, or "unverified"; where the table is there, every key
                            of SOURCED that the TOML has is in it

[source]                    kind, or alternatives tried in the order path, local, hub
kind = "world" | "digits" | "folder" | "parquet" | "webdataset" | "hub"
view = "shape"              kind world
path = "photos"             beside the TOML; {split} is replaced
local = ["x-{split}.parquet", "x"]         in the data folder (--data, ZSROBUST_DATA, or ./data)
layout = "pets"             the archive that a local folder may be unpacked from: see zsrobust.tasks.archives
hub = "owner/name"          with config, revision
image_column, label_column  where they cannot be told

[geometry]                  size = 32 (images are so already) or resize, crop, interpolation
[splits]                    test = 10000, or test = { from = "train", rows = "45000:50000", size = 50000 };
                            from = ["validation", "test"]: the first that the place has; from = "all": all splits
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zsrobust.errors import ConfigError, UnknownName
from zsrobust.geometry import Geometry
from zsrobust.tasks.archives import ARCHIVES
from zsrobust.tasks.source import UNDIVIDED

KINDS = ("world", "digits", "folder", "parquet", "webdataset", "hub")
DEFAULT_TEMPLATES = ("This is a photo of a {}",)
"""TeCoA's template, without a full stop."""

UNVERIFIED = "unverified"
"""In [provenance]: nobody saw a source for this value."""
SOURCED = ("classes", "templates", "template_sets", "splits", "hub", "license", "geometry")
"""Keys whose value needs a line in [provenance], where there is such a table."""

_TEXT = ("name", "description", "license", "reference", "paper", "by_hand")
_LISTS = ("classes", "templates", "follows_from", "select")
_TABLES = ("source", "geometry", "splits", "template_sets", "provenance")
_SOURCE = ("kind", "view", "path", "layout", "hub", "config", "revision", "image_column", "label_column")
_KEYS = (*_TEXT, "version", "data_classes", *_LISTS, *_TABLES)


@dataclass(frozen=True)
class Split:
    """What a split is and how large.

    Attributes:
        size: Number of examples the data's split must have; None where the TOML does not say.
        sources: The data's split it is taken from: the first of these names that the data has.
        rows: Half-open range of that split's rows; None for all.
    """

    size: int | None
    sources: tuple[str, ...]
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class SourceSpec:
    """Where the data is; the fields are the TOML's."""

    kind: str | None = None
    view: str | None = None
    path: str | None = None
    layout: str | None = None
    local: tuple[str, ...] = ()
    hub: str | None = None
    config: str | None = None
    revision: str | None = None
    image_column: str | None = None
    label_column: str | None = None


@dataclass(frozen=True)
class TaskSpec:
    """A task's TOML, checked. ``None`` and empty tuples mean: as the data says."""

    name: str
    source: SourceSpec
    file: Path | None = None
    version: int = 1
    description: str = ""
    license: str = ""
    reference: str = ""
    paper: str = ""
    by_hand: str = ""
    classes: tuple[str, ...] = ()
    data_classes: tuple[tuple[str, ...], ...] = ()
    templates: tuple[str, ...] = ()
    follows_from: tuple[str, ...] = ()
    select: tuple[str, ...] = ()
    geometry: Geometry | None = None
    splits: Mapping[str, Split] | None = None
    template_sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def unverified(self) -> tuple[str, ...]:
        """Keys whose value nobody saw in a source."""
        return tuple(key for key, seen in self.provenance.items() if seen.strip().lower().startswith(UNVERIFIED))


def read_spec(file: Path) -> TaskSpec:
    """Read a task's TOML.

    Raises:
        ConfigError: it cannot be read, or a key is unknown, missing or of the wrong type; the file and key
            are named.
    """
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise ConfigError(f"{file} is not a readable TOML file ({reason})") from problem
    try:
        return _spec(data, file)
    except ConfigError as problem:
        raise ConfigError(f"{file}: {problem}") from problem


def check_classes(names: tuple[str, ...], where: str) -> tuple[str, ...]:
    """Class names that can be told apart.

    Raises:
        ConfigError: one is empty or there twice.
    """
    for number, name in enumerate(names):
        if not name.strip():
            raise ConfigError(f"{where}: class {number} has an empty name")
        if name in names[:number]:
            raise ConfigError(f"{where}: the class name '{name}' is there twice")
    return names


def check_templates(templates: tuple[str, ...], where: str) -> tuple[str, ...]:
    """Templates with exactly one ``{}`` for the class name; clip-benchmark's ``{c}`` is taken for it.

    Raises:
        ConfigError: none, several, or other braces.
    """
    checked = tuple(template.replace("{c}", "{}") for template in templates)
    for template in checked:
        if template.count("{}") != 1 or re.search(r"[{}]", template.replace("{}", "")):
            raise ConfigError(f"{where}: the template '{template}' needs exactly one {{}}, where the class name goes")
    return checked


def _spec(data: dict[str, Any], file: Path) -> TaskSpec:
    _known(data, _KEYS, "key")
    texts: dict[str, Any] = {key: _typed(data, key, str, "a text") for key in _TEXT if key in data}
    if texts.setdefault("name", file.stem) != file.stem:
        raise ConfigError(f"name = '{texts['name']}', but the file must be called as the task: {texts['name']}.toml")
    lists: dict[str, Any] = {key: _strings(data, key) for key in _LISTS if key in data}
    classes = lists.get("classes", ())
    check_classes(classes, "classes")
    lists["templates"] = check_templates(lists.get("templates", ()), "templates")
    tables = {key: _typed(data, key, dict, "a table") for key in _TABLES if key in data}
    if "provenance" in tables:
        _check_provenance(data, tables["provenance"])
    return TaskSpec(
        **texts,
        **lists,
        version=_typed(data, "version", int, "a whole number") if "version" in data else 1,
        file=file,
        data_classes=_data_classes(data, len(classes)),
        source=_source(tables.get("source", {})),
        geometry=_geometry(tables["geometry"]) if "geometry" in tables else None,
        splits=_splits(tables["splits"]) if "splits" in tables else None,
        template_sets=_template_sets(tables.get("template_sets", {})),
        provenance=tables.get("provenance", {}),
    )


def _data_classes(data: dict[str, Any], count: int) -> tuple[tuple[str, ...], ...]:
    """The data's names of every class; a text is a list of one."""
    if "data_classes" not in data:
        return ()
    given = data["data_classes"]
    if not isinstance(given, list):
        raise ConfigError(f"data_classes = {given!r} must be a list of texts, or of lists of texts")
    lists = [[entry] if isinstance(entry, str) else entry for entry in given]
    found = tuple(_strings({"data_classes": entry}, "data_classes") for entry in lists)
    if count and found and len(found) != count:
        raise ConfigError(f"data_classes has {len(found)} names, but classes has {count}: one each, in the same order")
    for number, alternatives in enumerate(found):
        if not alternatives:
            raise ConfigError(f"data_classes: class {number} has no name")
    check_classes(tuple(name for alternatives in found for name in dict.fromkeys(alternatives)), "data_classes")
    return found


def _template_sets(table: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    sets = {}
    for name in table:
        if not re.fullmatch(r"[\w-]+", name):
            raise ConfigError(f"[template_sets] '{name}' must be one word of letters, digits, - and _")
        sets[name] = check_templates(_strings(table, name), f"[template_sets] {name}")
        if not sets[name]:
            raise ConfigError(f"[template_sets] {name} has no templates")
    return sets


def _check_provenance(data: Mapping[str, Any], table: Mapping[str, Any]) -> None:
    """Every line names a key and a source; every value that needs a line has one."""
    _known(table, (*_KEYS, *_SOURCE, "local", "revision"), "key in [provenance]")
    for key in table:
        if not _typed(table, key, str, f"a text: where its value was seen, or '{UNVERIFIED}'").strip():
            raise ConfigError(f"[provenance] {key} is empty; it says where the value was seen, or '{UNVERIFIED}'")
    present = {**data, **data.get("source", {})}
    for key in SOURCED:
        if present.get(key) and key not in table:
            raise ConfigError(f"[provenance] {key} is missing: where was its value seen? '{UNVERIFIED}' if nowhere")


def _source(table: dict[str, Any]) -> SourceSpec:
    _known(table, (*_SOURCE, "local"), "key in [source]")
    # an empty text is as good as none: revision = "" says that none is pinned
    texts = {key: _typed(table, key, str, "a text") or None for key in _SOURCE if key in table}
    source = SourceSpec(**texts, local=_strings(table, "local") if "local" in table else ())
    if source.kind is not None and source.kind not in KINDS:
        raise UnknownName("[source] kind", source.kind, KINDS)
    if source.layout is not None and source.layout not in ARCHIVES:
        raise UnknownName("[source] layout", source.layout, ARCHIVES)
    if source.kind == "world" and source.view is None:
        raise ConfigError("[source] kind = 'world' needs a view")
    if source.kind not in ("world", "digits") and not (source.path or source.local or source.hub):
        raise ConfigError("[source] needs one of kind = 'world' or 'digits', path, local or hub")
    return source


def _geometry(table: dict[str, Any]) -> Geometry:
    _known(table, ("size", "resize", "crop", "interpolation"), "key in [geometry]")
    size = _side(table["size"]) if "size" in table else None
    return Geometry(
        resize=_side(table["resize"]) if "resize" in table else None,
        crop=_side(table["crop"]) if "crop" in table else None,
        size=(size, size) if isinstance(size, int) else size,
        **({"interpolation": table["interpolation"]} if "interpolation" in table else {}),
    )


def _side(value: Any) -> Any:
    """TOML has no tuples; Geometry checks the rest."""
    return tuple(value) if isinstance(value, list) else value


def _splits(table: dict[str, Any]) -> dict[str, Split]:
    splits = {name: _split(name, value) for name, value in table.items()}
    for name, split in splits.items():
        for other, before in splits.items():
            shared = _shared(before, split)
            if other < name and shared:
                raise ConfigError(f"[splits] {other} and {name} overlap: both have rows of the data's '{shared}'")
    return splits


def _shared(one: Split, other: Split) -> str | None:
    """A split of the data of which both have rows; rows of "all" are not those of any split, so all of them count."""
    for whole, part in ((one, other), (other, one)):
        if UNDIVIDED in whole.sources and UNDIVIDED not in part.sources:
            return part.sources[0]
    shared = [source for source in other.sources if source in one.sources]
    return shared[0] if shared and _overlap(one.rows, other.rows) else None


def _split(name: str, value: Any) -> Split:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return Split(value, (name,))
    if not isinstance(value, dict):
        raise ConfigError(
            f"[splits] {name} = {value!r} is neither a number of examples nor a table of from, rows, size"
        )
    _known(value, ("from", "rows", "size"), f"key in [splits] {name}")
    size = _typed(value, "size", int, "a whole number") if "size" in value else None
    given = value.get("from", name)
    sources = _strings({"from": [given] if isinstance(given, str) else given}, "from")
    if not sources:
        raise ConfigError(f"[splits] {name}: from = [] names no split of the data")
    if "rows" not in value:
        return Split(size, sources)
    match = re.fullmatch(r"(\d+):(\d+)", str(value["rows"]))
    if not match or int(match[1]) >= int(match[2]) or (size is not None and int(match[2]) > size):
        raise ConfigError(f"[splits] {name}: rows = {value['rows']!r} is not a range 'first:end' within the split")
    return Split(size, sources, (int(match[1]), int(match[2])))


def _overlap(one: tuple[int, int] | None, other: tuple[int, int] | None) -> bool:
    return one is None or other is None or (one[0] < other[1] and other[0] < one[1])


def _known(table: Mapping[str, Any], allowed: tuple[str, ...], kind: str) -> None:
    for key in table:
        if key not in allowed:
            raise UnknownName(kind, key, allowed)


def _typed(table: Mapping[str, Any], key: str, kind: type, called: str) -> Any:
    value = table[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ConfigError(f"{key} = {value!r} must be {called}")
    return value


def _strings(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = table[key]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{key} = {value!r} must be a list of texts")
    return tuple(value)
