"""The one training loop: adversarial adaptation of a visual tower, read top to bottom.

Each step: the adversary climbs the method's ``inner`` for exactly K steps on frozen weights, then the learner takes one
optimizer step down the method's ``outer``. Data order, random starts and learning rate are functions of (seed, step),
so a run that is killed and resumed from its checkpoint ends with the same weights, bit for bit on a CPU with the same
number of threads.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from zsrobust import checkpoint
from zsrobust.attacks.pgd import PGD
from zsrobust.averaging import Average
from zsrobust.divergence import DivergenceGuard
from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError
from zsrobust.evaluation import device_of, fingerprint_of, in_space
from zsrobust.losses import cross_entropy
from zsrobust.methods import METHODS
from zsrobust.methods.base import Batch, Learner, Method
from zsrobust.methods.targets import check, check_batch, prepare
from zsrobust.metrics import MetricsFile
from zsrobust.passes import frozen
from zsrobust.pixels import to_pixels
from zsrobust.randomness import generator, seeded
from zsrobust.recipe import HELD_OUT_STEPS, OPTIMIZERS, Precision, Recipe
from zsrobust.run_folder import versions
from zsrobust.tasks import Task
from zsrobust.text_head import TextHead
from zsrobust.tuning import TUNINGS
from zsrobust.tuning.base import Tuning

EXTRA = "method."
"""Before the names of what a method trains beside the encoder."""


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
        attack: What the learner trains against; its threat's space decides where perturbations live.
        method: A name, or an object that fulfils :class:`~zsrobust.methods.base.Method`: the loss.
        tuning: A name, or an object that fulfils :class:`~zsrobust.tuning.base.Tuning`: what is trained.
        held_out: Examples of the same classes, with which the method's own classifier is scored after the last step,
            clean and under PGD-10 within the attack's threat; they change nothing. None: no such scores.
        run: Folder for checkpoints and metrics; a run that was interrupted goes on. None: nothing is written.
        tensorboard: Also write TensorBoard events into the run folder.
        progress: Show a bar. None: when standard error is a terminal.
        **recipe: Fields of :class:`~zsrobust.recipe.Recipe`.

    Raises:
        ConfigError: an option that is not allowed.
        ModelError: the encoder cannot be adapted.
        RunError: the run folder cannot be written, or was started with another configuration.
        DivergedError: the loss became NaN or ran away; the message names the last good checkpoint.
    """
    method = METHODS[method]() if isinstance(method, str) else method
    tuning = TUNINGS[tuning]() if isinstance(tuning, str) else tuning
    how = Recipe.of(recipe)
    check(method, how.labels)
    check_batch(method, min(how.batch_size, len(task)))
    task = in_space(task, encoder, attack.threat.space)
    learner, parameters = _learner(encoder, task, method, tuning, how.seed)
    optimizer = _optimizer(parameters, method, how)
    configuration = _configuration(encoder, method, tuning, task, attack, how)
    examiner = _Examiner(held_out, learner, method, attack, how) if held_out is not None else None

    folder = Path(run) if run is not None else None
    with seeded(how.seed):
        steps = how.epochs * math.ceil(len(task) / how.batch_size)
        average = Average(how, steps, {n: p for n, p in parameters.items() if not n.startswith(EXTRA)})
        kept = parameters | average.named()
        position = checkpoint.Position(0, {})
        if folder is not None and (last := checkpoint.latest(folder / "checkpoints")):
            position = checkpoint.restore(last, kept, optimizer, configuration)
        guard = DivergenceGuard(position.losses, folder)

        step, clock = position.step, time.monotonic()
        bar = tqdm(
            total=steps, initial=step, desc="adapt", unit="step", disable=None if progress is None else not progress
        )
        with bar, MetricsFile(folder, resume_at=step, tensorboard=tensorboard) as metrics:
            for keys, pixels, truth in _batches(task, how, device_of(learner.encoder), first=step, steps=steps):
                for group in optimizer.param_groups:
                    group["lr"] = group["factor"] * how.learning_rate(step, steps)
                batch = _prepared(learner, method, method.views(pixels, keys), truth, how)
                points = _adversary(learner, method, attack, batch, keys, how.precision)
                loss = _learn(learner, method, points, batch, parameters, optimizer, how.precision)
                guard.check(loss, step)
                step += 1
                average.update(step)
                line: dict[str, float] = {}
                if step % how.log_every == 0 or step == steps:
                    line = _measure(learner, points, pixels, truth, how.precision) | {
                        "loss": loss,
                        "lr": how.learning_rate(step - 1, steps),
                        "images_per_second": (step - position.step) * how.batch_size / (time.monotonic() - clock),
                    }
                    bar.set_postfix_str(_shown(line), refresh=False)
                if examiner is not None and step == steps:
                    with average.in_place():
                        line |= examiner.scores()
                if line:
                    metrics.write(step, line)
                bar.update()
                if step % how.checkpoint_every == 0 or step == steps:
                    guard.check_weights(parameters, step)
                    if folder is not None:
                        now = checkpoint.Position(step, guard.state)
                        checkpoint.save(folder / "checkpoints", now, kept, optimizer, configuration)
        average.settle()
    return _finished(tuning.finish(learner.encoder), encoder, task, configuration)


