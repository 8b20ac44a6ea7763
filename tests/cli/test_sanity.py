"""``zsrobust sanity``: the verdict in words, in a file and as exit status; and what it refuses before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests import planted
from tests.cli.conftest import Zsrobust
from tests.fakes import Toy

from zsrobust.encoders import ENCODERS


def honest() -> Toy:
    return Toy(name="honest", size=12)


def masked() -> planted.Detached:
    return planted.Detached(honest())


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch) -> None:
    for build in (honest, masked):
        monkeypatch.setitem(ENCODERS._addresses, build.__name__, f"{__name__}:{build.__name__}")


def test_an_honest_model(zsrobust: Zsrobust, pets: Path) -> None:
    found = zsrobust("sanity", "honest", "--task", pets, "--threat", "linf:8/255", "--limit", 3, "--out", "s.json")
    assert (found.status, found.error) == (0, "")
    told = json.loads(Path("s.json").read_text())
    assert (told["model"], told["task"], told["threat"]) == ("honest", "pets", "linf:8/255:native")
    assert (told["n"], told["in_doubt"], told["alarms"]) == (3, False, [])
    assert found.out.startswith("Model    honest\nTask     pets, 3 images, within linf:8/255:native\n")
    right = f"Right    {told['clean']} of 3 before any attack, {told['standing']} after the check-up's attacks\n"
    assert right in found.out
    assert f"Verdict  no reason for doubt ({told['checks']} causes looked for)\n" in found.out
    assert found.out.endswith("Written  s.json\n")


def test_a_masked_gradient_is_in_doubt(zsrobust: Zsrobust, pets: Path) -> None:
    found = zsrobust("sanity", "masked", "--task", pets, "--limit", 3, "--out", "s.json")
    assert (found.status, found.error) == (1, "")
    told = json.loads(Path("s.json").read_text())
    assert (told["in_doubt"], told["standing"]) == (True, None)
    (alarm,) = told["alarms"]
    assert (alarm["name"], alarm["strength"], alarm["evidence"]["without_gradient"]) == ("zero-gradient", "proved", 3)
    assert "before any attack, no gradient to attack with\n" in found.out
    assert "Verdict  IN DOUBT, for one reason\n" in found.out
    assert f"\nproved   zero-gradient: {alarm['text']}\n         images 3\n" in found.out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "no model given: zsrobust sanity MODEL --task T"),
        (["honest"], "no task given: --task T"),
        (["honest", "--task", "digits", "--seed", "-1"], "--seed -1 must not be negative"),
        (["honest", "--task", "dgits"], "unknown task 'dgits'; did you mean 'digits'?"),
        (
            ["honest", "--task", "digits,world-shape"],
            "--task digits,world-shape is 2 tasks; sanity looks at one: digits",
        ),
        (["honset", "--task", "digits"], "unknown model 'honset'; did you mean 'honest'?"),
        (["honest", "--task", "digits", "--transfer", "maskd"], "unknown model 'maskd'; did you mean 'masked'?"),
        (["honest", "--task", "digits", "--limit", "65"], "a check-up takes 1 to 64 examples, not 65"),
        (["honest", "--task", "digits", "--threat", "linf:4"], "ε = 4 is ambiguous: did you mean 4/255?"),
    ],
)
def test_it_refuses(refused: Callable[..., str], words: list[str], line: str) -> None:
    assert refused("sanity", *words, *(["--out", "s.json"] if words else [])).startswith(line)
    assert not Path("s.json").exists()
