"""Whether a model's robust accuracy can be believed at all: the whole check-up on a few examples, with its reasons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from zsrobust.alarms.base import Alarm
from zsrobust.alarms.checkup import QUICK, WITH_ATTACKS, full
from zsrobust.alarms.differences import differences
from zsrobust.alarms.subject import MOST, Subject
from zsrobust.alarms.white_box import white_box
from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError
from zsrobust.evaluation import classifier_for, device_of, in_space
from zsrobust.passes import ROWS
from zsrobust.pixels import to_pixels
from zsrobust.refusals import check_open
from zsrobust.tasks import Task
from zsrobust.threat import Threat

FORMAT = "zsrobust.sanity/1"
EXAMPLES = 32
CHECKS = len(QUICK) + len(WITH_ATTACKS)


@dataclass(frozen=True)
class Checkup:
    """What the check-up found.

    Attributes:
        model, task, threat: What was looked at.
        n: Examples.
        clean: Of them, right before any attack.
        standing: Of those, right after the check-up's attacks with the model's gradient; None: there is no gradient to
            attack with.
        checks: How many causes were looked for.
        alarms: What was found.
    """

    model: str
    task: str
    threat: Threat
    n: int
    clean: int
    standing: int | None
    checks: int
    alarms: tuple[Alarm, ...]

    @property
    def in_doubt(self) -> bool:
        """Whether anything was found."""
        return bool(self.alarms)

    def to_json(self) -> dict[str, object]:
        """For machines; counts, not percentages."""
        return {
            "format": FORMAT,
            "model": self.model,
            "task": self.task,
            "threat": self.threat.describe(),
            "n": self.n,
            "clean": self.clean,
            "standing": self.standing,
            "checks": self.checks,
            "in_doubt": self.in_doubt,
            "alarms": [alarm.to_flag() for alarm in self.alarms],
        }


@torch.inference_mode(False)  # somebody else's must not reach the attacks, which need gradients
@torch.enable_grad()
def sanity(
    encoder: Encoder,
    task: Task,
    threat: Threat | str,
    *,
    limit: int = EXAMPLES,
    seed: int = 0,
    others: Sequence[Encoder] = (),
    rows: int = ROWS,
    progress: Callable[[str], None] | None = None,
) -> Checkup:
    """Looks for everything that makes a robust accuracy lie, on some examples of a task.

    Args:
        encoder: The model on trial.
        task: Where the examples come from.
        threat: The budget that is to be evaluated.
        limit: Examples, 1 to 64, stratified.
        seed: Of the examples and of the random numbers.
        others: Other models, to transfer attacks from.
        rows: Rows of a forward pass.
        progress: Called with what is about to be looked at.

    Raises:
        ConfigError: a limit that is not allowed, a threat that is no ball, or a task of one class.
        DataError: the task's images cannot be read.
    """
    check_open(encoder, task)
    if not 1 <= limit <= MOST:
        raise ConfigError(f"a check-up takes 1 to {MOST} examples, not {limit}")
    ball = Threat.parse(threat) if isinstance(threat, str) else threat
    if ball.norm == "patch":
        raise ConfigError(f"a check-up attacks within a ball, as in linf:1/255, and not within {ball.describe()}")
    some = in_space(task, encoder, ball.space).take(limit, seed=seed)
    classifier = classifier_for(encoder, some, rows=rows)
    device = device_of(encoder)
    subject = Subject(
        classifier,
        to_pixels(some.images(range(len(some)))).to(device),
        torch.tensor(some.labels.tolist(), device=device),
        ball,
        seed=seed,
        others=[classifier_for(other, some, rows=rows) for other in others],
    )
    alarms = full(subject, progress)
    reachable = differences(subject).connected
    standing = int((~white_box(subject).broken).sum()) if reachable else None
    right = int(subject.right.sum())
    return Checkup(encoder.name, task.name, ball, len(some), right, standing, CHECKS, tuple(alarms))
