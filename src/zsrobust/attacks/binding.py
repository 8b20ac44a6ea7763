"""What a user asked for → the attacks to run on one task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from zsrobust.attacks.base import Attack, Model
from zsrobust.attacks.oblivious import Oblivious, undefended_encoder
from zsrobust.attacks.suites import Suite
from zsrobust.attacks.transfer import Named, Transfer
from zsrobust.errors import ConfigError

Asked = Attack | Suite | Transfer | Oblivious
"""An attack by itself, several under one name, one that still lacks its source, or one on the undefended model. All
have ``name``, ``threat`` and ``describe()``."""


def carry(attacks: Sequence[Asked], load: Callable[[str], Named]) -> list[Asked]:
    """The attacks, with the sources of the transfers among them loaded, each once.

    Their names stay as they were written.
    """
    sources = {a.called: a for a in attacks if isinstance(a, Transfer) and isinstance(a.source, str) and not a.loaded}
    loaded = {called: load(called) for called in sources}
    return [
        replace(attack, loaded=loaded[attack.called])
        if isinstance(attack, Transfer) and isinstance(attack.source, str) and not attack.loaded
        else attack
        for attack in attacks
    ]


def expand(attack: Asked, classes: int, source: Callable[[Any], Model]) -> list[Attack]:
    """The attacks to run on a task, in order; a later one only on what the ones before could not break.

    Args:
        attack: What was asked for.
        classes: Of the task, at least 2. ``autoattack`` becomes ``autoattack-few`` below 10; the names and
            ``for_classes`` of :class:`Suite` and :class:`Oblivious` say so.
        source: Gives the classifier for the task's classes of the model that a transfer attack carries (if it
            carries none, of the model that it names).
    """
    if isinstance(attack, Suite):
        return [*attack.for_classes(classes).members(classes)]
    if isinstance(attack, Transfer):
        return [attack.bound(source(attack.model))]
    return [attack.bound(classes) if isinstance(attack, Oblivious) else attack]


def check_classes(attacks: Sequence[Asked], tasks: Mapping[str, int]) -> None:
    """Whether every attack can run on every task, before hours are spent on the first of them.

    An attack that cannot with any number of classes has ``check_classes(classes)``, which raises. A suite chooses its
    members so that they can.

    Args:
        attacks: What was asked for.
        tasks: Name → number of classes.

    Raises:
        ConfigError: a task has too few classes for an attack, or too many.
    """
    for name, classes in tasks.items():
        for attack in attacks:
            search = attack.attack if isinstance(attack, Oblivious) else attack
            own: Callable[[int], None] | None = getattr(search, "check_classes", None)
            try:
                if own is not None:
                    own(classes)
            except ConfigError as problem:
                raise ConfigError(f"task '{name}': {problem}") from None


def check_defended(attacks: Sequence[Asked], encoders: Iterable[object]) -> None:
    """Whether every attack that ignores a defence finds one to ignore, before hours are spent on the others.

    Raises:
        ConfigError: it is to attack a model without one.
    """
    for attack in attacks:
        if isinstance(attack, Oblivious):
            for encoder in encoders:
                undefended_encoder(encoder, attack.name)
