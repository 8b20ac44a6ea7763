"""What an evaluation writes into ``run.json`` before it begins: model, seed, tasks, attacks; and budgets in doubt."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import torch

from zsrobust.alarms import budget
from zsrobust.alarms.subject import Subject
from zsrobust.attacks.binding import Asked
from zsrobust.attacks.oblivious import Oblivious
from zsrobust.attacks.suites import Suite
from zsrobust.attacks.transfer import Transfer
from zsrobust.encoders.base import Encoder
from zsrobust.encoders.switches import OWN, attention_of
from zsrobust.errors import ConfigError, UnreadableImage
from zsrobust.evaluation import fingerprint_of
from zsrobust.pixels import to_pixels
from zsrobust.run_folder import RunFolder
from zsrobust.tasks import Task
from zsrobust.threat import Threat


def declare(run: RunFolder, encoder: Encoder, tasks: Sequence[Task], attacks: Sequence[Asked], *, seed: int) -> None:
    """Declares what is to be done, all of it or nothing.

    Args:
        run: The run.
        encoder: The model.
        tasks: In the geometry in which they are attacked.
        attacks: Attack × threat, suites as one.
        seed: Key of the attacks' random numbers.

    Raises:
        RunError: the run knows another thing by one of the names.
    """
    with run.all_or_nothing():
        describe_model(run, encoder)
        run.declare("seeds", seed)
        sources = [_weights(attack) for attack in attacks]
        for task in tasks:
            _declare_task(run, task)
            for attack, source in zip(attacks, sources, strict=True):
                _declare_attack(run, attack, source, task)
            _doubt_budgets(run, encoder, task, {attack.threat for attack in attacks})


def describe_model(run: RunFolder, encoder: Encoder) -> None:
    """Declares the model in ``run.json``."""
    provenance, attention = dict(encoder.provenance), attention_of([encoder])
    attacked = _attacked(encoder)
    _tell_attention(run, encoder.name, attention)
    _tell_attacked(run, encoder.name, attacked)
    run.declare(
        "models",
        {
            "name": encoder.name,
            "fingerprint": fingerprint_of(encoder),
            "adapted_on": provenance.get("adapted_on", []),
            "resize": encoder.resize_description,
            "attention": attention,
            "provenance": provenance,
            **attacked,
        },
    )


def _attacked(encoder: Encoder) -> dict[str, object]:
    """What a model declares about how it is attacked; its fingerprint may be blind to that."""
    samples: object = getattr(encoder, "samples", 1)
    return {
        "samples": samples if isinstance(samples, int) else repr(samples),
        "surrogate": getattr(encoder, "encode_differentiable", None) is not None,
    }


def _tell_attacked(run: RunFolder, name: str, now: Mapping[str, object]) -> None:
    """Completes a model of earlier versions, which do not say how it was attacked."""
    for entry in run.header["models"]:
        if entry["name"] == name:
            entry.update({key: value for key, value in now.items() if key not in entry})


def _tell_attention(run: RunFolder, name: str, now: str) -> None:
    """Notes which attentions occur in the run: whoever goes on with ``"auto"`` takes it from there.

    Earlier versions say only that, or nothing at all; a model of theirs had one of these, until it comes again.
    """
    before: str | None = run.header.get("attention")
    for entry in run.header["models"]:
        had = entry.setdefault("attention", before)
        if entry["name"] == name and (had is None or now in had.split(", ")):
            entry["attention"] = now
    occur = {now} if before is None else {now, *before.split(", ")}
    run.header["attention"] = ", ".join(sorted(occur - {OWN})) or OWN


def _declare_task(run: RunFolder, task: Task) -> None:
    """A task that comes again under a larger limit is the same one: what is recorded stays."""
    known: list[dict[str, Any]] = run.header["tasks"]
    now = task.describe()
    for place, described in enumerate(known):
        if described["name"] == task.name and task.extends(described):
            known[place] = now
    run.declare("tasks", now)


def _declare_attack(run: RunFolder, attack: Asked, source: Mapping[str, object], task: Task) -> None:
    """Writes into ``run.json`` what will run on the task; a suite's members may differ between tasks."""
    ball = {"threat": attack.threat.describe()}
    run.declare("threats", attack.threat.describe())
    classes, this = len(task.class_names), {"tasks": [task.name]}
    if isinstance(attack, Suite):
        for member in attack.for_classes(classes).members(classes):
            run.declare("attacks", member.describe() | ball | this)
    elif isinstance(attack, Oblivious) and isinstance(attack.attack, Suite):
        _tell_tasks(run, attack)
        run.declare("attacks", attack.for_classes(classes).describe() | ball | this)
    else:
        run.declare("attacks", {**_described(attack), **ball, **source})


def _described(attack: Asked) -> dict[str, Any]:
    """What an attack says of itself, under the name that its records have.

    Raises:
        ConfigError: it cannot be stored as JSON.
    """
    told: object = attack.describe()
    try:
        if not isinstance(told, Mapping):
            raise TypeError(f"it is a {type(told).__name__} and no mapping")
        json.dumps(dict(told), allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise ConfigError(f"attack '{attack.name}': describe() cannot be stored as JSON: {problem}") from None
    return {**told, "name": attack.name}


def _tell_tasks(run: RunFolder, attack: Oblivious) -> None:
    """Which tasks an oblivious suite was for, in runs of earlier versions, which do not say it."""
    for entry in run.header["attacks"]:
        if entry["name"] == attack.name and "tasks" not in entry:
            known = {one["name"]: len(one["class_names"]) for one in run.header["tasks"]}
            entry["tasks"] = [name for name, classes in known.items() if attack.for_classes(classes) is attack]


def _weights(attack: Asked) -> dict[str, object]:
    """What tells the model that a transfer comes from from another one of its name."""
    if not isinstance(attack, Transfer):
        return {}
    return {"source_fingerprint": fingerprint_of(cast("Encoder", attack.model))}


def _doubt_budgets(run: RunFolder, encoder: Encoder, task: Task, threats: Collection[Threat]) -> None:
    """Flags each budget that is perhaps in another unit; for L2 that is a question of the images' size."""
    if not threats:
        return
    try:
        pixels = to_pixels(task.images([0]))
    except UnreadableImage:
        return  # the evaluation will come to that image, and say so
    # In runs of earlier versions it stands for the model as a whole.
    run.flag_again({"name": "budget-unit", "model": encoder.name}, None)
    for threat in sorted(threats, key=Threat.describe):
        subject = Subject(encoder.encode_pixels, pixels, torch.zeros(1, dtype=torch.int64), threat)
        for alarm in budget.check(subject):
            run.flag(alarm.to_flag(model=encoder.name, task=task.name, threat=threat.describe()))
