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

from zsrobust.attacks import loss_code, numerals
from zsrobust.attacks.ascent import ascend, step
from zsrobust.attacks.lanes import Key, LaneAttack, Runs, no_rivals
from zsrobust.attacks.naming import full_name
from zsrobust.attacks.objectives import Loss, away
from zsrobust.attacks.probe import Lanes, Precision, Probe
from zsrobust.errors import ConfigError
from zsrobust.losses import cross_entropy, margin_loss
from zsrobust.randomness import uniform
from zsrobust.threat import Threat, format_eps


@dataclass(frozen=True)
class PGD(LaneAttack):
    """Projected gradient descent (an ascent of the loss).

    Attributes:
        threat: The ball.
        steps: Number K of steps.
        step_size: α in pixel range [0, 1] units, in the threat's norm. None: 2.5 ε / K, at most ε, so that K steps can
            cross the ball (Madry et al.).
        restarts: Runs from different random starts; the first success counts.
        random_start: Start at a random point of the ball; otherwise at the image (then restarts repeat nothing: only
            1).
        loss: Per-example loss on logits, climbed away from the label, or descended towards a target. With the margin
            loss this is what the field's papers call CW.
        precision: Of the passes; a break found in bfloat16 counts only after a float32 pass.
    """

    threat: Threat
    steps: int = 10
    _: KW_ONLY
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True
    loss: Loss = cross_entropy
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        numerals.settle(self)
        self.threat.only_ball("pgd")
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
        """``pgd:K``, ``cw:K`` with the margin loss, or ``fgsm``; with what is not the default.

        Of a loss of one's own it has the name; neither that nor the start can be written.
        """
        own = None if self.loss is cross_entropy else getattr(self.loss, "__name__", type(self.loss).__name__)
        if self.steps == 1 and not self.random_start and self.alpha == self.threat.eps:
            return full_name("fgsm", loss=own)
        base = "pgd"
        if self.loss is margin_loss:
            base, own = "cw", None
        return full_name(
            f"{base}:{self.steps}",
            step_size=format_eps(self.step_size) if self.step_size is not None else None,
            restarts=self.restarts if self.restarts > 1 else None,
            random_start=None if self.random_start else False,
            loss=own,
        )

    @property
    def key(self) -> str:
        """What keys the random starts: the same for every length and loss."""
        return "pgd"

    @property
    def alpha(self) -> float:
        """The step size in force."""
        if self.step_size is not None:
            return self.step_size
        return min(self.threat.eps, 2.5 * self.threat.eps / self.steps)

    def describe(self) -> dict[str, object]:
        """Everything that its strength depends on."""
        return {
            "name": self.name,
            "steps": self.steps,
            "step_size": self.alpha,
            "restarts": self.restarts,
            "random_start": self.random_start,
            **loss_code.described(self.loss),
            "precision": self.precision,
            "gradient": True,
        }

    def rivals(self, clean: Callable[[], Tensor], labels: Tensor, aims: Tensor) -> Tensor:
        """(B, restarts) of −1."""
        return no_rivals(labels, self.restarts)

    def runs(self, lanes: Lanes) -> Runs:
        """Empty state for these lanes."""
        return _PGDRuns(self, lanes)

    def perturb(
        self,
        objective: Callable[[Tensor], Tensor],
        pixels: Tensor,
        *,
        keys: Sequence[Key],
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
        start = self.start(pixels, keys)
        return ascend(objective, start, pixels, self.threat, steps=self.steps, step_size=self.alpha)

    def start(self, pixels: Tensor, keys: Sequence[Key]) -> Tensor:
        """(B, 3, H, W) first points of runs with these B keys."""
        if not self.random_start or self.threat.eps == 0:
            return pixels.clone()
        return self.threat.random_start(pixels, uniform(keys, pixels.shape[1:], device=pixels.device))


class _PGDRuns(Runs):
    """PGD in lanes."""

    def __init__(self, attack: PGD, lanes: Lanes) -> None:
        self.attack, self.lanes = attack, lanes
        self.objective = away(attack.loss)
        self.points = lanes.pixels.clone()
        self.steps = torch.zeros_like(lanes.labels)

    def enter(self, index: Tensor, keys: Sequence[Key]) -> None:
        self.points[index] = self.attack.start(self.lanes.pixels[index], keys)
        self.steps[index] = 0

    def round(self, probe: Probe) -> Tensor:
        last = self.lanes.live & (self.steps == self.attack.steps)
        _, gradient = probe.climb(self.points, self.objective, ~last)
        probe.look(self.points, last)
        moved = step(self.points, gradient, self.lanes.pixels, self.attack.threat, self.attack.alpha)
        self.points = torch.where(last.view(-1, 1, 1, 1), self.points, moved)
        self.steps += 1
        return last


def fgsm(threat: Threat, *, loss: Loss = cross_entropy) -> PGD:
    """The fast gradient sign method: one step of size ε from the image itself."""
    return PGD(threat, steps=1, step_size=threat.eps or None, random_start=False, loss=loss)
