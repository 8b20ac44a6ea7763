"""Attacks without a gradient that are stronger than those with one.

Square (Andriushchenko et al. 2020, arXiv 1912.00049) sees logits alone; a transfer attack climbs another model and asks
this one at every step, as :class:`zsrobust.attacks.transfer.Transfer` does. Where they break what gradients do not, the
gradients are masked (Athalye et al. 2018b, arXiv 1802.00420, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from zsrobust.alarms.base import Alarm, Evidence
from zsrobust.alarms.subject import Subject
from zsrobust.alarms.white_box import searched, white_box
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.square import Square
from zsrobust.attacks.views import Guided
from zsrobust.losses import margin, margin_loss

QUERIES = 500
_TRANSFER_STEPS = 20
# One image is no evidence. An honest model's survivors of 50 steps fall to Square in less than 1 % of the cases.
_COUNT = 2
_SURE = 3
_SHARE = 0.05


def check(subject: Subject) -> list[Alarm]:
    """At most one alarm, of the black-box attack that broke most."""
    found = white_box(subject)
    left = ~found.broken
    if not bool(left.any()) or subject.threat.eps == 0:
        return []
    pixels, labels = found.pixels[left], found.labels[left]
    counts = {name: int((margin(subject.verdict(p), labels) < 0).sum()) for name, p in _tried(subject, pixels, labels)}
    name, count = max(counts.items(), key=lambda entry: entry[1])
    if count < max(_COUNT, _SHARE * len(left)):
        return []
    text = (
        f"{name} breaks {count} of the {len(labels)} images that attacks with the model's gradient leave standing: "
        "the gradient is masked"
    )
    evidence: Evidence = {
        "attack": name, "images": len(left), "left_by_white_box": len(labels), "broken": count,
    }  # fmt: skip
    return [Alarm("black-box-stronger", "measured" if count >= _SURE else "suspected", text, evidence)]


def _tried(subject: Subject, pixels: Tensor, labels: Tensor) -> Iterator[tuple[str, Tensor]]:
    square = Square(subject.threat, QUERIES)
    yield square.name, searched(subject, square, pixels, labels)[0]
    for number, other in enumerate(subject.others, start=1):
        attack = PGD(subject.threat, _TRANSFER_STEPS, loss=margin_loss)
        guided = Guided(subject.classifier, other)
        yield f"transfer from model {number}", searched(subject, attack, pixels, labels, model=guided)[0]
