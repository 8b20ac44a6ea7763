"""The attacks that have a name, one function each: what may be written after it, and what it makes.

The first paragraph of a docstring is what ``zsrobust ls attacks`` shows; the parameters after the threat are the
options. The one that is not keyword-only is the word after the name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from zsrobust.attacks import parse
from zsrobust.attacks.apgd import APGD
from zsrobust.attacks.base import Attack
from zsrobust.attacks.carlini_wagner import CarliniWagner
from zsrobust.attacks.fab import FAB
from zsrobust.attacks.oblivious import Oblivious
from zsrobust.attacks.options import Length, Mode
from zsrobust.attacks.patch import Patch
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.pgd import fgsm as one_step
from zsrobust.attacks.probe import Precision
from zsrobust.attacks.published import Released, clipped_margin_loss
from zsrobust.attacks.square import Square
from zsrobust.attacks.suites import Suite
from zsrobust.attacks.transfer import Transfer
from zsrobust.losses import cross_entropy, margin_loss
from zsrobust.threat import Threat


def fgsm(threat: Threat, *, precision: Precision = "float32") -> PGD:
    """Fast gradient sign method: one step of size ε from the image itself."""
    return replace(one_step(threat), precision=precision)


def pgd(
    threat: Threat,
    steps: int = 10,
    *,
    step_size: Length | None = None,
    restarts: int = 1,
    precision: Precision = "float32",
) -> PGD:
    """Projected gradient descent on the cross-entropy from a random start: pgd:20 takes 20 steps."""
    return PGD(threat, steps, step_size=step_size, restarts=restarts, loss=cross_entropy, precision=precision)


def cw(
    threat: Threat,
    steps: int = 10,
    *,
    step_size: Length | None = None,
    restarts: int = 1,
    precision: Precision = "float32",
) -> PGD:
    """PGD on the margin, which this field's papers call CW: cw:50 takes 50 steps."""
    return PGD(threat, steps, step_size=step_size, restarts=restarts, loss=margin_loss, precision=precision)


def cw_l2(
    threat: Threat, *, steps: int = 1000, binary_steps: int = 9, precision: Precision = "float32"
) -> CarliniWagner:
    """Carlini and Wagner's attack: the smallest L2 change, by a search over a constant. Only for l2."""
    return CarliniWagner(threat, steps, binary_steps=binary_steps, precision=precision)


def apgd_ce(threat: Threat, *, steps: int = 100, restarts: int = 1, precision: Precision = "float32") -> APGD:
    """Auto-PGD, which chooses its own step size, on the cross-entropy."""
    return APGD(threat, steps, loss="ce", restarts=restarts, precision=precision)


def apgd_dlr(threat: Threat, *, steps: int = 100, restarts: int = 1, precision: Precision = "float32") -> APGD:
    """Auto-PGD on the difference of logits ratio; needs 3 classes."""
    return APGD(threat, steps, loss="dlr", restarts=restarts, precision=precision)


def apgd_margin(threat: Threat, *, steps: int = 100, restarts: int = 1, precision: Precision = "float32") -> APGD:
    """Auto-PGD on the margin."""
    return APGD(threat, steps, loss="margin", restarts=restarts, precision=precision)


def apgd_dlr_t(
    threat: Threat, *, steps: int = 100, targets: int = 9, restarts: int = 1, precision: Precision = "float32"
) -> APGD:
    """Auto-PGD on the difference of logits ratio, towards each of the nearest classes; needs 4 classes."""
    return APGD(threat, steps, loss="dlr-t", targets=targets, restarts=restarts, precision=precision)


def apgd_margin_t(
    threat: Threat, *, steps: int = 100, targets: int = 9, restarts: int = 1, precision: Precision = "float32"
) -> APGD:
    """Auto-PGD on the margin, towards each of the nearest classes."""
    return APGD(threat, steps, loss="margin-t", targets=targets, restarts=restarts, precision=precision)


