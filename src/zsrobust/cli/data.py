"""``zsrobust data check``: is the data of a task there, and is it what the task's TOML says?"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from zsrobust.cli.command import Command
from zsrobust.errors import ConfigError, UnknownName, ZSRobustError

if TYPE_CHECKING:
    from zsrobust.tasks import Task
    from zsrobust.tasks.spec import Split, TaskSpec

DECODED = 18
"""Images of each task that are decoded: the first, the last, and others evenly between."""
ACTIONS = ("check",)


@dataclass(kw_only=True)
class DataOptions:
    """Check the data of tasks: is it there, complete, with the right classes, and readable?

    'data check' looks for each task where 'evaluate' would, compares the number of images and the class names with the
    task's TOML, decodes some images, and prints the fingerprint that results store. Below are the ways to get what is
    missing, and how a task compares with the paper's. Exit status 0: all is well; 1: something is missing or wrong.
    """

    words: list[str] = field(default_factory=list)
    """check, and then tasks or suites (see 'zsrobust ls tasks' and 'ls suites'); also written without --words."""
    data: str | None = None
    """Folder in which tasks look for their local data. null: $ZSROBUST_DATA, else ./data."""
    split: str = "test"
    """Split of the tasks: test, validation or train."""
    download: bool = False
    """Also fetch from the Hugging Face hub what is not on this machine, where the TOML has a hub id."""


COMMAND = Command(
    name="data",
    options=DataOptions,
    usage="check TASK... [--data FOLDER] [--split test]",
    positional="words",
    examples=("zsrobust data check cifar10 pets --data ~/datasets", "zsrobust data check paper16"),
)


@dataclass(frozen=True)
class Finding:
    """What became of one task.

    Attributes:
        name: The task.
        problem: What is missing or wrong, in one line; empty: nothing.
        cells: Images, classes, fingerprint and place, as the table shows them.
        advice: (what, how) to get the data.
        unverified: Keys of the TOML whose value nobody saw in a source.
        paper: How the task compares with the paper's, as its TOML says.
    """

    name: str
    problem: str = ""
    cells: tuple[str, ...] = ()
    advice: tuple[tuple[str, str], ...] = ()
    unverified: tuple[str, ...] = ()
    paper: str = ""


def run(options: DataOptions) -> int:
    """Prints the table and, below it, what to do; 1 if a task is missing or wrong."""
    names = _names(options.words)
    from zsrobust.tasks import find
    from zsrobust.tasks.layouts import data_folder

    specs = [find(name) for name in names]
    print(f"Split {options.split}; local data in {data_folder(options.data)}\n")
    width = max(4, *(len(spec.name) for spec in specs))
    print(f"  {'task':<{width}}  {_row(('images', 'classes', 'fingerprint', 'where'))}")
    findings = []
    for name, spec in zip(names, specs, strict=True):
        findings.append(replace(_check(name, spec, options), paper=" ".join(spec.paper.split())))
        _tell(findings[-1], width)
    return _summary(findings)


def _names(words: Sequence[str]) -> list[str]:
    """The tasks asked for, suites written out, each once."""
    from zsrobust.tasks import names
    from zsrobust.tasks.suites import SUITES

    if not words:
        raise ConfigError(f"what shall be done with data? zsrobust data {COMMAND.usage}")
    if words[0] not in ACTIONS:
        raise UnknownName("word after 'zsrobust data'", words[0], ACTIONS)
    if len(words) == 1:
        raise ConfigError("no task given: zsrobust data check TASK… ('zsrobust ls tasks' and 'ls suites' list them)")
    given = [SUITES[word].members(names()) if word in SUITES else (word,) for word in words[1:]]
    return list(dict.fromkeys(name for group in given for name in group))


def _check(name: str, spec: TaskSpec, options: DataOptions) -> Finding:
    from zsrobust.tasks import task
    from zsrobust.tasks.loader import declared_split

    try:
        declared = declared_split(spec, options.split)
        here = _is_here(spec, declared.sources, options.data)
        if not here and not (options.download and spec.source.hub):
            return Finding(spec.name, "not on this machine", (), _advice(spec, declared, options), spec.unverified)
    except ZSRobustError as problem:
        return Finding(spec.name, str(problem), (), (), spec.unverified)
    try:
        opened = task(name, split=options.split, data=options.data)
        _decode(opened)
        cells = (_images(opened, declared), _classes(opened), opened.fingerprint[:12], opened.source.where)
        return Finding(spec.name, "", cells, (), spec.unverified)
    except ZSRobustError as problem:
        advice = () if here else _advice(spec, declared, options)
        return Finding(spec.name, str(problem), (), advice, spec.unverified)


def _is_here(spec: TaskSpec, splits: Sequence[str], data: str | None) -> bool:
    """True where a place of the TOML on this machine exists, whatever is in it."""
    from zsrobust.tasks.layouts import local_places

    if spec.source.kind in ("world", "digits"):
        return True
    return any(place.exists() for _, place in local_places(spec, splits, data))


def _decode(opened: Task) -> None:
    """Some images, through the task's geometry; raises for one that is unreadable or of the wrong size."""
    last = len(opened) - 1
    opened.check(list(dict.fromkeys(round(k * last / (DECODED - 1)) for k in range(DECODED))))


