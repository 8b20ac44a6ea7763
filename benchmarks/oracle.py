"""One thin adapter to pyautoattack 0.2.0, the test oracle: the published code, run as its users run it, and counted.

The adapter changes nothing of what it computes. It keeps its side effects in: the log lines, torch's global random
numbers (which every attack there seeds), the tracer (which a check there takes away) and the weight gradients that its
FAB leaves behind. Plain calls of the model, in evaluation mode, with the weights as they are.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from benchmarks.side_by_side import Answer, Counted, Model, Spent
from pyautoattack.autoattack import AutoAttack
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor

from zsrobust.threat import Threat

NORMS = {"linf": "Linf", "l2": "L2"}
MEMBERS = {"apgd-ce": "apgd", "apgd-t": "apgd_targeted", "fab-t": "fab", "square": "square"}
"""The standard ensemble in its order, and what the class calls each."""


def ensemble(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    threat: Threat,
    *,
    batch_size: int,
    seed: int = 0,
    attacks: Sequence[str] = (),
    budgets: Mapping[str, Mapping[str, int]] | None = None,
) -> Answer:
    """The standard ensemble, or some of its attacks: ``AutoAttack(…).run_standard_evaluation(…)``.

    Args:
        model: Pixels → logits, on the CPU.
        pixels: (n, 3, H, W) in [0, 1].
        labels: (n,) int64.
        threat: The ball.
        batch_size: Examples at a time.
        seed: Of every attack.
        attacks: Names of :data:`MEMBERS`; none: version "standard", all of them.
        budgets: Attributes of an attack to lower, by its name, for example ``{"square": {"n_queries": 200}}``.
    """
    counted, names = Counted(model), list(attacks or MEMBERS)
    members, given = {name: Spent() for name in names}, dict.fromkeys(names, 0)
    version: dict[str, Any] = {"version": "custom", "attacks": names} if attacks else {"version": "standard"}
    with _contained(model):
        suite = AutoAttack(counted, eps=threat.eps, norm=NORMS[threat.norm], seed=seed, **version)
        suite.apgd.n_restarts = suite.fab.n_restarts = 1  # what "standard" sets; a custom version is left at 5
        for name in names:
            attack = getattr(suite, MEMBERS[name])
            _shorten(attack, (budgets or {}).get(name, {}))

            def perturb(x: Tensor, y: Tensor, name: str = name, own: Any = attack.perturb) -> Tensor:
                given[name] += len(x)
                start = counted.spent()
                adversarial: Tensor = own(x, y)
                members[name] += counted.spent() - start
                return adversarial

            attack.perturb = perturb
        before = counted.spent()
        found, predictions = suite.run_standard_evaluation(pixels, labels, batch_size=batch_size)
        total = counted.spent() - before
    needed = Spent()
    for spent in members.values():
        needed += spent
    return Answer(predictions != labels, found.detach(), total, members, given, needed)


def _shorten(attack: Any, budget: Mapping[str, int]) -> None:
    for key, value in budget.items():
        if not hasattr(attack, key):
            raise AttributeError(f"{type(attack).__name__} has no {key}")
        setattr(attack, key, value)
    if "n_iter" in budget and isinstance(attack, APGDAttack):  # its checkpoints belong to the length it was made with
        shares = {"n_iter_2": 0.22, "n_iter_min": 0.06, "size_decr": 0.03}
        for key, share in shares.items():
            setattr(attack, key, max(int(share * budget["n_iter"]), 1))


def ascent(
    model: Model,
    pixels: Tensor,
    labels: Tensor,
    threat: Threat,
    start: Tensor,
    *,
    loss: str = "ce",
    targets: Tensor | None = None,
    steps: int = 100,
) -> Tensor:
    """One run of APGD from given points, all examples to the end.

    Args:
        model: Pixels → logits.
        pixels: (n, 3, H, W) in [0, 1].
        labels: (n,) int64.
        threat: The ball.
        start: (n, 3, H, W) first points.
        loss: ``"ce"`` or ``"dlr"``; with targets it is the targeted DLR loss.
        targets: (n,) int64 classes to climb towards; None: away from the label.
        steps: Iterations.

    Returns:
        (n,) bool: broken at any iterate.
    """
    options = {"n_iter": steps, "norm": NORMS[threat.norm], "eps": threat.eps, "seed": 0, "device": "cpu"}
    attack = (
        APGDAttack(model, loss=loss, logger=_LOGGER, **options)
        if targets is None
        else APGDAttack_targeted(model, logger=_LOGGER, **options)
    )
    attack.y_target = targets
    with _contained(model), torch.no_grad():
        attack.init_hyperparam(pixels)
        _, survives, _, _ = attack.attack_single_run(pixels, labels, x_init=start)
    return ~survives.bool()


_LOGGER = logging.getLogger("auto-attack")


@contextmanager
def _contained(model: Model) -> Iterator[None]:
    """Keeps the oracle's side effects inside."""
    parameters = list(getattr(model, "parameters", tuple)())
    gradients = [p.grad for p in parameters]
    tracer, disabled = sys.gettrace(), _LOGGER.disabled
    _LOGGER.disabled = True
    for parameter in parameters:
        parameter.grad = None
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        _LOGGER.disabled = disabled
        sys.settrace(tracer)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
