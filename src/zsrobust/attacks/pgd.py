"""FGSM and PGD.

Goodfellow et al. 2015 (arXiv 1412.6572, section 4) and Madry et al. 2018 (arXiv 1706.06083, section 2.1):

    x⁰ = a random point of the ball (or x),    xᵗ⁺¹ = Π( xᵗ + α · steepest(∇ₓ loss(xᵗ, y)) ),    t = 0 … K−1

with Π the projection on the ball and on [0, 1]. FGSM is K = 1, α = ε, from x itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from zsrobust.attacks.ascent import Objective, Tracker, ascend, pixel_gradient
from zsrobust.attacks.base import Model, Outcome
from zsrobust.errors import ConfigError
from zsrobust.losses import cross_entropy, margin
from zsrobust.passes import float32_only, frozen, in_rows
from zsrobust.randomness import uniform
from zsrobust.threat import Threat

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent (an ascent of the loss).

    Attributes:
        threat: The ball.
        steps: Number K of steps.
        step_size: α in pixel range [0, 1] units, in the threat's norm. None: 2.5 ε / K, at most ε, so that K steps can
            cross the ball (Madry et al.).
        restarts: Runs from different random starts; the first success counts.
        random_start: Start at a random point of the ball; otherwise at the image (then restarts repeat nothing: only
            1).
        loss: Per-example loss on logits, climbed away from the label, or descended towards a target.
    """

    threat: Threat
    steps: int = 10
    _: KW_ONLY
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True
    loss: Loss = cross_entropy

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"PGD needs at least 1 step, not {self.steps}")
        if self.restarts < 1:
            raise ConfigError(f"PGD needs at least 1 run (restarts ≥ 1), not {self.restarts}")
        if self.restarts > 1 and not self.random_start:
            raise ConfigError("restarts without a random start repeat the same run; allow the random start")
        if self.step_size is not None and not self.step_size > 0:
            raise ConfigError(f"PGD's step size must be above 0, not {self.step_size}")

    @property
    def name(self) -> str:
        """``pgd:K``, or ``fgsm``."""
        if self.steps == 1 and not self.random_start and self.alpha == self.threat.eps:
            return "fgsm"
        return f"pgd:{self.steps}"

    @property
    def alpha(self) -> float:
        """The step size in force."""
        if self.step_size is not None:
            return self.step_size
        return min(self.threat.eps, 2.5 * self.threat.eps / self.steps)

    def describe(self) -> dict[str, object]:
        """Name, steps, step size, restarts, start and loss."""
        return {
            "name": self.name,
            "steps": self.steps,
            "step_size": self.alpha,
            "restarts": self.restarts,
            "random_start": self.random_start,
            "loss": getattr(self.loss, "__name__", str(self.loss)),
        }

    def __call__(
        self,
        model: Model,
        pixels: Tensor,
        labels: Tensor,
        *,
        targets: Tensor | None = None,
        seed: int = 0,
        examples: Sequence[int] | None = None,
    ) -> Tensor:
        """Adversarial images for (B, 3, H, W) ``pixels`` in [0, 1]; see :meth:`search`."""
        ids = range(len(pixels)) if examples is None else examples
        return self.search(model, pixels, labels, targets=targets, seed=seed, examples=ids).pixels

    def search(
        self,
        model: Model,
        pixels: Tensor,
        labels: Tensor,
        *,
        seed: int,
        examples: Sequence[int],
        targets: Tensor | None = None,
    ) -> Outcome:
        """Evaluation: float32, the best point is kept, an example leaves at its first success.

        Args:
            model: Pixels → logits.
            pixels: (B, 3, H, W) in [0, 1].
            labels: (B,) int64.
            seed: Key of the random starts, with the examples' ids.
            examples: B ids.
            targets: (B,) int64: success is then to be taken for the target, not merely to leave the label.
        """
        rows: int | None = getattr(model, "rows", None)
        objective = _away_from(model, labels, self.loss) if targets is None else _towards(model, targets, self.loss)
        tracker = Tracker(pixels)
        with frozen(model), float32_only(pixels.device):
            gradient = pixel_gradient(objective, rows=rows)
            for restart in range(self.restarts):
                index = (~tracker.broken).nonzero().squeeze(1)
                if len(index) == 0:
                    break
                self._run(gradient, objective, pixels, index, tracker, rows, self._keys(seed, examples, restart))
        return Outcome(tracker.points, tracker.forwards, tracker.backwards)

    def _run(
        self,
        gradient: Callable[..., tuple[Tensor, Tensor, Tensor]],
        objective: Objective,
        pixels: Tensor,
        index: Tensor,
        tracker: Tracker,
        rows: int | None,
        keys: Sequence[tuple[str | int, ...]],
    ) -> None:
        """One run of the examples ``index``; what it finds goes into the tracker."""
        start = self._start(pixels[index], [keys[i] for i in index.tolist()])
        last = ascend(
            gradient, start, pixels, self.threat, index=index, steps=self.steps, step_size=self.alpha, tracker=tracker
        )
        left = index[~tracker.broken[index]]
        if len(left):
            with torch.no_grad():
                values, broken = (objective if rows is None else in_rows(objective, rows))(last, left)
            tracker.observe(left, last, values, broken, backward=False)

    def perturb(
        self,
        objective: Callable[[Tensor], Tensor],
        pixels: Tensor,
        *,
        keys: Sequence[tuple[str | int, ...]],
    ) -> Tensor:
        """Adaptation: exactly K steps for every example, misclassified ones too, and the last iterate.

        The caller freezes the weights and chooses the precision.

        Args:
            objective: Pixels (B, 3, H, W) → per-example values (B,), what the method's adversary maximises.
            pixels: (B, 3, H, W) in [0, 1].
            keys: B keys of the random starts.

        Returns:
            (B, 3, H, W), allowed by the threat.
        """
        index = torch.arange(len(pixels), device=pixels.device)
        nobody = torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
        gradient = pixel_gradient(lambda points, _: (objective(points), nobody))
        start = self._start(pixels, keys)
        return ascend(gradient, start, pixels, self.threat, index=index, steps=self.steps, step_size=self.alpha)

    def _start(self, pixels: Tensor, keys: Sequence[tuple[str | int, ...]]) -> Tensor:
        if not self.random_start or self.threat.eps == 0:
            return pixels.clone()
        return self.threat.random_start(pixels, uniform(keys, pixels.shape[1:], device=pixels.device))

    def _keys(self, seed: int, examples: Sequence[int], restart: int) -> list[tuple[str | int, ...]]:
        return [(seed, int(example), "pgd", restart) for example in examples]


def fgsm(threat: Threat, *, loss: Loss = cross_entropy) -> PGD:
    """The fast gradient sign method: one step of size ε from the image itself."""
    return PGD(threat, steps=1, step_size=threat.eps or None, random_start=False, loss=loss)


def _away_from(model: Model, labels: Tensor, loss: Loss) -> Objective:
    def objective(points: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(points)
        return loss(logits, labels[index]), logits.detach().argmax(1) != labels[index]

    return objective


def _towards(model: Model, targets: Tensor, loss: Loss) -> Objective:
    def objective(points: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(points)
        # A tie is nobody's prediction, so the target must win strictly.
        return -loss(logits, targets[index]), margin(logits.detach(), targets[index]) > 0

    return objective
