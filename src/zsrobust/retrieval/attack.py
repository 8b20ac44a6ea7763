"""The attack on retrieval: an image is changed until its own captions are far down the list of all texts.

The adversary controls images and nothing else. It knows the model (white box), the gallery of texts and which of them
are the image's own; the text features are fixed and computed before. With z_t(x) the logit scale times the cosine of
image x and text t, O the image's own texts and F the foreign ones, it climbs

    L(x) = log Σ_{t in F} exp z_t(x) − log Σ_{t in O} exp z_t(x)          pgd, fgsm, apgd:ce
    L(x) = max_{t in F} z_t(x) − max_{t in O} z_t(x)                      cw, apgd:margin

(the first is the cross-entropy of "one of the own texts": −log p(O | x) = softplus L, the same direction without its
saturation). R@1 is lost where the second is positive; R@5 and R@10 depend on how far down the own texts are. So a run
does not end when R@1 is lost: every run takes all its steps, and of all points in the ball that it saw (and of all
restarts) the one of the worst rank is kept, among equal ranks the one of the highest L.

Steps, restarts and step sizes are those of :mod:`zsrobust.attacks.pgd` and :mod:`zsrobust.attacks.apgd`; passes have
the canonical shape and are float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from zsrobust.attacks.apgd import APGD
from zsrobust.attacks.base import Outcome
from zsrobust.attacks.binding import Asked
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.probe import Lanes, Objective, Probe
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.errors import ConfigError
from zsrobust.losses import cross_entropy, margin_loss
from zsrobust.passes import float32_only, frozen, in_rows
from zsrobust.randomness import Draws
from zsrobust.retrieval.ranks import TIE
from zsrobust.threat import Threat

Climber = PGD | APGD
"""The attacks that climb a loss which can be replaced."""


def climber(attack: Asked) -> Climber:
    """The attack itself, if it can climb a loss over captions.

    Raises:
        ConfigError: it cannot.
    """
    # Exactly these: a kind of PGD that differs in more than its loss would lose that difference here.
    if type(attack) is PGD and attack.loss in (cross_entropy, margin_loss):
        return attack
    if type(attack) is APGD and attack.loss in ("ce", "margin"):
        return attack
    raise ConfigError(
        f"attack '{attack.name}' cannot be aimed at retrieval; pgd, cw, fgsm, apgd:ce and apgd:margin can"
    )


def soft_gap(logits: Tensor, own: Tensor) -> Tensor:
    """Log-sum-exp of the foreign logits less that of the own ones: (B, T), (B, T) bool → (B,)."""
    foreign = logits.masked_fill(own, -torch.inf).logsumexp(1)
    return foreign - logits.masked_fill(~own, -torch.inf).logsumexp(1)


def hard_gap(logits: Tensor, own: Tensor) -> Tensor:
    """Largest foreign logit less the largest own one: (B, T), (B, T) bool → (B,)."""
    return logits.masked_fill(own, -torch.inf).amax(1) - logits.masked_fill(~own, -torch.inf).amax(1)


def search(
    attack: Climber,
    model: ZeroShotClassifier,
    pixels: Tensor,
    own: Sequence[NDArray[np.int64]],
    *,
    seed: int,
    examples: Sequence[int],
) -> Outcome:
    """Attacks B images, each alone.

    Args:
        attack: Its threat, steps and restarts.
        model: Pixels → scaled cosines with the T texts.
        pixels: (B, 3, H, W) in [0, 1].
        own: For each image the numbers of its texts; not all T.
        seed: Key of the random starts, with …
        examples: … the ids of the B images.

    Returns:
        For each image the point of the worst rank; it is a claim, which the harness judges.
    """
    points, costs = pixels.clone(), torch.zeros(2, len(pixels), dtype=torch.int64, device=pixels.device)
    if attack.threat.eps == 0:
        return Outcome(points, costs[0], costs[1])
    best = torch.full((2, len(pixels)), -torch.inf, device=pixels.device)
    jobs = [(image, part) for image in range(len(pixels)) for part in range(attack.restarts)]
    for first in range(0, len(jobs), model.rows):
        taken = jobs[first : first + model.rows]
        lanes, probe = _climbed(
            attack, model, pixels, own, [(i, (seed, int(examples[i]), attack.key, p)) for i, p in taken]
        )
        for lane, (image, _) in enumerate(taken):
            costs[:, image] += torch.stack([lanes.forwards[lane], lanes.backwards[lane]])
            if tuple(probe.worst[:, lane].tolist()) > tuple(best[:, image].tolist()):
                best[:, image], points[image] = probe.worst[:, lane], lanes.best[lane]
    return Outcome(points, costs[0], costs[1])


def _climbed(
    attack: Climber,
    model: ZeroShotClassifier,
    pixels: Tensor,
    own: Sequence[NDArray[np.int64]],
    jobs: Sequence[tuple[int, tuple[str | int, ...]]],
) -> tuple[Lanes, _RankProbe]:
    """One run in each lane, to the end; lanes without one repeat the first ones, unnoted, to fill the shape."""
    filled = [jobs[lane % len(jobs)][0] for lane in range(model.rows)]
    index = torch.arange(len(jobs), device=pixels.device)
    none = torch.full((len(filled),), -1, device=pixels.device)
    lanes = Lanes(pixels[filled].clone(), none.clone(), none.clone())
    mask = torch.zeros(len(filled), len(model.head.embeddings), dtype=torch.bool)
    for lane, image in enumerate(filled):
        mask[lane, torch.from_numpy(own[image])] = True
    probe = _RankProbe(model, lanes, attack.threat, mask.to(pixels.device), hard=_is_hard(attack))
    runs = attack.runs(lanes)
    start = pixels[filled[: len(jobs)]]
    lanes.enter(index, start, none[: len(jobs)], none[: len(jobs)], none[: len(jobs)])
    runs.enter(index, [key for _, key in jobs])
    with probe.quiet():
        while bool(lanes.live.any()):
            lanes.live &= ~runs.round(probe)
    return lanes, probe


def _is_hard(attack: Climber) -> bool:
    return attack.loss in (margin_loss, "margin")


class _RankProbe(Probe):
    """A probe that climbs a loss over captions, whatever objective it is handed, and keeps the worst rank."""

    def __init__(self, model: ZeroShotClassifier, lanes: Lanes, threat: Threat, own: Tensor, *, hard: bool) -> None:
        super().__init__(model, lanes, threat)
        self.own, self.gap = own, hard_gap if hard else soft_gap
        self.tie = TIE * float(model.encoder.logit_scale)
        self.worst = torch.full((2, len(own)), -torch.inf, device=own.device)

    def climb(self, points: Tensor, objective: Objective, wanted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As :meth:`Probe.climb`, of the loss over captions."""
        return super().climb(points, lambda logits, lanes: self.gap(logits, self.own), wanted)

    def _note(self, points: Tensor, logits: Tensor, wanted: Tensor) -> None:
        inside = wanted & self.threat.allows(self.threat.size(points - self.lanes.pixels))
        best_own = logits.masked_fill(~self.own, -torch.inf).amax(1, keepdim=True)
        rank = ((logits > best_own - self.tie) & ~self.own).sum(1).float()
        gap = self.gap(logits, self.own).detach()
        worse = inside & ((rank > self.worst[0]) | ((rank == self.worst[0]) & (gap > self.worst[1])))
        self.worst = torch.where(worse, torch.stack([rank, gap]), self.worst)
        self.lanes.best[worse] = points[worse].detach()


