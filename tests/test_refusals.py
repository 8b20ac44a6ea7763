from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.fakes import Toy, labelled_by, task

import zsrobust as zr
from zsrobust.errors import ConfigError
from zsrobust.geometry import Geometry
from zsrobust.tasks import Task

ENCODER = Toy(scale=50.0)
FIRST = labelled_by(ENCODER, task(6))


def later(**changes: object) -> Task:
    return replace(task(6, seed=1), **{"name": "later", **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("models", "second", "asked", "line"),
    [
        (
            [ENCODER, Toy(name="larger", size=8)],
            later(),
            ("pgd:1", "linf:1/255:model"),
            "in model space 'toy' is attacked on images of 6/6 bicubic and 'larger' of 8/8 bicubic: make two runs",
        ),
        (
            [ENCODER],
            later(class_names=("one",), labels=np.zeros(6, dtype=np.int64)),
            ("pgd:1", "linf:1/255"),
            "task 'later' has 1 class: there is nothing to tell apart",
        ),
        ([ENCODER], later(), ("patch:steps=1", "patch:0.02"), "task 'later': a patch of 0.02 of a 6x6 image is less"),
        (
            [ENCODER],
            later(geometry=Geometry(resize=5, crop=5)),
            ("patch:steps=1", "patch:0.03"),
            "task 'later': a patch of 0.03 of a 5x5 image is less",
        ),
    ],
)
@pytest.mark.parametrize("kept", [False, True])
def test_what_cannot_run_is_refused_before_the_first_pass(
    models: list[Toy], second: Task, asked: tuple[str, str], line: str, kept: bool, tmp_path: Path
) -> None:
    attacks, threat = asked
    first = FIRST if threat != "patch:0.02" else labelled_by(ENCODER, task(6, size=20))
    calls = [(model.pixel_calls, model.text_calls) for model in models]
    run = tmp_path / "run"
    with pytest.raises(ConfigError) as refused:
        zr.evaluate(models, [first, second], attacks=attacks, threat=threat, run=run if kept else None)
    assert str(refused.value).startswith(line)
    assert [(model.pixel_calls, model.text_calls) for model in models] == calls
    assert not run.exists()


class Deaf(Toy):
    """Its text tower does not hear case and spaces."""

    def encode_texts(self, texts):  # type: ignore[no-untyped-def]
        return super().encode_texts([" ".join(text.lower().split()) for text in texts])


@pytest.mark.parametrize("twin", ["CAT", " cat", "cat "])
def test_class_names_that_only_look_different_are_refused_before_the_first_pass(twin: str) -> None:
    deaf = Deaf()
    names = ("cat", "dog", twin, "fish")
    with pytest.raises(
        ConfigError, match=f"^task 'later': classes 'cat' and '{twin}' are the same text to model 'toy'"
    ):
        zr.evaluate(deaf, [FIRST, later(class_names=names)], attacks="pgd:1")
    assert deaf.pixel_calls == 0
    found = zr.evaluate(Toy(), later(class_names=names), attacks="pgd:1")  # this one hears them
    assert len(found.run.tasks) == 1


def test_seeds_of_numpy_are_seeds(tmp_path: Path) -> None:
    for name, seed in (("plain", 3), ("numpy", np.int64(3)), ("several", np.arange(3, 4)), ("array", np.array(3))):
        zr.evaluate(ENCODER, FIRST, attacks="pgd:1", seed=seed, run=tmp_path / name)  # type: ignore[arg-type]
        assert json.loads((tmp_path / name / "run.json").read_text())["seeds"] == [3]
    plain, *others = (
        (tmp_path / name / "records.jsonl").read_text() for name in ("plain", "numpy", "several", "array")
    )
    assert others == [plain] * 3
    for seed in (1.5, "3", [0, None]):
        with pytest.raises(ConfigError, match=r"^seed must be a whole number, or several, not "):
            zr.evaluate(ENCODER, FIRST, attacks="pgd:1", seed=seed)  # type: ignore[arg-type]


def test_a_threat_beside_attack_objects_is_refused() -> None:
    attack = zr.PGD(zr.Threat("linf", "1/255"), 1)
    with pytest.raises(ConfigError, match=r"^threat was given, but attack objects have their own: leave it out"):
        zr.evaluate(ENCODER, FIRST, attacks=attack, threat=["linf:16/255", "linf:32/255"])
    for said in ({}, {"threat": "linf:1/255"}):  # the same again does no harm
        found = zr.evaluate(ENCODER, FIRST, attacks=attack, **said)  # type: ignore[arg-type]
        assert [row.threat for row in found.summary.rows] == ["linf:1/255:native"]
