"""The L2 attack of Carlini and Wagner 2017 (arXiv 1608.04644, section VI-A).

It looks for the nearest image that is misclassified, wherever that is: Adam minimises over w

    ‖x' − x‖₂² + c · max(gap(x'), 0),    x' = ½ (tanh w + 1),

with gap the label's logit less the largest other (with an aim: what the aim lacks; the paper's f₆ at κ = 0), and a
binary search finds the smallest c that succeeds. tanh keeps x' in the box. The threat's ball plays no part in the
search: a run succeeds when one of its points is misclassified within ε.

What is often called CW in tables of this field is PGD with the margin loss; here that is ``cw``, and this ``cw-l2``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from zsrobust.attacks import numerals
from zsrobust.attacks.lanes import Key, LaneAttack, Runs, no_rivals
from zsrobust.attacks.naming import full_name
from zsrobust.attacks.objectives import away
from zsrobust.attacks.probe import Lanes, Precision, Probe
from zsrobust.errors import ConfigError
from zsrobust.losses import margin_loss
from zsrobust.threat import Threat

BINARY_STEPS = 9
STEPS = 1000

_RATE, _DECAY, _DECAY_OF_SQUARES, _TINY = 0.01, 0.9, 0.999, 1e-8
"""Adam's constants (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1)."""

_FIRST_C = 1e-3

_SHRINK = 0.999999
"""The inverse of tanh is infinite at pixels that are exactly 0 or 1, and tanh flat there: they could never move."""

_FALL = 0.9999
"""A value of c is given up when the objective has not fallen by this factor over a tenth of the steps …"""

_PATIENCE = 200
"""… but over at least so many: it takes Adam hundreds of steps of 0.01 to bring a pixel from the flat end of tanh, and
with 1000 steps in all an image of nothing but 0s and 1s would be given up before it has moved."""


@dataclass(frozen=True)
class CarliniWagner(LaneAttack):
    """The nearest misclassified image in L2; a run is the whole binary search for one example.

    Attributes:
        threat: An L2 ball; only the verdict depends on its radius.
        steps: Adam's steps for each c, at most.
        binary_steps: Values of c that are tried. c grows tenfold, from 0.001, until one succeeds.
        precision: Of the passes; a break found in bfloat16 counts only after a float32 pass.
    """

    threat: Threat
    steps: int = STEPS
    _: KW_ONLY
    binary_steps: int = BINARY_STEPS
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        numerals.settle(self)
        if self.threat.norm != "l2":
            raise ConfigError(
                f"attack 'cw-l2' measures in L2 and cannot search {self.threat.describe()}; "
                "'cw', which is PGD with the margin loss, can search l∞, and 'patch' patches"
            )
        if self.steps < 1:
            raise ConfigError(f"attack 'cw-l2' needs at least 1 step, not {self.steps}")
        if self.binary_steps < 1:
            raise ConfigError(f"attack 'cw-l2' needs at least 1 value of c (binary_steps ≥ 1), not {self.binary_steps}")

    @property
    def name(self) -> str:
        """``cw-l2``, with what is not the default."""
        return full_name(
            "cw-l2",
            steps=self.steps if self.steps != STEPS else None,
            binary_steps=self.binary_steps if self.binary_steps != BINARY_STEPS else None,
        )

    @property
    def key(self) -> str:
        """What would key its random numbers; it takes none."""
        return "cw-l2"

    def describe(self) -> dict[str, object]:
        """Everything that its strength depends on."""
        return {
            "name": self.name,
            "steps": self.steps,
            "binary_steps": self.binary_steps,
            "step_size": _RATE,
            "precision": self.precision,
            "gradient": True,
        }

    def rivals(self, clean: Callable[[], Tensor], labels: Tensor, aims: Tensor) -> Tensor:
        """(B, 1) of −1."""
        return no_rivals(labels, 1)

    def runs(self, lanes: Lanes) -> Runs:
        """Empty state for these lanes."""
        return _CarliniWagnerRuns(self, lanes)


