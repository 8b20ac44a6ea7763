"""Text heads for an export: of class names given in words, or of tasks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from zsrobust.encoders import Encoder
from zsrobust.errors import ConfigError
from zsrobust.tasks import task as open_task
from zsrobust.text_head import TextHead

TEMPLATE = "This is a photo of a {}"


def heads(
    encoder: Encoder,
    *,
    classes: Sequence[str] = (),
    templates: Sequence[str] = (),
    tasks: Sequence[str] = (),
    data: str | Path | None = None,
) -> dict[str, TextHead]:
    """Name → head: ``classes`` alone are one head called ``classes``; every task is one, called after it.

    Args:
        encoder: Its text tower encodes the names.
        classes: Class names; with one task, in place of the task's own.
        templates: Prompt templates; empty: the tasks' own, or ``This is a photo of a {}``.
        tasks: Tasks, as :func:`zsrobust.task` takes them; their data is opened, because it says which classes there
            are.
        data: Folder in which tasks look for local data.

    Raises:
        ConfigError: Templates without names, names for several tasks, or one class only.
        DataError: The data of a task is missing.
    """
    if templates and not (classes or tasks):
        raise ConfigError("--template needs --classes or --tasks: there is nothing to put into it")
    if classes and len(tasks) > 1:
        raise ConfigError(f"--classes are the names of one task, not of {len(tasks)}")
    if not tasks:
        if not classes:
            return {}
        return {"classes": _built(encoder, "--classes", classes, list(templates) or [TEMPLATE])}
    found = {}
    for spec in tasks:
        opened = open_task(spec, data=data, classes=list(classes) or None, templates=list(templates) or None)
        name = re.sub(r"[^\w.-]+", "-", opened.name)
        if name in found:
            raise ConfigError(f"two of the tasks are called '{opened.name}'")
        found[name] = _built(encoder, f"task '{opened.name}'", opened.class_names, opened.templates)
    return found


def _built(encoder: Encoder, what: str, names: Sequence[str], templates: Sequence[str]) -> TextHead:
    if len(names) < 2:
        raise ConfigError(f"{what} has {len(names)} class: there is nothing to tell apart")
    return TextHead.of_classes(encoder, names, templates)
