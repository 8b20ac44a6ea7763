"""Square: a random search that asks for logits and never for a gradient.

Andriushchenko et al. 2020 (arXiv 1912.00049). A run begins at vertical stripes of ±ε (L∞) or at a grid of bumps η (L2).
Each query changes one square window of the point (Algorithm 2: L∞) or moves mass from one window to another (Algorithm
3: L2), and the change is kept if the margin falls (Algorithm 1). The window covers a
share p of the image, which falls as section 3.1 says, its schedule for 10 000 queries stretched to the budget (or not:
see ``horizon``).

Where the published code and the paper differ in where a window may lie, this is the paper: any place inside the image.
The code never reaches the last row and column, which makes it weaker on small images. Each example has windows of its
own; the code shares them in a batch.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise

import torch
from torch import Tensor

from zsrobust.attacks import numerals
from zsrobust.attacks.lanes import Key, LaneAttack, Runs, no_rivals
from zsrobust.attacks.naming import full_name
from zsrobust.attacks.probe import Lanes, Precision, Probe
from zsrobust.errors import ConfigError
from zsrobust.randomness import uniform
from zsrobust.threat import Threat

QUERIES = 5000
P_INIT = 0.8

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After these queries of 10 000 the share p is halved (section 3.1)."""

_UNITS = 2.0**50
"""Units in which squares are summed; see :func:`_energy`."""


@dataclass(frozen=True)
class Square(LaneAttack):
    """Random search over square windows.

    Attributes:
        threat: The ball.
        queries: Proposals in a run, after the start itself: N queries are N + 1 forward passes.
        restarts: Runs from different starts; the first success counts.
        p_init: Share of the image that the first windows cover, in (0, 1].
        horizon: Queries over which that share falls to its end; None: the budget. AutoAttack leaves it at the 10 000 of
            the paper, whatever its budget, so that a run of 5000 ends half way down.
        precision: Of the passes; a break found in bfloat16 counts only after a float32 pass.
    """

    threat: Threat
    queries: int = QUERIES
    _: KW_ONLY
    restarts: int = 1
    p_init: float = P_INIT
    horizon: int | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        numerals.settle(self)
        self.threat.only_ball("square")
        if self.horizon is not None and self.horizon < 1:
            raise ConfigError(f"attack 'square': horizon is a number of queries, at least 1, not {self.horizon}")
        if self.queries < 1:
            raise ConfigError(f"attack 'square' needs at least 1 query, not {self.queries}")
        if self.restarts < 1:
            raise ConfigError(f"attack 'square' needs at least 1 run (restarts ≥ 1), not {self.restarts}")
        if not 0 < self.p_init <= 1:
            raise ConfigError(
                f"attack 'square': p_init is a share of the image, above 0 and at most 1, not {self.p_init}"
            )

    @property
    def name(self) -> str:
        """``square``, with what is not the default."""
        return full_name(
            "square",
            queries=self.queries if self.queries != QUERIES else None,
            restarts=self.restarts if self.restarts > 1 else None,
            p_init=self.p_init if self.p_init != P_INIT else None,
            horizon=self.horizon,
        )

    @property
    def key(self) -> str:
        """What keys the random numbers: the same for every length."""
        return "square"

    def describe(self) -> dict[str, object]:
        """Everything that its strength depends on."""
        return {
            "name": self.name,
            "queries": self.queries,
            "restarts": self.restarts,
            "p_init": self.p_init,
            "horizon": self.horizon or self.queries,
            "precision": self.precision,
            "gradient": False,
        }

    def rivals(self, clean: Callable[[], Tensor], labels: Tensor, aims: Tensor) -> Tensor:
        """(B, restarts) of −1."""
        return no_rivals(labels, self.restarts)

    def runs(self, lanes: Lanes) -> Runs:
        """Empty state for these lanes."""
        return _Stripes(self, lanes) if self.threat.norm == "linf" else _Bumps(self, lanes)


def shares(queries: int, p_init: float = P_INIT, horizon: int | None = None) -> list[float]:
    """The share p of the image that a window covers, for each of ``queries`` queries (section 3.1)."""
    stretched = (query * 10_000 // (horizon or queries) for query in range(queries))
    return [p_init / 2 ** sum(now > after for after in _HALVINGS) for now in stretched]


def bump(side: int) -> Tensor:
    """The L2 window η^(s, s) of section 3.3: (s, s) float32 of length 1.

    Two hills of opposite sign, one above the other, each a pyramid of steps 1/m² around its centre.
    """
    upper = side // 2
    both = torch.cat([_hill(upper, side), -_hill(side - upper, side)])
    length: Tensor = both.norm()
    return both / length


def _hill(height: int, width: int) -> Tensor:
    """The rectangle η^(h, w) of length 1: at distance d from its centre Σ 1/m² over m = d + 1 … max(h, w) // 2 + 1."""
    rows, columns = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    distance = torch.maximum(rows.abs()[:, None], columns.abs()[None, :])
    steps = 1 / torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float32) ** 2
    hill = steps.flip(0).cumsum(0).flip(0)[distance]
    length: Tensor = hill.norm()
    return hill / length.clamp_min(1e-12)


