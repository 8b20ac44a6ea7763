"""Adversarial adaptation of a visual tower: the one training loop.

Each step (:mod:`zsrobust.training_step`): the adversary climbs the method's ``inner`` for exactly K steps on frozen
weights, then the learner takes one optimizer step down the method's ``outer``. Data order, random starts and learning
rate are functions of (seed, step), so a run that is killed and resumed from its checkpoint ends with the same weights,
bit for bit on a CPU with the same number of threads and processes, else up to rounding. Several processes share each
batch; only the first one writes.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from zsrobust import checkpoint
from zsrobust.attacks.pgd import PGD
from zsrobust.averaging import Average
from zsrobust.distributed import Stopped, broadcast, translated, world
from zsrobust.divergence import DivergenceGuard
from zsrobust.encoders import switches
from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError, RunError
from zsrobust.evaluation import device_of, fingerprint_of, in_space
from zsrobust.fitting import fitting_batch
from zsrobust.held_out import IMAGES, Examiner, scored
from zsrobust.losses import cross_entropy
from zsrobust.methods import METHODS
from zsrobust.methods.base import Learner, Method
from zsrobust.methods.targets import check, check_batches, check_split
from zsrobust.metrics import MetricsFile
from zsrobust.randomness import seeded
from zsrobust.recipe import AUTO, OPTIMIZERS, Recipe
from zsrobust.recomputation import blocks_of
from zsrobust.refusals import check_open
from zsrobust.run_folder import versions
from zsrobust.tasks import Task
from zsrobust.text_head import TextHead
from zsrobust.training_data import Feed, Part, rows_at_once, steps_of
from zsrobust.training_step import Step
from zsrobust.tuning import TUNINGS
from zsrobust.tuning.base import Tuning

EXTRA = "method."
"""Before the names of what a method trains beside the encoder."""


@torch.inference_mode(False)  # somebody else's must not reach the training, which need gradients
@torch.enable_grad()
def adapt(
    encoder: Encoder,
    *,
    task: Task,
    attack: PGD,
    method: str | Method = "tecoa",
    tuning: str | Tuning = "full",
    held_out: Task | None = None,
    run: str | Path | None = None,
    tensorboard: bool = False,
    progress: bool | None = None,
    **recipe: Any,
) -> Encoder:
    """A copy of ``encoder``, adapted. The given encoder is not changed.

    Args:
        encoder: A model that is also a ``torch.nn.Module`` with ``visual_parameters()`` and ``copy()``.
        task: The training examples; all its class prompts are in the loss.
        attack: What the learner trains against; its threat's space decides where perturbations live. One run, whose
            loss is the method's and whose precision is the recipe's ``attack_precision``.
        method: A name, or an object that fulfils :class:`~zsrobust.methods.base.Method`: the loss.
        tuning: A name, or an object that fulfils :class:`~zsrobust.tuning.base.Tuning`: what is trained.
        held_out: Examples of the same classes, with which the method's own classifier is scored after the last step,
            clean and under PGD-10 within the attack's threat; they change nothing. None: no such scores.
        run: Folder for checkpoints and metrics, which all processes of a job see; a run that was interrupted goes on,
            with any number of processes. None: nothing is written.
        tensorboard: Also write TensorBoard events into the run folder.
        progress: Show a bar. None: when standard error is a terminal.
        **recipe: Fields of :class:`~zsrobust.recipe.Recipe`.

    Raises:
        ConfigError: an option that is not allowed.
        ModelError: the encoder cannot be adapted.
        RunError: the run folder cannot be written, was started with another configuration, is in use, or is of a run
            that ended without the scores of ``held_out``, or with those of another number of images; a step does not
            fit into memory; or another process of the job is gone.
        DivergedError: the loss became NaN or ran away; the message names the last good checkpoint.
    """
    check_open(encoder, task)
    _check_attack(attack)
    method = METHODS[method]() if isinstance(method, str) else method
    tuning = TUNINGS[tuning]() if isinstance(tuning, str) else tuning
    how, here, folder = Recipe.of(recipe), world(), Path(run) if run is not None else None
    check(method, how.labels)
    check_split(method, here.size, how.micro_batch)
    check_batches(method, len(task) if how.batch_size == AUTO else how.size, len(task))
    task = in_space(task, encoder, attack.threat.space)
    learner, parameters = _learner(encoder, task, method, tuning, how.seed)
    _check_passes(learner.encoder, how)
    step = Step(learner, method, attack, parameters, _optimizer(parameters, method, how), how, here)
    with _naming_the_checkpoint(folder):
        step.how = how = _sized(step, task, folder)
        configuration = _configuration(encoder, method, tuning, task, attack, how) | (
            {} if here.alone else {"processes": here.size}
        )
        examiner = None
        if held_out is not None:
            rows = rows_at_once(how.size, how.micro_batch, here.size)
            examiner = Examiner(
                held_out, learner, method, attack, rows=rows, precision=how.precision, seed=how.seed, world=here
            )
        with ExitStack() as stack:
            stack.enter_context(seeded(how.seed))
            if folder is not None and here.main:
                stack.enter_context(checkpoint.claimed(folder))
            _Run(step, task, examiner, folder, configuration).train(tensorboard=tensorboard, progress=progress)
    return _finished(tuning.finish(learner.encoder), encoder, task, configuration)


@dataclass
class _Run:
    """A run from its last checkpoint, or its beginning, to its end."""

    step: Step
    task: Task
    examiner: Examiner | None
    folder: Path | None
    configuration: Mapping[str, object]

    def __post_init__(self) -> None:
        how = self.step.how
        self.main = self.step.world.main
        self.steps = steps_of(len(self.task), how.epochs, how.size)
        own = {name: p for name, p in self.step.parameters.items() if not name.startswith(EXTRA)}
        self.average = Average(how, self.steps, own)
        self.kept = {**self.step.parameters, **self.average.named()}

    def train(self, *, tensorboard: bool, progress: bool | None) -> None:
        """All steps that are left."""
        how, position = self.step.how, self._restored()
        self._check_scores(position)
        guard = DivergenceGuard(position.losses, self.folder)
        feed = Feed(
            self.task, how.size, how.seed, self.step.device, first=position.step, steps=self.steps,
            world=self.step.world,
        )  # fmt: skip
        if position.step < self.steps and not self.step.world.alone:
            self.step.distribute(feed.part(position.step))
        hidden = True if not self.main or progress is False else None if progress is None else False
        bar = tqdm(total=self.steps, initial=position.step, desc="adapt", unit="step", disable=hidden)
        written = self.folder if self.main else None
        number, images, clock = position.step, 0, time.monotonic()
        with bar, MetricsFile(written, resume_at=number, tensorboard=tensorboard and self.main) as metrics:
            for part in feed:
                for group in self.step.optimizer.param_groups:
                    group["lr"] = group["factor"] * how.learning_rate(number, self.steps)
                loss, points = self.step.take(part, number)
                guard.check(loss, number)
                number, images = number + 1, images + part.share.of
                self.average.update(number)
                line: dict[str, float] = {}
                if number % how.log_every == 0 or number == self.steps:
                    passed = max(time.monotonic() - clock, 1e-9)
                    line = self._line(points, part, loss, number) | {
                        "images_per_second": images / passed,
                        "waiting": feed.waited / passed,
                    }
                    bar.set_postfix_str(_shown(line), refresh=False)
                if self.examiner is not None and number == self.steps:
                    self.examiner.rows = min(self.examiner.rows, self.step.rows or self.examiner.rows)
                    with self.average.in_place():
                        line |= self.examiner.scores()
                if line:
                    metrics.write(number, line)
                bar.update()
                if number % how.checkpoint_every == 0 or number == self.steps:
                    self._save(number, guard)
        self.average.settle()

    def _restored(self) -> checkpoint.Position:
        """Where the run is: what the first process says, restored in all of them."""
        if self.folder is None:
            return checkpoint.Position(0, {})
        last = broadcast(checkpoint.latest(self.folder / "checkpoints") if self.main else None)
        if last is None:
            return checkpoint.Position(0, {})
        position = checkpoint.restore(last, self.kept, self.step.optimizer, self.configuration)
        if self.step.scaler is not None and position.scaler:
            self.step.scaler.load_state_dict(dict(position.scaler))
        if position.changed and self.main:
            what = " and ".join(position.changed)
            warnings.warn(
                f"{self.folder} was begun with another number of {what}: what comes out equals the uninterrupted run "
                "up to rounding, not bit for bit",
                stacklevel=5,
            )
        return position

    def _check_scores(self, position: checkpoint.Position) -> None:
        """Refuses held-out images of a run that has no step left and did not score them, or not so many."""
        if self.examiner is None or self.folder is None or position.step < self.steps:
            return
        found = broadcast(scored(self.folder) if self.main else None)
        asked = len(self.examiner.task)
        if not found:
            raise RunError(
                f"{self.folder} is finished, and held-out images are scored after the last step only: leave held_out "
                "out, or use another run folder"
            )
        if found.get(IMAGES, asked) != asked:
            raise RunError(
                f"{self.folder} is finished, with scores of {found[IMAGES]:,} held-out images, not of {asked:,}: ask "
                "for as many, leave held_out out, or use another run folder"
            )

    def _line(self, points: Tensor, part: Part, loss: float, number: int) -> dict[str, float]:
        rate = self.step.how.learning_rate(number - 1, self.steps)
        return self.step.measured(points, part) | {"loss": loss, "lr": rate}

    def _save(self, number: int, guard: DivergenceGuard) -> None:
        guard.check_weights(self.step.parameters, number)
        guard.check_alike(self.step.parameters, number)
        if self.folder is not None and self.main:
            scaling = {} if self.step.scaler is None else self.step.scaler.state_dict()
            now = checkpoint.Position(number, guard.state, scaling)
            checkpoint.save(self.folder / "checkpoints", now, self.kept, self.step.optimizer, self.configuration)


@contextmanager
def _naming_the_checkpoint(folder: Path | None) -> Iterator[None]:
    """Where another process is gone, this one says from where the job will go on."""
    if world().alone:
        yield
        return
    try:
        with translated():
            yield
    except Stopped as error:
        last = checkpoint.latest(folder / "checkpoints") if folder is not None else None
        where = f"goes on from {last}" if last else "starts again: there was no checkpoint yet"
        error.args = (f"{str(error).split(';')[0]}; the same command {where}",)
        raise


def _check_attack(attack: object) -> None:
    """Refuses what of an attack has no effect here: the result would say that it was trained with it."""
    if not isinstance(attack, PGD):
        given = repr(attack) if isinstance(attack, str) else type(attack).__name__
        raise ConfigError(f"attack must be a PGD, such as PGD(threat, steps=2), not {given}")
    if attack.loss is not cross_entropy:
        loss = getattr(attack.loss, "__name__", type(attack.loss).__name__)
        raise ConfigError(f"the method says what the adversary climbs: choose method=, not PGD(loss={loss})")
    if attack.precision != "float32":
        raise ConfigError(
            f"how the adversary's passes are computed says attack_precision=, not PGD(precision='{attack.precision}')"
        )
    if attack.restarts != 1:
        raise ConfigError(f"adaptation takes one run of the attack, not PGD(restarts={attack.restarts})")


def _check_passes(encoder: Encoder, how: Recipe) -> None:
    """Whether this model can be passed as the recipe says."""
    device = device_of(encoder)
    if how.precision == "fp16" and device.type != "cuda":
        raise ConfigError(f"precision 'fp16' takes a CUDA device, and the model is on {device}: use bf16, or float32")
    if how.attack_precision == "bfloat16" and not hasattr(encoder, "lowered"):
        raise ConfigError(f"attack_precision bfloat16 takes a model with lowered(), and '{encoder.name}' has none")
    if how.checkpoint_activations:
        blocks_of(encoder)
    draws = getattr(encoder, "samples", 1) != 1
    if draws and world().main and not (world().alone and how.micro_batch is None):
        warnings.warn(
            "the model draws at random while it is trained: with another number of processes or another micro_batch "
            "it draws other numbers",
            stacklevel=3,
        )


def _sized(step: Step, task: Task, folder: Path | None) -> Recipe:
    """The recipe with a number for its batch size: that which the run began with, or one that fits into memory."""
    how, here = step.how, step.world
    if how.batch_size != AUTO:
        return how
    began = checkpoint.begun_with(folder / "checkpoints") if folder is not None and here.main else {}
    size = broadcast(began.get("batch_size"))
    if size is None:
        size = fitting_batch(step, task, here)
        if here.main:
            warnings.warn(f"batch_size auto: {size} images fit into memory", stacklevel=3)
    check_batches(step.method, int(size), len(task))
    return replace(how, batch_size=int(size))


def _learner(
    encoder: Encoder, task: Task, method: Method, tuning: Tuning, seed: int
) -> tuple[Learner, dict[str, nn.Parameter]]:
    """The copy to adapt, what of it (and of the method) is trained, and the text head of the original's text tower."""
    if len(task.class_names) < 2:
        raise ConfigError(f"task '{task.name}' has one class: there is nothing to tell apart")
    adapted, parameters = tuning.prepare(encoder, seed=seed)
    head = TextHead.of_classes(encoder, task.class_names, task.templates)
    extra = method.extra(head.embeddings.shape[1], len(task.class_names), seed)
    if extra is not None:
        extra.to(head.embeddings.device)
        parameters |= {f"{EXTRA}{name}": parameter for name, parameter in sorted(extra.named_parameters())}
    return Learner(adapted, encoder, head, extra), parameters


