"""Many runs at once: an example leaves at its first success, and the next one takes its place.

A model is asked about W points at a time, always W, so that a verdict does not hang on who else is in the batch
(float32 kernels round differently for other shapes). A batch that empties would break that, and waste the processor:
robust examples climb for hundreds of passes while the others are long gone. So a run sits in a lane with its own step
counter, and a lane that falls free is filled at once: with the example's next restart or target, with a new example,
or, when none is left, ahead of time with a later run of an example that is still at work. The last kind costs nothing,
because the lane would be idle, and changes nothing, because the first run in order that succeeds is the one reported.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from zsrobust.attacks.base import Found, Model, Outcome
from zsrobust.attacks.probe import Lanes, Precision, Probe
from zsrobust.errors import ConfigError
from zsrobust.threat import Threat

Key = tuple[str | int, ...]

SECONDS = 20.0
"""Examples that are finished are handed out at least this often."""


class Runs(ABC):
    """The state of an attack in W lanes; each run is at its own step."""

    @abstractmethod
    def enter(self, index: Tensor, keys: Sequence[Key]) -> None:
        """Begins runs in the lanes ``index`` (k,) with the random numbers of k ``keys``; the lanes are filled in."""

    @abstractmethod
    def round(self, probe: Probe) -> Tensor:
        """One iteration of every live lane; returns (W,) bool: which runs are at their end."""


class InLanes(Protocol):
    """An attack made of runs."""

    @property
    def threat(self) -> Threat:
        """The ball."""

    @property
    def key(self) -> str:
        """What keys its random numbers."""

    @property
    def precision(self) -> Precision:
        """Of its passes."""

    def rivals(self, clean: Callable[[], Tensor], labels: Tensor, aims: Tensor) -> Tensor:
        """The runs of each example, in order; see :func:`no_rivals` and :func:`nearest_rivals`.

        Args:
            clean: Gives the logits (B, C) of the images themselves, which costs a pass.
            labels: (B,).
            aims: (B,), all −1 or none.

        Returns:
            (B, P) int64: the class each run pushes towards, −1 for none in particular.
        """

    def runs(self, lanes: Lanes) -> Runs:
        """Empty state for these lanes."""


@dataclass
class _Example:
    """One example's runs."""

    started: int = 0
    limit: int = 0
    lanes: dict[int, int] = field(default_factory=dict)
    done: dict[int, tuple[int, int]] = field(default_factory=dict)
    best: tuple[bool, float, int] | None = None
    point: Tensor | None = None


def stream(
    attack: InLanes,
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    *,
    seed: int,
    examples: Sequence[int],
    targets: Tensor | None = None,
    leave: bool = True,
) -> Iterator[Found]:
    """Attacks B examples and hands them out as they finish.

    Args:
        attack: What runs.
        model: Pixels → logits.
        pixels: (B, 3, H, W) in [0, 1].
        labels: (B,) int64.
        seed: Key of the random numbers, with the examples' ids.
        examples: B ids.
        targets: (B,) int64: success is then to be taken for the target, not merely to leave the label.
        leave: False: runs go on after a success, to the bitter end, as in the published suites. Only the cost differs.

    Yields:
        Positions (b,) in the batch and what was found; every position comes once.

    Raises:
        ConfigError: pixels outside of [0, 1].
    """
    if len(pixels) == 0:
        return
    check_pixels(pixels)
    if attack.threat.eps == 0:
        yield _untouched(pixels)
        return
    work = _Work(attack, model, pixels, labels, seed, examples, targets, leave)
    last = time.monotonic()
    while work.fill():
        work.round()
        if len(work.finished) >= work.width or (work.finished and time.monotonic() - last > SECONDS):
            yield work.hand_out()
            last = time.monotonic()
    if work.finished:
        yield work.hand_out()