@dataclass(frozen=True)
class _Windows:
    """One square of pixels for each lane, of its own side s, in tensors of the largest side S.

    Offsets beyond a lane's side repeat its last row or column: what is read or written there is a pixel of the window
    once more, with the same value, so nothing but sums must leave it out.

    Attributes:
        top, left: (W,) first row and column.
        offsets: (W, S) distance of a row or column from the first one.
        rows, columns: (W, S) in the image.
        pixels: (W, 1, S²) places in a flattened image.
        inside: (W, 1, S²) bool, False at the repetitions.
    """

    top: Tensor
    left: Tensor
    offsets: Tensor
    rows: Tensor
    columns: Tensor
    pixels: Tensor
    inside: Tensor


def _place(down: Tensor, right: Tensor, sides: Tensor, height: int, width: int) -> _Windows:
    """Windows of ``sides`` (W,) in an image of (height, width), at uniform numbers (W,) ``down`` and ``right``."""
    reach = torch.arange(int(sides.max()), device=sides.device)
    offsets, inside = torch.minimum(reach, sides[:, None] - 1), reach < sides[:, None]
    # A float32 product can round up to the number of places, one past the last.
    top = torch.minimum((down * (height - sides + 1)).long(), height - sides)
    left = torch.minimum((right * (width - sides + 1)).long(), width - sides)
    rows, columns = top[:, None] + offsets, left[:, None] + offsets
    pixels = rows[:, :, None] * width + columns[:, None, :]
    both = inside[:, :, None] & inside[:, None, :]
    return _Windows(top, left, offsets, rows, columns, pixels.flatten(1)[:, None], both.flatten(1)[:, None])


def _signs(draws: Tensor) -> Tensor:
    """Uniform numbers → ±1."""
    return torch.where(draws < 0.5, -1.0, 1.0)


class _SquareRuns(Runs):
    """Random search in lanes; a norm says how it starts and what it proposes."""

    smallest: int
    """Side below which a window does not shrink."""

    def __init__(self, attack: Square, lanes: Lanes) -> None:
        self.attack, self.lanes, self.eps = attack, lanes, attack.threat.eps
        self.channels, self.height, self.width = (int(size) for size in lanes.pixels.shape[1:])
        self.sides = torch.tensor(
            [self.side(share) for share in shares(attack.queries, attack.p_init, attack.horizon)],
            device=lanes.pixels.device,
        )
        self.points = lanes.pixels.clone()
        self.gaps = torch.full_like(lanes.gaps, torch.inf)
        self.asked = torch.full_like(lanes.labels, -1)  # −1: the start itself is still to be looked at
        self.draws = lanes.pixels.new_zeros(len(lanes.labels), attack.queries, self.numbers)

    @property
    @abstractmethod
    def numbers(self) -> int:
        """Random numbers that a query takes."""

    @abstractmethod
    def side(self, share: float) -> int:
        """Side of a window that covers this share of the image."""

    @abstractmethod
    def start(self, pixels: Tensor, keys: Sequence[Key]) -> Tensor:
        """(k, 3, H, W) first points."""

    @abstractmethod
    def propose(self, points: Tensor, pixels: Tensor, draws: Tensor, sides: Tensor) -> Tensor:
        """``points`` (W, 3, H, W) with one window changed, from (W, numbers) draws and (W,) sides; allowed.

        ``pixels`` (W, 3, H, W) are the images that they belong to.
        """

    def enter(self, index: Tensor, keys: Sequence[Key]) -> None:
        device, shape = self.points.device, (self.attack.queries, self.numbers)
        self.points[index] = self.start(self.lanes.pixels[index], [(*key, "start") for key in keys])
        self.draws[index] = uniform([(*key, "queries") for key in keys], shape, device=device)
        self.gaps[index], self.asked[index] = torch.inf, -1

    def round(self, probe: Probe) -> Tensor:
        lanes, start = self.lanes, self.lanes.live & (self.asked < 0)
        ahead = self._look_ahead(probe)
        query = (self.asked[ahead.run].clamp_min(0) + ahead.depth).clamp_max(self.attack.queries - 1)
        # An empty lane must not make everybody's window as large as the one it left off with.
        sides = torch.where(ahead.active, self.sides[query], 1)
        points, pixels = self.points[ahead.run], lanes.pixels[ahead.run]
        candidates = self.propose(points, pixels, self.draws[ahead.run, query], sides)
        candidates[start] = self.points[start]
        logits = probe.peek(candidates, ahead.active)
        gaps = lanes.gap(logits, ahead.run)
        taken, passed = ahead.taken(gaps < self.gaps[ahead.run])
        winners = ahead.run[taken]
        self.points[winners], self.gaps[winners] = candidates[taken], gaps[taken]
        rows = torch.arange(len(gaps), device=gaps.device)
        rows[winners] = taken
        probe.note(candidates[rows], logits[rows], lanes.live, passed * probe.samples)
        self.asked += passed * lanes.live
        return self.asked == self.attack.queries

    def _look_ahead(self, probe: Probe) -> _Ahead:
        """What each lane works on: its own run, or, where it is idle, a later query of another one."""
        live = self.lanes.live
        run, depth = torch.arange(len(live), device=live.device), torch.zeros_like(self.asked)
        helped = (live & (self.asked >= 0)).nonzero().squeeze(1)
        idle = (~live).nonzero().squeeze(1)
        if not probe.fixed or len(helped) == 0 or len(idle) == 0:
            return _Ahead(run, depth, live)
        turn = torch.arange(len(idle), device=live.device)
        run[idle], depth[idle] = helped[turn % len(helped)], 1 + turn // len(helped)
        return _Ahead(run, depth, live | (~live & (self.asked[run] + depth < self.attack.queries)))