def _images(opened: Task, declared: Split) -> str:
    return f"{len(opened):,}{'' if declared.size is not None else ' (the TOML has no number to compare with)'}"


def _classes(opened: Task) -> str:
    """Their number, and whether the data's names were compared with the TOML's."""
    return f"{len(opened.class_names)} by {'number' if opened.source.data_classes is None else 'name'}"


def _advice(spec: TaskSpec, declared: Split, options: DataOptions) -> tuple[tuple[str, str], ...]:
    """Where the data was looked for, and how else to get it."""
    from zsrobust.tasks.layouts import local_places

    places = local_places(spec, declared.sources, options.data)
    found = [("looked for", ", ".join(dict.fromkeys(str(place) for _, place in places)))] if places else []
    if spec.source.hub is not None:
        pinned = f"revision {spec.source.revision}" if spec.source.revision else "no revision pinned"
        how = "" if options.download else "; --download fetches it"
        found.append(("hub", f"{spec.source.hub} ({pinned}){how}"))
    return (*found, ("by hand", spec.by_hand)) if spec.by_hand else tuple(found)


def _row(cells: Sequence[str]) -> str:
    images, classes, fingerprint, where = cells
    return f"{images:<9}  {classes:<13}  {fingerprint:<12}  {where}"


def _tell(finding: Finding, width: int) -> None:
    if finding.problem:
        _wrapped(f"✗ {finding.name:<{width}}  ", finding.problem)
    else:
        print(f"✓ {finding.name:<{width}}  {_row(finding.cells)}", flush=True)


def _summary(findings: Sequence[Finding]) -> int:
    wrong = [finding for finding in findings if finding.problem]
    for finding in findings:
        about = (("paper", finding.paper), ("unverified", ", ".join(finding.unverified)))
        lines = [*finding.advice, *((what, words) for what, words in about if words)]
        if lines:
            print(f"\n{finding.name}")
        for what, how in lines:
            _wrapped(f"  {what:<11} ", how)
    if any(finding.unverified for finding in findings):
        print("\nunverified: nobody saw a source for these values of the task's TOML; check them before you publish.")
    good = len(findings) - len(wrong)
    print(f"\n{good} of {len(findings)} are there and right." if wrong else f"\nAll {good} are there and right.")
    return min(len(wrong), 1)


def _wrapped(head: str, text: str) -> None:
    columns = max(60, shutil.get_terminal_size((100, 24)).columns)
    indent = " " * len(head)
    print(textwrap.fill(head + text, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False))
