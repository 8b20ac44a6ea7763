"""The harness's own look at what an attack returns. An attack's word counts for nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zsrobust.attacks.base import Model
from zsrobust.errors import ModelError
from zsrobust.losses import margin
from zsrobust.passes import float32_only, frozen, in_rows
from zsrobust.randomness import Draws
from zsrobust.threat import Threat


@dataclass(frozen=True)
class Verdict:
    """What the model makes of B images, in float32 without autocast and in the canonical shape.

    A random model is asked ``samples`` times about each image: its prediction is the one most often given, its logits
    and margin are means over the draws.

    Attributes:
        pixels: (B, 3, H, W) the images judged.
        logits: (B, C).
        predictions: (B,) int64.
        margins: (B,) logit of the label less the largest other.
    """

    pixels: Tensor
    logits: Tensor
    predictions: Tensor
    margins: Tensor


def judge(
    model: Model, pixels: Tensor, labels: Tensor, *, seed: int = 0, examples: Sequence[int] | None = None
) -> Verdict:
    """The model's verdict on ``pixels`` (B, 3, H, W) with true ``labels`` (B,).

    Args:
        model: Pixels → logits.
        pixels: (B, 3, H, W) in [0, 1].
        labels: (B,) int64.
        seed: Key of a random model's draws, with the example's id and nothing else: whoever judges an example, clean or
            attacked, sees the same draws of the model. The attacks' draws are others.
        examples: B ids; None: the positions.

    Raises:
        ModelError: logits that are not finite: a prediction from them would mean nothing.
    """
    rows: int | None = getattr(model, "rows", None)
    samples: int = getattr(model, "samples", 1)

    def forward(points: Tensor) -> tuple[Tensor]:
        return (model(points).float(),)

    with torch.no_grad(), frozen(model), float32_only(pixels.device):
        if samples > 1:
            draws = _draws(forward, pixels, samples, seed, examples)
            # Image by image: the rounding of a mean along one dimension depends on the length of the others.
            logits = torch.stack([of_one.mean(0) for of_one in draws])
            of_draws = [margin(of_one, label.expand(samples)) for of_one, label in zip(draws, labels, strict=True)]
            margins = torch.stack([of_one.mean() for of_one in of_draws])
            predictions = draws.argmax(2).mode(1).values
        else:
            (logits,) = (forward if rows is None else in_rows(forward, rows))(pixels)
            margins, predictions = margin(logits, labels), logits.argmax(1)
    if not bool(logits.isfinite().all()):
        bad = int((~logits.isfinite()).any(1).sum())
        raise ModelError(f"{bad} of {len(pixels)} images have logits that are NaN or infinite")
    return Verdict(pixels, logits, predictions, margins)


def _draws(
    forward: Callable[[Tensor], tuple[Tensor]],
    pixels: Tensor,
    samples: int,
    seed: int,
    examples: Sequence[int] | None,
) -> Tensor:
    """Logits (B, S, C) of S draws of each image.

    A pass is of one image and one draw: among others, an image's numbers would depend on its neighbours, and a model
    that draws once for all rows would give S times the same.
    """
    found = []
    for example, image in zip(range(len(pixels)) if examples is None else examples, pixels, strict=True):
        alone = image[None].clone()  # kernels round differently where memory is aligned differently
        with Draws(pixels.device, seed, int(example), "verdict"):
            found.append(torch.cat([forward(alone)[0] for _ in range(samples)]))
    return torch.stack(found)


def enforce(threat: Threat, candidate: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The attack's images, projected into the budget, and the size of each perturbation.

    Args:
        threat: The budget.
        candidate: (B, 3, H, W) what the attack returned.
        pixels: (B, 3, H, W) the images.

    Returns:
        (B, 3, H, W) images in [0, 1] and in the ball, and (B,) their distance in the threat's norm.

    Raises:
        ModelError: a shape that changed, NaN, or a distance above ε by more than float32 rounding.
    """
    if candidate.shape != pixels.shape:
        raise ModelError(
            f"the attack returned shape {tuple(candidate.shape)} for images of shape {tuple(pixels.shape)}"
        )
    allowed = threat.project(candidate.detach().to(pixels.dtype), pixels)
    sizes = threat.size(allowed - pixels)
    if not bool((threat.allows(sizes) & (allowed.flatten(1) >= 0).all(1) & (allowed.flatten(1) <= 1).all(1)).all()):
        raise ModelError(
            f"an adversarial image is NaN or outside the budget: distance {float(sizes.max())}, ε = {threat.eps}"
        )
    return allowed, sizes
