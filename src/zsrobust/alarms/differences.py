"""What the gradient claims, beside what the function does.

For the margin m of the two highest classes (fixed at the image), its gradient g as an attack gets it, and s = sign g:

    along s:       (m(x + t·s) − m(x − t·s)) / 2t        to compare with  ‖g‖₁
    across, r = ±1 at random:   (m(x + t·r) − m(x − t·r)) / 2t        to compare with  ⟨g, r⟩

at several lengths t. A linear function moves √(2D/π) times as far along s as across (D numbers in an image). Central
differences: curvature of even order cancels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zsrobust.alarms.subject import Subject
from zsrobust.randomness import uniform

FINE = 1 / 16 / 255
QUARTER = 0.25 / 255
GREY_LEVEL = 1 / 255
COARSE = 4 / 255
LENGTHS = (FINE, QUARTER, GREY_LEVEL, COARSE)

_MOST = 8
_RANDOM = 2
_SURE = 0.05
# Images are drawn in from the border of [0, 1], where a model that clamps its input has only half a difference.
_SHRINK = 1 - 2 * (COARSE + 1e-3)


@dataclass(frozen=True, eq=False)
class Differences:
    """Of k images, J random directions, and the lengths t of :data:`LENGTHS`.

    Attributes:
        base: (k, 3, H, W) the points looked at: the images, drawn in a little from the border of [0, 1].
        logits: (k, C) there, without a gradient; ``again`` the same once more; ``graded`` with a gradient.
        connected: Whether autograd reaches the pixels at all.
        finite: (k,) bool, no NaN or infinity in the gradient.
        gradient: (k, 3, H, W) g; 0 in place of NaN and infinity.
        claimed: (k, J) ⟨g, r⟩.
        along: t → (k,) differences along sign g.
        across: t → (k, J) differences in the random directions.
        noise: (k,) how far the margin moves between two looks at the same draw, rounding included.
    """

    base: Tensor
    logits: Tensor
    again: Tensor
    graded: Tensor
    connected: bool
    finite: Tensor
    gradient: Tensor
    claimed: Tensor
    along: dict[float, Tensor]
    across: dict[float, Tensor]
    noise: Tensor

    @property
    def steepest(self) -> Tensor:
        """(k,) ‖g‖₁: how fast the margin rises along sign g, says the gradient."""
        return self.gradient.flatten(1).abs().sum(1)

    @property
    def length(self) -> Tensor:
        """(k,) ‖g‖₂: how fast it moves in a random direction, on average."""
        length: Tensor = torch.linalg.vector_norm(self.gradient.flatten(1), dim=1)
        return length

    @property
    def dead(self) -> Tensor:
        """(k,) bool: no gradient at all."""
        return (self.steepest == 0) | ~self.finite

    def disagreement(self, t: float) -> float:
        """Of differences and gradient in random directions: 0 equal, about 1 unrelated."""
        found, claimed = self.across[t][~self.dead], self.claimed[~self.dead]
        size = torch.maximum(found.abs(), claimed.abs()).median()
        return float((found - claimed).abs().median() / size) if float(size) > 0 else 0.0

    def kept(self, t: float) -> float:
        """What a step t along sign g gains, over what the gradient promises: 1 for a linear function; a median."""
        return float((self.along[t] / self.steepest)[~self.dead].median())

    def lead(self, t: float) -> float:
        """How many times as far the margin moves along sign g as in a random direction; a median."""
        return float((self.along[t] / self.across[t].square().mean(1).sqrt().clamp_min(1e-30))[~self.dead].median())

    def sure(self, t: float) -> bool:
        """Whether differences over t are well above the noise."""
        return bool((self.noise / (2 * t * self.length))[~self.dead].median() < _SURE)


def differences(subject: Subject) -> Differences:
    """Measured once for a subject."""
    return subject.once("differences", lambda: _measure(subject))


def _measure(subject: Subject) -> Differences:
    base = 0.5 + _SHRINK * (subject.pixels[:_MOST] - 0.5)
    logits, again = subject.look(base), subject.look(base)
    first, second = logits.topk(2, dim=1).indices.T

    def height(logits: Tensor) -> Tensor:
        return (logits.gather(1, first[:, None]) - logits.gather(1, second[:, None])).squeeze(1)

    gradient, graded, connected = subject.slope(base, height)
    finite = gradient.isfinite().flatten(1).all(1)
    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
    directions = [gradient.sign(), *(_signs(subject, base, j) for j in range(_RANDOM))]
    found = {t: torch.stack([_difference(subject, base, r, t, height) for r in directions], 1) for t in LENGTHS}
    rounding = 8 * torch.finfo(torch.float32).eps * logits.abs().amax(1)
    return Differences(
        base=base,
        logits=logits,
        again=again,
        graded=graded,
        connected=connected,
        finite=finite,
        gradient=gradient,
        claimed=torch.stack([(gradient * r).flatten(1).sum(1) for r in directions[1:]], 1),
        along={t: values[:, 0] for t, values in found.items()},
        across={t: values[:, 1:] for t, values in found.items()},
        noise=rounding + (height(logits) - height(again)).abs(),
    )


def _signs(subject: Subject, base: Tensor, number: int) -> Tensor:
    keys = [(subject.seed, "alarm", "direction", number, i) for i in range(len(base))]
    return torch.where(uniform(keys, base.shape[1:], device=base.device) < 0.5, -1.0, 1.0)


def _difference(
    subject: Subject, base: Tensor, direction: Tensor, t: float, height: Callable[[Tensor], Tensor]
) -> Tensor:
    """(k,) the central difference of the margin along ``direction`` (k, 3, H, W)."""
    up, down = (height(subject.look(base + sign * t * direction)) for sign in (1, -1))
    return (up - down) / (2 * t)
