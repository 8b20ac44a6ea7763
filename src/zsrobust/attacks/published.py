"""What the released code of the TeCoA paper runs when it evaluates, for comparing with the paper's tables.

Mao et al. 2023 (arXiv 2212.07016), repository ``cvlab-columbia/ZSRobust4FoundationModel``, ``finetuning.py`` and
``attacks.py``. Theirs, and kept:

- ``paper:pgd``: one run of PGD on the cross-entropy from a uniform random point of the ball cut with the box; L∞ only
  (the code has L2 steps, which nothing calls). Steps of 1/255 whatever ε is. The *last* iterate is judged and nothing
  before it, so an example may be broken on the way and count as robust.
- ``paper:cw``: the same with the loss −max(z_y − max_{j≠y} z_j + 50, 0). Neither L2 nor a search over a constant, so it
  is not Carlini and Wagner's attack; what their loss minimises stops falling once another logit leads by 50.
- ``paper:aa``: AutoAttack's ``standard`` version with its list of attacks overwritten: APGD-CE alone and then APGD-DLR,
  100 steps and one restart each, no targets, no FAB, no Square; for two classes APGD-CE alone.

Theirs, and not kept: all of it runs there under float16 autocast and without loss scaling, where small gradients
vanish; here it is float32 (bfloat16 in ``fast`` mode), so these attacks can only be stronger. They sum or average the
loss over the batch, which changes no sign. Outside of ``--evaluate`` the code looks at every twentieth batch only.

The number of steps is a flag there, 5 if it is not given. The papers that evaluate again what it published state 100
steps of 1/255: that is the default here, and ``paper:pgd:5`` is the flag's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from zsrobust.attacks.apgd import APGD, LossName
from zsrobust.attacks.lanes import Key, Runs
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.probe import Lanes, Precision, Probe
from zsrobust.errors import ConfigError
from zsrobust.losses import margin
from zsrobust.threat import Threat

CONFIDENCE = 50.0
"""Lead of another logit, from which on the released CW loss is flat."""

STEP_SIZE = 1 / 255


def clipped_margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """−max(z_y − max_{j≠y} z_j + 50, 0): (B, C), (B,) int64 → (B,)."""
    return -functional.relu(margin(logits, labels) + CONFIDENCE)


@dataclass(frozen=True)
class Released(PGD):
    """PGD as released: steps of 1/255, and the last iterate is judged.

    Attributes:
        steps: Number of steps.
        step_size: 1/255.
        loss: Cross-entropy (``paper:pgd``) or :func:`clipped_margin_loss` (``paper:cw``).
    """

    steps: int = 100
    step_size: float | None = STEP_SIZE

    def __post_init__(self) -> None:
        super().__post_init__()
        only_linf(self.name, self.threat)

    @property
    def name(self) -> str:
        """``paper:pgd:STEPS`` or ``paper:cw:STEPS``."""
        return f"paper:{self.short}"

    @property
    def short(self) -> str:
        """The name within the suite ``paper``."""
        return f"{'cw' if self.loss is clipped_margin_loss else 'pgd'}:{self.steps}"

    def describe(self) -> dict[str, object]:
        """Everything that its strength depends on."""
        return super().describe() | {"judged": "last iterate"}

    def rivals(self, clean: Callable[[], Tensor], labels: Tensor, aims: Tensor) -> Tensor:
        """One run; the released code knows no targets.

        Raises:
            ConfigError: there are targets.
        """
        if bool((aims >= 0).any()):
            raise ConfigError(f"attack '{self.name}' cannot aim at a target, as the paper's code cannot; pgd:50 can")
        return super().rivals(clean, labels, aims)

    def runs(self, lanes: Lanes) -> Runs:
        """Empty state for these lanes."""
        return _LastIterate(super().runs(lanes), lanes)


class _LastIterate(Runs):
    """Forgets what was found on the way."""

    def __init__(self, runs: Runs, lanes: Lanes) -> None:
        self.runs, self.lanes = runs, lanes

    def enter(self, index: Tensor, keys: Sequence[Key]) -> None:
        self.runs.enter(index, keys)

    def round(self, probe: Probe) -> Tensor:
        ended = self.runs.round(probe)
        lanes, early = self.lanes, self.lanes.live & ~ended
        lanes.broken &= ~early
        lanes.gaps[early] = lanes.claims[early] = torch.inf
        return ended


def only_linf(name: str, threat: Threat) -> None:
    """Whether the released code could run in this ball.

    Raises:
        ConfigError: it could not.
    """
    if threat.norm != "linf":
        raise ConfigError(f"attack '{name}' is the paper's code, which has only linf: not {threat.describe()}")


def pgd(threat: Threat, *, precision: Precision = "float32") -> Released:
    """The PGD of the paper's tables."""
    return Released(threat, precision=precision)


def autoattack(threat: Threat, classes: int, *, precision: Precision = "float32") -> list[APGD]:
    """What is left of AutoAttack there."""
    losses: tuple[LossName, ...] = ("ce", "dlr") if classes > 2 else ("ce",)
    return [APGD(threat, loss=loss, precision=precision) for loss in losses]