def _learner(
    encoder: Encoder, task: Task, method: Method, tuning: Tuning, seed: int
) -> tuple[Learner, dict[str, nn.Parameter]]:
    """The copy to adapt, what of it (and of the method) is trained, and the text head of the original's text tower."""
    if len(task.class_names) < 2:
        raise ConfigError(f"task '{task.name}' has one class: there is nothing to tell apart")
    adapted, parameters = tuning.prepare(encoder, seed=seed)
    head = TextHead.build(encoder, task.class_names, task.templates)
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
    }


Keys = list[tuple[str | int, ...]]


def _batches(
    task: Task, how: Recipe, device: torch.device, *, first: int, steps: int
) -> Iterator[tuple[Keys, Tensor, Tensor]]:
    """(keys of the random starts, pixels, true labels) of batches ``first`` … ``steps`` − 1; decoded one ahead."""
    per_epoch = math.ceil(len(task) / how.batch_size)

    def indices(step: int) -> list[int]:
        epoch, position = divmod(step, per_epoch)
        order = torch.randperm(len(task), generator=generator(how.seed, "order", epoch))
        return order[position * how.batch_size : (position + 1) * how.batch_size].tolist()

    def load(step: int) -> tuple[Keys, Tensor, Tensor]:
        chosen = indices(step)
        keys: Keys = [(how.seed, int(task.ids[i]), "adapt", step) for i in chosen]
        return keys, to_pixels(task.images(chosen)), torch.from_numpy(task.labels[chosen])

    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(load, first) if first < steps else None
        for step in range(first, steps):
            assert coming is not None
            keys, pixels, labels = coming.result()
            coming = pool.submit(load, step + 1) if step + 1 < steps else None
            yield keys, pixels.to(device), labels.to(device)


def _autocast(device: torch.device, precision: Precision) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def _prepared(learner: Learner, method: Method, pixels: Tensor, truth: Tensor, how: Recipe) -> Batch:
    with _autocast(pixels.device, how.precision):
        return prepare(learner, method, pixels, truth, how.labels)


def _adversary(learner: Learner, method: Method, attack: PGD, batch: Batch, keys: Keys, precision: Precision) -> Tensor:
    if not method.adversarial:
        return batch.pixels
    with frozen(learner.encoder), frozen(learner.extra), _autocast(batch.pixels.device, precision):
        return attack.perturb(lambda points: method.inner(learner, points, batch), batch.pixels, keys=keys)


