"""What an alarm is: a named reason why a robust accuracy may be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Strength = Literal["proved", "measured", "suspected"]

Evidence = Mapping[str, float | int | str | bool]


@dataclass(frozen=True)
class Alarm:
    """A reason why a number may be wrong.

    Attributes:
        name: Of the cause, for machines, for example ``"zero-gradient"``.
        strength: ``"proved"``: no correct measurement could look like this. ``"measured"``: chance or rounding cannot
            explain it. ``"suspected"``: an honest model might look like this too.
        text: A plain sentence: what was seen, and what it does to the number.
        evidence: Numbers and words that the sentence rests on, JSON-able.
    """

    name: str
    strength: Strength
    text: str
    evidence: Evidence = field(default_factory=dict)

    def to_flag(self, **where: str | int) -> dict[str, object]:
        """As ``run.json`` keeps it.

        Args:
            where: What it is about: any of ``model``, ``task``, ``threat`` and ``seed``; left out: all of them.
        """
        said = {"name": self.name, "strength": self.strength, "text": self.text, "evidence": dict(self.evidence)}
        return {**said, **where}
