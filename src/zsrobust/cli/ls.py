"""``zsrobust ls``: names, each with a line. Sources are read, not imported: listing needs no torch."""

from __future__ import annotations

import ast
import importlib.util
import shutil
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from zsrobust.cli.command import Command
from zsrobust.errors import ConfigError, UnknownName
from zsrobust.registry import Registry
from zsrobust.yaml_files import shipped


@dataclass(kw_only=True)
class LsOptions:
    """List what there is.

    KIND is tasks, suites (of tasks), methods, tunings (ways of adapting), defences, attacks, models, recipes, studies
    or references (published numbers).
    """

    what: str | None = None
    """One of these kinds; also written without --what."""


COMMAND = Command(
    name="ls",
    options=LsOptions,
    usage="KIND",
    positional="what",
    examples=("zsrobust ls tasks",),
)


def run(options: LsOptions) -> None:
    """Prints the list."""
    if options.what is None:
        raise ConfigError(f"what shall be listed? zsrobust ls {'|'.join(KINDS)}")
    kind = options.what if options.what in KINDS else f"{options.what}s"
    if kind not in KINDS:
        raise UnknownName("list", options.what, KINDS)
    rows = KINDS[kind]()
    width = max((len(name) for name, _ in rows), default=0)
    columns = max(40, shutil.get_terminal_size((80, 24)).columns)
    for name, words in rows:
        print(
            textwrap.fill(
                f"{name:<{width}}  {words}", columns, subsequent_indent=" " * (width + 2), break_on_hyphens=False
            )
        )
    if kind in NOTES:
        print(f"\n{textwrap.fill(NOTES[kind], columns)}")


def _tasks() -> list[tuple[str, str]]:
    from zsrobust.tasks.catalogue import catalogue
    from zsrobust.tasks.spec import read_spec

    # one look at the catalogue: each asks every installed package
    return [(name, read_spec(file).description) for name, file in sorted(catalogue().items())]


def _suites() -> list[tuple[str, str]]:
    from zsrobust.tasks import names
    from zsrobust.tasks.suites import SUITES

    known = names()
    return [(name, f"{suite.description} [{', '.join(suite.members(known))}]") for name, suite in SUITES.items()]


def _methods() -> list[tuple[str, str]]:
    from zsrobust.methods import METHODS

    return [(name, _first_line(METHODS.address(name)) + _fields(METHODS.address(name))) for name in METHODS]


def _attacks() -> list[tuple[str, str]]:
    from zsrobust.attacks import ATTACKS

    return [(name, _with_options(ATTACKS.address(name))) for name in ATTACKS]


def _models() -> list[tuple[str, str]]:
    from zsrobust.encoders import ENCODERS

    return _registered(ENCODERS)


def _tunings() -> list[tuple[str, str]]:
    from zsrobust.tuning import TUNINGS

    return [(name, _class_line(TUNINGS.address(name))) for name in TUNINGS]


def _defences() -> list[tuple[str, str]]:
    from zsrobust.defences import DEFENCES

    return [(name, _first_line(DEFENCES.address(name)) + _arguments(DEFENCES.address(name))) for name in DEFENCES]


def _studies() -> list[tuple[str, str]]:
    return _titled(shipped("studies"))


def _references() -> list[tuple[str, str]]:
    from zsrobust.report.references import sources

    return sources()


def _recipes() -> list[tuple[str, str]]:
    return _titled(shipped())


def _titled(texts: Mapping[str, str]) -> list[tuple[str, str]]:
    """Name and first comment of each YAML file."""
    return [(name, text.partition("\n")[0].lstrip("# ")) for name, text in sorted(texts.items())]