def _learn(
    learner: Learner,
    method: Method,
    points: Tensor,
    batch: Batch,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    precision: Precision,
) -> float:
    with _autocast(points.device, precision):
        loss = method.outer(learner, points, batch).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    # A gradient that is not finite would ruin the weights, and the next checkpoint with them: then no step is taken,
    # and the caller stops at a loss that is not finite.
    slope = torch.nn.utils.get_total_norm([p.grad for p in parameters.values() if p.grad is not None])
    value = float(loss.detach()) if bool(slope.isfinite()) else math.nan
    if math.isfinite(value):
        optimizer.step()
    return value


@torch.no_grad()
def _measure(learner: Learner, points: Tensor, pixels: Tensor, truth: Tensor, precision: Precision) -> dict[str, float]:
    """Zero-shot accuracy on this batch, clean and under the training attack, whatever the loss is."""
    with _autocast(points.device, precision):
        clean, robust = (learner.logits(p).argmax(1).eq(truth).float().mean() for p in (pixels, points))
    return {"clean_accuracy": float(clean), "robust_accuracy": float(robust)}


class _Examiner:
    """Scores the method's own classifier on held-out images, clean and under PGD-10 that climbs its cross-entropy."""

    def __init__(self, held_out: Task, learner: Learner, method: Method, attack: PGD, how: Recipe) -> None:
        self.task = in_space(held_out, learner.original, attack.threat.space)
        if self.task.class_names != learner.head.class_names:
            raise ConfigError(f"the held-out images of '{held_out.name}' have other classes than the training images")
        self.learner, self.method, self.how = learner, method, how
        self.attack = PGD(attack.threat, HELD_OUT_STEPS)

    def scores(self) -> dict[str, float]:
        """``held_out_clean_accuracy`` and ``held_out_robust_accuracy``."""
        right = torch.zeros(2)
        device = device_of(self.learner.encoder)
        with frozen(self.learner.encoder), frozen(self.learner.extra), _autocast(device, self.how.precision):
            for first in range(0, len(self.task), self.how.batch_size):
                chosen = range(first, min(first + self.how.batch_size, len(self.task)))
                pixels, labels = self._read(chosen, device)
                keys: Keys = [(self.how.seed, int(self.task.ids[i]), "held out") for i in chosen]
                points = self.attack.perturb(lambda p: cross_entropy(self._logits(p), labels), pixels, keys=keys)  # noqa: B023
                with torch.no_grad():
                    right += torch.stack([self._logits(p).argmax(1).eq(labels).sum() for p in (pixels, points)]).cpu()
        clean, robust = (right / len(self.task)).tolist()
        return {"held_out_clean_accuracy": clean, "held_out_robust_accuracy": robust}

    def _read(self, chosen: range, device: torch.device) -> tuple[Tensor, Tensor]:
        labels = torch.from_numpy(self.task.labels[list(chosen)])
        return to_pixels(self.task.images(chosen)).to(device), labels.to(device)

    def _logits(self, pixels: Tensor) -> Tensor:
        return self.method.logits(self.learner, pixels)


def _shown(line: Mapping[str, float]) -> str:
    return (
        f"loss {line['loss']:.3f}, clean {line['clean_accuracy']:.0%}, robust {line['robust_accuracy']:.0%}, "
        f"{line['images_per_second']:.0f} images/s"
    )


def _finished(adapted: Encoder, base: Encoder, task: Task, configuration: Mapping[str, object]) -> Encoder:
    model: Any = adapted
    model.requires_grad_(False).eval()
    model.zero_grad(set_to_none=True)
    before = dict(base.provenance)
    history = [*list(before.get("adapted_on", [])), task.name]  # type: ignore[call-overload]
    method: Any = configuration["method"]
    tuning: Any = configuration["tuning"]
    way = "" if tuning["name"] == "full" else f"+{tuning['name']}"
    model.name = f"{base.name}+{method['name']}{way}"
    model.provenance = {
        **before,
        "base": base.name,
        "adapted_on": history,
        "adaptation": json.loads(json.dumps(configuration)),
        "versions": versions(),
    }
    return adapted
