"""FAB, the fast adaptive boundary attack: the smallest perturbation that changes the class.

Croce & Hein 2020 (arXiv 1907.02044, sections 2 and 3, algorithm 1). With z the logits, y the label, x the image and
π(u) the projection of u on the hyperplane where the linearisation of z_s − z_y at xᵗ is zero, inside [0, 1]:

    d₁ = π(xᵗ) − xᵗ,   d₂ = π(x) − x,   α = min( ‖d₁‖ / (‖d₁‖ + ‖d₂‖), α_max )
    xᵗ⁺¹ = clip( (1 − α)(xᵗ + η d₁) + α (x + η d₂) ),    and where that is adversarial:  xᵗ⁺¹ ← (1 − β) x + β xᵗ⁺¹

The rival s is one class for the whole run (``fab:t``), or at every step the class whose hyperplane is nearest
(``fab``). In a run with an aim, which the paper does not have, the aim's logit less the largest other takes the place
of z_s − z_y, because leaving the label is not enough there.

FAB knows no ε: it looks for the nearest adversarial point at any distance. Here a run ends as soon as an adversarial
point lies within ε, which is the same verdict as the published one, "the distance at the end is at most ε".

The last three points of a run are the paper's final search: they lie on the segment from x to the nearest adversarial
point, each where the margin would vanish if it were linear there. The code of AutoAttack (arXiv 2003.01690) leaves the
search out; it can only find nearer points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from zsrobust.attacks import numerals
from zsrobust.attacks.hyperplanes import onto_hyperplane
from zsrobust.attacks.lanes import Key, LaneAttack, Runs, nearest_rivals, no_rivals
from zsrobust.attacks.naming import full_name
from zsrobust.attacks.probe import Lanes, Objective, Precision, Probe
from zsrobust.errors import ConfigError
from zsrobust.randomness import uniform
from zsrobust.threat import Threat

TARGETS = 9
"""Rivals of ``fab:t`` in the published suite."""

MOST = 100
"""Classes up to which ``fab`` may climb to every one of them at every step."""

SEARCH = 3
"""Points of the final search."""


@dataclass(frozen=True)
class FAB(LaneAttack):
    """The fast adaptive boundary attack; the defaults are AutoAttack's.

    Attributes:
        threat: The ball; its norm is the one that is made small.
        steps: Iterations N of a run: a gradient and a look each. At most 3 looks follow.
        targets: Runs against this many classes, those of the highest clean logits (all others, where there are fewer).
            None: one run against all classes at once, at C − 1 gradients a step, so for at most 100 classes.
        restarts: Runs against each target: the first from the image, others from random points at distance ε/2.
        alpha_max: α_max in (0, 1], the largest pull towards the image.
        beta: β in (0, 1], the part of the way from the image that is kept after a success.
        eta: η ≥ 1, how far a step goes past the hyperplane.
        precision: Of the passes; a break found in bfloat16 counts only after a float32 pass.
    """

    threat: Threat
    steps: int = 100
    _: KW_ONLY
    targets: int | None = None
    restarts: int = 1
    alpha_max: float = 0.1
    beta: float = 0.9
    eta: float = 1.05
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        numerals.settle(self)
        self.threat.only_ball("fab")
        if self.steps < 1:
            raise ConfigError(f"FAB needs at least 1 step, not {self.steps}")
        if self.restarts < 1:
            raise ConfigError(f"FAB needs at least 1 run (restarts ≥ 1), not {self.restarts}")
        if self.targets is not None and self.targets < 1:
            raise ConfigError(f"fab:t needs at least 1 target, not {self.targets}")
        for name, value in (("alpha_max", self.alpha_max), ("beta", self.beta)):
            if not 0 < value <= 1:
                raise ConfigError(f"FAB's {name} must be above 0 and at most 1, not {value}")
        if not 1 <= self.eta < float("inf"):
            raise ConfigError(f"FAB's eta must be at least 1, not {self.eta}")

    @property
    def name(self) -> str:
        """``fab`` or ``fab:t``, with what is not the default."""
        options = {
            "steps": (self.steps, 100),
            "targets": (self.targets, TARGETS),
            "restarts": (self.restarts, 1),
            "alpha_max": (self.alpha_max, 0.1),
            "beta": (self.beta, 0.9),
            "eta": (self.eta, 1.05),
        }
        base = "fab" if self.targets is None else "fab:t"
        return full_name(base, **{name: value for name, (value, default) in options.items() if value != default})

    @property
    def key(self) -> str:
        """What keys the random starts: the same for every length and number of targets."""
        return "fab"

    def describe(self) -> dict[str, object]:
        """Everything that its strength depends on."""
        return {
            "name": self.name,
            "steps": self.steps,
            "targets": self.targets,
            "restarts": self.restarts,
            "alpha_max": self.alpha_max,
            "beta": self.beta,
            "eta": self.eta,
            "precision": self.precision,
            "gradient": True,
        }

    def check_classes(self, classes: int) -> None:
        """Whether a task has few enough classes to climb to all of them.

        Raises:
            ConfigError: it has not.
        """
        if self.targets is None and classes > MOST:
            raise ConfigError(
                f"attack 'fab' takes a gradient for each of {classes} classes at every step (at most {MOST}); "
                f"use fab:t, which takes the {TARGETS} nearest"
            )

    def rivals(self, clean: Callable[[], Tensor], labels: Tensor, aims: Tensor) -> Tensor:
        """(B, targets × restarts): all runs against the nearest class, then against the next; or the aim alone."""
        if self.targets is None and not bool((aims >= 0).any()):
            return no_rivals(labels, self.restarts)
        return nearest_rivals(clean, labels, aims, self.targets or 1).repeat_interleave(self.restarts, dim=1)

    def runs(self, lanes: Lanes) -> Runs:
        """Empty state for these lanes."""
        return _FABRuns(self, lanes)

    def random_start(self, pixels: Tensor, keys: Sequence[Key]) -> Tensor:
        """(k, 3, H, W) random points at distance ε/2 from the images, cut to [0, 1]; k keys."""
        noise = 2 * uniform(keys, pixels.shape[1:], device=pixels.device) - 1
        if self.threat.norm == "l2":  # made Gaussian, which has no preferred direction
            noise = torch.erfinv(noise.clamp(-1 + 1e-6, 1 - 1e-6))
        return (pixels + self.threat.eps / 2 * noise / _column(self.threat.size(noise))).clamp(0, 1)


class _FABRuns(Runs):
    """FAB in lanes.

    After the last step, ``points`` and ``found`` are the two ends of the final search's segment.

    Attributes:
        points: (W, 3, H, W') where each run is.
        steps: (W,) rounds behind it.
        restart: (W,) which start it had; 0: the image.
        found: (W, 3, H, W') nearest adversarial point so far, at any distance; the image where there is none.
        reach: (W,) its distance in the threat's norm; inf where there is none.
        classes: C, once it is known.
        ends: (2, W) gap (see :class:`Lanes`) at the final search's near end, inf where not known, and at ``found``.
    """

    def __init__(self, attack: FAB, lanes: Lanes) -> None:
        self.attack, self.lanes = attack, lanes
        self.points, self.found = lanes.pixels.clone(), lanes.pixels.clone()
        self.steps, self.restart = torch.zeros_like(lanes.labels), torch.zeros_like(lanes.labels)
        self.reach, self.classes = torch.full_like(lanes.gaps, torch.inf), 2
        self.ends = torch.full_like(lanes.gaps.expand(2, -1), torch.inf)

    def enter(self, index: Tensor, keys: Sequence[Key]) -> None:
        pixels, rivals = self.lanes.pixels[index], self.lanes.rivals[index].tolist()
        restart = [int(key[-1]) % self.attack.restarts for key in keys]
        start, later = pixels.clone(), [place for place, turn in enumerate(restart) if turn > 0]
        if later:
            own = [(*keys[place][:-1], "start", rivals[place], restart[place]) for place in later]
            start[later] = self.attack.random_start(pixels[later], own)
        self.points[index], self.found[index] = start, pixels
        self.steps[index], self.restart[index] = 0, torch.tensor(restart, device=index.device)
        self.reach[index], self.ends[:, index] = torch.inf, torch.inf

    def round(self, probe: Probe) -> Tensor:
        lanes, steps = self.lanes, self.attack.steps
        moving = lanes.live & (self.steps < steps)
        values, slopes = self._nearest(probe, moving)
        at_image = moving & (self.steps == 0) & (self.restart == 0)
        self.ends[0] = torch.where(at_image, lanes.gaps, self.ends[0])  # what the probe noted of the only point so far
        points = torch.where(_column(moving), self._step(values, slopes), self._between())
        self._learn(points, probe.look(points), moving)
        self.steps += 1
        over = (self.steps == steps + SEARCH) | ((self.steps == steps) & self.reach.isinf())
        return lanes.live & over

    def _nearest(self, probe: Probe, moving: Tensor) -> tuple[Tensor, Tensor]:
        """What the rival leads by (W,), see :meth:`_lead`, and its gradient (W, 3, H, W'), where moving lanes are.

        In a run without a rival, of the class whose hyperplane is nearest. Classes are climbed one at a time, so that
        memory does not grow with their number.
        """
        lanes = self.lanes
        values, slopes = probe.climb(self.points, self._lead(lanes.rivals.clamp_min(0)), moving & (lanes.rivals >= 0))
        roaming = moving & (lanes.rivals < 0)
        if not bool(roaming.any()):
            return values, slopes
        nearest, rival = torch.full_like(values, torch.inf), 0
        while rival < self.classes:
            wanted = roaming & (lanes.labels != rival)
            value, slope = probe.climb(self.points, self._lead(torch.full_like(lanes.labels, rival)), wanted)
            self.attack.check_classes(self.classes)
            distance = value.abs() / (self._steepness(slope) + 1e-12)
            take = wanted & (distance < nearest)
            nearest = torch.where(take, distance, nearest)
            values, slopes = torch.where(take, value, values), torch.where(_column(take), slope, slopes)
            rival += 1
        return values, slopes

    def _lead(self, rivals: Tensor) -> Objective:
        """Logit of the rivals (W,) less the label's; in a lane with an aim, the aim's less the largest other.

        The first logits tell how many classes there are.
        """

        def objective(logits: Tensor, lanes: Lanes) -> Tensor:
            self.classes = logits.shape[1]
            rival, own = (logits.gather(1, chosen[:, None]).squeeze(1) for chosen in (rivals, lanes.labels))
            return torch.where(lanes.aims < 0, rival - own, -lanes.gap(logits))

        return objective

    def _steepness(self, slopes: Tensor) -> Tensor:
        """(W, 3, H, W') → (W,): how much a linear function falls per unit of distance in the threat's norm."""
        flat = slopes.flatten(1)
        return flat.abs().sum(1) if self.attack.threat.norm == "linf" else flat.norm(dim=1)

    def _step(self, values: Tensor, slopes: Tensor) -> Tensor:
        """(W, 3, H, W') next points, before the backward step."""
        attack, pixels = self.attack, self.lanes.pixels
        at_image = values + (slopes * (pixels - self.points)).flatten(1).sum(1)
        starts = torch.cat([self.points, pixels])
        moves = onto_hyperplane(starts, torch.cat([slopes, slopes]), torch.cat([values, at_image]), attack.threat.norm)
        here, there = attack.threat.size(moves).clamp_min(1e-8).chunk(2)
        alpha = _column((here / (here + there)).clamp_max(attack.alpha_max))
        straight, biased = (starts + attack.eta * moves).chunk(2)
        return ((1 - alpha) * straight + alpha * biased).clamp(0, 1)

    def _between(self) -> Tensor:
        """(W, 3, H, W') next points of the final search: the zero of the line through the gaps at both ends.

        The middle where the image's own gap was never seen (a run from a random start).
        """
        near, far = self.ends
        share = (near / (near - far)).nan_to_num(0.5).clamp(0, 1)
        return self.points + _column(share) * (self.found - self.points)

    def _learn(self, points: Tensor, logits: Tensor, moving: Tensor) -> None:
        """Moves on from ``points`` with these logits (W, C)."""
        lanes, attack = self.lanes, self.attack
        won, gaps = lanes.won(logits) & lanes.live, lanes.gap(logits)
        sizes = attack.threat.size(points - lanes.pixels)
        closer = won & (sizes < self.reach)
        self.found = torch.where(_column(closer), points, self.found)
        self.reach = torch.where(closer, sizes, self.reach)
        self.ends[1] = torch.where(closer, gaps, self.ends[1])
        self.ends[0] = torch.where(lanes.live & ~moving & ~won, gaps, self.ends[0])
        back = lanes.pixels + attack.beta * (points - lanes.pixels)
        onward = torch.where(_column(won & moving), back, points)
        onward = torch.where(_column(won & ~moving), self.points, onward)
        searches = moving & (self.steps + 1 == attack.steps)
        self.points = torch.where(_column(searches), lanes.pixels, onward)


def _column(values: Tensor) -> Tensor:
    """(n,) → (n, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)
