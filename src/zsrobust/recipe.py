"""How to train: epochs, optimizer, learning rate, precision, labels, seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from zsrobust.errors import ConfigError, UnknownName
from zsrobust.methods.targets import Labels

Precision = Literal["float32", "bf16"]
HELD_OUT_STEPS = 10
"""Of the PGD under which held-out images are scored."""
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    # The paper's code: SGD with momentum 0.9 and no weight decay.
    "sgd": lambda groups, lr, decay: torch.optim.SGD(groups, lr=lr, momentum=0.9, weight_decay=decay),
    "adamw": lambda groups, lr, decay: torch.optim.AdamW(groups, lr=lr, weight_decay=decay),
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
        labels: ``"true"``; ``"hard"`` or ``"soft"`` pseudo-labels, which are the unadapted model's predictions on the
            clean images; or ``"none"``, for methods that read no labels.
        ema: Decay of an exponential moving average of the weights, which then is the result; None: the last weights
            are.
        soup: The result is the uniform mean of the weights at so many evenly spaced steps of the second half of the
            run, the last one among them; None: it is not.
        seed: Of data order, random starts, and what a method or a way of adapting draws.
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
    labels: Labels = "true"
    ema: float | None = None
    soup: int | None = None
    seed: int = 0
    checkpoint_every: int = 500
    log_every: int = 10

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise UnknownName("optimizer", self.optimizer, OPTIMIZERS)
        if self.precision not in get_args(Precision):
            raise UnknownName("precision", self.precision, get_args(Precision))
        if self.labels not in get_args(Labels):
            raise UnknownName("labels", self.labels, get_args(Labels))
        for name in ("epochs", "batch_size", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"ema must be between 0 and 1, for example 0.99, or null, not {self.ema}")
        if self.soup is not None and self.soup < 2:
            raise ConfigError(f"soup must be at least 2 checkpoints, or null, not {self.soup}")
        if self.ema is not None and self.soup is not None:
            raise ConfigError("ema and soup are two ways to average the weights: give one of them")
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, not {self.seed}")
        if not self.lr > 0 or not 0 <= self.warmup < 1 or self.weight_decay < 0:
            raise ConfigError(
                f"lr must be above 0 (is {self.lr}), warmup in [0, 1) (is {self.warmup}), "
                f"weight_decay not negative (is {self.weight_decay})"
            )

    def deciding(self) -> dict[str, object]:
        """The options that decide the result, without those that are off: an option that came later changes nothing."""
        fixed = {name: value for name, value in vars(self).items() if name not in ("checkpoint_every", "log_every")}
        return {name: value for name, value in fixed.items() if value is not None}

    def learning_rate(self, step: int, steps: int) -> float:
        """The learning rate of optimizer step ``step`` (from 0) of ``steps``: linear warm-up, then cosine to 0."""
        warm = max(1, round(self.warmup * steps)) if self.warmup else 0
        if step < warm:
            return self.lr * (step + 1) / warm
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Recipe:
        """A recipe from options by name.

        Raises:
            UnknownName: there is no such option.
            ConfigError: a value is not allowed.
        """
        for name in options:
            if name not in cls.__dataclass_fields__:
                raise UnknownName("option of adapt", name, cls.__dataclass_fields__)
        return cls(**options)
