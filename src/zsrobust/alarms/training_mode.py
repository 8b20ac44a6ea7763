"""A model left in training mode: dropout at work, or batch norms that mix the images of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from zsrobust.alarms.base import Alarm, Evidence
from zsrobust.alarms.subject import Subject

_SHARE = 1e-3
# Modules that drop in a functional call keep its rate under such names.
_RATES = ("dropout", "dropout_p", "drop", "drop_prob", "drop_path", "dropout_prob", "attention_dropout")


def check(subject: Subject) -> list[Alarm]:
    """One alarm, or none: training mode is of no account where no module cares for it."""
    called = [m for seen in subject.seen for m in seen.modules]
    training = [m for m in {id(m): m for m in called}.values() if m.training]
    if not training:
        return []
    with _evaluating(training):
        settled = subject.look(subject.pixels)
    apart = (settled - subject.logits).abs().amax(1)
    changed = apart > _SHARE * subject.spread + 8 * subject.rounding
    caring = [type(m).__name__ for m in training if _cares(m)]
    evidence: Evidence = {"modules_in_training": len(training), "caring": len(caring)}
    if bool(changed.any()):
        share = float((apart / subject.spread.clamp_min(1e-30)).max())
        text = (
            f"the model is in training mode ({', '.join(sorted(set(caring or _names(training)))[:3])}): in evaluation "
            f"mode {int(changed.sum())} of {len(changed)} images get other logits"
        )
        return [Alarm("training-mode", "proved", text, {**evidence, "largest_share": share})]
    if caring:
        text = f"the model is in training mode ({', '.join(sorted(set(caring))[:3])}), though it changes no logit here"
        return [Alarm("training-mode", "suspected", text, evidence)]
    return []


def _names(modules: Sequence[nn.Module]) -> list[str]:
    return [type(module).__name__ for module in modules]


def _cares(module: nn.Module) -> bool:
    if isinstance(module, _DropoutNd | _BatchNorm) or "drop" in type(module).__name__.lower():
        return True
    return any(isinstance(module.__dict__.get(name), float) for name in _RATES)


@contextmanager
def _evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """These modules alone in evaluation mode."""
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module in modules:
            module.training = True
