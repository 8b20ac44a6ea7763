"""What gradient attacks do to the subject, once for all alarms of the full check-up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zsrobust.alarms.randomness import draw
from zsrobust.alarms.subject import ROWS, Subject
from zsrobust.attacks.ascent import ascend
from zsrobust.attacks.base import Attack, Model
from zsrobust.attacks.checks import enforce
from zsrobust.attacks.pgd import PGD
from zsrobust.losses import cross_entropy, margin, margin_loss
from zsrobust.threat import Threat

STEPS = (1, 5, 20, 50)
_PART = 1 / 10
"""Of ε, the length of a step: short, so that climbing on must help."""


@dataclass(frozen=True, eq=False)
class WhiteBox:
    """Of the r images that are classified correctly.

    Attributes:
        pixels: (r, 3, H, W).
        labels: (r,).
        start: (r,) margins at the starting points.
        single: (r,) margins after one step of size ε from the image.
        margins: Number of steps → (r,) margins there, all on one climb from the same starting points.
        claimed: (r,) bool: an attack on the margin says that it broke the image.
        held: (r,) margins of the model's verdict on what that attack returned.
        broken: (r,) bool: any of all this broke it.
    """

    pixels: Tensor
    labels: Tensor
    start: Tensor
    single: Tensor
    margins: dict[int, Tensor]
    claimed: Tensor
    held: Tensor
    broken: Tensor


def white_box(subject: Subject) -> WhiteBox:
    """Measured once for a subject; about 150 gradients for an image that survives."""
    return subject.once("white box", lambda: _attack(subject))


def _attack(subject: Subject) -> WhiteBox:
    pixels, labels = subject.pixels[subject.right], subject.labels[subject.right]
    start = _start(subject, pixels, subject.threat)
    point, at, margins = start, 0, {}
    for steps in STEPS:
        point = _climb(subject, point, pixels, labels, steps - at, _PART * subject.threat.eps)
        margins[steps], at = margin(subject.verdict(point), labels), steps
    jump = _climb(subject, pixels, pixels, labels, 1, subject.threat.eps)
    single = margin(subject.verdict(jump), labels)
    found, claimed = searched(subject, PGD(subject.threat, STEPS[-1], loss=margin_loss), pixels, labels)
    held = margin(subject.verdict(found), labels)
    broken = torch.stack([held < 0, single < 0, *(values < 0 for values in margins.values())]).any(0)
    first = margin(subject.verdict(start), labels)
    return WhiteBox(pixels, labels, first, single, margins, claimed, held, broken)


def _start(subject: Subject, pixels: Tensor, threat: Threat) -> Tensor:
    return PGD(threat).start(pixels, [(subject.seed, "alarm", "start", i) for i in range(len(pixels))])


def _climb(subject: Subject, start: Tensor, pixels: Tensor, labels: Tensor, steps: int, size: float) -> Tensor:
    """The last iterates of steepest ascent on the cross-entropy, averaged over the draws that the model declares."""
    parts = []
    for rows in torch.split(torch.arange(len(pixels)), ROWS):

        def objective(points: Tensor, rows: Tensor = rows) -> Tensor:
            losses = [cross_entropy(subject.climbed(points), labels[rows]) for _ in range(subject.samples)]
            return torch.stack(losses).mean(0)

        with subject.quiet(), draw(subject.seed):
            parts.append(ascend(objective, start[rows], pixels[rows], subject.threat, steps=steps, step_size=size))
    return torch.cat(parts).detach() if parts else pixels


def searched(
    subject: Subject, attack: Attack, pixels: Tensor, labels: Tensor, *, model: Model | None = None
) -> tuple[Tensor, Tensor]:
    """What an evaluation would get from the attack: images (r, 3, H, W), inside the budget, and its claims (r,)."""
    nothing = torch.zeros_like(labels, dtype=torch.bool)
    if len(pixels) == 0:
        return pixels, nothing
    target = subject.classifier if model is None else model
    with subject.quiet(), draw(subject.seed):
        outcome = attack.search(target, pixels, labels, seed=subject.seed, examples=range(len(pixels)))
    allowed, _ = enforce(attack.threat, outcome.pixels, pixels)
    return allowed, nothing if outcome.claimed is None else outcome.claimed
