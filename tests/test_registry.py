from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from zsrobust import registry
from zsrobust.attacks import ATTACKS
from zsrobust.encoders import ENCODERS
from zsrobust.errors import ConfigError, UnknownName
from zsrobust.methods import METHODS
from zsrobust.registry import Registry


def with_entry_points(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str]) -> None:
    def found(*, group: str) -> list[EntryPoint]:
        return [EntryPoint(name, value, group) for name, value in entries if group == "zsrobust.things"]

    monkeypatch.setattr(registry, "entry_points", found)


def test_a_name_is_imported_only_when_asked_for() -> None:
    things = Registry("thing", {"pi": "math:pi", "broken": "no.such.module:x"})
    assert list(things) == ["broken", "pi"]
    assert "pi" in things
    assert "tau" not in things
    assert things.address("broken") == "no.such.module:x"
    assert things["pi"] > 3


def test_an_unknown_name_gets_the_nearest_and_all_that_are_known() -> None:
    things = Registry("thing", {"alpha": "a:a", "beta": "b:b"})
    with pytest.raises(UnknownName) as caught:
        things["alfa"]
    assert str(caught.value) == "unknown thing 'alfa'; did you mean 'alpha'? (known: alpha, beta)"
    with pytest.raises(UnknownName, match=r"unknown thing 'zzz' \(known: alpha, beta\)"):
        things["zzz"]
    with pytest.raises(UnknownName, match="known: none"):
        Registry("thing", {})["x"]


def test_another_package_adds_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with_entry_points(monkeypatch, ("tau", "math:tau"))
    things = Registry("thing", {"pi": "math:pi"})
    assert list(things) == ["pi", "tau"]
    assert things["tau"] == 2 * things["pi"]
    assert list(Registry("other", {"pi": "math:pi"})) == ["pi"]


def test_a_name_means_one_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    with_entry_points(monkeypatch, ("pi", "other:pi"))
    with pytest.raises(ConfigError, match="thing 'pi' of other:pi clashes"):
        Registry("thing", {"pi": "math:pi"})["pi"]


@pytest.mark.parametrize("known", [ATTACKS, ENCODERS, METHODS], ids=lambda known: known.kind)
def test_every_built_in_name_resolves(known: Registry) -> None:
    assert list(known)
    for name in known:
        assert callable(known[name])
