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
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm

from zsrobust import checkpoint
from zsrobust.attacks.pgd import PGD
from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError, DivergedError, ModelError, UnknownName
from zsrobust.evaluation import device_of, fingerprint_of, in_space
from zsrobust.methods import METHODS
from zsrobust.methods.base import Batch, Learner, Method
from zsrobust.metrics import MetricsFile
from zsrobust.passes import frozen
from zsrobust.pixels import to_pixels
from zsrobust.randomness import generator
from zsrobust.run_folder import versions
from zsrobust.tasks import Task
from zsrobust.text_head import TextHead

Precision = Literal["float32", "bf16"]
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    # The paper's code: SGD with momentum 0.9 and no weight decay.
    "sgd": lambda parameters, lr, decay: torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=decay),
    "adamw": lambda parameters, lr, decay: torch.optim.AdamW(parameters, lr=lr, weight_decay=decay),
}


@dataclass(frozen=True)
class Recipe:
    """How to train; what :func:`adapt` takes beside model, method, task and attack.

    Attributes:
        epochs: Passes over the task.
        batch_size: Images in an optimizer step.
        lr: Peak learning rate.
        optimizer: ``"sgd"`` (momentum 0.9) or ``"adamw"``.
        weight_decay: As the optimizer defines it.
        warmup: Fraction of all steps in which the learning rate rises from 0; then it follows a cosine to 0.
        precision: ``"float32"``, or ``"bf16"``: autocast in all passes of training. Weights stay float32.
        seed: Of data order and random starts.
        checkpoint_every: Steps between checkpoints, in a run that has a folder.
        log_every: Steps between lines of metrics.
    """

    epochs: int = 10
    batch_size: int = 256
    lr: float = 1e-5
    optimizer: str = "sgd"
    weight_decay: float = 0.0
    warmup: float = 0.02
    precision: Precision = "float32"
    seed: int = 0
    checkpoint_every: int = 500
    log_every: int = 10

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise UnknownName("optimizer", self.optimizer, OPTIMIZERS)
        if self.precision not in get_args(Precision):
            raise UnknownName("precision", self.precision, get_args(Precision))
        for name in ("epochs", "batch_size", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, not {self.seed}")
        if not self.lr > 0 or not 0 <= self.warmup < 1 or self.weight_decay < 0:
            raise ConfigError(
                f"lr must be above 0 (is {self.lr}), warmup in [0, 1) (is {self.warmup}), "
                f"weight_decay not negative (is {self.weight_decay})"
            )

    def learning_rate(self, step: int, steps: int) -> float:
        """The learning rate of optimizer step ``step`` (from 0) of ``steps``: linear warm-up, then cosine to 0."""
        warm = max(1, round(self.warmup * steps)) if self.warmup else 0
        if step < warm:
            return self.lr * (step + 1) / warm
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def adapt(
    encoder: Encoder,
    *,
    task: Task,
    attack: PGD,
    method: str | Method = "tecoa",
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
        method: A name, or an object that fulfils :class:`~zsrobust.methods.base.Method`.
        run: Folder for checkpoints and metrics; a run that was interrupted goes on. None: nothing is written.
        tensorboard: Also write TensorBoard events into the run folder.
        progress: Show a bar. None: when standard error is a terminal.
        **recipe: Fields of :class:`Recipe`.

    Raises:
        ConfigError: an option that is not allowed.
        ModelError: the encoder cannot be adapted.
        RunError: the run folder cannot be written, or was started with another configuration.
        DivergedError: the loss became NaN or ran away; the message names the last good checkpoint.
    """
    method = METHODS[method]() if isinstance(method, str) else method
    how = _recipe(recipe)
    task = in_space(task, encoder, attack.threat.space)
    learner, parameters = _learner(encoder, task)
    optimizer = OPTIMIZERS[how.optimizer](list(parameters.values()), how.lr, how.weight_decay)
    configuration = _configuration(encoder, method, task, attack, how)

    steps = how.epochs * math.ceil(len(task) / how.batch_size)
    folder = Path(run) if run is not None else None
    position = checkpoint.Position(0, {})
    if folder is not None and (last := checkpoint.latest(folder / "checkpoints")):
        position = checkpoint.restore(last, parameters, optimizer, configuration)
    guard = DivergenceGuard(position.losses, folder)

    def save(step: int) -> None:
        if folder is not None:
            checkpoint.save(
                folder / "checkpoints", checkpoint.Position(step, guard.state), parameters, optimizer, configuration
            )

    step, clock = position.step, time.monotonic()
    bar = tqdm(total=steps, initial=step, desc="adapt", unit="step", disable=None if progress is None else not progress)
    with bar, MetricsFile(folder, resume_at=step, tensorboard=tensorboard) as metrics:
        for keys, batch in _batches(task, how, device_of(learner.encoder), first=step, steps=steps):
            for group in optimizer.param_groups:
                group["lr"] = how.learning_rate(step, steps)
            points = _adversary(learner, method, attack, batch, keys, how.precision)
            loss = _learn(learner, method, points, batch, parameters, optimizer, how.precision)
            guard.check(loss, step)
            step += 1
            if step % how.log_every == 0 or step == steps:
                line = _measure(learner, points, batch, how.precision) | {
                    "loss": loss,
                    "lr": optimizer.param_groups[0]["lr"],
                    "images_per_second": (step - position.step) * how.batch_size / (time.monotonic() - clock),
                }
                metrics.write(step, line)
                bar.set_postfix_str(_shown(line), refresh=False)
            bar.update()
            if step % how.checkpoint_every == 0 or step == steps:
                guard.check_weights(parameters, step)
                save(step)
    return _finished(learner.encoder, encoder, task, configuration)


def _recipe(options: Mapping[str, Any]) -> Recipe:
    for name in options:
        if name not in Recipe.__dataclass_fields__:
            raise UnknownName("option of adapt", name, Recipe.__dataclass_fields__)
    return Recipe(**options)


def _learner(encoder: Encoder, task: Task) -> tuple[Learner, dict[str, nn.Parameter]]:
    """The copy to adapt, with gradients on in its visual tower, and the text head from the original's text tower."""
    if not isinstance(encoder, nn.Module) or not hasattr(encoder, "visual_parameters") or not hasattr(encoder, "copy"):
        raise ModelError(
            f"'{encoder.name}' cannot be adapted: it must be a torch.nn.Module with visual_parameters() and copy()"
        )
    if len(task.class_names) < 2:
        raise ConfigError(f"task '{task.name}' has one class: there is nothing to tell apart")
    original: Any = encoder
    adapted = original.copy()
    head = TextHead.build(encoder, task.class_names, task.templates)
    return Learner(adapted, encoder, head), checkpoint.trainable(adapted.visual_parameters())


def _configuration(encoder: Encoder, method: Method, task: Task, attack: PGD, how: Recipe) -> dict[str, object]:
    """What a resumed run must have in common with its beginning."""
    fixed = {name: value for name, value in vars(how).items() if name not in ("checkpoint_every", "log_every")}
    return {
        "base": encoder.name,
        "base_fingerprint": fingerprint_of(encoder),
        "method": dict(method.describe()),
        "task": task.name,
        "task_fingerprint": task.fingerprint,
        "templates": list(task.templates),
        "images": len(task),
        "threat": attack.threat.describe(),
        "attack": attack.describe(),
        "threads": torch.get_num_threads(),
        **fixed,
    }


def _batches(
    task: Task, how: Recipe, device: torch.device, *, first: int, steps: int
) -> Iterator[tuple[list[tuple[str | int, ...]], Batch]]:
    """Batches ``first`` … ``steps`` − 1 with the keys of their random starts; the next one is decoded meanwhile."""
    per_epoch = math.ceil(len(task) / how.batch_size)

    def indices(step: int) -> list[int]:
        epoch, position = divmod(step, per_epoch)
        order = torch.randperm(len(task), generator=generator(how.seed, "order", epoch))
        return order[position * how.batch_size : (position + 1) * how.batch_size].tolist()

    def load(step: int) -> tuple[list[tuple[str | int, ...]], Tensor, Tensor]:
        chosen = indices(step)
        keys: list[tuple[str | int, ...]] = [(how.seed, int(task.ids[i]), "adapt", step) for i in chosen]
        return keys, to_pixels(task.images(chosen)), torch.from_numpy(task.labels[chosen])

    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(load, first) if first < steps else None
        for step in range(first, steps):
            assert coming is not None
            keys, pixels, labels = coming.result()
            coming = pool.submit(load, step + 1) if step + 1 < steps else None
            yield keys, Batch(pixels.to(device), labels.to(device))


def _autocast(device: torch.device, precision: Precision) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def _adversary(
    learner: Learner, method: Method, attack: PGD, batch: Batch, keys: list[tuple[str | int, ...]], precision: Precision
) -> Tensor:
    with frozen(learner.encoder), _autocast(batch.pixels.device, precision):
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


def _measure(learner: Learner, points: Tensor, batch: Batch, precision: Precision) -> dict[str, float]:
    """Training accuracy of this batch, clean and under the training attack."""
    with torch.no_grad(), _autocast(points.device, precision):
        clean, robust = (learner.logits(p).argmax(1).eq(batch.labels).float().mean() for p in (batch.pixels, points))
    return {"clean_accuracy": float(clean), "robust_accuracy": float(robust)}


def _shown(line: Mapping[str, float]) -> str:
    return (
        f"loss {line['loss']:.3f}, clean {line['clean_accuracy']:.0%}, robust {line['robust_accuracy']:.0%}, "
        f"{line['images_per_second']:.0f} images/s"
    )


class DivergenceGuard:
    """Stops a run whose loss is NaN or runs away.

    Running away: the moving mean of the loss (over about 50 steps) is more than 5 times its lowest value so far and
    above 5 nats. A healthy loss rises for a while under a growing learning rate, but not like that.
    """

    def __init__(self, state: Mapping[str, float], folder: Path | None) -> None:
        self.state = dict(state)
        self._folder = folder

    def check(self, loss: float, step: int) -> None:
        """Takes note of the loss of ``step``.

        Raises:
            DivergedError: it is NaN, infinite, or ran away.
        """
        if not math.isfinite(loss):
            raise DivergedError(f"the loss of step {step + 1} is {loss}; {self._advice()}")
        mean = 0.98 * self.state.get("mean", loss) + 0.02 * loss
        lowest = min(self.state.get("lowest", mean), mean)
        self.state = {"mean": mean, "lowest": lowest}
        if mean > 5 and mean > 5 * lowest:
            raise DivergedError(
                f"the loss runs away: {lowest:.3g} at its best, {mean:.3g} now (step {step + 1}); {self._advice()}"
            )

    def check_weights(self, parameters: Mapping[str, nn.Parameter], step: int) -> None:
        """Looks at the weights after ``step`` steps: one step can take them from finite to infinite.

        Raises:
            DivergedError: one of them is NaN or infinite; they are not worth a checkpoint.
        """
        for name, parameter in parameters.items():
            if not bool(parameter.isfinite().all()):
                raise DivergedError(f"{name} is NaN or infinite after step {step}; {self._advice()}")

    def _advice(self) -> str:
        last = checkpoint.latest(self._folder / "checkpoints") if self._folder is not None else None
        kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
        return f"{kept}; try a smaller lr or a longer warmup"


def _finished(adapted: Encoder, base: Encoder, task: Task, configuration: Mapping[str, object]) -> Encoder:
    model: Any = adapted
    model.requires_grad_(False).eval()
    model.zero_grad(set_to_none=True)
    before = dict(base.provenance)
    history = [*list(before.get("adapted_on", [])), task.name]  # type: ignore[call-overload]
    method: Any = configuration["method"]
    model.name = f"{base.name}+{method['name']}"
    model.provenance = {
        **before,
        "base": base.name,
        "adapted_on": history,
        "adaptation": json.loads(json.dumps(configuration)),
        "versions": versions(),
    }
    return adapted
