"""Accuracy that does not fall to zero as ε grows: at ε = 1 every image may become any other one."""

from __future__ import annotations

import torch
from torch import Tensor

from zsrobust.alarms.base import Alarm
from zsrobust.alarms.subject import Subject
from zsrobust.alarms.white_box import searched
from zsrobust.attacks.pgd import PGD
from zsrobust.losses import margin, margin_loss
from zsrobust.threat import Threat

LARGE = (64 / 255, 1.0)
_STEPS = 20
_FEW = 5
_STANDING = 0.1


def check(subject: Subject) -> list[Alarm]:
    """One alarm, or none."""
    beatable = subject.right & _has_a_rival(subject)
    pixels, labels = subject.pixels[beatable], subject.labels[beatable]
    if len(labels) < _FEW:
        return []
    standing = {eps: _survivors(subject, eps, pixels, labels) for eps in LARGE}
    share = standing[LARGE[-1]] / len(labels)
    if share <= _STANDING or standing[LARGE[-1]] < 2:
        return []
    text = (
        f"with any image allowed (ε = 1) the attack leaves {standing[1.0]} of {len(labels)} standing, though images "
        "of other classes are known: it cannot find what is there"
    )
    evidence = {"images": len(labels), **{f"standing_at_{eps:.3g}": count for eps, count in standing.items()}}
    return [Alarm("does-not-fall", "proved", text, evidence)]


def _survivors(subject: Subject, eps: float, pixels: Tensor, labels: Tensor) -> int:
    """From the image itself: a random start in so large a ball would already be noise, and break by itself."""
    threat = Threat("linf", eps, subject.threat.space)
    attack = PGD(threat, _STEPS, loss=margin_loss, random_start=False)
    found, _ = searched(subject, attack, pixels, labels)
    return int((margin(subject.verdict(found), labels) > 0).sum())


def _has_a_rival(subject: Subject) -> Tensor:
    """(n,) bool: whether some image is known that the model takes for another class than this one's label."""
    shape = (1, *subject.pixels.shape[1:])
    plain = [torch.full(shape, grey, device=subject.pixels.device) for grey in (0.0, 0.5, 1.0)]
    answers = subject.verdict(torch.cat([subject.pixels, *plain])).argmax(1)
    return (answers[None] != subject.labels[:, None]).any(1)