@dataclass(frozen=True)
class _Ahead:
    """Queries that are asked at once: several of one run, all as if the earlier ones were turned down.

    Most queries are, so lanes that would be idle shorten a run. Nothing else changes: what comes after a query that is
    accepted is thrown away.

    Attributes:
        run: (W,) the lane whose run a row works for.
        depth: (W,) how many queries ahead it is.
        active: (W,) bool, rows that count.
    """

    run: Tensor
    depth: Tensor
    active: Tensor

    def taken(self, better: Tensor) -> tuple[Tensor, Tensor]:
        """The rows (k,) that are accepted, one a run at most, and how many queries each lane (W,) has behind it."""
        never = len(self.run) + 1
        none = torch.full_like(self.depth, never)
        good = torch.where(better & self.active, self.depth, never)
        first = none.scatter_reduce(0, self.run, good, "amin")
        last = torch.zeros_like(none).scatter_reduce(0, self.run, self.depth * self.active, "amax")
        taken = (better & self.active & (self.depth == first[self.run])).nonzero().squeeze(1)
        return taken, torch.where(first < never, first, last) + 1


class _Stripes(_SquareRuns):
    """L∞: Algorithm 2. Every pixel of the perturbation is ±ε, or clipped to the box."""

    @property
    def numbers(self) -> int:
        return 2 + self.channels

    def side(self, share: float) -> int:
        return min(max(round(math.sqrt(share * self.height * self.width)), 1), self.height, self.width)

    def start(self, pixels: Tensor, keys: Sequence[Key]) -> Tensor:
        signs = _signs(uniform(keys, (self.channels, 1, self.width), device=pixels.device))
        return (pixels + self.eps * signs).clamp(0, 1)

    def propose(self, points: Tensor, pixels: Tensor, draws: Tensor, sides: Tensor) -> Tensor:
        window = _place(draws[:, 0], draws[:, 1], sides, self.height, self.width)
        places = window.pixels.expand(-1, self.channels, -1)
        images = pixels.flatten(2).gather(2, places)
        # A step of ±2ε from any point of the ball, projected, ends at ±ε.
        squares = (images + self.eps * _signs(draws[:, 2:, None])).clamp(0, 1)
        return points.flatten(2).scatter(2, places, squares).view_as(points)


