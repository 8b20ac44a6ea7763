"""What the ascents climb, written for lanes: away from the label, or towards an aim or a rival."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zsrobust.attacks.probe import Lanes, Objective

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, C), labels (B,)) → per-example loss (B,) that is higher the less the label is predicted."""


def away(loss: Loss) -> Objective:
    """Climbs the loss of the label; in a lane with an aim, descends the loss of the aim."""

    def objective(logits: Tensor, lanes: Lanes) -> Tensor:
        if not bool((lanes.aims >= 0).any()):
            return loss(logits, lanes.labels)
        return torch.where(lanes.aims < 0, loss(logits, lanes.labels), -loss(logits, lanes.aims.clamp_min(0)))

    return objective


def towards_rival(logits: Tensor, lanes: Lanes) -> Tensor:
    """Logit of the run's rival less the label's: the targeted margin. Success is any class but the label."""
    rival, own = (
        logits.gather(1, classes[:, None]).squeeze(1) for classes in (lanes.rivals.clamp_min(0), lanes.labels)
    )
    return rival - own
