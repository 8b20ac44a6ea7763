"""An evaluation into a run folder: one model, its tasks and attacks, going on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from tqdm import tqdm

from zsrobust.alarms.base import Alarm
from zsrobust.alarms.checkup import quick
from zsrobust.alarms.claims import refuted
from zsrobust.alarms.subject import Subject
from zsrobust.attacks.base import Attack, Model
from zsrobust.attacks.binding import Asked, expand
from zsrobust.attacks.suites import Suite
from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError, UnreadableImage
from zsrobust.evaluation import (
    BATCH_SIZE,
    Claims,
    Watcher,
    classifier_for,
    device_of,
    evaluate_task,
    fingerprint_of,
    in_space,
)
from zsrobust.pixels import to_pixels
from zsrobust.records import Cell, Done
from zsrobust.run_folder import RunFolder
from zsrobust.tasks import Task
from zsrobust.threat import widest

CHECKED = 16
"""Examples of the check-up before an evaluation."""


def settings(attacks: Sequence[Asked], *, rows: int, device: torch.device) -> dict[str, object]:
    """What must not change within a run.

    Raises:
        ConfigError: threats of both spaces: their clean images differ, so they are two runs.
    """
    spaces = sorted({attack.threat.space for attack in attacks})
    if len(spaces) != 1:
        raise ConfigError(
            f"one run has one threat space, not {' and '.join(spaces)}: their images differ; make two runs"
        )
    # A suite's scout does not count: what it cannot break meets every other member in float32.
    rough = sorted({str(getattr(attack, "precision", "float32")) for attack in attacks} - {"float32"})
    precision = f"{', '.join(rough)} (breaks verified in float32)" if rough else "float32"
    return {"space": spaces[0], "precision": precision, "rows": rows, "device": device.type}


def evaluate_into(
    run: RunFolder,
    encoder: Encoder,
    tasks: Sequence[Task],
    attacks: Sequence[Asked],
    *,
    seed: int,
    batch_size: int = BATCH_SIZE,
    watch: Watcher | None = None,
) -> None:
    """Evaluates one model on some tasks into a run folder, going on where it stopped.

    Args:
        run: Where the records go; its settings say space and rows.
        encoder: The model.
        tasks: In their own geometry; ``model`` space is applied here.
        attacks: Attack × threat, each with its budget; suites are expanded for each task. Sources of transfer attacks
            are encoders.
        seed: Key of the attacks' random numbers.
        batch_size: Examples in flight.
        watch: Called with each attacked batch.

    Raises:
        RunError: the run is another one's, or cannot be written; what is there is kept.
    """
    describe_model(run, encoder)
    run.declare("seeds", seed)
    seen = [in_space(task, encoder, str(run.header["space"])) for task in tasks]
    for task in seen:  # all of them first: the report of a run that stops early then says what is missing
        run.declare("tasks", task.describe())
        for attack in attacks:
            _declare(run, attack, task)
    done = run.records.done()
    for task in seen:
        classifier = classifier_for(encoder, task, rows=int(run.header["rows"]))
        known = done.get(Cell(encoder.name, task.name, seed), Done())
        searches = [
            search
            for attack in attacks
            for search in expand(attack, len(task.class_names), _source(task, classifier.rows))
        ]
        _check_up(run, classifier, task, searches, seed)
        claims = Claims()
        with tqdm(total=len(task) * (1 + len(searches)), unit="verdict", disable=None, leave=False) as bar:
            bar.update(_settled(known, searches))
            for records in evaluate_task(
                classifier, task, searches, model=encoder.name, seed=seed, batch_size=batch_size, done=known,
                watch=watch, claims=claims, begin=_naming(bar, f"{encoder.name} on {task.name}"),
            ):  # fmt: skip
                run.records.append(records)
                bar.update(_settled(known, searches) - bar.n)
        if (alarm := refuted(claims.made, claims.refuted)) is not None:
            run.flag(alarm.to_flag(model=encoder.name, task=task.name, seed=seed))


def _naming(bar: tqdm[Any], what: str) -> Callable[[Attack, int], None]:
    """Shows on the bar which attack is at work, since a long one finishes its first example late."""
    bar.set_description_str(what)
    return lambda attack, images: bar.set_description_str(f"{what}: {attack.name}, {images} images")


def _declare(run: RunFolder, attack: Asked, task: Task) -> None:
    """Writes into ``run.json`` what will run on the task; a suite's members may differ between tasks."""
    ball = {"threat": attack.threat.describe()}
    run.declare("threats", attack.threat.describe())
    if not isinstance(attack, Suite):
        run.declare("attacks", attack.describe() | ball)
        return
    classes = len(task.class_names)
    for member in attack.for_classes(classes).members(classes):
        run.declare("attacks", member.describe() | ball | {"tasks": [task.name]})


def _source(task: Task, rows: int) -> Callable[[Encoder], Model]:
    """Encoder that a transfer attack comes from → its classifier for ``task``."""
    return lambda encoder: classifier_for(encoder, task, rows=rows)


def _settled(done: Done, attacks: Sequence[Attack]) -> int:
    """Verdicts that need no more work."""
    wrong = len(done.clean) - len(done.correct)
    return len(done.clean) + sum(wrong + len(done.settled(attack.name, attack.threat.describe())) for attack in attacks)


def _check_up(run: RunFolder, classifier: Any, task: Task, attacks: Sequence[Attack], seed: int) -> None:
    """Looks at the model once in a run, before hours are spent on a number that would lie."""
    name = classifier.encoder.name
    checked: list[str] = run.header.setdefault("checked", [])
    if name in checked or not attacks:
        return
    for alarm in _alarms(classifier, task, attacks, seed):
        run.flag(alarm.to_flag(model=name))
    checked.append(name)
    run.save()


def _alarms(classifier: Any, task: Task, attacks: Sequence[Attack], seed: int) -> Iterator[Alarm]:
    some = task.take(CHECKED, seed=seed)
    try:
        pixels = to_pixels(some.images(range(len(some)))).to(device_of(classifier.encoder))
    except UnreadableImage:
        return  # the evaluation will come to that image, and say so
    labels = torch.tensor(some.labels.tolist(), device=pixels.device)
    threat = widest(attack.threat for attack in attacks)
    yield from quick(Subject(classifier, pixels, labels, threat, seed=seed))


def describe_model(run: RunFolder, encoder: Encoder) -> None:
    """Declares the model in ``run.json``."""
    provenance = dict(encoder.provenance)
    run.declare(
        "models",
        {
            "name": encoder.name,
            "fingerprint": fingerprint_of(encoder),
            "adapted_on": provenance.get("adapted_on", []),
            "resize": encoder.resize_description,
            "provenance": provenance,
        },
    )
