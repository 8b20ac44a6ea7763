"""What the ascents climb, written for lanes: away from the label, or towards an aim or a rival.

A user's aim replaces whatever else a run would push towards.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zsrobust.attacks.probe import Lanes, Objective
from zsrobust.errors import ConfigError
from zsrobust.losses import TINY, dlr, margin

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, C), labels (B,)) → per-example loss (B,) that is higher the less the label is predicted."""

CLASSES = 4
"""That the targeted DLR loss needs: the fourth logit is in it."""


def away(loss: Loss) -> Objective:
    """Climbs the loss of the label; in a lane with an aim, descends the loss of the aim."""

    def objective(logits: Tensor, lanes: Lanes) -> Tensor:
        if not bool((lanes.aims >= 0).any()):
            return loss(logits, lanes.labels)
        return torch.where(lanes.aims < 0, loss(logits, lanes.labels), -loss(logits, lanes.aims.clamp_min(0)))

    return objective


def away_dlr(logits: Tensor, lanes: Lanes) -> Tensor:
    """Climbs the DLR loss of the label; with aims, the targeted DLR loss towards them.

    With aims and fewer than 4 classes, which the targeted DLR loss needs, the margin of the aim is climbed.
    """
    if not bool((lanes.aims >= 0).any()):
        return dlr(logits, lanes.labels)
    aims = lanes.aims.clamp_min(0)
    return margin(logits, aims) if logits.shape[1] < CLASSES else targeted_dlr(logits, lanes.labels, aims)


def towards_rival(logits: Tensor, lanes: Lanes) -> Tensor:
    """Logit of the run's rival less the label's: the targeted margin. Success is any class but the label.

    With aims, success is the aim alone: it must rise above every other class, so the margin of the aim is climbed.
    """
    if bool((lanes.aims >= 0).any()):
        return margin(logits, lanes.aims.clamp_min(0))
    return _lead(logits, lanes.labels, lanes.rivals.clamp_min(0))


def towards_rival_dlr(logits: Tensor, lanes: Lanes) -> Tensor:
    """Climbs the targeted DLR loss towards the run's rival. Success is any class but the label."""
    return targeted_dlr(logits, lanes.labels, lanes.rivals.clamp_min(0))


def targeted_dlr(logits: Tensor, labels: Tensor, rivals: Tensor) -> Tensor:
    """(z_rival − z_label) / (z_π1 − (z_π3 + z_π4)/2), with π the order of falling logits: → (B,).

    Croce and Hein 2020 (arXiv 2003.01690), equation 6. It does not change when logits are scaled or shifted.

    Args:
        logits: (B, C) with C ≥ 4.
        labels: (B,) int64.
        rivals: (B,) int64.

    Raises:
        ConfigError: fewer than 4 classes.
    """
    check_targeted_dlr(logits.shape[1])
    logits = logits.float()
    top = logits.topk(4, dim=1).values
    return _lead(logits, labels, rivals) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + TINY)


def check_targeted_dlr(classes: int) -> None:
    """Whether there are classes enough for :func:`targeted_dlr`.

    Raises:
        ConfigError: fewer than 4.
    """
    if classes < CLASSES:
        raise ConfigError(
            f"the targeted DLR loss needs at least {CLASSES} classes, not {classes}: "
            "use apgd:margin-t (or apgd:margin) instead"
        )


def _lead(logits: Tensor, labels: Tensor, rivals: Tensor) -> Tensor:
    """Logit of the rival less the label's: (B,)."""
    rival, own = (logits.gather(1, classes[:, None]).squeeze(1) for classes in (rivals, labels))
    return rival - own
