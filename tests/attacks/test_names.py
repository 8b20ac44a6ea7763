"""Attacks by name: what is written is what runs, and what runs says how it is written."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsrobust import models
from zsrobust.api import resolve_attacks, strongest
from zsrobust.attacks import ATTACKS, leaves_open, parse
from zsrobust.attacks.apgd import APGD
from zsrobust.attacks.base import Attack
from zsrobust.attacks.carlini_wagner import CarliniWagner
from zsrobust.attacks.fab import FAB
from zsrobust.attacks.oblivious import Oblivious
from zsrobust.attacks.options import OF_A_MODEL
from zsrobust.attacks.patch import Patch
from zsrobust.attacks.pgd import PGD, fgsm
from zsrobust.attacks.published import Released, clipped_margin_loss
from zsrobust.attacks.square import Square
from zsrobust.attacks.suites import Suite
from zsrobust.attacks.transfer import Transfer
from zsrobust.errors import ConfigError, UnknownName
from zsrobust.losses import margin_loss
from zsrobust.threat import Threat

LINF, L2 = Threat("linf", "4/255"), Threat("l2", 0.5)

PLAIN = {
    "fgsm": fgsm(LINF),
    "pgd": PGD(LINF),
    "cw": PGD(LINF, loss=margin_loss),
    "cw-l2": CarliniWagner(L2),
    "apgd:ce": APGD(LINF, loss="ce"),
    "apgd:dlr": APGD(LINF, loss="dlr"),
    "apgd:margin": APGD(LINF, loss="margin"),
    "apgd:dlr-t": APGD(LINF, loss="dlr-t"),
    "apgd:margin-t": APGD(LINF, loss="margin-t"),
    "fab": FAB(LINF),
    "fab:t": FAB(LINF, targets=9),
    "square": Square(LINF),
    "patch": Patch(Threat("patch", 0.1)),
    "transfer:tiny": Transfer("tiny", LINF),
    "oblivious": Oblivious(PGD(LINF)),
    "autoattack": Suite("autoattack", LINF),
    "autoattack-few": Suite("autoattack-few", LINF),
    "rand": Suite("rand", LINF),
    "paper": Suite("paper", LINF),
    "paper:aa": Suite("paper:aa", LINF),
    "paper:pgd": Released(LINF),
    "paper:cw": Released(LINF, loss=clipped_margin_loss),
}

OPTIONS = {
    "pgd:20:step_size=1/255:restarts=5": PGD(LINF, 20, step_size=1 / 255, restarts=5),
    "pgd:restarts=2:steps=7": PGD(LINF, 7, restarts=2),
    "cw:50": PGD(LINF, 50, loss=margin_loss),
    "cw-l2:steps=20:binary_steps=3": CarliniWagner(L2, 20, binary_steps=3),
    "apgd:ce:steps=50:restarts=5": APGD(LINF, 50, restarts=5),
    "apgd:dlr-t:targets=3": APGD(LINF, loss="dlr-t", targets=3),
    "fab:steps=20:eta=1.1": FAB(LINF, 20, eta=1.1),
    "fab:t:targets=2": FAB(LINF, targets=2),
    "square:queries=1000:p_init=0.3": Square(LINF, 1000, p_init=0.3),
    "transfer:openai/clip-vit-base-patch32:steps=50": Transfer("openai/clip-vit-base-patch32", LINF, 50),
    r"transfer:C:\models\mine": Transfer(r"C:\models\mine", LINF),
    "transfer:./runs/a-b=c": Transfer("./runs/a-b=c", LINF),
    "transfer:runs/tower.pt:base=openai/clip-vit-base-patch32:size=336:steps=50": Transfer(
        "runs/tower.pt:base=openai/clip-vit-base-patch32:size=336", LINF, 50
    ),
    "transfer:full.pt:activation=gelu:adapted_on=digits": Transfer("full.pt:activation=gelu:adapted_on=digits", LINF),
    r"transfer:tower.pt:base=C:\mine:restarts=2": Transfer(r"tower.pt:base=C:\mine", LINF, restarts=2),
    "transfer:tower.pt:base=tiny+ttc": Transfer("tower.pt:base=tiny+ttc", LINF),
    "paper:pgd:5": Released(LINF, 5),
    "oblivious:pgd:20:step_size=1/255": Oblivious(PGD(LINF, 20, step_size=1 / 255)),
    "oblivious:apgd:dlr-t:targets=3": Oblivious(APGD(LINF, loss="dlr-t", targets=3)),
    "oblivious:paper:pgd:10": Oblivious(Released(LINF, 10)),
    "oblivious:autoattack": Oblivious(Suite("autoattack", LINF)),
}


def test_every_attack_is_tried_here() -> None:
    assert {"transfer" if name.startswith("transfer") else name for name in PLAIN} == set(ATTACKS)


@pytest.mark.parametrize(("text", "expected"), [*PLAIN.items(), *OPTIONS.items()])
def test_a_name_gives_the_attack_and_the_attack_gives_the_name(text: str, expected: Attack) -> None:
    attack = parse(text, expected.threat)
    assert attack == expected
    assert parse(attack.name, expected.threat) == attack
    assert attack.describe()["name"] == attack.name
    json.dumps(attack.describe())


@given(st.floats(1e-9, 1.0), st.integers(1, 300), st.integers(1, 9))
def test_any_step_size_comes_back(size: float, steps: int, restarts: int) -> None:
    attack = PGD(LINF, steps, step_size=size, restarts=restarts)
    assert parse(attack.name, LINF) == attack


@pytest.mark.parametrize("text", PLAIN)
def test_the_mode_sets_the_precision(text: str) -> None:
    threat = PLAIN[text].threat
    for mode, precision in (("exact", "float32"), ("float32", "float32"), ("fast", "bfloat16")):
        attack = parse(text, threat, mode=mode)  # type: ignore[arg-type]
        if isinstance(attack, Suite):
            assert attack.mode == mode
        else:
            assert attack.describe()["precision"] == precision
            assert attack.name == parse(text, threat).name


def test_an_option_written_after_the_name_wins() -> None:
    assert parse("pgd", LINF, steps=7, restarts=2) == PGD(LINF, 7, restarts=2)
    assert parse("pgd:20:restarts=5", LINF, steps=7, restarts=2) == PGD(LINF, 20, restarts=5)
    assert parse("pgd:20", LINF, step_size="1/255", restarts=None) == PGD(LINF, 20, step_size=1 / 255)
    assert leaves_open("pgd", "steps")
    assert leaves_open("apgd:ce", "steps")
    assert not leaves_open("pgd:20", "steps")
    assert not leaves_open("pgd:steps=20", "steps")
    assert not leaves_open("apgd:ce", "targets")
    assert not leaves_open("autoattack", "steps")
    assert not leaves_open("pgd", "precision")
    assert leaves_open("oblivious", "steps")
    assert leaves_open("oblivious:pgd:20", "restarts")
    assert not leaves_open("oblivious:pgd:20", "steps")
    assert not leaves_open("oblivious:pgd:20:restarts=2", "restarts")
    assert not leaves_open("oblivious:steps=3", "steps")
    assert parse("oblivious:pgd:20:restarts=5", LINF, steps=7, restarts=2) == Oblivious(PGD(LINF, 20, restarts=5))
    assert parse("oblivious", LINF, steps=7) == parse("oblivious:steps=7", LINF) == Oblivious(PGD(LINF, 7))
    assert parse("oblivious:attack=cw", LINF) == Oblivious(PGD(LINF, loss=margin_loss))
    assert parse("transfer:tiny+ttc", LINF, steps=3) == Transfer("tiny+ttc", LINF, 3)
    assert parse("transfer:f.pt:steps=3:base=tiny", LINF) == Transfer("f.pt:base=tiny", LINF, 3)
    assert parse("transfer:model=f.pt:base=tiny", LINF, steps=3) == Transfer("f.pt:base=tiny", LINF, 3)


def test_a_models_options_are_those_that_stay_with_it() -> None:
    assert OF_A_MODEL == models.OPTIONS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pdg:20", "unknown attack 'pdg'; did you mean 'pgd'?"),
        ("apgd", "unknown attack 'apgd'; did you mean 'apgd:"),
        ("apgd:dlrt", "unknown attack 'apgd:dlrt'; did you mean 'apgd:dlr-t'?"),
        ("fab:9", "unknown attack 'fab:9'; did you mean 'fab:t'?"),
        ("pgd:20:restart=3", "unknown option of attack 'pgd' 'restart'; did you mean 'restarts'? (known: rest"),
        ("pgd:20:precision=bfloat16", "unknown option of attack 'pgd' 'precision'"),
        ("square:1000", "'square:1000': nothing but horizon=…, p_init=…, queries=…, restarts=… may follow square"),
        ("autoattack:9", "attack 'autoattack' takes no argument and no options"),
        ("autoattack:steps=9", "attack 'autoattack' takes no argument and no options"),
        ("pgd:20:steps=30", "attack 'pgd:20:steps=30' has the option 'steps' twice"),
        ("pgd:steps=2:steps=3", "attack 'pgd:steps=2:steps=3' has the option 'steps' twice"),
        ("pgd:restarts=two", "attack 'pgd:restarts=two': restarts must be a whole number, not 'two'"),
        ("pgd:restarts=", "restarts must be a whole number, not ''"),
        ("pgd:step_size=1", "step_size = 1 is ambiguous: did you mean 1/255?"),
        ("square:p_init=big", "p_init must be a number, not 'big'"),
        ("transfer", "attack 'transfer' needs a model to come from, for example transfer:tiny"),
        ("transfer:tiny:steps=0", "at least 1 step"),
        ("transfer:tiny:bse=tiny", "unknown option of attack 'transfer' 'bse'"),
        ("transfer:f.pt:base=tiny+ttc:steps=3", "does not say whether steps is of the transfer or of the defence"),
        ("cw-l2", "cannot search linf"),
        ("oblivious:pdg", "unknown attack 'pdg'; did you mean 'pgd'?"),
        ("oblivious:pgd:20:restart=3", "unknown option of attack 'pgd' 'restart'"),
        ("oblivious:pgd:20:steps=5", "attack 'pgd:20:steps=5' has the option 'steps' twice"),
        ("oblivious:paper:pgd:20:steps=5", "attack 'paper:pgd:20:steps=5' has the option 'steps' twice"),
        ("oblivious:cw:attack=pgd", "attack 'oblivious:cw:attack=pgd' has the option 'attack' twice"),
        (
            "transfer:tiny+ttc:steps=3",
            "'transfer:tiny+ttc:steps=3' does not say whether steps is of the transfer or of the defence: beside "
            "transfer:tiny+ttc, --steps 3 is of the transfer; ",
        ),
        ("transfer:tiny+jpeg:quality=50", "does not say whether quality is of the transfer or of the defence: "),
        ("transfer:model=tiny+ttc:steps=3:restarts=2", "whether restarts, steps are of the transfer or of the defence"),
        ("oblivious:transfer:tiny", "takes an attack on the model itself, not 'transfer:tiny'"),
        ("oblivious:oblivious:pgd", "takes an attack on the model itself, not 'oblivious:pgd:10'"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, LINF)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"steps": 2.5}, {"steps": True}, {"restarts": "two"}, {"speed": 3}])
def test_options_from_a_program_are_checked_too(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"must be a whole number|unknown option of attack 'pgd' 'speed'"):
        parse("pgd", LINF, **options)


def test_an_unknown_mode() -> None:
    with pytest.raises(UnknownName, match="unknown mode 'fats'; did you mean 'fast'"):
        parse("pgd", LINF, mode="fats")  # type: ignore[arg-type]


# An attack of a user's package


@dataclass(frozen=True)
class Noise:
    threat: Threat
    argument: str | None
    power: float
    tries: int


def test_an_attack_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(threat: Threat, argument: str | None, *, power: float = 1.0, tries: int = 3) -> Noise:
        return Noise(threat, argument, power, tries)

    def anything(threat: Threat, argument: str | None, **options: object) -> object:
        return argument, options

    module = ModuleType("zsrobust_noise")
    module.make, module.anything = make, anything  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zsrobust_noise", module)
    monkeypatch.setitem(ATTACKS._addresses, "noise", "zsrobust_noise:make")
    monkeypatch.setitem(ATTACKS._addresses, "free", "zsrobust_noise:anything")
    assert parse("noise", LINF, mode="fast") == Noise(LINF, None, 1.0, 3)
    assert parse("noise:white:power=2:tries=4", LINF) == Noise(LINF, "white", 2.0, 4)
    assert parse("noise", LINF, tries=5) == Noise(LINF, None, 1.0, 5)
    with pytest.raises(UnknownName, match="did you mean 'power'"):
        parse("noise:powr=2", LINF)
    assert parse("free:x:y:colour=red", LINF, tries=5) == ("x:y", {"colour": "red", "tries": 5})


# Several at once


def test_options_go_to_the_attacks_that_have_them() -> None:
    found = resolve_attacks("pgd,apgd:dlr-t, fgsm,autoattack", LINF, steps=5, targets=2, restarts=None)
    assert found == [
        PGD(LINF, 5), APGD(LINF, 5, loss="dlr-t", targets=2), fgsm(LINF), Suite("autoattack", LINF),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("attacks", "options"),
    [("fgsm,autoattack", {"steps": 5}), ("pgd:20", {"steps": 5}), ("apgd:ce", {"targets": 5}), ("fab", {"queries": 9})],
)
def test_an_option_that_changes_nothing_is_refused(attacks: str, options: dict[str, int]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=f"{name} was given, but '.*' cannot take it, or set it already"):
        resolve_attacks(attacks, LINF, **options)
    with pytest.raises(ConfigError, match="attack objects cannot take it"):
        resolve_attacks(PGD(LINF), LINF, **options)


def test_a_threat_is_for_names_and_refused_where_there_are_none() -> None:
    assert resolve_attacks("pgd", None) == [PGD(Threat("linf", "1/255"))]
    assert resolve_attacks([PGD(L2), "pgd"], LINF) == [PGD(L2), PGD(LINF)]
    assert resolve_attacks(PGD(L2), None) == [PGD(L2)]
    with pytest.raises(ConfigError, match=r"^threat was given, but attack objects have their own"):
        resolve_attacks(PGD(L2), [LINF])


def test_two_attacks_that_differ_in_an_option_are_two_and_the_same_twice_is_refused() -> None:
    names = [attack.name for attack in resolve_attacks("pgd:20,pgd:20:step_size=1/255", [LINF, L2])]
    assert names == ["pgd:20"] * 2 + ["pgd:20:step_size=1/255"] * 2
    with pytest.raises(ConfigError, match="attack 'pgd:10' at linf:4/255:native is given twice"):
        resolve_attacks("pgd,pgd:steps=10", LINF)


def test_pictures_are_of_an_attack_that_climbs_by_itself() -> None:
    weak, strong = Threat("linf", "1/255"), Threat("linf", "8/255")
    assert strongest([PGD(weak), APGD(strong), PGD(strong)]) == APGD(strong)
    assert strongest([Square(strong), PGD(weak)]) == PGD(strong, 50)
    assert strongest([PGD(Threat("l2", 0.5)), PGD(weak)]) == PGD(weak)
    assert strongest([Suite("autoattack", strong), Transfer("tiny", strong)]) == PGD(strong, 50)
