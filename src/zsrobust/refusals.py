"""What makes an evaluation impossible, found before its first pass: later, what was computed would be lost."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path

from zsrobust.attacks.binding import Asked, check_classes, check_defended
from zsrobust.distributed import world
from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError, DataError
from zsrobust.evaluation import check_task, classifier_for, in_space
from zsrobust.tasks import Task


def check_runnable(encoders: Sequence[Encoder], tasks: Sequence[Task], attacks: Sequence[Asked]) -> None:
    """Whether all models can be evaluated on all tasks under all attacks, in one run.

    Args:
        encoders: The models.
        tasks: In their own geometry.
        attacks: Attack × threat, with their sources.

    Raises:
        ConfigError: an attack that ignores a defence where there is none, or cannot run with a task's number of
            classes; a task of one class; models of other input images in ``model`` space; a patch of less than one
            pixel; or class names that look alike and are the same text to a model.
    """
    check_defended(attacks, encoders)
    check_classes(attacks, {one.name: len(one.class_names) for one in tasks})
    for task in tasks:
        check_task(task)
    if any(attack.threat.space == "model" for attack in attacks):
        _check_inputs(encoders)
    for task in tasks:
        for encoder in encoders:
            _check_patches(encoder, task, attacks)
    for task in tasks:
        if _look_alike(task.class_names):
            for encoder in encoders:
                classifier_for(encoder, task)


def check_open(encoder: object, task: object) -> None:
    """Whether these are a model and a task, and not what they are called or made of.

    Raises:
        ConfigError: they are not.
    """
    if not hasattr(encoder, "encode_pixels"):
        raise ConfigError(f"{_shown(encoder)} is no encoder: zsrobust.load(…) opens one by its name or path")
    if not isinstance(task, Task):
        raise ConfigError(f"{_shown(task)} is no task: zsrobust.task(…) opens one by its name or path")


def _shown(given: object) -> str:
    return repr(given) if isinstance(given, str | Path) else f"a {type(given).__name__}"


def _check_inputs(encoders: Sequence[Encoder]) -> None:
    first = encoders[0]
    for other in encoders[1:]:
        if (mine := first.geometry.describe()) != (its := other.geometry.describe()):
            raise ConfigError(
                f"in model space '{first.name}' is attacked on images of {mine} and '{other.name}' of {its}: make two "
                "runs, or use the native space"
            )


def _check_patches(encoder: Encoder, task: Task, attacks: Sequence[Asked]) -> None:
    for threat in dict.fromkeys(attack.threat for attack in attacks if attack.threat.norm == "patch"):
        if (size := _size(in_space(task, encoder, threat.space))) is None:
            continue
        try:
            threat.side(*size)
        except ConfigError as problem:
            raise ConfigError(f"task '{task.name}': {problem}") from None


def _size(task: Task) -> tuple[int, int] | None:
    """(H, W) of the task's images, of the first where its geometry does not say it; None if that cannot be read."""
    if task.geometry.output_size is not None or not len(task):
        return task.geometry.output_size
    try:
        _, height, width, _ = task.images([0]).shape
    except DataError:  # the evaluation will come to that image, and say so
        return None
    return height, width


def _look_alike(names: Sequence[str]) -> bool:
    """Whether two differ in case and spaces alone, which most tokenizers do not see."""
    return len({" ".join(name.casefold().split()) for name in names}) < len(names)


def whole_seeds(seed: object) -> list[int]:
    """One or several as Python's numbers: JSON knows none of numpy's or torch's.

    Raises:
        ConfigError: something is no whole number.
    """
    try:
        return [operator.index(seed)]  # type: ignore[arg-type]
    except TypeError:
        pass
    try:
        return [operator.index(one) for one in seed]  # type: ignore[attr-defined]
    except TypeError:
        raise ConfigError(f"seed must be a whole number, or several, not {seed!r}") from None


def check_images(save_images: str | Path | None) -> None:
    """Whether images can be kept.

    Raises:
        ConfigError: by several processes they cannot, nor in what is no folder.
    """
    if save_images is not None and Path(save_images).expanduser().is_file():
        raise ConfigError(f"save_images {save_images} is a file; name a folder")
    if save_images is not None and not world().alone:
        raise ConfigError(
            "save_images is for one process: run without it, then the same command in one process into another folder"
        )
