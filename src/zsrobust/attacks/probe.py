"""The model as a search sees it: in one shape, with every pass counted and the best point kept.

Attacks know nothing of precision, randomness or surrogates: they ask for logits or for a gradient at W points, and what
is measured there is noted for them.

- A low-precision pass may only *propose* a break: it counts after a float32 forward without autocast.
- A random model (``samples`` > 1) is probed S times and averaged, values and gradients (EOT, Athalye et al. 2018a,
  arXiv 1707.07397); it has no first success to leave at.
- A model with a ``surrogate`` gets its values from itself and its gradient from the surrogate (BPDA, Athalye et al.
  2018b, arXiv 1802.00420, section 4.1).
- A model with a ``guide`` is judged by itself while the guide is climbed, through the guide's own surrogate if it has
  one (a transfer attack).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from zsrobust.attacks.base import Model
from zsrobust.errors import ModelError, UnknownName
from zsrobust.losses import margin
from zsrobust.passes import float32_only, frozen_weights, weights_of
from zsrobust.threat import Threat

Precision = Literal["float32", "bfloat16"]

Objective = Callable[[Tensor, "Lanes"], Tensor]
"""(logits (W, C), the lanes they belong to) → per-lane values (W,) to climb."""


@dataclass
class Lanes:
    """W places, each with one run of one example.

    Attributes:
        pixels: (W, 3, H, W') the images.
        labels: (W,) int64.
        aims: (W,) int64, the class that an example is to be taken for; −1: any but the label.
        rivals: (W,) int64, the class that this run pushes towards; −1: none in particular.
        live: (W,) bool, places with a run in them.
        best: (W, 3, H, W') the point to report: the first that broke the example, else the closest to it.
        gaps: (W,) how far ``best`` is from success, in logits: the label's margin, or what the aim lacks.
        broken: (W,) bool.
        claims: (W,) lowest gap at which a low-precision claim was refuted.
        forwards, backwards: (W,) int64, passes spent on each run.
    """

    pixels: Tensor
    labels: Tensor
    aims: Tensor
    rivals: Tensor = field(init=False)
    live: Tensor = field(init=False)
    best: Tensor = field(init=False)
    gaps: Tensor = field(init=False)
    broken: Tensor = field(init=False)
    claims: Tensor = field(init=False)
    forwards: Tensor = field(init=False)
    backwards: Tensor = field(init=False)

    def __post_init__(self) -> None:
        width, device = len(self.labels), self.labels.device
        self.rivals = torch.full((width,), -1, device=device)
        self.live = torch.zeros(width, dtype=torch.bool, device=device)
        self.best = self.pixels.clone()
        self.gaps = torch.full((width,), torch.inf, device=device)
        self.broken = torch.zeros(width, dtype=torch.bool, device=device)
        self.claims = torch.full((width,), torch.inf, device=device)
        self.forwards = torch.zeros(width, dtype=torch.int64, device=device)
        self.backwards = torch.zeros(width, dtype=torch.int64, device=device)

    def enter(self, index: Tensor, pixels: Tensor, labels: Tensor, aims: Tensor, rivals: Tensor) -> None:
        """Puts new runs into the places ``index`` (k,)."""
        self.pixels[index], self.labels[index], self.aims[index], self.rivals[index] = pixels, labels, aims, rivals
        self.live[index], self.broken[index] = True, False
        self.best[index], self.gaps[index], self.claims[index] = pixels, torch.inf, torch.inf
        self.forwards[index] = self.backwards[index] = 0

    def gap(self, logits: Tensor, of: Tensor | None = None) -> Tensor:
        """(W, C) → (W,): negative where the run has what it wants (0 is a tie).

        Args:
            logits: Of one point for each lane.
            of: (W,) the lane that each row is about; None: its own.
        """
        aims, labels = (self.aims, self.labels) if of is None else (self.aims[of], self.labels[of])
        return torch.where(aims < 0, margin(logits, labels), -margin(logits, aims.clamp_min(0)))

    def won(self, logits: Tensor) -> Tensor:
        """(W, C) → (W,) bool: taken for another class, or, with an aim, for that one alone."""
        return torch.where(self.aims < 0, logits.argmax(1) != self.labels, self.gap(logits) < 0)


class Probe:
    """A model seen through lanes.

    Args:
        model: Pixels → logits.
        lanes: What it is asked about.
        threat: Points outside its ball are measured and not kept.
        precision: Of the passes; breaks are float32 whatever it is.
    """

    def __init__(self, model: Model, lanes: Lanes, threat: Threat, *, precision: Precision = "float32") -> None:
        self.model = model
        self.lanes = lanes
        self.threat = threat
        if precision not in get_args(Precision):
            raise UnknownName("precision", precision, get_args(Precision))
        self.precision = precision
        self.fixed = getattr(model, "rows", None) is not None
        self.samples: int = getattr(model, "samples", 1)
        self.guide: Model | None = getattr(model, "guide", None)
        self.climbed: Model = self.guide or model
        self.surrogate: Model | None = getattr(self.climbed, "surrogate", None)
        self.weights = [weight for seen in (model, self.guide) for weight in weights_of(seen)]

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """What all passes run in: weights frozen, and float32 unless a pass asks for less."""
        with frozen_weights(self.weights), float32_only(self.lanes.pixels.device):
            yield

    def look(self, points: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Logits (W, C) at ``points`` (W, 3, H, W'), without a gradient; noted for the lanes ``wanted`` (W,) bool."""
        wanted = self.lanes.live if wanted is None else wanted & self.lanes.live
        logits = self.peek(points, wanted)
        if bool(wanted.any()):
            self.note(points, logits, wanted, torch.full_like(self.lanes.forwards, self.samples))
        return logits

    def peek(self, points: Tensor, wanted: Tensor) -> Tensor:
        """Logits (W, C) at the rows ``wanted`` (W,) bool of ``points``; neither noted nor counted.

        For a search that uses idle lanes to look ahead: what it takes of that, it hands to :meth:`note`.
        """
        where = self._where(wanted)
        if len(where) == 0:
            return self.lanes.gaps.new_zeros(len(wanted), 0)
        chosen = points if len(where) == len(points) else points[where]
        with torch.no_grad(), self._cheap():
            logits = torch.stack([self.model(chosen).float() for _ in range(self.samples)]).mean(0)
        return _spread(logits, where, len(points))

    def note(self, points: Tensor, logits: Tensor, wanted: Tensor, passes: Tensor) -> None:
        """Takes note of what was seen at one point of each lane ``wanted`` (W,), after ``passes`` (W,) forwards."""
        self.lanes.forwards += passes * wanted
        self._note(points, logits, wanted)

    def climb(self, points: Tensor, objective: Objective, wanted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Values (W,) of the objective and its gradient (W, 3, H, W') at ``points``, noted for the lanes ``wanted``.

        Live lanes that are not wanted are left out; what is returned for them means nothing.
        """
        wanted = self.lanes.live if wanted is None else wanted & self.lanes.live
        where = self._where(wanted)
        values, gradient = points.new_zeros(len(points)), torch.zeros_like(points)
        if len(where) == 0:
            return values, gradient
        chosen, seen = points[where], []
        for _ in range(self.samples):
            value, slope, logits = self._differentiate(chosen, objective, where)
            values[where] += value / self.samples
            gradient[where] += slope / self.samples
            seen.append(logits)
        self.lanes.forwards[wanted] += self.samples * (1 + (self.guide is not None) + (self.surrogate is not None))
        self.lanes.backwards[wanted] += self.samples
        self._note(points, _spread(torch.stack(seen).mean(0), where, len(points)), wanted)
        return values, gradient

    def _where(self, wanted: Tensor) -> Tensor:
        """Rows to pass: all of them, always, where the shape is fixed; else the wanted ones."""
        everything = torch.arange(len(wanted), device=wanted.device)
        if not self.fixed:
            return everything[wanted]
        return everything if bool(wanted.any()) else everything[:0]

    def _cheap(self) -> AbstractContextManager[object]:
        if self.precision == "float32":
            return nullcontext()
        lowered = getattr(self.model, "lowered", None)
        if lowered is not None:
            context: AbstractContextManager[object] = lowered()
            return context
        return torch.autocast(self.lanes.pixels.device.type, dtype=torch.bfloat16)

    def _differentiate(self, points: Tensor, objective: Objective, where: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One draw at the rows ``where``: values, gradient, and the model's logits."""
        with torch.enable_grad(), self._cheap():
            points = points.detach().requires_grad_(True)
            logits = own = (self.surrogate or self.climbed)(points).float()
            if self.surrogate is not None:
                with torch.no_grad():
                    own = self.climbed(points).float()
                logits = logits + (own - logits).detach()
            if self.guide is not None:
                with torch.no_grad():
                    own = self.model(points).float()
            all_logits = _spread(logits, where, len(self.lanes.labels))
            values = objective(all_logits, self.lanes)[where]
            if not values.requires_grad:
                raise ModelError(
                    "the model has no gradient: autograd does not reach the pixels from its logits; attack it with "
                    "square, or declare encode_differentiable (docs/attacking-your-own-defence.md)"
                )
            (gradient,) = torch.autograd.grad(values.sum(), points)
        # Where a model has no derivative it must not carry NaN into the images; a zero gradient is an alarm's matter.
        return values.detach(), gradient.float().nan_to_num(0.0, 0.0, 0.0), own.detach()

    def _note(self, points: Tensor, logits: Tensor, wanted: Tensor) -> None:
        lanes = self.lanes
        inside = self.threat.allows(self.threat.size(points - lanes.pixels))
        gaps, open_ = lanes.gap(logits), wanted & inside & ~lanes.broken
        broken = open_ & lanes.won(logits) if self.samples == 1 else torch.zeros_like(open_)
        if self.precision != "float32":
            broken, gaps = self._verify(points, gaps, broken)
        better = broken | (open_ & (gaps < lanes.gaps))
        lanes.best[better] = points[better].detach()
        lanes.gaps[better] = gaps[better]
        lanes.broken |= broken

    def _verify(self, points: Tensor, gaps: Tensor, claimed: Tensor) -> tuple[Tensor, Tensor]:
        """Which claims of a low-precision pass hold in float32.

        A claim that was refuted must come closer before it is looked at again: else a run that sits on the border
        would pay a float32 pass at every step.
        """
        claimed = claimed & (gaps < self.lanes.claims)
        where = self._where(claimed)
        if len(where) == 0:
            return claimed, gaps
        with torch.no_grad():
            logits = _spread(self.model(points[where]).float(), where, len(points))
        self.lanes.forwards[claimed] += 1
        held = claimed & self.lanes.won(logits)
        self.lanes.claims = torch.where(claimed & ~held, gaps, self.lanes.claims)
        return held, torch.where(claimed, self.lanes.gap(logits), gaps)


def _spread(chosen: Tensor, where: Tensor, width: int) -> Tensor:
    """Rows ``where`` of a tensor of ``width`` rows; the others are zero."""
    if len(chosen) == width:
        return chosen
    return chosen.new_zeros(width, *chosen.shape[1:]).index_copy(0, where, chosen)
