"""Whole jobs in plain arguments: what ``zsrobust adapt``, ``evaluate`` and ``demo`` do, for programs too."""

from __future__ import annotations

import inspect
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from zsrobust import checkpoint
from zsrobust.adaptation import adapt
from zsrobust.api import Evaluation, evaluate, resolve_attacks
from zsrobust.attacks.binding import carry
from zsrobust.attacks.options import Mode
from zsrobust.attacks.pgd import PGD
from zsrobust.distributed import LOGS, barrier, broadcast, world
from zsrobust.encoders import Encoder
from zsrobust.errors import ConfigError, ModelError, UnknownName
from zsrobust.evaluation import BATCH_SIZE, device_of
from zsrobust.methods import METHODS
from zsrobust.methods.base import Method
from zsrobust.methods.targets import check
from zsrobust.models import MODEL, load_model, named_after, what_was_found
from zsrobust.passes import ROWS
from zsrobust.recipe import Recipe
from zsrobust.refusals import check_images
from zsrobust.registry import Registry
from zsrobust.run_folder import check_kind, write_atomically
from zsrobust.tasks import Task
from zsrobust.tasks import task as open_task
from zsrobust.threat import Threat, parse_eps
from zsrobust.training_data import rows_at_once
from zsrobust.tuned import adapted_with, tuned
from zsrobust.tuning import TUNINGS
from zsrobust.tuning.base import Tuning

Say = Callable[[str], None]


def silent(_: str) -> None:
    """Says nothing."""


