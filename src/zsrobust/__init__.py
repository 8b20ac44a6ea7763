"""Zero-shot adversarial robustness of CLIP-like models.

    import zsrobust as zr

    clip = zr.load("tiny")
    threat = zr.Threat("linf", "4/255")
    robust = zr.adapt(clip, task=zr.task("world-compositions", split="train"), attack=zr.PGD(threat, steps=2))
    print(zr.compare(zr.evaluate(clip, "digits", threat=threat), zr.evaluate(robust, "digits", threat=threat)))

Names are imported when first used, so that ``zsrobust --help`` and ``zsrobust report`` need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsrobust.adaptation import adapt
    from zsrobust.api import Evaluation, compare, evaluate
    from zsrobust.attacks.apgd import APGD
    from zsrobust.attacks.fab import FAB
    from zsrobust.attacks.pgd import PGD, fgsm
    from zsrobust.attacks.square import Square
    from zsrobust.attacks.suites import Suite
    from zsrobust.check_up import sanity
    from zsrobust.classifier import ZeroShotClassifier
    from zsrobust.encoders import Encoder, load
    from zsrobust.errors import ZSRobustError
    from zsrobust.interpolation import interpolate
    from zsrobust.methods.tecoa import TeCoA
    from zsrobust.tasks import Task, task
    from zsrobust.text_head import TextHead
    from zsrobust.threat import Threat

__version__ = "0.1.0"

_HOMES = {
    "APGD": "attacks.apgd",
    "FAB": "attacks.fab",
    "Square": "attacks.square",
    "Suite": "attacks.suites",
    "sanity": "check_up",
    "Encoder": "encoders",
    "Evaluation": "api",
    "PGD": "attacks.pgd",
    "Task": "tasks",
    "TeCoA": "methods.tecoa",
    "TextHead": "text_head",
    "Threat": "threat",
    "ZSRobustError": "errors",
    "ZeroShotClassifier": "classifier",
    "adapt": "adaptation",
    "compare": "api",
    "evaluate": "api",
    "fgsm": "attacks.pgd",
    "interpolate": "interpolation",
    "load": "encoders",
    "task": "tasks",
}

__all__ = [
    "APGD",
    "FAB",
    "PGD",
    "Encoder",
    "Evaluation",
    "Square",
    "Suite",
    "Task",
    "TeCoA",
    "TextHead",
    "Threat",
    "ZSRobustError",
    "ZeroShotClassifier",
    "adapt",
    "compare",
    "evaluate",
    "fgsm",
    "interpolate",
    "load",
    "sanity",
    "task",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zsrobust' has no attribute '{name}'")
    return getattr(importlib.import_module(f"zsrobust.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
