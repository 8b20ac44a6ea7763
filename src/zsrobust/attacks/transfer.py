"""Transfer attacks: adversarial images of one model, tried on another.

The source is climbed and the target is asked at every iterate, so an example leaves at its first success, and the best
point of the way is kept. What a transfer breaks and the target's own gradient does not is a sign that the target's
gradient is masked (Athalye et al. 2018, arXiv 1802.00420, section 3.1).
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import Protocol

from zsrobust.attacks import numerals
from zsrobust.attacks.apgd import APGD
from zsrobust.attacks.base import Model
from zsrobust.attacks.naming import full_name
from zsrobust.attacks.probe import Precision
from zsrobust.attacks.views import Guided, ThroughView
from zsrobust.errors import ConfigError
from zsrobust.threat import Threat

STEPS = 100


class Named(Protocol):
    """A model that is there already: an encoder, for :func:`zsrobust.evaluate`."""

    @property
    def name(self) -> str:
        """What results call it."""


@dataclass(frozen=True)
class Transfer:
    """An attack from another model; it can search once :meth:`bound` has given it that model for the task's classes.

    Attributes:
        source: The other model, or what it is loaded by; it gives the attack its name.
        threat: The ball.
        steps: Of APGD on the margin of the source.
        restarts: Runs from different random starts.
        precision: Of the passes; a break found in bfloat16 counts only after a float32 pass.
        loaded: The other model, once ``source`` has been loaded.
    """

    source: str | Named
    threat: Threat
    steps: int = STEPS
    _: KW_ONLY
    restarts: int = 1
    precision: Precision = "float32"
    loaded: Named | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        numerals.settle(self)
        if not self.called:
            raise ConfigError("attack 'transfer' needs a model to come from, for example transfer:tiny")
        self.climb  # noqa: B018 - refuses what APGD refuses, now and not after the model has been loaded

    @property
    def called(self) -> str:
        """The source's name."""
        return self.source if isinstance(self.source, str) else self.source.name

    @property
    def model(self) -> str | Named:
        """The other model, where it is there; else what it is loaded by."""
        return self.source if self.loaded is None else self.loaded

    @property
    def climb(self) -> APGD:
        """What climbs the source."""
        return APGD(self.threat, self.steps, loss="margin", restarts=self.restarts, precision=self.precision)

    @property
    def name(self) -> str:
        """``transfer:MODEL``, with what is not the default."""
        return full_name(
            f"transfer:{self.called}",
            steps=self.steps if self.steps != STEPS else None,
            restarts=self.restarts if self.restarts > 1 else None,
        )

    def describe(self) -> dict[str, object]:
        """Everything that its strength depends on; ``gradient``: none of the model that is attacked."""
        mine = {"name": self.name, "transfer": True, "source": self.called, "gradient": False}
        return self.climb.describe() | mine

    def bound(self, guide: Model) -> TransferAttack:
        """The attack on a task for which ``guide`` is the source's classifier."""
        return TransferAttack(self, self.climb, guide)


@dataclass(frozen=True)
class TransferAttack(ThroughView):
    """A transfer attack with its source at hand."""

    transfer: Transfer
    attack: APGD
    guide: Model

    @property
    def name(self) -> str:
        """As :attr:`Transfer.name`."""
        return self.transfer.name

    def describe(self) -> dict[str, object]:
        """As :meth:`Transfer.describe`."""
        return self.transfer.describe()

    def view(self, model: Model) -> Model:
        """Judged by the model, climbed on the guide."""
        return Guided(model, self.guide)
