"""Options that are lengths, in modules that keep their annotations as text and in modules that do not."""

import inspect
from typing import Optional

import pytest

from zsrobust.attacks import options
from zsrobust.attacks.options import Length
from zsrobust.defences import options as defence_options
from zsrobust.defences.options import Length as DefenceLength
from zsrobust.errors import ConfigError


def attack(threat: object, steps: int = 2, *, size: Length = 0.1, other: Length | None = None, last: float = 1.0): ...  # type: ignore[no-untyped-def]


def older(threat: object, *, size: Optional[Length] = None, other: "Length | None" = None, last: float = 1.0): ...  # type: ignore[no-untyped-def]  # noqa: UP045


def defence(base: object, *, size: DefenceLength = 0.1, shift: Length = 0.1, times: int = 1): ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize("build", [attack, older])
def test_an_attack_takes_lengths_as_they_are_written(build: object) -> None:
    assert not isinstance(inspect.signature(build).parameters["size"].annotation, str)  # type: ignore[arg-type]
    written = options.read("mine:size=2/255:other=1/255:last=3", ["mine"])
    found = options.arguments(build, written, {}, "exact")  # type: ignore[arg-type]
    assert found == {"size": 2 / 255, "other": 1 / 255, "last": 3.0}
    assert options.arguments(build, options.read("mine", ["mine"]), {"size": 0.5, "other": None}, "exact") == {  # type: ignore[arg-type]
        "size": 0.5,
        "other": None,
    }
    for wrong in ({"size": "2"}, {"size": True}, {"last": "1/255"}):
        with pytest.raises(ConfigError):
            options.arguments(build, options.read("mine", ["mine"]), wrong, "exact")  # type: ignore[arg-type]


def test_a_defence_takes_lengths_as_they_are_written() -> None:
    found = defence_options.arguments(defence, "mine", {"size": "2/255", "shift": "1/255", "times": "3"})
    assert found == {"size": 2 / 255, "shift": 1 / 255, "times": 3}
