"""How to train: epochs, optimizer, learning rate, precision, labels, seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from zsrobust.errors import ConfigError, UnknownName
from zsrobust.methods.targets import Labels

Precision = Literal["float32", "bf16", "fp16"]
AttackPrecision = Literal["same", "bfloat16"]
AUTO: Literal["auto"] = "auto"
HELD_OUT_STEPS = 10
"""Of the PGD under which held-out images are scored."""
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    # The paper's code: SGD with momentum 0.9 and no weight decay.
    "sgd": lambda groups, lr, decay: torch.optim.SGD(groups, lr=lr, momentum=0.9, weight_decay=decay),
    "adamw": lambda groups, lr, decay: torch.optim.AdamW(groups, lr=lr, weight_decay=decay),
}


LATER: dict[str, object] = {"micro_batch": None, "checkpoint_activations": False, "attack_precision": "same"}
"""Options that came later, with what they were before: a run that leaves them so is the run that it always was."""
_LEAST = {"epochs": 1, "batch_size": 1, "micro_batch": 1, "soup": 2, "seed": 0, "checkpoint_every": 1, "log_every": 1}
"""Whole numbers, with the smallest that each may be."""
_REAL = ("lr", "weight_decay", "warmup", "ema")
_INSTEAD: dict[str, str | None] = {"batch_size": AUTO, "micro_batch": None, "soup": None, "ema": None}
"""What a number may be that is none."""


@dataclass(frozen=True)
class Recipe:
    """How to train; what :func:`adapt` takes beside model, method, task and attack.

    Attributes:
        epochs: Passes over the task.
        batch_size: Images in an optimizer step, over all processes; ``"auto"``: the largest power of two that fits into
            memory, at most 1,024 and at most the task.
        lr: Peak learning rate.
        optimizer: ``"sgd"`` (momentum 0.9) or ``"adamw"``.
        weight_decay: As the optimizer defines it.
        warmup: Fraction of all steps in which the learning rate rises from 0; then it follows a cosine to 0.
        precision: ``"float32"``, or ``"bf16"`` or ``"fp16"``: autocast in all passes of training. Weights stay float32.
            fp16 scales the loss so that small gradients survive, and is for CUDA only.
        attack_precision: ``"same"``, or ``"bfloat16"``: the adversary's passes run a bfloat16 copy of the tower.
        micro_batch: Rows that are passed at once; gradients are summed over them, so that a step stays a step of
            ``batch_size``, up to rounding. None: all rows of this process.
        checkpoint_activations: Whether the learner's pass keeps only what enters each block of the visual tower, and
            computes the rest a second time on the way back.
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
    batch_size: int | Literal["auto"] = 256
    lr: float = 1e-5
    optimizer: str = "sgd"
    weight_decay: float = 0.0
    warmup: float = 0.02
    precision: Precision = "float32"
    labels: Labels = "true"
    ema: float | None = None
    soup: int | None = None
    attack_precision: AttackPrecision = "same"
    micro_batch: int | None = None
    checkpoint_activations: bool = False
    seed: int = 0
    checkpoint_every: int = 500
    log_every: int = 10

    def __post_init__(self) -> None:
        _check_words(self)
        _check_numbers(self)
        if self.batch_size == AUTO and self.micro_batch is not None:
            raise ConfigError("with a micro_batch every batch_size fits: batch_size auto would find nothing, name one")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"ema must be between 0 and 1, for example 0.99, or null, not {self.ema}")
        if self.ema is not None and self.soup is not None:
            raise ConfigError("ema and soup are two ways to average the weights: give one of them")
        if not self.lr > 0 or not 0 <= self.warmup < 1 or self.weight_decay < 0:
            raise ConfigError(
                f"lr must be above 0 (is {self.lr}), warmup in [0, 1) (is {self.warmup}), "
                f"weight_decay not negative (is {self.weight_decay})"
            )

    def deciding(self) -> dict[str, object]:
        """The options that decide the result, without those that are off: an option that came later changes nothing."""
        fixed = {name: value for name, value in vars(self).items() if name not in ("checkpoint_every", "log_every")}
        return {name: value for name, value in fixed.items() if value is not None and LATER.get(name, ...) != value}

    @property
    def size(self) -> int:
        """``batch_size`` as a number.

        Raises:
            ConfigError: it is still to be found.
        """
        if self.batch_size == AUTO:
            raise ConfigError("batch_size auto is found when a run begins: what is planned before needs a number")
        return self.batch_size

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


def _check_words(how: Recipe) -> None:
    """Refuses words that are not known, and what is no word: a program may give anything."""
    known = {
        "optimizer": tuple(OPTIMIZERS),
        "precision": get_args(Precision),
        "labels": get_args(Labels),
        "attack_precision": get_args(AttackPrecision),
    }
    for name, words in known.items():
        value = getattr(how, name)
        if value not in words:
            raise UnknownName(name, str(value), words)
    if not isinstance(how.checkpoint_activations, bool):
        raise ConfigError(f"checkpoint_activations must be true or false, not {how.checkpoint_activations!r}")


def _check_numbers(how: Recipe) -> None:
    """Refuses what is not the kind of number that an option takes, and whole numbers that are too small."""
    for name in (*_LEAST, *_REAL):
        value = getattr(how, name)
        if name in _INSTEAD and value == _INSTEAD[name]:
            continue
        instead = f", or {_INSTEAD[name] or 'null'}" if name in _INSTEAD else ""
        least = _LEAST.get(name)
        if isinstance(value, bool) or not isinstance(value, float | int if least is None else int):
            kind = "a number" if least is None else f"a whole number of at least {least}"
            raise ConfigError(f"{name} must be {kind}{instead}, not {value!r}")
        if least is not None and value < least:
            raise ConfigError(f"{name} must be at least {least}{instead}, not {value}")