KINDS: dict[str, Callable[[], list[tuple[str, str]]]] = {
    "tasks": _tasks,
    "suites": _suites,
    "methods": _methods,
    "attacks": _attacks,
    "models": _models,
    "tunings": _tunings,
    "defences": _defences,
    "recipes": _recipes,
    "studies": _studies,
    "references": _references,
}
NOTES = {
    "tasks": "A task is also a TOML file, a .parquet file, a folder with one folder of images a class, or "
    "hub:owner/name.",
    "suites": "A suite's name stands for its tasks wherever several are taken: zsrobust evaluate --tasks paper15, "
    "zsrobust data check paper16.",
    "models": "A model is also a local folder in the Hugging Face or open_clip layout, a run of 'zsrobust adapt', a "
    "hub id such as openai/clip-vit-base-patch32, or a checkpoint file with its options, as in "
    "fare.pt:base=openai/clip-vit-large-patch14. MODEL+ttc is a model behind a test-time defence.",
    "attacks": "NAME:option=value sets an option in brackets, as in apgd:ce:steps=50; several follow each other. A "
    "number right after pgd or cw is the steps, as in pgd:20, and what follows transfer is a model with its own "
    "options, as in transfer:fare.pt:base=MODEL:steps=50; behind a defence none can follow. The options of "
    "zsrobust evaluate with these names set them for all attacks that have them.",
    "tunings": "zsrobust adapt --tuning NAME --tuning_options.OPTION VALUE; the options are in brackets.",
    "methods": "zsrobust adapt --method NAME --method_options.OPTION VALUE; the options are in brackets.",
    "defences": "MODEL+NAME:option=value is a model with a defence in front of it, wherever a model is taken, as in "
    "tiny+ttc:steps=3; the options are in brackets.",
    "recipes": "zsrobust adapt RECIPE uses one; 'demo' belongs to zsrobust demo.",
    "studies": "zsrobust study NAME runs one; --dry_run says how long it takes here.",
    "references": "Published numbers; a report shows one beside yours where model, task, threat and attack match.",
}


def _registered(registry: Registry) -> list[tuple[str, str]]:
    return [(name, _first_line(registry.address(name))) for name in registry]


def _with_options(address: str) -> str:
    """The first line of an attack, and its options: what the function that makes it takes after the threat."""
    from zsrobust.attacks.options import RESERVED

    _, found = _source(address)
    given = [*found.args.args[1:], *found.args.kwonlyargs] if isinstance(found, ast.FunctionDef) else []
    options = ", ".join(one.arg for one in given if one.arg not in RESERVED)
    return _first_line(address) + (f" [{options}]" if options else "")


def _class_line(address: str) -> str:
    """The first line of a class, and its options."""
    _, found = _source(address)
    if not isinstance(found, ast.ClassDef):
        return _first_line(address)
    text = (ast.get_docstring(found) or "").partition("\n")[0].replace("``", "")
    return text + _fields(address)


def _fields(address: str) -> str:
    """The options of a dataclass in brackets: its own fields but for the name."""
    _, found = _source(address)
    body = found.body if isinstance(found, ast.ClassDef) else []
    fields = [n for n in body if isinstance(n, ast.AnnAssign) and "ClassVar" not in ast.unparse(n.annotation)]
    return _bracketed([n.target.id for n in fields if isinstance(n.target, ast.Name)], "name", "_")


def _arguments(address: str) -> str:
    """The options of a class in brackets: what it takes by keyword."""
    _, found = _source(address)
    body = found.body if isinstance(found, ast.ClassDef) else []
    made = [n for n in body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    return _bracketed([argument.arg for one in made for argument in one.args.kwonlyargs])


def _bracketed(names: list[str], *without: str) -> str:
    kept = ", ".join(name for name in names if name not in without)
    return f" [{kept}]" if kept else ""


def _first_line(address: str) -> str:
    """First line of the docstring at ``module:attribute``, or failing that of the module, from its source."""
    tree, found = _source(address)
    if tree is None:
        return f"({address} cannot be read)"
    of_class = isinstance(found, ast.ClassDef)
    own = ast.get_docstring(found) if found and not of_class else None
    text = own or (ast.get_docstring(tree) if of_class else None) or ""
    return text.partition("\n\n")[0].replace("\n", " ").replace("``", "")


def _source(address: str) -> tuple[ast.Module | None, ast.ClassDef | ast.FunctionDef | None]:
    """The module of ``module:attribute`` and, in it, the class or function, from the source; None: cannot be read."""
    module, _, attribute = address.partition(":")
    try:
        spec = importlib.util.find_spec(module)
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8")) if spec and spec.origin else ast.Module([], [])
    except (ImportError, OSError, SyntaxError, ValueError):
        return None, None
    kinds = (ast.ClassDef, ast.FunctionDef)
    return tree, next((node for node in tree.body if isinstance(node, kinds) and node.name == attribute), None)
