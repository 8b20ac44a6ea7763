"""What a user's program calls: evaluate and compare, in a few plain arguments."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Literal, cast

import torch

from zsrobust.attacks import leaves_open, parse
from zsrobust.attacks.base import Attack
from zsrobust.attacks.binding import Asked, carry
from zsrobust.attacks.oblivious import Oblivious
from zsrobust.attacks.options import Mode
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.suites import Suite
from zsrobust.distributed import broadcast, world
from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError
from zsrobust.evaluation import BATCH_SIZE, Attacked, Watcher, device_of
from zsrobust.models import load_model
from zsrobust.passes import ROWS
from zsrobust.pictures import ImageExporter, draw
from zsrobust.recording import describe_model, evaluate_into, settings
from zsrobust.records import CLEAN
from zsrobust.refusals import check_images, check_runnable, whole_seeds
from zsrobust.report import Run, Summary, load_run, summarise, write
from zsrobust.run_folder import ReadOnly, RunFolder, claimed, named_or_temporary
from zsrobust.tasks import Task, task
from zsrobust.tasks.catalogue import catalogue
from zsrobust.tasks.suites import SUITES
from zsrobust.threat import Threat, widest
from zsrobust.tuned import Passes, evaluated_with, tuned


class Evaluation:
    """The records of one evaluation; ``print`` it for its table.

    Attributes:
        run: What was asked and measured.
        summary: Accuracies with intervals, as in ``summary.json``.
        images: How many adversarial images were saved now.
    """

    def __init__(self, run: Run, *, images: int = 0) -> None:
        self.run = run
        self.images = images
        self.summary: Summary = summarise([run])

    def __str__(self) -> str:
        return str(self.summary)


@torch.inference_mode(False)  # somebody else's must not reach the attacks, which need gradients
@torch.enable_grad()
def evaluate(
    model: Encoder | str | Sequence[Encoder | str],
    tasks: str | Task | Sequence[str | Task],
    *,
    attacks: str | Asked | Sequence[str | Asked] = "pgd:20",
    threat: Threat | str | Sequence[Threat | str] | None = None,
    mode: Mode = "exact",
    limit: int | None = None,
    seed: int | Sequence[int] = 0,
    split: str = "test",
    run: str | Path | None = None,
    steps: int | None = None,
    step_size: float | None = None,
    restarts: int | None = None,
    targets: int | None = None,
    queries: int | None = None,
    batch_size: int = BATCH_SIZE,
    rows: int | Literal["auto"] = ROWS,
    attention: Literal["auto"] | None = None,
    compile: bool = False,
    data: str | Path | None = None,
    classes: Sequence[str] = (),
    templates: Sequence[str] = (),
    select: Sequence[str] = (),
    on_bad_image: Literal["stop", "skip"] = "stop",
    save_images: str | Path | None = None,
    pictures: bool = False,
    config: str | None = None,
    kind: str = "evaluate",
) -> Evaluation:
    """Clean and robust accuracy of a model, or of several in one table, task by task.

    A program that torchrun started in several processes calls this in every one of them, within
    :func:`zsrobust.distributed.joined`: they share the work, the first one writes the run, and all get the result.

    Args:
        model: An encoder, or what :func:`zsrobust.load` takes; several are ordered so that the unadapted come first.
        tasks: Names, paths or tasks.
        attacks: ``"pgd:20"``, ``"autoattack"``, …; robust accuracy is what survives all of them. An attack object
            carries its own threat, so only names go with several threats.
        threat: Of attacks given by name; one or several, for example ``"linf:4/255:native"``, all of one space. None:
            ``"linf:1/255:native"``.
        mode: Of attacks given by name; see :data:`zsrobust.attacks.options.Mode`.
        limit: Examples of each task, stratified; None: all. Larger than the run's before: what is there stays.
        seed: Of the subset and of the attacks' random numbers; several: each is run, on the subset of the first.
        split: Of tasks given by name: ``"test"``, ``"validation"`` or ``"train"``.
        run: Folder for the records and the report; an evaluation that was interrupted goes on. None: nothing is kept.
        steps: Of attacks given by name that have such an option and do not set it; None: their default.
        step_size: Likewise, in pixel range [0, 1] units.
        restarts: Likewise.
        targets: Likewise, classes to push towards.
        queries: Likewise, of attacks without gradients.
        batch_size: Examples in flight. Verdicts do not depend on it, unless the model is random: then what an attack
            finds does.
        rows: Rows of one forward pass; kernels round by shape, so it is stored. ``"auto"``: found by measurement
            (:func:`zsrobust.tuned.best_rows`), or what the run has.
        attention: ``"auto"``: the faster one, found by measurement, or what the run has. None: as the encoders have it.
        compile: Compile the bfloat16 passes (:mod:`zsrobust.encoders.compiling`).
        data: Folder in which tasks given by name look for local data.
        classes: Names for the prompts, of one task given by name; see :func:`zsrobust.task`. Empty: the task's own.
        templates: Prompt templates with one ``{}`` each. Empty: the tasks' own.
        select: Only these classes. Empty: all.
        on_bad_image: ``"stop"``, or ``"skip"``: unreadable images are counted and listed.
        save_images: Folder for the adversarial images that are computed now; not with several processes. What the run
            has already is not attacked again.
        pictures: Draw one example of each task for the HTML report; needs ``run``.
        config: Text to keep as ``config.yaml`` of the run.
        kind: What made the run.

    Raises:
        ZSRobustError: one line that says what is wrong; what was computed is kept.
    """
    seeds = whole_seeds(seed)
    wanted = 1 if rows == "auto" else rows
    for name, value, least in (("seed", min(seeds, default=-1), 0), ("batch_size", batch_size, 1), ("rows", wanted, 1)):
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, not {value}")
    check_images(save_images)
    encoders = _in_order(model)
    chosen = resolve_tasks(
        tasks, split=split, limit=limit, seed=seeds[0], data=data, classes=classes, templates=templates,
        select=select, on_bad_image=on_bad_image,
    )  # fmt: skip
    asked = resolve_attacks(
        attacks, threat, mode=mode, steps=steps, step_size=step_size, restarts=restarts, targets=targets,
        queries=queries,
    )  # fmt: skip
    searches = carry(asked, partial(load_model, device=str(device_of(encoders[0]))))
    check_runnable(encoders, chosen, searches)
    me = world()
    if me.main:
        _tell_of_other_suites(searches, chosen)
    if pictures and run is None:
        raise ConfigError("pictures are for the report of a run: name its folder with run=")
    passes: Passes = "lowered" if mode == "fast" and device_of(encoders[0]).type == "cuda" else "float32"
    with (
        named_or_temporary(run) as path,
        claimed(Path(path), kind=kind) if me.main else nullcontext(),
        tuned(
            encoders, evaluated_with(Path(path)), rows=rows, attention=attention, compile=compile, passes=passes
        ) as rows_found,
    ):
        fixed = settings(searches, rows=rows_found, device=device_of(encoders[0]), encoders=encoders)
        begun = RunFolder(path, kind=kind, settings=fixed) if me.main else None
        header = broadcast(begun.header if begun is not None else {})
        folder = begun or ReadOnly(path, header, settings=fixed)
        if config is not None and not (folder.path / "config.yaml").exists():
            folder.write_config(config)
        watch = _Saved(Path(save_images).expanduser(), folder) if save_images is not None else None
        _measure(folder, encoders, chosen, searches, seeds=seeds, batch_size=batch_size, watch=watch)
        if watch is not None:
            watch.tell()
        if config is not None:
            folder.write_config(config)
        if pictures and me.main:
            draw(folder, encoders, chosen, strongest(searches), seed=seeds[0])
        mine = Evaluation(load_run(path), images=watch.count if watch is not None else 0) if me.main else None
        if mine is not None and run is not None:
            write(mine.summary, Path(path))
        found = broadcast(mine.run if mine is not None else None)
        return mine or Evaluation(cast(Run, found))


class _Saved:
    """Saves adversarial images, and says so where these are not all that the run has."""

    def __init__(self, place: Path, run: RunFolder) -> None:
        self.count = 0
        self._export = ImageExporter(place)
        self._begun = any(record.attack != CLEAN for record in run.records.read())

    def __call__(self, attacked: Attacked) -> None:
        self._export(attacked)
        self.count += len(attacked.indices)

    def tell(self) -> None:
        """Warns of images that were not attacked now."""
        before = "; what the run had before is not attacked again: use another run folder for all images"
        if not self.count:
            warnings.warn(f"save_images: no image was written{before if self._begun else ''}", stacklevel=3)
        elif self._begun:
            warnings.warn(f"save_images: {self.count:,} images were written{before}", stacklevel=3)


def _tell_of_other_suites(attacks: Sequence[Asked], tasks: Sequence[Task]) -> None:
    """Warns where a task has too few classes for a suite, so that another takes its place."""
    changes: dict[tuple[str, str], list[str]] = {}
    for suite in (attack for attack in attacks if isinstance(attack, Suite | Oblivious)):
        for one in tasks:
            instead = suite.for_classes(len(one.class_names))
            if instead is not suite:
                changes.setdefault((suite.name, instead.name), []).append(one.name)
    for (name, instead_of_it), concerned in changes.items():
        where = ", ".join(dict.fromkeys(concerned))
        warnings.warn(f"'{name}' is for 10 classes or more; on {where}: '{instead_of_it}'", stacklevel=3)


def _in_order(model: Encoder | str | Sequence[Encoder | str]) -> list[Encoder]:
    """Loaded, unadapted ones first.

    Raises:
        ConfigError: none, or two of one name.
    """
    given = [model] if isinstance(model, str) or not isinstance(model, Sequence) else list(model)
    encoders = [load_model(str(one), device="cpu") if isinstance(one, str | Path) else one for one in given]
    if strange := [type(one).__name__ for one in encoders if not hasattr(one, "encode_pixels")]:
        raise ConfigError(
            f"a {strange[0]} is no encoder: zsrobust.load(…) opens one, and docs/adding.md says what one is"
        )
    names = [encoder.name for encoder in encoders]
    if not names:
        raise ConfigError("no model given")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"two models are called '{twice[0]}': a table could not tell them apart; rename a folder or file"
        )
    return sorted(encoders, key=lambda encoder: bool(encoder.provenance.get("adapted_on")))


def _measure(
    folder: RunFolder,
    encoders: Sequence[Encoder],
    tasks: Sequence[Task],
    attacks: Sequence[Asked],
    *,
    seeds: Sequence[int],
    batch_size: int,
    watch: Watcher | None,
) -> None:
    # All models are compared with the run before the first hour is spent on one of them.
    for encoder in encoders:
        describe_model(folder, encoder)
    with folder.records:
        for encoder in encoders:
            for seed in seeds:
                evaluate_into(folder, encoder, tasks, attacks, seed=seed, batch_size=batch_size, watch=watch)


def compare(*evaluations: Evaluation) -> Summary:
    """Several evaluations in one table: before and after, task by task. ``print`` it.

    Raises:
        RunError: a task is not the same data in two of them.
    """
    return summarise([evaluation.run for evaluation in evaluations])


def resolve_tasks(
    tasks: str | Task | Sequence[str | Task],
    *,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    data: str | Path | None = None,
    classes: Sequence[str] = (),
    templates: Sequence[str] = (),
    select: Sequence[str] = (),
    on_bad_image: Literal["stop", "skip"] = "stop",
) -> list[Task]:
    """Tasks from names, suites (``"paper15"``), paths (a folder of TOML files is all of them), or tasks.

    ``"a,b"`` is two.

    All but ``limit`` and its ``seed`` are for tasks given by name or path: an open task has its split and data.
    ``classes``, ``templates`` and ``select`` are those of :func:`zsrobust.task` where they are not empty; the templates
    are for all tasks, the class names for one.

    Raises:
        ConfigError: no task, the same name twice, class names for several tasks, or an open task with ``classes``,
            ``templates``, ``select`` or ``on_bad_image``, which are for opening one.
        DataError: data that is missing or broken.
    """
    given = [tasks] if isinstance(tasks, str | Task) else list(tasks)
    parts: list[str | Task] = []
    for one in given:
        parts += _words(one) if isinstance(one, str) else [one]
    classes, select = (_words(names) if isinstance(names, str) else names for names in (classes, select))
    templates = [templates] if isinstance(templates, str) else templates
    wanted = {
        "classes": classes, "templates": templates, "select": select, "on_bad_image": on_bad_image != "stop",
    }  # fmt: skip
    ignored = [name for name, value in wanted.items() if value]
    if opened := [part.name for part in parts if isinstance(part, Task) and ignored]:
        raise ConfigError(
            f"{' and '.join(ignored)} cannot change task '{opened[0]}', which is open already: give its name, or open "
            "it with zsrobust.task(…)"
        )
    found: list[Task] = []
    for part in parts:
        if isinstance(part, Task):
            found.append(part if limit is None else part.take(limit, seed=seed))
            continue
        for spec in _expanded(part):
            found.append(
                task(
                    spec, split=split, limit=limit, seed=seed, data=data, classes=list(classes) or None,
                    templates=list(templates) or None, select=list(select) or None, on_bad_image=on_bad_image,
                )
            )  # fmt: skip
    if (classes or select) and len(found) > 1:
        raise ConfigError(f"class names were given for {len(found)} tasks; they belong to one: evaluate it by itself")
    names = [one.name for one in found]
    if not names:
        raise ConfigError("no task given")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"task '{twice[0]}' is given twice")
    return found


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _expanded(spec: str) -> Sequence[str]:
    folder = Path(spec)
    if spec in SUITES:
        return SUITES[spec].members(sorted(catalogue()))
    return sorted(str(toml) for toml in folder.glob("*.toml")) or [spec] if folder.is_dir() else [spec]


def resolve_attacks(
    attacks: str | Asked | Sequence[str | Asked],
    threat: Threat | str | Sequence[Threat | str] | None,
    *,
    mode: Mode = "exact",
    **options: object,
) -> list[Asked]:
    """Attack × threat, from names (``"pgd:20,fgsm"`` is two) or attack objects.

    Args:
        attacks: What was asked for.
        threat: Balls for the attacks that are names; None: ``"linf:1/255:native"``.
        mode: Likewise.
        **options: Likewise, for the names that have the option and do not set it themselves; None: the default.

    Raises:
        ConfigError: no attack, or no threat, or the same attack twice, or a threat or an option that nothing takes.
    """
    within = "linf:1/255:native" if threat is None else threat
    threats = [within] if isinstance(within, str | Threat) else list(within)
    balls = [Threat.parse(t) if isinstance(t, str) else t for t in threats]
    given: list[str | Asked] = (
        [attacks] if isinstance(attacks, str) or not isinstance(attacks, Sequence) else list(attacks)
    )
    parts: list[str | Asked] = []
    for one in given:
        parts += [name.strip() for name in one.split(",") if name.strip()] if isinstance(one, str) else [one]
    names = [part for part in parts if isinstance(part, str)]
    wanted = {option: value for option, value in options.items() if value is not None}
    for option in wanted:
        if not any(leaves_open(name, option) for name in names):
            asked = f"'{', '.join(names)}'" if names else "attack objects"
            raise ConfigError(f"{option} was given, but {asked} cannot take it, or set it already")
    if threat is not None and parts and not names and {part.threat for part in parts} != set(balls):  # type: ignore[union-attr]
        raise ConfigError("threat was given, but attack objects have their own: leave it out, or give attacks by name")
    found: list[Asked] = []
    for part in parts:
        if not isinstance(part, str):
            found.append(part)
            continue
        own = {option: value for option, value in wanted.items() if leaves_open(part, option)}
        found += [parse(part, ball, mode=mode, **own) for ball in balls]
    keys = [(attack.name, attack.threat.describe()) for attack in found]
    if not keys:
        raise ConfigError("no attack or no threat given: there is no robust accuracy without one")
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ConfigError(f"attack '{twice[0][0]}' at {twice[0][1]} is given twice")
    return found


def strongest(attacks: Sequence[Asked]) -> Attack:
    """An attack of the largest budget by itself, for pictures: one that climbs the model, else PGD with 50 steps."""
    largest = widest(attack.threat for attack in attacks)
    alone = [a for a in attacks if isinstance(a, Attack) and a.threat == largest and a.describe().get("gradient", True)]
    return alone[0] if alone else PGD(largest, 50)