class _Bumps(_SquareRuns):
    """L2: Algorithm 3. Lengths are in units of ε."""

    def __init__(self, attack: Square, lanes: Lanes) -> None:
        super().__init__(attack, lanes)
        sizes = sorted({1, *self.sides.tolist()})
        self.bumps = torch.cat([bump(size).flatten() for size in sizes]).to(lanes.pixels.device)
        self.begins = torch.zeros(sizes[-1] + 1, dtype=torch.int64)
        for size, following in pairwise(sizes):
            self.begins[following] = self.begins[size] + size**2
        self.begins = self.begins.to(lanes.pixels.device)

    @property
    def numbers(self) -> int:
        return 5 + self.channels

    def side(self, share: float) -> int:
        side = max(round(math.sqrt(share * self.height * self.width)), 3)
        return min(side + 1 - side % 2, self.height, self.width)

    def start(self, pixels: Tensor, keys: Sequence[Key]) -> Tensor:
        """A grid of bumps, 5 × 5 where the image's side allows it, scaled to the length ε and cut to the box."""
        size = max(min(self.height, self.width) // 5, 1)
        rows, columns = self.height // size, self.width // size
        draws = uniform(keys, (rows, columns, 1 + self.channels), device=pixels.device)
        tile = bump(size).to(pixels.device)
        turned = torch.where(draws[..., 0, None, None] < 0.5, tile, tile.T)
        tiles = _signs(draws[..., 1:]).permute(0, 3, 1, 2)[..., None, None] * turned[:, None]
        grid = tiles.transpose(3, 4).reshape(-1, self.channels, rows * size, columns * size)
        top, left = (self.height - rows * size) // 2, (self.width - columns * size) // 2
        delta = torch.zeros_like(pixels)
        delta[:, :, top : top + rows * size, left : left + columns * size] = grid
        return self.stretched(delta, pixels)

    def propose(self, points: Tensor, pixels: Tensor, draws: Tensor, sides: Tensor) -> Tensor:
        delta = (points - pixels).flatten(2)
        spare = (1 - (delta.flatten(1).norm(dim=1) / self.eps).square()).clamp_min(0)
        taker = _place(draws[:, 0], draws[:, 1], sides, self.height, self.width)
        giver = _place(draws[:, 2], draws[:, 3], sides, self.height, self.width)
        taking, giving = (window.pixels.expand(-1, self.channels, -1) for window in (taker, giver))
        old = delta.gather(2, taking) / self.eps
        kept = _energy(old, taker.inside)
        given = _energy(delta.gather(2, giving) / self.eps, giver.inside & ~_covered(giver, taker, sides))
        new = self.patterns(taker, sides, draws[:, 4]) * _signs(draws[:, 5:, None]) + _over(old, kept)
        mass = spare[:, None] / self.channels + kept + given
        new = _over(new, _energy(new, taker.inside)) * (self.eps * mass.sqrt()[..., None])
        delta = delta.scatter_(2, giving, 0.0).scatter_(2, taking, new)
        return self.stretched(delta.view_as(points), pixels)

    def patterns(self, window: _Windows, sides: Tensor, turn: Tensor) -> Tensor:
        """(W, 1, S²) the bump of each lane's side, turned by a quarter where ``turn`` (W,) ≥ ½."""
        across, down = window.offsets[:, None, :], window.offsets[:, :, None]
        side = sides[:, None, None]
        place = torch.where(turn[:, None, None] < 0.5, down * side + across, across * side + down)
        return self.bumps[self.begins[sides][:, None, None] + place].flatten(1)[:, None]

    def stretched(self, delta: Tensor, pixels: Tensor) -> Tensor:
        """Images plus ``delta`` scaled to the length ε, cut to the box, which only shortens it."""
        scale = self.eps / delta.flatten(1).norm(dim=1).clamp_min(1e-12)
        return torch.addcmul(pixels, delta, scale.view(-1, 1, 1, 1)).clamp_(0, 1)


def _covered(window: _Windows, other: _Windows, sides: Tensor) -> Tensor:
    """(W, 1, S²) bool: which pixels of ``window`` lie in ``other`` too."""
    side = sides[:, None]
    rows = (window.rows >= other.top[:, None]) & (window.rows < other.top[:, None] + side)
    columns = (window.columns >= other.left[:, None]) & (window.columns < other.left[:, None] + side)
    return (rows[:, :, None] & columns[:, None, :]).flatten(1)[:, None]


def _energy(values: Tensor, counted: Tensor) -> Tensor:
    """Sums of squares (W, 3) of ``values`` (W, 3, S²), at most about 4, where ``counted``.

    Summed as whole numbers: S is that of the largest window of all lanes, and a float sum would round differently for
    other lengths, so that what happens to an example would hang on its company.
    """
    units = (values.square() * counted * _UNITS).long().sum(2)
    return units.to(values.dtype) / _UNITS


def _over(values: Tensor, energy: Tensor) -> Tensor:
    """``values`` (W, 3, S²) over their length; 0 where they are 0."""
    return values * torch.where(energy > 1e-12, energy.rsqrt(), 0.0)[..., None]