def _optimizer(parameters: Mapping[str, nn.Parameter], method: Method, how: Recipe) -> torch.optim.Optimizer:
    """Over the model's parameters and, with a learning rate of its own, what the method trains beside it."""
    own = [parameter for name, parameter in parameters.items() if not name.startswith(EXTRA)]
    beside = [parameter for name, parameter in parameters.items() if name.startswith(EXTRA)]
    groups: list[dict[str, Any]] = [{"params": own, "factor": 1.0}]
    if beside:
        groups.append({"params": beside, "factor": method.extra_lr(how.lr) / how.lr})
    return OPTIMIZERS[how.optimizer](groups, how.lr, how.weight_decay)


def _configuration(
    encoder: Encoder, method: Method, tuning: Tuning, task: Task, attack: PGD, how: Recipe
) -> dict[str, object]:
    """What a resumed run must have in common with its beginning."""
    return {
        "base": encoder.name,
        "base_fingerprint": fingerprint_of(encoder),
        "method": dict(method.describe()),
        "tuning": dict(tuning.describe()),
        "task": task.name,
        "task_fingerprint": task.fingerprint,
        "templates": list(task.templates),
        "images": len(task),
        "threat": attack.threat.describe(),
        "attack": attack.describe(),
        "threads": torch.get_num_threads(),
        **how.deciding(),
        **_rounding(encoder),
    }


