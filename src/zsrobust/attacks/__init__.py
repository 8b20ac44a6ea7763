"""Attacks by name: ``NAME[:WORD][:option=value]…``, such as ``pgd:20``, ``apgd:dlr-t:targets=3`` and ``autoattack``.

A user's package adds its own through the entry-point group ``zsrobust.attacks``: a callable
``(threat, argument, **options) -> Attack``, where ``argument`` is the word after the name (None without one). Its
keyword-only parameters, with their defaults and annotations, are the attack's options; one that is called ``precision``
is given what the evaluation's mode says. An attack that cannot run with any number of classes has
``check_classes(classes)``, which raises ConfigError and is called before an evaluation begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsrobust.attacks.options import Mode, Written, arguments, has, of_a_model, only_one_owner, read, within, word_of
from zsrobust.registry import Registry

if TYPE_CHECKING:
    from zsrobust.attacks.binding import Asked
    from zsrobust.threat import Threat

ATTACKS = Registry(
    "attack",
    {
        name: f"zsrobust.attacks.catalogue:{name.replace(':', '_').replace('-', '_')}"
        for name in (
            "fgsm", "pgd", "cw", "cw-l2", "apgd:ce", "apgd:dlr", "apgd:margin", "apgd:dlr-t", "apgd:margin-t",
            "fab", "fab:t", "square", "patch", "transfer", "oblivious", "autoattack", "autoattack-few",
            "rand", "paper", "paper:pgd", "paper:cw", "paper:aa",
        )
    },
)  # fmt: skip


def parse(text: str, threat: Threat, *, mode: Mode = "exact", **options: object) -> Asked:
    """The attack called ``text`` in ``threat``; its own name gives an equal attack, where all of it can be written.

    Args:
        text: ``NAME[:WORD][:option=value]…``.
        threat: The ball to search.
        mode: ``"exact"``, ``"fast"`` or ``"float32"``; see :data:`zsrobust.attacks.options.Mode`.
        **options: Of the attack, where ``text`` does not have them; None: its default.

    Raises:
        UnknownName: no such attack, or it has no such option.
        ConfigError: a value that the attack does not take.
    """
    written = _read(text)
    build = ATTACKS[written.name]
    given = {option: value for option, value in options.items() if value is not None}
    attack: Asked = build(threat, **arguments(build, written, given, mode))
    return attack


def leaves_open(text: str, option: str) -> bool:
    """Whether the attack called ``text`` has this option and does not set it itself.

    Raises:
        UnknownName: no such attack.
    """
    written = _read(text)
    if written.name == "oblivious":
        return leaves_open(written.word or "pgd", option)
    build = ATTACKS[written.name]
    return has(build, option) and option not in written.options and (written.word is None or option != word_of(build))


def _read(text: str) -> Written:
    """Takes ``text`` apart; what may follow an attack or a model within it may belong to that.

    Raises:
        UnknownName: no such attack.
        ConfigError: an option that is there twice, or whose owner is not clear.
    """
    written = read(text, ATTACKS)
    if written.name == "oblivious":
        return within(written, "attack", "pgd")
    if written.name == "transfer":
        written = of_a_model(written, "model")
        only_one_owner(written, "model")
    return written
