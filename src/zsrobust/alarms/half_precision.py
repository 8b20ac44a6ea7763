"""A tower that computes in 16 bit: the gradient is coarse, small ones vanish, and rounding passes for robustness."""

from __future__ import annotations

import torch
from torch import Tensor

from zsrobust.alarms.base import Alarm, Evidence
from zsrobust.alarms.differences import differences
from zsrobust.alarms.subject import Subject

# Of float32 numbers one in 8,192 has a float16 of the same value.
_ENOUGH = 24


def check(subject: Subject) -> list[Alarm]:
    """One alarm, or none."""
    return _computes(subject) or _returns(subject)


def _computes(subject: Subject) -> list[Alarm]:
    operations = subject.seen[0].half + subject.seen[1].half
    if not operations:
        return []
    found = differences(subject)
    zero = float((found.gradient == 0).float().mean())
    most = operations.most_common(1)[0][0]
    text = (
        f"the forward pass computes in 16 bit (most often {most}): attacks climb a coarse gradient, {zero:.0%} of it "
        "exactly zero, and verdicts hang on rounding"
    )
    evidence: Evidence = {
        "operations": sum(operations.values()),
        "most_often": most,
        "zero_gradient": zero,
    }
    return [Alarm("half-precision", "proved", text, evidence)]


def _returns(subject: Subject) -> list[Alarm]:
    encode = getattr(getattr(subject.classifier, "encoder", None), "encode_pixels", None)
    results = {"logits": subject.logits}
    if encode is not None:
        results["features"] = subject.look(subject.pixels, model=encode)
    for what, values in results.items():
        for dtype in (torch.float16, torch.bfloat16):
            if _fits(values, dtype):
                name = str(dtype).removeprefix("torch.")
                text = f"all {what} are {name} numbers: the model rounds them, and small changes and gradients vanish"
                return [Alarm("half-precision", "measured", text, {"what": what, "type": name})]
    return []


def _fits(values: Tensor, dtype: torch.dtype) -> bool:
    """Whether enough different numbers, and no whole ones among them, all have this type's precision."""
    interesting = torch.unique(values[values.isfinite() & (values != values.round())])
    return len(interesting) >= _ENOUGH and bool((interesting.to(dtype).float() == interesting).all())