def fab(
    threat: Threat,
    *,
    steps: int = 100,
    restarts: int = 1,
    alpha_max: float = 0.1,
    beta: float = 0.9,
    eta: float = 1.05,
    precision: Precision = "float32",
) -> FAB:
    """Fast adaptive boundary attack: the nearest decision boundary, among all classes."""
    return FAB(threat, steps, restarts=restarts, alpha_max=alpha_max, beta=beta, eta=eta, precision=precision)


def fab_t(
    threat: Threat,
    *,
    steps: int = 100,
    targets: int = 9,
    restarts: int = 1,
    alpha_max: float = 0.1,
    beta: float = 0.9,
    eta: float = 1.05,
    precision: Precision = "float32",
) -> FAB:
    """Fast adaptive boundary attack, towards each of the nearest classes."""
    return replace(
        fab(threat, steps=steps, restarts=restarts, alpha_max=alpha_max, beta=beta, eta=eta, precision=precision),
        targets=targets,
    )


def square(
    threat: Threat,
    *,
    queries: int = 5000,
    restarts: int = 1,
    p_init: float = 0.8,
    horizon: int | None = None,
    precision: Precision = "float32",
) -> Square:
    """Square attack: random search without gradients."""
    return Square(threat, queries, restarts=restarts, p_init=p_init, horizon=horizon, precision=precision)


def patch(
    threat: Threat, *, steps: int = 50, places: int = 5, restarts: int = 5, precision: Precision = "float32"
) -> Patch:
    """PGD inside one square, where the gradient is largest and at random places. Only for patch, such as patch:0.05."""
    return Patch(threat, steps, places=places, restarts=restarts, precision=precision)


def transfer(
    threat: Threat, model: str = "", *, steps: int = 100, restarts: int = 1, precision: Precision = "float32"
) -> Transfer:
    """Auto-PGD on the margin of another model, as in transfer:openai/clip-vit-base-patch32.

    The model's own options stay with it, as in transfer:tower.pt:base=tiny:steps=50. Behind a model with a defence
    (``tiny+ttc``) no others can be written, because they might be the defence's.
    """
    return Transfer(model, threat, steps, restarts=restarts, precision=precision)


def oblivious(threat: Threat, attack: str = "pgd", *, mode: Mode = "exact", **options: object) -> Oblivious:
    """An attack that ignores the model's test-time defence, as the defences' papers do: oblivious:pgd:20."""
    return Oblivious(cast("Attack | Suite", parse(attack, threat, mode=mode, **options)))


def autoattack(threat: Threat, *, mode: Mode = "exact") -> Suite:
    """The standard ensemble: APGD-CE, APGD-T, FAB-T and Square with the published budgets; needs 10 classes."""
    return Suite("autoattack", threat, mode)


def autoattack_few(threat: Threat, *, mode: Mode = "exact") -> Suite:
    """What comes nearest to autoattack for 2 to 9 classes."""
    return Suite("autoattack-few", threat, mode)


def rand(threat: Threat, *, mode: Mode = "exact") -> Suite:
    """For models that are random: APGD-CE and APGD-DLR on the mean of 20 draws or more."""
    return Suite("rand", threat, mode)


def paper(threat: Threat, *, mode: Mode = "exact") -> Suite:
    """What the TeCoA paper's own code runs: paper:pgd and paper:aa."""
    return Suite("paper", threat, mode)


def paper_pgd(threat: Threat, steps: int = 100, *, precision: Precision = "float32") -> Released:
    """PGD of the TeCoA paper's code: steps of 1/255, and only the last iterate is judged."""
    return Released(threat, steps, precision=precision)


def paper_cw(threat: Threat, steps: int = 100, *, precision: Precision = "float32") -> Released:
    """CW of the TeCoA paper's code: its PGD on a clipped margin."""
    return Released(threat, steps, loss=clipped_margin_loss, precision=precision)


def paper_aa(threat: Threat, *, mode: Mode = "exact") -> Suite:
    """AutoAttack as the TeCoA paper's code overwrites it: APGD-CE and APGD-DLR alone."""
    return Suite("paper:aa", threat, mode)