def units(model: ZeroShotClassifier, pixels: Tensor, *, seed: int, examples: Sequence[int]) -> NDArray[np.float32]:
    """(B, D) unit features of (B, 3, H, W) pixels, in float32 without autocast and in the canonical shape.

    Of a random encoder: the mean over its draws, so that a product with a text is the mean cosine. Whoever looks at an
    example, clean or attacked, sees the same draws, as in :func:`zsrobust.attacks.checks.judge`.

    Args:
        model: Its encoder computes the features.
        pixels: (B, 3, H, W) in [0, 1].
        seed: Key of a random encoder's draws, with …
        examples: … the ids of the B images.
    """

    def forward(points: Tensor) -> tuple[Tensor]:
        return (normalize(model.encoder.encode_pixels(points).float(), dim=-1),)

    with torch.no_grad(), frozen(model), float32_only(pixels.device):
        if model.samples > 1:
            means = []
            for example, image in zip(examples, pixels, strict=True):
                alone = image[None].clone()  # kernels round differently where memory is aligned differently
                with Draws(pixels.device, seed, int(example), "verdict"):
                    means.append(torch.cat([forward(alone)[0] for _ in range(model.samples)]).mean(0))
            features = torch.stack(means)
        else:
            (features,) = in_rows(forward, model.rows)(pixels)
    found: NDArray[np.float32] = features.cpu().numpy()
    return found