def adapt_job(
    *,
    run: str | Path,
    model: str | Encoder = "tiny",
    task: str | Task = "world-compositions",
    split: str = "train",
    classes: Sequence[str] = (),
    template: Sequence[str] = (),
    select: Sequence[str] = (),
    limit: int | None = None,
    data: str | Path | None = None,
    threat: str | Threat = "linf:1/255:native",
    steps: int = 2,
    step_size: str | float | None = None,
    method: str = "tecoa",
    method_options: Mapping[str, Any] | None = None,
    tuning: str = "full",
    tuning_options: Mapping[str, Any] | None = None,
    held_out: int | Task | None = None,
    device: str = "auto",
    attention: str = "sdpa",
    compile: bool = False,
    tensorboard: bool = False,
    config: str | None = None,
    say: Say = silent,
    **recipe: Any,
) -> Encoder:
    """Adapts a model and saves it as ``RUN/model``; a run that is finished is only loaded.

    In a job of several processes every one of them calls this; the first one speaks and writes.

    Args:
        run: Run folder; one that was interrupted goes on.
        model: A model as people write it (:mod:`zsrobust.models`), or an encoder.
        task: Name, TOML or folder of the task; one that is open already is used as it is, whatever the next six say.
        split: Its split.
        classes: Names for the prompts; empty: the task's own.
        template: Prompt templates; empty: the task's own.
        select: Only these classes; empty: all.
        limit: At most so many images, stratified; None: all.
        data: Folder in which tasks look for local data.
        threat: What the training adversary may change.
        steps: Its steps.
        step_size: Length of one in pixel range [0, 1], also ``"1/255"``; None: ε, as in the TeCoA paper.
        method: Name of a method.
        method_options: Keyword arguments of the method.
        tuning: Name of a way of adapting.
        tuning_options: Keyword arguments of the way of adapting.
        held_out: Score the method's own classifier at the end on so many images of the validation split of a
            task given by name, or on an open task; None: not at all.
        device: Of a model that is loaded here, ``"auto"`` (cuda if there is one, else cpu) or torch's name; an encoder
            stays where it is.
        attention: Of a model that is loaded here, ``"sdpa"`` or ``"eager"``; an encoder keeps its own. ``"auto"``: of
            both, the faster one, found by measurement, or that which the run was begun with.
        compile: Compile the passes of the visual tower; a run that was begun without it goes on without.
        tensorboard: Also write TensorBoard events.
        config: Text to store as ``RUN/config.yaml``.
        say: Called with lines for people.
        **recipe: Fields of :class:`zsrobust.recipe.Recipe`.

    Raises:
        ZSRobustError: one line that says what is wrong; checkpoints are kept.
    """
    folder = Path(run)
    check_kind(folder, "adapt")
    first = world().main
    say = say if first else silent
    how = Recipe.of(recipe)
    ball = Threat.parse(threat) if isinstance(threat, str) else threat
    attack = training_attack(ball, steps, step_size)
    learner = make_method(method, method_options or {})
    way = make_tuning(tuning, tuning_options or {})
    check(learner, how.labels)
    if isinstance(held_out, int) and held_out < 1:
        raise ConfigError(f"held_out must be at least 1, or null, not {held_out}")
    if isinstance(held_out, int) and isinstance(task, Task):
        raise ConfigError(
            f"held_out={held_out} takes images of the validation split of a task that is given by name; "
            f"beside the open task '{task.name}' give an open task"
        )
    opened = partial(
        open_task, str(task), data=data, classes=list(classes) or None, templates=list(template) or None,
        select=list(select) or None,
    )  # fmt: skip
    examples = task if isinstance(task, Task) else opened(split=split, limit=limit)
    watched = opened(split="validation", limit=held_out) if isinstance(held_out, int) else held_out
    if isinstance(held_out, int) and watched is not None and len(watched) < held_out:
        raise ConfigError(
            f"held_out is {held_out:,}, but the validation split of '{watched.name}' has {len(watched):,}"
        )
    encoder = load_model(model, device=device, attention=attention)
    if found := what_was_found(encoder):
        say(found)
    size, done, finished = broadcast((_batch_size(how, folder), _steps_done(folder), (folder / MODEL).is_dir()))
    total = how.epochs * math.ceil(len(examples) / size) if isinstance(size, int) else None

    def adapted_by(**more: Any) -> Encoder:
        rows = how.micro_batch or ROWS
        if isinstance(size, int):
            rows = rows_at_once(size, how.micro_batch, world().size)
        with tuned(
            [encoder], adapted_with(folder), rows=rows, attention="auto" if attention == "auto" else None,
            compile=compile, passes=how.precision, compiled="gradients",
        ):  # fmt: skip
            return adapt(
                encoder, task=examples, attack=attack, method=learner, tuning=way, run=folder, **more, **recipe
            )

    if done == total and finished:
        # Nothing is left to do, but another configuration in this folder must still be refused.
        adapted = adapted_by(held_out=watched, progress=False)
        say(f"Finished before, nothing to do: {folder / MODEL}")
        return named_after(adapted, folder)
    images = f"{split}, {len(examples):,} images, {len(examples.class_names)} classes"
    say(f"Adapt  {encoder.name} on {examples.name} ({images})")
    say(f"       {_words(learner.describe())}, against {attack.name} within {ball.describe()}")
    say(f"       {_words(way.describe())}")
    steps_of = f"{total:,} steps of {size} images" if total is not None else "steps of as many images as fit"
    where = device_of(encoder).type + (f" in {world().size} processes" if not world().alone else "")
    say(f"       {steps_of}, {how.precision} on {where}")
    say(f"Run    {folder}" + (f", going on from step {done:,}" if done else ""))
    begun = folder.exists() and any(thing.name != LOGS for thing in folder.iterdir())
    if first and config is not None and not (folder / "config.yaml").exists():
        write_atomically(folder / "config.yaml", config.encode())
    try:
        adapted = adapted_by(held_out=watched, tensorboard=tensorboard)
    except (ConfigError, ModelError):
        if first and not begun:
            shutil.rmtree(folder, ignore_errors=True)  # refused before the first step: what was asked never ran
        raise
    if first:
        save(adapted, folder / MODEL)
        if config is not None:
            write_atomically(folder / "config.yaml", config.encode())
        say(f"Done   {_last_metrics(folder)}")
        say(f"Model  {folder / MODEL}")
    barrier()  # whoever returns may open the model
    return named_after(adapted, folder)


