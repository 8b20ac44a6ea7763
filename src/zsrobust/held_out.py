"""How good the classifier is that a method trains, on images that it does not train on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from zsrobust.attacks.pgd import PGD
from zsrobust.distributed import World, total
from zsrobust.errors import ConfigError
from zsrobust.evaluation import device_of, in_space
from zsrobust.losses import cross_entropy
from zsrobust.methods.base import Learner, Method
from zsrobust.passes import frozen
from zsrobust.pixels import to_pixels
from zsrobust.recipe import HELD_OUT_STEPS, Precision
from zsrobust.tasks import Task
from zsrobust.training_data import Keys
from zsrobust.training_step import autocast

CLEAN, ROBUST, IMAGES = "held_out_clean_accuracy", "held_out_robust_accuracy", "held_out_images"


def scored(run: Path) -> Mapping[str, float]:
    """The line of a run's metrics that has scores of held-out images; empty where none has.

    :data:`IMAGES` is how many they are; earlier versions do not say it.
    """
    found: Mapping[str, float] = {}
    with suppress(OSError, ValueError):  # whoever goes on with the file says what is wrong with it
        for line in (run / "metrics.jsonl").read_text().splitlines():
            if f'"{ROBUST}"' in line:
                found = json.loads(line)
    return found


class Examiner:
    """Scores the method's own classifier on held-out images, clean and under PGD-10 that climbs its cross-entropy.

    Args:
        held_out: The images.
        learner: What is trained.
        method: Whose classifier.
        attack: Its threat is the adversary's.
        rows: Images in a pass.
        precision: Of the passes. Where it is fp16 they are in float32, of half as many images: in fp16 the surer the
            model is, the more of its loss's gradients by the pixels are 0, and the attack is weak.
        seed: Of the random starts.
        world: Who shares the images.

    Raises:
        ConfigError: the images have other classes.
    """

    def __init__(
        self,
        held_out: Task,
        learner: Learner,
        method: Method,
        attack: PGD,
        *,
        rows: int,
        precision: Precision,
        seed: int,
        world: World,
    ) -> None:
        self.task = in_space(held_out, learner.original, attack.threat.space)
        if self.task.class_names != learner.head.class_names:
            raise ConfigError(f"the held-out images of '{held_out.name}' have other classes than the training images")
        self.learner, self.method, self.world = learner, method, world
        self.rows, self.precision, self.seed = rows, precision, seed
        self.attack = PGD(attack.threat, HELD_OUT_STEPS)

    def scores(self) -> dict[str, float]:
        """:data:`CLEAN` and :data:`ROBUST`, of all images, and :data:`IMAGES`; every process must ask."""
        device = device_of(self.learner.encoder)
        half = self.precision == "fp16"
        precision: Precision = "float32" if half else self.precision
        rows = max(1, self.rows // 2) if half else self.rows
        right = torch.zeros(2, device=device)
        begin, end = (len(self.task) * rank // self.world.size for rank in (self.world.rank, self.world.rank + 1))
        with frozen(self.learner.encoder), frozen(self.learner.extra), autocast(device, precision):
            for first in range(begin, end, rows):
                chosen = range(first, min(first + rows, end))
                pixels, labels = self._read(chosen, device)
                keys: Keys = [(self.seed, int(self.task.ids[i]), "held out") for i in chosen]
                points = self.attack.perturb(lambda p: cross_entropy(self._logits(p), labels), pixels, keys=keys)  # noqa: B023
                with torch.no_grad():
                    right += torch.stack([self._logits(p).argmax(1).eq(labels).sum() for p in (pixels, points)])
        clean, robust = (total(right) / len(self.task)).tolist()
        return {CLEAN: clean, ROBUST: robust, IMAGES: len(self.task)}

    def _read(self, chosen: range, device: torch.device) -> tuple[Tensor, Tensor]:
        labels = torch.from_numpy(self.task.labels[list(chosen)])
        return to_pixels(self.task.images(chosen)).to(device), labels.to(device)

    def _logits(self, pixels: Tensor) -> Tensor:
        return self.method.logits(self.learner, pixels)
