"""APGD: an ascent that chooses its own step size.

Croce and Hein 2020 (arXiv 2003.01690), Algorithm 1. From a start x⁰, with S the steepest direction and Π the
projection,

    zᵗ⁺¹ = Π( xᵗ + ηᵗ · S(∇f(xᵗ)) ),    xᵗ⁺¹ = Π( xᵗ + α (zᵗ⁺¹ − xᵗ) + (1 − α)(xᵗ − xᵗ⁻¹) ),    α = 0.75, η⁰ = 2ε

(α = 1 in the first step). At checkpoints η is halved and the run goes back to the best point so far where, since the
last checkpoint, the objective rose in at most ρ = 0.75 of the steps (condition 1), or where neither η was halved at the
last checkpoint nor the best value has grown since (condition 2).

The paper and the authors' published code differ in three things, and this follows the code, since it is the code's
numbers that others report:

- Checkpoints are counted in whole steps: periods of ⌊0.22 N⌋, then each ⌊0.03 N⌋ shorter, down to ⌊0.06 N⌋ (each at
  least 1). For N = 100 these are the paper's ⌈pⱼN⌉, for other N not always.
- Condition 1 compares the objective at x¹ with 0, not with its value at x⁰.
- After a restart from the best point, it compares the next value with the one at the abandoned point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from zsrobust.attacks import numerals
from zsrobust.attacks.lanes import Key, LaneAttack, Runs, nearest_rivals, no_rivals
from zsrobust.attacks.naming import full_name
from zsrobust.attacks.objectives import away, away_dlr, check_targeted_dlr, towards_rival, towards_rival_dlr
from zsrobust.attacks.probe import Lanes, Objective, Precision, Probe
from zsrobust.errors import ConfigError, UnknownName
from zsrobust.losses import check_dlr, cross_entropy, margin_loss
from zsrobust.randomness import uniform
from zsrobust.threat import Threat

LossName = Literal["ce", "dlr", "margin", "dlr-t", "margin-t"]

UNTARGETED: Mapping[str, Objective] = MappingProxyType(
    {"ce": away(cross_entropy), "dlr": away_dlr, "margin": away(margin_loss)}
)
TARGETED: Mapping[str, Objective] = MappingProxyType({"dlr-t": towards_rival_dlr, "margin-t": towards_rival})

ALPHA = 0.75
RHO = 0.75
STEPS = 100
TARGETS = 9


@dataclass(frozen=True)
class APGD(LaneAttack):
    """Auto-PGD.

    Attributes:
        threat: The ball.
        steps: Number N of steps; the step size follows from it and from ε.
        loss: What is climbed. ``ce``, ``dlr``, ``margin``: away from the label, in one run. ``dlr-t``, ``margin-t``:
            towards another class, in one run for each target; success is any class but the label.
        restarts: Runs from different random starts (of each target); the first success counts.
        targets: For ``dlr-t`` and ``margin-t``: that many classes of the highest clean logits, at most C − 1.
        precision: Of the passes; a break found in bfloat16 counts only after a float32 pass.

    The DLR losses need 3 classes (``dlr``) or 4 (``dlr-t``); with fewer, a search raises ConfigError. A user's target
    is pushed towards by every loss; ``dlr`` is then the targeted DLR loss, and with fewer than 4 classes the target's
    margin.
    """

    threat: Threat
    steps: int = STEPS
    _: KW_ONLY
    loss: LossName = "ce"
    restarts: int = 1
    targets: int = TARGETS
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        numerals.settle(self)
        self.threat.only_ball("apgd")
        if self.loss not in {**UNTARGETED, **TARGETED}:
            raise UnknownName("APGD loss", self.loss, {**UNTARGETED, **TARGETED})
        if self.steps < 1:
            raise ConfigError(f"APGD needs at least 1 step, not {self.steps}")
        if self.restarts < 1:
            raise ConfigError(f"APGD needs at least 1 run (restarts ≥ 1), not {self.restarts}")
        if self.targets < 1:
            raise ConfigError(f"APGD needs at least 1 target, not {self.targets}")
        if self.targets != TARGETS and self.loss in UNTARGETED:
            raise ConfigError(f"apgd:{self.loss} takes no targets; apgd:dlr-t and apgd:margin-t do")

    @property
    def name(self) -> str:
        """``apgd:LOSS``, with what is not the default."""
        return full_name(
            f"apgd:{self.loss}",
            steps=self.steps if self.steps != STEPS else None,
            restarts=self.restarts if self.restarts > 1 else None,
            targets=self.targets if self.targets != TARGETS else None,
        )

    @property
    def key(self) -> str:
        """What keys the random starts: the same for every length, and another for each loss."""
        return f"apgd:{self.loss}"

    def describe(self) -> dict[str, object]:
        """Everything that its strength depends on; ``targets`` is None where there are none."""
        return {
            "name": self.name,
            "steps": self.steps,
            "loss": self.loss,
            "restarts": self.restarts,
            "targets": self.targets if self.loss in TARGETED else None,
            "start": "surface",
            "step_size": "2ε, halved at checkpoints",
            "momentum": ALPHA,
            "rho": RHO,
            "precision": self.precision,
            "gradient": True,
        }

    def check_classes(self, classes: int) -> None:
        """Whether a task has classes enough for the loss.

        Raises:
            ConfigError: it has not.
        """
        if self.loss == "dlr":
            check_dlr(classes)
        elif self.loss == "dlr-t":
            check_targeted_dlr(classes)

    def rivals(self, clean: Callable[[], Tensor], labels: Tensor, aims: Tensor) -> Tensor:
        """(B, restarts × targets); every target comes once before any comes again."""
        if self.loss in UNTARGETED:
            return no_rivals(labels, self.restarts)
        return nearest_rivals(clean, labels, aims, self.targets).repeat(1, self.restarts)

    def runs(self, lanes: Lanes) -> Runs:
        """Empty state for these lanes."""
        return _APGDRuns(self, lanes)

    def start(self, pixels: Tensor, keys: Sequence[Key]) -> Tensor:
        """(B, 3, H, W) first points of runs with these B keys."""
        return surface_start(self.threat, pixels, keys)


def surface_start(threat: Threat, pixels: Tensor, keys: Sequence[Key]) -> Tensor:
    """A random point on the surface of each ball, then put into the box: the start of the published code.

    Args:
        threat: The ball.
        pixels: (B, 3, H, W) in [0, 1].
        keys: B keys of the random numbers.

    Returns:
        (B, 3, H, W). L∞: a uniform draw from the cube, scaled so that its largest entry is ε. L2: a Gaussian
        direction of length ε.
    """
    noise = uniform(keys, pixels.shape[1:], device=pixels.device)
    if threat.norm == "l2":
        return threat.random_start(pixels, noise)
    delta = 2 * noise - 1
    largest = delta.flatten(1).abs().amax(1).view(-1, 1, 1, 1)
    return threat.project(pixels + threat.eps * delta / largest, pixels)


def periods(steps: int) -> tuple[int, int, int]:
    """Steps to the first checkpoint, by how many each later period is shorter, and the shortest."""
    first, shorter, least = (max(int(part * steps), 1) for part in (0.22, 0.03, 0.06))
    return first, shorter, least


class _APGDRuns(Runs):
    """APGD in lanes; every field has one entry for each lane."""

    def __init__(self, attack: APGD, lanes: Lanes) -> None:
        self.attack, self.lanes = attack, lanes
        self.objective = {**UNTARGETED, **TARGETED}[attack.loss]
        self.first_period, self.shorter, self.least = periods(attack.steps)
        self.points = lanes.pixels.clone()
        self.previous = lanes.pixels.clone()
        self.top_points = lanes.pixels.clone()
        self.top_gradient = torch.zeros_like(lanes.pixels)
        self.top = torch.zeros_like(lanes.gaps)
        self.top_at_check = torch.zeros_like(lanes.gaps)
        self.earlier = torch.zeros_like(lanes.gaps)
        self.sizes = torch.zeros_like(lanes.gaps)
        self.taken = torch.zeros_like(lanes.labels)
        self.period = torch.zeros_like(lanes.labels)
        self.waited = torch.zeros_like(lanes.labels)
        self.rises = torch.zeros_like(lanes.labels)
        self.halved = torch.zeros_like(lanes.live)

    def enter(self, index: Tensor, keys: Sequence[Key]) -> None:
        start = self.attack.start(self.lanes.pixels[index], keys)
        self.points[index], self.previous[index] = start, start
        self.sizes[index] = 2 * self.attack.threat.eps
        self.period[index] = self.first_period
        self.taken[index] = self.waited[index] = self.rises[index] = 0
        # As if η had just been halved: condition 2 does not apply at the first checkpoint.
        self.halved[index] = True

    def round(self, probe: Probe) -> Tensor:
        last = self.lanes.live & (self.taken == self.attack.steps)
        going = self.lanes.live & ~last
        values, gradient = probe.climb(self.points, self.objective, going)
        probe.look(self.points, last)  # nothing is climbed from there
        self._remember(values, gradient, going)
        stuck = self._check(going)
        current = torch.where(_wide(stuck), self.top_points, self.points)
        self._move(current, torch.where(_wide(stuck), self.top_gradient, gradient), going)
        return last

    def _remember(self, values: Tensor, gradient: Tensor, going: Tensor) -> None:
        """The best point, and whether the objective rose."""
        first = going & (self.taken == 0)
        stepped = going & ~first
        higher = first | (stepped & (values > self.top))
        self.top = torch.where(higher, values, self.top)
        self.top_points = torch.where(_wide(higher), self.points, self.top_points)
        self.top_gradient = torch.where(_wide(higher), gradient, self.top_gradient)
        self.top_at_check = torch.where(first, values, self.top_at_check)
        self.rises += stepped & (values > self.earlier)
        self.waited += stepped
        self.earlier = torch.where(stepped, values, self.earlier).masked_fill(first, 0.0)

    def _check(self, going: Tensor) -> Tensor:
        """Conditions 1 and 2 in the lanes that are at a checkpoint; (W,) bool: which go back to their best point."""
        due = going & (self.waited == self.period)
        rarely = self.rises <= RHO * self.period
        stalled = ~self.halved & (self.top <= self.top_at_check)
        stuck = due & (rarely | stalled)
        self.sizes = torch.where(stuck, self.sizes / 2, self.sizes)
        self.halved = torch.where(due, stuck, self.halved)
        self.top_at_check = torch.where(due, self.top, self.top_at_check)
        self.period = torch.where(due, (self.period - self.shorter).clamp_min(self.least), self.period)
        self.waited, self.rises = self.waited.masked_fill(due, 0), self.rises.masked_fill(due, 0)
        return stuck

    def _move(self, current: Tensor, gradient: Tensor, going: Tensor) -> None:
        """One step with momentum from ``current``."""
        threat, pixels = self.attack.threat, self.lanes.pixels
        alpha = torch.full_like(self.sizes, ALPHA).masked_fill(self.taken == 0, 1.0).view(-1, 1, 1, 1)
        ahead = threat.project(current + self.sizes.view(-1, 1, 1, 1) * threat.steepest(gradient), pixels)
        moved = current + alpha * (ahead - current) + (1 - alpha) * (current - self.previous)
        self.previous = torch.where(_wide(going), current, self.previous)
        self.points = torch.where(_wide(going), threat.project(moved, pixels), self.points)
        self.taken += going


def _wide(mask: Tensor) -> Tensor:
    """(W,) → (W, 1, 1, 1)."""
    return mask.view(-1, 1, 1, 1)