class _CarliniWagnerRuns(Runs):
    """Binary searches in lanes; each at its own c and at its own step of Adam.

    Attributes:
        w: (W, 3, H, W') where Adam is; the point is ½ (tanh w + 1).
        c, lower, upper: (W,) weight of the gap, and what is known to be too little and enough.
        tried: (W,) values of c that are done with.
        step: (W,) steps taken at this c.
        succeeded: (W,) bool, whether this c has led to a misclassified point.
        before: (W,) the objective when it was last looked at.
    """

    def __init__(self, attack: CarliniWagner, lanes: Lanes) -> None:
        self.attack, self.lanes, self.objective = attack, lanes, away(margin_loss)
        self.w, self.mean, self.square = (torch.zeros_like(lanes.pixels) for _ in range(3))
        self.c, self.lower, self.upper, self.before = (torch.zeros_like(lanes.gaps) for _ in range(4))
        self.tried, self.step = torch.zeros_like(lanes.labels), torch.zeros_like(lanes.labels)
        self.succeeded = torch.zeros_like(lanes.live)

    def enter(self, index: Tensor, keys: Sequence[Key]) -> None:
        self.c[index], self.lower[index], self.upper[index], self.tried[index] = _FIRST_C, 0.0, torch.inf, 0
        self._restart(index)

    def round(self, probe: Probe) -> Tensor:
        lanes = self.lanes
        points = (self.w.tanh() + 1) / 2
        closeness, climb = probe.climb(points, self.objective)
        delta, short = points - lanes.pixels, closeness <= 0
        objective = delta.square().flatten(1).sum(1) - self.c * closeness.clamp_max(0)
        weight = torch.where(short, self.c, 0.0).view(-1, 1, 1, 1)
        self._adam((2 * delta - weight * climb) * _slope(self.w))
        self.succeeded |= closeness > 0
        self._next_c(self._given_up(objective) | (self.step == self.attack.steps))
        return self.tried == self.attack.binary_steps

    def _restart(self, index: Tensor) -> None:
        """Back to the image, for a new c."""
        self.w[index] = _inverse(self.lanes.pixels[index])
        self.mean[index] = self.square[index] = 0.0
        self.step[index], self.succeeded[index], self.before[index] = 0, False, torch.inf

    def _adam(self, gradient: Tensor) -> None:
        self.step += 1
        self.mean.lerp_(gradient, 1 - _DECAY)
        self.square.lerp_(gradient.square(), 1 - _DECAY_OF_SQUARES)
        steps = self.step.view(-1, 1, 1, 1)
        mean, square = self.mean / (1 - _DECAY**steps), self.square / (1 - _DECAY_OF_SQUARES**steps)
        self.w -= _RATE * mean / (square.sqrt() + _TINY)

    def _given_up(self, objective: Tensor) -> Tensor:
        """(W,) bool: lanes whose objective has stopped falling; the published code asks this of the whole batch."""
        due = (self.step - 1) % max(self.attack.steps // 10, _PATIENCE) == 0
        stuck = due & (objective > _FALL * self.before)
        self.before = torch.where(due, objective, self.before)
        return stuck

    def _next_c(self, over: Tensor) -> None:
        """Halves the interval, or looks ten times higher as long as no c was enough, where ``over`` (W,) bool."""
        if not bool((over & self.lanes.live).any()):
            return
        self.upper = torch.where(over & self.succeeded, torch.minimum(self.upper, self.c), self.upper)
        self.lower = torch.where(over & ~self.succeeded, torch.maximum(self.lower, self.c), self.lower)
        following = torch.where(self.upper.isinf(), 10 * self.c, (self.lower + self.upper) / 2)
        self.c = torch.where(over, following, self.c)
        self.tried += over
        self._restart(over.nonzero().squeeze(1))


# torch's own atanh and cosh round differently for other places of a number in its tensor; log and exp do not.


def _inverse(pixels: Tensor) -> Tensor:
    """Where ½ (tanh w + 1) = ``pixels``, but for the shrinking."""
    shrunk = (2 * pixels - 1) * _SHRINK
    return ((1 + shrunk) / (1 - shrunk)).log() / 2


def _slope(w: Tensor) -> Tensor:
    """Derivative ½ (1 − tanh² w) of ½ (tanh w + 1), written so that it is not 0 where tanh w rounds to 1."""
    decay = (-2 * w.abs()).exp()
    return 2 * decay / (1 + decay).square()