class LaneAttack:
    """What every attack made of runs can do; the rest of :class:`InLanes` is its own."""

    def __call__(
        self: InLanes,
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
        return gather(stream(self, model, pixels, labels, seed=seed, examples=ids, targets=targets), pixels).pixels

    def search(
        self: InLanes,
        model: Model,
        pixels: Tensor,
        labels: Tensor,
        *,
        seed: int,
        examples: Sequence[int],
        targets: Tensor | None = None,
    ) -> Outcome:
        """Evaluation: the best point is kept, an example leaves at its first success; see :func:`stream`."""
        return gather(stream(self, model, pixels, labels, seed=seed, examples=examples, targets=targets), pixels)

    def stream(
        self: InLanes, model: Model, pixels: Tensor, labels: Tensor, *, seed: int, examples: Sequence[int]
    ) -> Iterator[Found]:
        """As :meth:`search`, in parts, as examples finish."""
        return stream(self, model, pixels, labels, seed=seed, examples=examples)


def gather(found: Iterator[Found], pixels: Tensor) -> Outcome:
    """The parts of a stream as one outcome of the whole batch."""
    points, counts = pixels.clone(), torch.zeros(3, len(pixels), dtype=torch.int64, device=pixels.device)
    for index, part in found:
        points[index] = part.pixels
        counts[0, index], counts[1, index] = part.forwards, part.backwards
        counts[2, index] = part.claimed.long() if part.claimed is not None else 0
    return Outcome(points, counts[0], counts[1], counts[2].bool())


class _Work:
    """Which run is in which lane."""

    def __init__(
        self,
        attack: InLanes,
        model: Model,
        pixels: Tensor,
        labels: Tensor,
        seed: int,
        examples: Sequence[int],
        targets: Tensor | None,
        leave: bool,
    ) -> None:
        self.attack, self.pixels, self.labels = attack, pixels, labels
        self.seed, self.ids, self.leave = seed, [int(example) for example in examples], leave
        self.aims = torch.full_like(labels, -1) if targets is None else targets
        self.width = getattr(model, "rows", None) or len(pixels)
        first = torch.arange(self.width, device=pixels.device) % len(pixels)
        self.lanes = Lanes(pixels[first].clone(), labels[first].clone(), self.aims[first].clone())
        self.probe = Probe(model, self.lanes, attack.threat, precision=attack.precision)
        self.planning = 0
        self.plan = attack.rivals(self._clean, labels, self.aims).cpu()
        self.runs = attack.runs(self.lanes)
        self.waiting = list(range(len(pixels) - 1, -1, -1))
        self.active: dict[int, _Example] = {}
        self.places: list[tuple[int, int] | None] = [None] * self.width
        self.finished: list[tuple[int, _Example]] = []

    def _clean(self) -> Tensor:
        """(B, C) logits of the images, in the canonical shape; every example pays for one pass."""
        self.planning = 1
        parts = []
        with self.probe.quiet(), torch.no_grad():
            for first in range(0, len(self.pixels), self.width):
                rows = torch.arange(first, first + self.width, device=self.pixels.device) % len(self.pixels)
                logits: Tensor = self.probe.model(self.pixels[rows])
                parts.append(logits.float()[: len(self.pixels) - first])
        return torch.cat(parts)

    def fill(self) -> bool:
        """Gives free lanes something to do; False: nothing is left."""
        fresh: list[tuple[int, int, int]] = []
        for lane, place in enumerate(self.places):
            if place is None and (job := self._next()) is not None:
                self.places[lane] = job
                self.active[job[0]].lanes[job[1]] = lane
                fresh.append((lane, *job))
        if fresh:
            index, position, part = (
                torch.tensor(column, device=self.pixels.device) for column in zip(*fresh, strict=True)
            )
            rivals = self.plan[position.cpu(), part.cpu()].to(self.pixels.device)
            self.lanes.enter(index, self.pixels[position], self.labels[position], self.aims[position], rivals)
            self.runs.enter(index, [(self.seed, self.ids[p], self.attack.key, run) for _, p, run in fresh])
        return bool(self.active)

    def _next(self) -> tuple[int, int] | None:
        """(position, run): an example that waits for its next run, else a new one, else one ahead of its turn."""
        ahead: tuple[int, int] | None = None
        for position, example in self.active.items():
            if example.started < example.limit:
                if not example.lanes:
                    example.started += 1
                    return position, example.started - 1
                if self.probe.fixed and (ahead is None or example.started < self.active[ahead[0]].started):
                    ahead = position, example.started
        if self.waiting:
            position = self.waiting.pop()
            self.active[position] = _Example(started=1, limit=self.plan.shape[1])
            return position, 0
        if ahead is not None:
            self.active[ahead[0]].started += 1
        return ahead

    def round(self) -> None:
        """One iteration everywhere, and the books."""
        with self.probe.quiet():
            ended = self.runs.round(self.probe)
        over = ended | self.lanes.broken if self.leave else ended
        over &= self.lanes.live
        if bool(over.any()):
            for lane in over.nonzero().squeeze(1).tolist():
                self._end(lane)

    def _end(self, lane: int) -> None:
        place = self.places[lane]
        if place is None:  # cancelled by an earlier run of the same example, in this round
            return
        position, part = place
        example, lanes = self.active[position], self.lanes
        broken = bool(lanes.broken[lane])
        example.done[part] = int(lanes.forwards[lane]), int(lanes.backwards[lane])
        rank = (not broken, float(part) if broken else float(lanes.gaps[lane]), part)
        if example.best is None or rank < example.best:
            example.best, example.point = rank, lanes.best[lane].clone()
        self._free(example, part)
        if broken:
            example.limit = min(example.limit, part + 1)
            for later in [p for p in example.lanes if p > part]:
                self._free(example, later)
        if not example.lanes and example.started >= example.limit:
            self.finished.append((position, example))
            del self.active[position]

    def _free(self, example: _Example, part: int) -> None:
        lane = example.lanes.pop(part)
        self.places[lane] = None
        self.lanes.live[lane] = False

    def hand_out(self) -> Found:
        """What is finished, with what it cost; runs ahead of the first success are not counted, nor is padding."""
        positions, points, forwards, backwards, claimed = [], [], [], [], []
        for position, example in self.finished:
            assert example.point is not None
            assert example.best is not None
            counted = [cost for part, cost in example.done.items() if part < example.limit]
            positions.append(position)
            points.append(example.point)
            forwards.append(self.planning + sum(cost[0] for cost in counted))
            backwards.append(sum(cost[1] for cost in counted))
            claimed.append(not example.best[0])
        self.finished = []
        device = self.pixels.device
        outcome = Outcome(
            torch.stack(points),
            torch.tensor(forwards, device=device),
            torch.tensor(backwards, device=device),
            torch.tensor(claimed, device=device),
        )
        return torch.tensor(positions, device=device), outcome


def check_pixels(pixels: Tensor) -> None:
    """Whether images are pixels. Around others, no point of the ball is in the box: every search would find nothing.

    Raises:
        ConfigError: some are outside of [0, 1], or no numbers.
    """
    low, high = (float(end) for end in pixels.detach().aminmax())
    if not 0 <= low <= high <= 1:
        raise ConfigError(
            f"pixels must be in [0, 1], not from {low:.8g} to {high:.8g}: normalising is the model's, and 0…255 is for "
            "image files"
        )


def no_rivals(labels: Tensor, runs: int) -> Tensor:
    """``runs`` runs of each example that push towards no class in particular: (B,) → (B, runs) of −1."""
    return torch.full((len(labels), runs), -1, device=labels.device)


def nearest_rivals(clean: Callable[[], Tensor], labels: Tensor, aims: Tensor, most: int) -> Tensor:
    """One run for each of the ``most`` classes of the highest clean logits but the label's; or for the aim alone.

    Returns:
        (B, min(most, C − 1)) int64, or (B, 1).
    """
    if bool((aims >= 0).any()):
        return aims[:, None]
    logits = clean().scatter(1, labels[:, None], -torch.inf)
    return logits.topk(min(most, logits.shape[1] - 1), dim=1).indices


def _untouched(pixels: Tensor) -> Found:
    """At ε = 0 there is nothing to search."""
    none = torch.zeros(len(pixels), dtype=torch.int64, device=pixels.device)
    return torch.arange(len(pixels), device=pixels.device), Outcome(pixels.clone(), none, none, none.bool())