def training_attack(ball: Threat, steps: int, step_size: str | float | None = None) -> PGD:
    """What the learner trains against; without a ``step_size`` a step is as long as ε, as in the TeCoA paper."""
    return PGD(ball, steps, step_size=ball.eps or None if step_size is None else parse_eps(step_size, "step_size"))


def save(encoder: Encoder, folder: Path) -> None:
    """Writes the encoder as a folder that :func:`zsrobust.load` opens.

    Raises:
        ModelError: it cannot save itself, or the folder cannot be written.
    """
    own: Any = getattr(encoder, "save_pretrained", None)
    if own is None:
        raise ModelError(f"'{encoder.name}' cannot be saved: it has no save_pretrained()")
    own(folder)


def make_method(name: str, options: Mapping[str, Any]) -> Method:
    """The method called ``name`` with its own options.

    Raises:
        UnknownName: no such method, or it has no such option.
        ConfigError: a value that the method does not take.
    """
    method: Method = _made(METHODS, name, options)
    return method


def make_tuning(name: str, options: Mapping[str, Any]) -> Tuning:
    """The way of adapting called ``name`` with its own options; raises as :func:`make_method`."""
    tuning: Tuning = _made(TUNINGS, name, options)
    return tuning


def _made(registry: Registry, name: str, options: Mapping[str, Any]) -> Any:
    build = registry[name]
    known = [option for option in inspect.signature(build).parameters if option != "name"]
    for option in options:
        if option not in known:
            raise UnknownName(f"{name} option", str(option), known)  # a YAML file may have a number there
    try:
        return build(**options)
    except TypeError:
        given = ", ".join(f"{option}={value!r}" for option, value in options.items())
        raise ConfigError(f"{registry.kind} '{name}' cannot use {given}: a value is of the wrong type") from None


def _words(described: Mapping[str, object]) -> str:
    options = ", ".join(
        f"{name} {' '.join(map(str, value)) if isinstance(value, list | tuple) else value}"
        for name, value in described.items()
        if name != "name" and value not in (None, "none")
    )
    return f"{described['name']} ({options})" if options else str(described["name"])


def _steps_done(folder: Path) -> int:
    last = checkpoint.latest(folder / "checkpoints")
    return int(last.name.removeprefix("step-")) if last is not None else 0


def _batch_size(how: Recipe, folder: Path) -> object:
    """Of a step: of ``auto``, what the run was begun with; ``"auto"`` where there is no run."""
    if isinstance(how.batch_size, int):
        return how.batch_size
    return checkpoint.begun_with(folder / "checkpoints").get("batch_size", how.batch_size)


def _last_metrics(folder: Path) -> str:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    if not lines:
        return "no step was left"
    last = json.loads(lines[-1])
    # Methods without an adversary do not say it.
    robust = f", {last['robust_accuracy']:.0%} under the training attack" if "robust_accuracy" in last else ""
    return f"loss {last['loss']:.3g}; of the last batch {last['clean_accuracy']:.0%} right{robust}"