def _rounding(encoder: Encoder) -> dict[str, object]:
    """Switches that change how arithmetic rounds, where they are not as usual."""
    attention = switches.attention_of([encoder])
    told: dict[str, object] = {} if attention in ("sdpa", switches.OWN) else {"attention": attention}
    return told | ({"compile": True} if switches.compiled([encoder]) else {})


def _shown(line: Mapping[str, float]) -> str:
    waiting = f", {line['waiting']:.0%} waiting for them" if line["waiting"] >= 0.01 else ""
    robust = f", robust {line['robust_accuracy']:.0%}" if "robust_accuracy" in line else ""
    return (
        f"loss {line['loss']:.3f}, clean {line['clean_accuracy']:.0%}{robust}, "
        f"{line['images_per_second']:.0f} images/s{waiting}"
    )


def _finished(adapted: Encoder, base: Encoder, task: Task, configuration: Mapping[str, object]) -> Encoder:
    model: Any = adapted
    model.requires_grad_(False).eval()
    switches.set_compiled(adapted, "none")
    model.zero_grad(set_to_none=True)
    before = dict(base.provenance)
    for key in ("interpolation", "adaptation"):  # what is adapted now came from a mixture, or was adapted before
        if key in before:
            before[f"base_{key}"] = before.pop(key)
    history: list[Any] = [*before.get("adapted_on", []), task.name]  # type: ignore[misc]
    method: Any = configuration["method"]
    tuning: Any = configuration["tuning"]
    way = "" if tuning["name"] == "full" else f"+{tuning['name']}"
    model.name = f"{base.name}+{method['name']}{way}"
    model.provenance = {
        **before,
        "base": base.name,
        "adapted_on": list(dict.fromkeys(history)),
        "adaptation": json.loads(json.dumps(configuration)),
        "versions": versions(),
    }
    return adapted
