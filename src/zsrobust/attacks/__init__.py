"""Attacks by name, such as ``fgsm`` and ``pgd:20``.

A user's package adds its own through the entry-point group ``zsrobust.attacks``: a callable
``(threat, argument, *, step_size, restarts) -> Attack``, where ``argument`` is what follows the colon (None without
one).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsrobust.errors import ConfigError
from zsrobust.registry import Registry

if TYPE_CHECKING:
    from zsrobust.attacks.base import Attack
    from zsrobust.attacks.pgd import PGD
    from zsrobust.threat import Threat

ATTACKS = Registry(
    "attack",
    {"fgsm": "zsrobust.attacks:_fgsm", "pgd": "zsrobust.attacks:_pgd"},
)


def parse(text: str, threat: Threat, *, step_size: float | None = None, restarts: int = 1) -> Attack:
    """The attack called ``text`` in ``threat``.

    Args:
        text: ``NAME`` or ``NAME:ARGUMENT``; PGD's argument is its number of steps.
        threat: The ball to search.
        step_size: In pixel range [0, 1] units; None: the attack's own default.
        restarts: Runs from different random starts.

    Raises:
        UnknownName: no such attack.
        ConfigError: an argument or option that the attack does not take.
    """
    name, _, argument = text.strip().partition(":")
    attack: Attack = ATTACKS[name](threat, argument or None, step_size=step_size, restarts=restarts)
    return attack


def _pgd(threat: Threat, argument: str | None, *, step_size: float | None, restarts: int) -> PGD:
    """Projected gradient descent: pgd:20 takes 20 steps from a random start (10 if no number is given)."""
    from zsrobust.attacks.pgd import PGD

    if argument is not None and not argument.isdecimal():
        raise ConfigError(f"attack 'pgd:{argument}': what follows the colon is the number of steps, as in pgd:20")
    return PGD(threat, int(argument) if argument else 10, step_size=step_size, restarts=restarts)


def _fgsm(threat: Threat, argument: str | None, *, step_size: float | None, restarts: int) -> PGD:
    """Fast gradient sign method: one step of size ε from the image itself."""
    from zsrobust.attacks.pgd import fgsm

    if argument is not None or step_size is not None or restarts != 1:
        raise ConfigError(
            "attack 'fgsm' is one step of size ε from the image: it takes no argument, step size or restarts"
        )
    return fgsm(threat)
