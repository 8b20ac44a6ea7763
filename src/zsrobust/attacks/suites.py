"""Several attacks under one name, run in order on what the ones before could not break.

``autoattack`` is the ensemble of Croce and Hein 2020 (arXiv 2003.01690, section 5) with its published budgets. It needs
ten classes, because it pushes towards the nine nearest ones; for fewer, public implementations crash or fall back to a
single attack. Then ``autoattack-few`` takes its place, under its own name, because it is not the standard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from zsrobust.attacks import published
from zsrobust.attacks.apgd import APGD, LossName
from zsrobust.attacks.base import Model
from zsrobust.attacks.fab import FAB
from zsrobust.attacks.options import Mode, check_mode, precision_of
from zsrobust.attacks.probe import Precision
from zsrobust.attacks.square import Square
from zsrobust.attacks.views import Part, Sampled, ThroughView
from zsrobust.errors import ConfigError, UnknownName
from zsrobust.threat import Threat

TARGETS = 9
"""Other classes that the targeted attacks push towards, at most."""

HORIZON = 10_000
"""Queries of Square's schedule in AutoAttack, which does not stretch it to the budget of 5000."""

DRAWS = 20
"""Of a randomised model at every step, at least: AutoAttack's ``rand`` version."""


@dataclass(frozen=True)
class Member(ThroughView):
    """An attack in its suite.

    Attributes:
        attack: What runs.
        suite: Name of the suite.
        title: Name within the suite; empty: the attack's own.
        samples: Draws of the model at every step, at least; the model's own ``samples`` if those are more.
    """

    attack: Part
    suite: str
    title: str = ""
    samples: int = field(default=1, kw_only=True)

    @property
    def name(self) -> str:
        """``SUITE/ATTACK``."""
        return f"{self.suite}/{self.title or self.attack.name}"

    def describe(self) -> dict[str, object]:
        """The attack's own description, and where it belongs."""
        draws = {"samples": self.samples} if self.samples > 1 else {}
        return self.attack.describe() | draws | {"suite": self.suite, "name": self.name}

    def view(self, model: Model) -> Model:
        """The model, drawn more often where this member asks for it."""
        own: int = getattr(model, "samples", 1)
        return Sampled(model, self.samples) if self.samples > own else model


@dataclass(frozen=True)
class Suite:
    """Attacks under one name; which ones, depends on the number of classes.

    Attributes:
        name: One of :data:`SUITES`.
        threat: The ball.
        mode: See :data:`zsrobust.attacks.options.Mode`.
    """

    name: str
    threat: Threat
    mode: Mode = "exact"

    def __post_init__(self) -> None:
        check_mode(self.mode)
        if self.name not in SUITES:
            raise UnknownName("suite", self.name, SUITES)
        self.threat.only_ball(self.name)
        if self.name.startswith("paper"):
            published.only_linf(self.name, self.threat)

    def describe(self) -> dict[str, object]:
        """Its name and mode; what its strength depends on is in its members."""
        return {"name": self.name, "mode": self.mode}

    def for_classes(self, classes: int) -> Suite:
        """The suite for a task of so many classes: itself, or ``autoattack-few`` in place of ``autoattack``.

        Whoever puts another suite in place must say so.
        """
        few = self.name == "autoattack" and classes <= TARGETS
        return Suite("autoattack-few", self.threat, self.mode) if few else self

    def members(self, classes: int) -> list[Member]:
        """Its attacks in order, for a task of so many classes.

        Raises:
            ConfigError: the standard suite with too few classes.
        """
        if self.for_classes(classes) is not self:
            raise ConfigError(
                f"suite '{self.name}' needs {TARGETS + 1} classes, not {classes}; autoattack-few is for fewer"
            )
        return SUITES[self.name](self, classes)

    @property
    def precision(self) -> Precision:
        """Of every member but the scout."""
        return precision_of(self.mode)


class _Recipe(Protocol):
    def __call__(self, suite: Suite, classes: int) -> list[Member]: ...


def _standard(suite: Suite, classes: int) -> list[Member]:
    """APGD-CE, APGD-T, FAB-T and Square, as published."""
    return _scouted(suite, [_apgd(suite, "ce"), _apgd(suite, "dlr-t"), _fab(suite), _square(suite)])


def _few(suite: Suite, classes: int) -> list[Member]:
    """As near to the standard as the number of classes allows.

    DLR divides by the distance of the first and third logit, targeted DLR needs a fourth; the margin needs two.
    """
    by_classes: dict[int, tuple[LossName, ...]] = {2: ("ce", "margin"), 3: ("ce", "dlr", "margin-t")}
    losses = by_classes.get(classes, ("ce", "dlr-t"))
    return _scouted(suite, [*(_apgd(suite, loss) for loss in losses), _fab(suite), _square(suite)])


def _rand(suite: Suite, classes: int) -> list[Member]:
    """AutoAttack's version for randomised models: every step climbs the mean over draws (EOT)."""
    losses: tuple[LossName, ...] = ("ce", "dlr" if classes > 2 else "margin")
    return [Member(_apgd(suite, loss), suite.name, samples=DRAWS) for loss in losses]


def _paper(suite: Suite, classes: int) -> list[Member]:
    """The paper's PGD, then its AutoAttack."""
    first = published.pgd(suite.threat, precision=suite.precision)
    return [Member(first, suite.name, first.short), *_paper_autoattack(suite, classes)]


def _paper_autoattack(suite: Suite, classes: int) -> list[Member]:
    parts = published.autoattack(suite.threat, classes, precision=suite.precision)
    return [Member(attack, suite.name) for attack in parts]


SUITES: Mapping[str, _Recipe] = MappingProxyType(
    {
        "autoattack": _standard,
        "autoattack-few": _few,
        "rand": _rand,
        "paper": _paper,
        "paper:aa": _paper_autoattack,
    }
)


def _scouted(suite: Suite, attacks: Sequence[Part]) -> list[Member]:
    """The attacks, and in ``exact`` mode a scout ahead of them, which finds in bfloat16 what is easily broken.

    It only saves time: every break is verified in float32, and what it cannot break meets every attack in float32.
    """
    scout = Member(APGD(suite.threat, precision="bfloat16"), suite.name, "scout")
    return [
        *([scout] if suite.mode == "exact" else []),
        *(Member(attack, suite.name, _title(attack)) for attack in attacks),
    ]


def _title(attack: Part) -> str:
    """Square as published is called just that in its suite."""
    return "square" if isinstance(attack, Square) else ""


def _apgd(suite: Suite, loss: LossName) -> APGD:
    return APGD(suite.threat, loss=loss, targets=TARGETS, precision=suite.precision)


def _fab(suite: Suite) -> FAB:
    return FAB(suite.threat, targets=TARGETS, precision=suite.precision)


def _square(suite: Suite) -> Square:
    return Square(suite.threat, horizon=HORIZON, precision=suite.precision)
