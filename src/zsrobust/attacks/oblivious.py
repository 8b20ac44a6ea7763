"""Oblivious attacks: the model is attacked without its defence, and judged with it.

So test-time defences are attacked in the papers that propose them: adversarial images of the undefended model are made
once, and then shown to the defended one. Such an attacker does not know that there is a defence, and what survives says
little. It is the first of two numbers; the second is that of a plain attack on the defended model, which goes through
the defence.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import torch
from torch import Tensor

from zsrobust.attacks.base import Attack, Found, Model, Outcome, Streaming
from zsrobust.attacks.lanes import gather
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.published import Released
from zsrobust.attacks.suites import Suite
from zsrobust.attacks.transfer import Transfer
from zsrobust.errors import ConfigError
from zsrobust.threat import Threat

NAME = "oblivious"


@dataclass(frozen=True)
class ToTheEnd(Released):
    """PGD with any step size and in any ball, of which the last iterate is judged and nothing before it.

    Images of the undefended model's first success lie just behind its border, where any defence finds its way back;
    papers take all steps.
    """

    def __post_init__(self) -> None:
        PGD.__post_init__(self)

    @property
    def name(self) -> str:
        """As :attr:`PGD.name`."""
        return self.plain.name

    @property
    def plain(self) -> PGD:
        """PGD with the same steps, which keeps its best point."""
        options = {option.name: getattr(self, option.name) for option in fields(PGD)}
        return PGD(**options)

    @classmethod
    def of(cls, attack: PGD) -> ToTheEnd:
        """The same steps."""
        return cls(**{option.name: getattr(attack, option.name) for option in fields(PGD)})


@dataclass(frozen=True)
class Oblivious:
    """An attack that does not know of the defence.

    Attributes:
        attack: What searches on the undefended model. Of PGD the last iterate is taken, of other attacks what they
            report, of a suite the first success of its members.
        parts: The members of a suite, once :meth:`bound` has been told the number of classes.
    """

    attack: Attack | Suite
    parts: tuple[Attack, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.attack, Oblivious | Transfer):
            raise ConfigError(f"attack '{NAME}' takes an attack on the model itself, not '{self.attack.name}'")

    @property
    def threat(self) -> Threat:
        """The ball."""
        return self.attack.threat

    @property
    def precision(self) -> str:
        """Of its passes."""
        return str(getattr(self.attack, "precision", "float32"))

    @property
    def name(self) -> str:
        """``oblivious:ATTACK``."""
        return f"{NAME}:{self.attack.name}"

    def describe(self) -> dict[str, object]:
        """What its strength depends on; ``gradient``: none of the model that is judged."""
        return _run(self.attack).describe() | {"name": self.name, "oblivious": True, "gradient": False}

    def for_classes(self, classes: int) -> Oblivious:
        """The attack for a task of so many classes: itself, or one with the suite that takes its suite's place."""
        if not isinstance(self.attack, Suite) or (suite := self.attack.for_classes(classes)) is self.attack:
            return self
        return replace(self, attack=suite)

    def bound(self, classes: int) -> Oblivious:
        """The attack on a task of so many classes, with the members of its suite."""
        chosen = self.for_classes(classes)
        suite = chosen.attack
        return replace(chosen, parts=tuple(suite.members(classes))) if isinstance(suite, Suite) else chosen

    def search(self, model: Model, pixels: Tensor, labels: Tensor, *, seed: int, examples: Sequence[int]) -> Outcome:
        """Images (B, 3, H, W) made for the undefended model; nothing is claimed about the defended one.

        Raises:
            ConfigError: the model has no defence.
        """
        return gather(self.stream(model, pixels, labels, seed=seed, examples=examples), pixels)

    def stream(
        self, model: Model, pixels: Tensor, labels: Tensor, *, seed: int, examples: Sequence[int]
    ) -> Iterator[Found]:
        """As :meth:`search`, in parts, as examples finish."""
        bare, search = undefended(model, self.name), _run(self.attack)
        everything = torch.arange(len(pixels), device=pixels.device)
        if isinstance(search, Suite):
            found: Iterable[Found] = [(everything, self._in_turn(bare, pixels, labels, seed, examples))]
        elif isinstance(search, Streaming):
            found = search.stream(bare, pixels, labels, seed=seed, examples=examples)
        else:
            found = [(everything, search.search(bare, pixels, labels, seed=seed, examples=examples))]
        for index, outcome in found:
            yield index, replace(outcome, claimed=None)

    def _in_turn(self, bare: Model, pixels: Tensor, labels: Tensor, seed: int, examples: Sequence[int]) -> Outcome:
        """A suite: each member on what the ones before could not break, without the defence."""
        if not self.parts:
            raise ConfigError(f"attack '{self.name}' has to be told the number of classes first: bound(classes)")
        points, standing = pixels.clone(), torch.ones_like(labels, dtype=torch.bool)
        costs = torch.zeros(2, len(pixels), dtype=torch.int64, device=pixels.device)
        for member in self.parts:
            index = standing.nonzero().squeeze(1)
            if len(index) == 0:
                break
            ids = [int(examples[i]) for i in index.tolist()]
            outcome = member.search(bare, pixels[index], labels[index], seed=seed, examples=ids)
            points[index] = outcome.pixels
            costs[:, index] += torch.stack([outcome.forwards, outcome.backwards])
            if outcome.claimed is not None:
                standing[index[outcome.claimed]] = False
        return Outcome(points, costs[0], costs[1])


def undefended(model: Model, attack: str) -> Model:
    """The classifier without the test-time defence of its encoder, for the same classes.

    Raises:
        ConfigError: its encoder has none.
    """
    bare = undefended_encoder(getattr(model, "encoder", None), attack)
    found: Any = copy.copy(model)
    found.encoder = bare
    return cast(Model, found)


def undefended_encoder(encoder: object, attack: str) -> object:
    """What is inside all test-time defences of an encoder.

    Raises:
        ConfigError: there are none.
    """
    bare: object = getattr(encoder, "undefended", None)
    if bare is None:
        name = getattr(encoder, "name", "the model")
        raise ConfigError(
            f"attack '{attack}' is for a model with a test-time defence, such as {name}+ttc; '{name}' has none"
        )
    return bare


def _run(attack: Attack | Suite) -> Attack | Suite:
    """The attack as it is run: PGD to its end. The paper's PGD takes its last iterate by itself."""
    plain = isinstance(attack, PGD) and not isinstance(attack, Released)
    return ToTheEnd.of(cast(PGD, attack)) if plain else attack