def evaluate_job(
    *,
    models: str | Encoder | Sequence[str | Encoder],
    tasks: str | Task | Sequence[str | Task],
    run: str | Path,
    attacks: str | Sequence[str] = "pgd:20",
    threat: str | Sequence[str] = "linf:1/255:native",
    eps: Sequence[str | float] = (),
    space: str | None = None,
    limit: int | None = None,
    seed: int | Sequence[int] = 0,
    split: str = "test",
    mode: Mode = "exact",
    steps: int | None = None,
    step_size: str | float | None = None,
    restarts: int | None = None,
    targets: int | None = None,
    queries: int | None = None,
    batch_size: int = BATCH_SIZE,
    rows: int | Literal["auto"] = ROWS,
    data: str | Path | None = None,
    classes: Sequence[str] = (),
    template: Sequence[str] = (),
    select: Sequence[str] = (),
    on_bad_image: Literal["stop", "skip"] = "stop",
    pictures: bool = False,
    save_images: str | Path | None = None,
    device: str = "auto",
    attention: str = "sdpa",
    compile: bool = False,
    config: str | None = None,
    kind: str = "evaluate",
    say: Say = silent,
) -> Evaluation:
    """Evaluates models into one run folder and writes its report; several processes as :func:`zsrobust.evaluate`.

    Args:
        models: Models as people write them (:mod:`zsrobust.models`), or encoders.
        tasks: Names, paths or tasks.
        run: Run folder; one that was interrupted goes on.
        attacks: Names, for example ``"pgd:20"`` and ``"autoattack"``.
        threat: One or several.
        eps: In place of each threat's ε, in pixel range [0, 1]; empty: as the threats say.
        space: In place of the threats' space.
        limit: Examples of each task, stratified; None: all. Larger than the run's before: what is there stays.
        seed: One or several.
        split: Of the tasks.
        mode: ``"exact"``, ``"fast"`` or ``"float32"``; see :data:`zsrobust.attacks.options.Mode`.
        steps: Of the attacks that have such an option and do not set it; None: their default.
        step_size: Likewise, in pixel range [0, 1], also ``"1/255"``.
        restarts: Likewise.
        targets: Likewise, classes to push towards.
        queries: Likewise, of attacks without gradients.
        batch_size: Examples in flight.
        rows: Rows of one forward pass, or ``"auto"``.
        data: Folder in which tasks look for local data.
        classes: Names for the prompts, of one task; empty: the task's own.
        template: Prompt templates; empty: the tasks' own.
        select: Only these classes; empty: all.
        on_bad_image: ``"stop"`` or ``"skip"``.
        pictures: Draw one example of each task for the HTML report.
        save_images: Folder for all adversarial images; None: they are not kept.
        device: Of models that are loaded here; ``"auto"`` is cuda where there is one, else the CPU.
        attention: Of models that are loaded here, ``"sdpa"`` or ``"eager"``; ``"auto"``: of all, by measurement.
        compile: Compile the bfloat16 passes.
        config: Text to store as ``RUN/config.yaml``.
        kind: Stored as what made the run.
        say: Called with lines for people.

    Raises:
        ZSRobustError: one line that says what is wrong; records are kept.
    """
    check_images(save_images)
    check_kind(Path(run), kind)
    say = say if world().main else silent
    balls = expand_threats([threat] if isinstance(threat, str) else threat, eps, space)
    given = [models] if isinstance(models, str) or not isinstance(models, Sequence) else list(models)
    asked = resolve_attacks(
        attacks,
        balls,
        mode=mode,
        steps=steps,
        step_size=None if step_size is None else parse_eps(step_size, "step_size"),
        restarts=restarts,
        targets=targets,
        queries=queries,
    )
    loaded = partial(load_model, device=device, attention=attention)
    encoders = [loaded(model) for model in given]
    for line in filter(None, map(what_was_found, encoders)):
        say(line)
    folder = Path(run)
    if (folder / "records.jsonl").exists():
        say(f"Going on with {folder}: what is there already is not computed again.")
    return evaluate(
        encoders,
        tasks,
        attacks=carry(asked, loaded),
        mode=mode,
        limit=limit,
        seed=seed,
        split=split,
        run=folder,
        batch_size=batch_size,
        rows=rows,
        attention="auto" if attention == "auto" else None,
        compile=compile,
        data=data,
        classes=classes,
        templates=template,
        select=select,
        on_bad_image=on_bad_image,
        save_images=save_images,
        pictures=pictures,
        config=config,
        kind=kind,
    )


def expand_threats(threats: Sequence[str], eps: Sequence[str | float] = (), space: str | None = None) -> list[Threat]:
    """Threats × ε, each with ``space`` if one is given; without ε, the threats' own.

    Raises:
        ConfigError: not a threat, or not an ε.
    """
    balls = [Threat.parse(text) for text in threats]
    return [
        Threat(ball.norm, size, space or ball.space)
        for ball in balls
        for size in ([parse_eps(written) for written in eps] or [ball.eps])
    ]
