"""A search of the model's own inside the forward pass: test-time defences, which an attack does not see through.

Unless the stand-in that the model declares for its gradient searches likewise: then the loop is unrolled, and whether
that leads anywhere is what other alarms measure.
"""

from __future__ import annotations

import torch

from zsrobust.alarms.base import Alarm
from zsrobust.alarms.randomness import draw
from zsrobust.alarms.subject import Subject
from zsrobust.alarms.watch import watched

# A flipped image besides, or five crops, are fixed views and not a search.
_VIEWS = 6


def check(subject: Subject) -> list[Alarm]:
    """One alarm, or none."""
    backwards = max(seen.backwards for seen in subject.seen)
    if backwards and _unrolled(subject):
        return []
    if backwards:
        text = (
            "the forward pass computes gradients of its own: it optimises at test time, and the gradient that an "
            "attack is given leaves that out"
        )
        return [Alarm("optimises-inside", "proved", text, {"backward_operations": backwards})]
    # One image at a time was passed, so that a model that splits its batch is not taken for one that repeats itself.
    passes = max(seen.calls[id(seen.entries[0][0])] if seen.entries else 0 for seen in subject.seen)
    if passes <= _VIEWS:
        return []
    text = (
        f"one forward pass of one image runs the tower {passes} times: if it searches for an answer, the gradient "
        "leaves that out; if it averages over fixed views, all is well"
    )
    return [Alarm("optimises-inside", "suspected", text, {"tower_passes": passes})]


def _unrolled(subject: Subject) -> bool:
    """Whether the declared stand-in computes gradients of its own, and itself has one."""
    surrogate = subject.surrogate
    if surrogate is None:
        return False
    with subject.quiet(), torch.enable_grad(), draw(0), watched() as seen:
        logits = surrogate(subject.pixels[:1].detach().requires_grad_(True))
    return seen.backwards > 0 and logits.requires_grad
