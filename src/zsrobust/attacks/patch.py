"""An adversarial patch: one square of arbitrary pixels, wherever it does the most harm.

Brown et al. 2017 (arXiv 1712.09665) print one patch that works on many images; here, as an evaluation wants it, each
image has its own patch at its own place. With M the square,

    x⁰ = x outside M, noise inside,    xᵗ⁺¹ = clip( xᵗ + α M ⊙ sign(∇ₓ loss(xᵗ, y)), 0, 1 ),    t = 0 … K−1

which is PGD (Madry et al. 2018, arXiv 1706.06083, section 2.1) in the box [0, 1] of the square's pixels. The places
that are tried first are those with the largest sum of absolute gradients at the image, then places at random. It is a
search over a few places: a patch that survives it may still fall to one elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from zsrobust import squares
from zsrobust.attacks import loss_code, numerals
from zsrobust.attacks.lanes import Key, LaneAttack, Runs, no_rivals
from zsrobust.attacks.naming import full_name
from zsrobust.attacks.objectives import Loss, away
from zsrobust.attacks.probe import Lanes, Precision, Probe
from zsrobust.errors import ConfigError
from zsrobust.losses import margin_loss
from zsrobust.randomness import uniform
from zsrobust.threat import Threat

STEPS = 50
PLACES = 5
RESTARTS = 5


@dataclass(frozen=True)
class Patch(LaneAttack):
    """PGD inside one square, at several places.

    Attributes:
        threat: A patch.
        steps: Number K of steps at each place.
        places: Runs at the squares with the largest sum of absolute gradients at the image; their centres are at least
            half a side apart, where the image has room for that.
        restarts: Further runs, each at a place of its own at random. The first success of all runs counts.
        loss: Per-example loss on logits, climbed away from the label, or descended towards a target.
        precision: Of the passes; a break found in bfloat16 counts only after a float32 pass.
    """

    threat: Threat
    steps: int = STEPS
    _: KW_ONLY
    places: int = PLACES
    restarts: int = RESTARTS
    loss: Loss = margin_loss
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        numerals.settle(self)
        if self.threat.norm != "patch":
            raise ConfigError(
                f"attack 'patch' cannot search {self.threat.describe()}, only patches: --threat patch:0.05"
            )
        if self.steps < 1:
            raise ConfigError(f"attack 'patch' needs at least 1 step, not {self.steps}")
        if min(self.places, self.restarts) < 0 or self.places + self.restarts < 1:
            raise ConfigError(
                f"attack 'patch' needs at least 1 place (places) or random place (restarts), "
                f"not {self.places} and {self.restarts}"
            )

    @property
    def name(self) -> str:
        """``patch``, with what is not the default."""
        return full_name(
            "patch",
            steps=self.steps if self.steps != STEPS else None,
            places=self.places if self.places != PLACES else None,
            restarts=self.restarts if self.restarts != RESTARTS else None,
        )

    @property
    def key(self) -> str:
        """What keys the random starts and places: the same for every length."""
        return "patch"

    @property
    def alpha(self) -> float:
        """Length of a step, in pixel range [0, 1]: K steps can cross the box two and a half times."""
        return min(1.0, 2.5 / self.steps)

    def describe(self) -> dict[str, object]:
        """Everything that its strength depends on."""
        return {
            "name": self.name,
            "steps": self.steps,
            "step_size": self.alpha,
            "places": self.places,
            "restarts": self.restarts,
            **loss_code.described(self.loss),
            "precision": self.precision,
            "gradient": True,
        }

    def rivals(self, clean: Callable[[], Tensor], labels: Tensor, aims: Tensor) -> Tensor:
        """(B, places + restarts) of −1."""
        return no_rivals(labels, self.places + self.restarts)

    def runs(self, lanes: Lanes) -> Runs:
        """Empty state for these lanes."""
        return _PatchRuns(self, lanes)


class _PatchRuns(Runs):
    """Patches in lanes. Step −1 is a look at the image itself, whose gradient says where the square goes."""

    def __init__(self, attack: Patch, lanes: Lanes) -> None:
        self.attack, self.lanes = attack, lanes
        self.objective = away(attack.loss)
        self.height, self.width = lanes.pixels.shape[2:]
        self.side = attack.threat.side(self.height, self.width)
        self.points = lanes.pixels.clone()
        self.noise = torch.zeros_like(self.points)
        self.inside = torch.zeros_like(self.points[:, :1], dtype=torch.bool)
        self.steps = torch.zeros_like(lanes.labels)
        self.rank = torch.zeros_like(lanes.labels)

    def enter(self, index: Tensor, keys: Sequence[Key]) -> None:
        device = self.points.device
        self.points[index] = self.lanes.pixels[index]
        self.noise[index] = uniform(keys, self.points.shape[1:], device=device)
        self.rank[index] = torch.tensor([int(key[-1]) for key in keys], device=device)
        numbers = uniform([(*key, "place") for key in keys], (2,), device=device)
        by_chance = self.rank[index] >= self.attack.places
        self.steps[index] = torch.where(by_chance, 0, -1)
        if bool(by_chance.any()):
            places = squares.at_random(numbers, self.side, self.height, self.width)
            self._begin(index[by_chance], places[by_chance])

    def round(self, probe: Probe) -> Tensor:
        looking = self.lanes.live & (self.steps == -1)
        last = self.lanes.live & (self.steps == self.attack.steps)
        _, gradient = probe.climb(self.points, self.objective, ~last)
        probe.look(self.points, last)
        moved = (self.points + self.attack.alpha * gradient.sign()).clamp(0, 1)
        climbing = self.inside & ~(last | looking).view(-1, 1, 1, 1)
        self.points = torch.where(climbing, moved, self.points)
        if bool(looking.any()):
            index = looking.nonzero().squeeze(1)
            self._begin(index, self._heaviest(gradient[index], self.rank[index]))
        self.steps += 1
        return last

    def _begin(self, index: Tensor, places: Tensor) -> None:
        """Puts noise into the squares at ``places`` (k, 2) of the lanes ``index`` (k,)."""
        inside = squares.mask(places, self.side, self.height, self.width)
        self.inside[index] = inside
        self.points[index] = torch.where(inside, self.noise[index], self.lanes.pixels[index])

    def _heaviest(self, gradient: Tensor, rank: Tensor) -> Tensor:
        """(k, 3, H, W) and (k,) → (k, 2): the place of that rank, none near one of a better rank."""
        found = squares.masses(gradient.abs().sum(1), self.side)
        chosen = squares.best(found)
        for better in range(int(rank.max())):
            rest = squares.without_near(found, chosen, (self.side + 1) // 2)
            room = rest.flatten(1).amax(1) > -torch.inf
            found = torch.where(room[:, None, None], rest, found)
            chosen = torch.where((rank > better)[:, None], squares.best(found), chosen)
        return chosen
