"""Logits that starve the loss: so large that cross-entropy has no gradient, or probabilities where logits belong."""

from __future__ import annotations

import torch
from torch import Tensor

from zsrobust.alarms.base import Alarm
from zsrobust.alarms.differences import differences
from zsrobust.alarms.subject import Subject
from zsrobust.losses import cross_entropy, margin

_SHARE = 0.1
_SUM = 1e-4


def check(subject: Subject) -> list[Alarm]:
    """At most one of each kind."""
    return _probabilities(subject) + _underflow(subject)


def _probabilities(subject: Subject) -> list[Alarm]:
    """Rows are not negative and sum to one and the same number."""
    rows = torch.cat([subject.logits, subject.look(subject.noisy)])
    sums = rows.sum(1)
    total = float(sums.mean())
    same = total > 0 and bool(((sums - total).abs() <= _SUM * total).all())
    differ = bool((rows.amax(0) - rows.amin(0)).max() > _SUM * total) if len(rows) > 1 else False
    if not (same and differ and bool((rows >= 0).all())):
        return []
    text = (
        f"the logits are probabilities (not negative, and every row sums to {total:.4g}): a loss takes another softmax "
        "of them, and its gradient shrinks where the model is sure"
    )
    return [Alarm("probabilities-as-logits", "proved", text, {"sum": total, "rows": len(rows)})]


def _underflow(subject: Subject) -> list[Alarm]:
    """Where the margin has a gradient and the cross-entropy none."""
    found = differences(subject)
    if bool(found.dead.all()):
        return []
    labels = found.logits.argmax(1)

    def loss(logits: Tensor) -> Tensor:
        return cross_entropy(logits, labels)

    gradient, _, _ = subject.slope(found.base, loss)
    there = (found.gradient != 0).flatten(1).sum(1)
    lost = ((found.gradient != 0) & ((gradient == 0) | ~gradient.isfinite())).flatten(1).sum(1)
    starved = int((lost > there / 2).sum())
    if starved < max(1, _SHARE * len(there)):
        return []
    typical = float(margin(found.logits, labels).median())
    text = (
        f"the logits are so large (the margin is typically {typical:.3g}) that the cross-entropy has no gradient on "
        f"{starved} of {len(there)} images: attacks that climb it stand still"
    )
    evidence = {"images": len(there), "without_loss_gradient": starved, "median_margin": typical}
    return [Alarm("saturated-logits", "proved", text, evidence)]
