"""Attacks that ignore a test-time defence: made without it, judged with it, and never alone in a headline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes import CLASSES, Toy, labelled_by, task

import zsrobust as zr
from zsrobust.api import _tell_of_other_suites
from zsrobust.attacks import parse
from zsrobust.attacks.apgd import APGD
from zsrobust.attacks.base import Attack
from zsrobust.attacks.binding import check_defended, expand
from zsrobust.attacks.oblivious import Oblivious, ToTheEnd
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.suites import Suite
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.defences import wrapped
from zsrobust.errors import ConfigError
from zsrobust.evaluation import classifier_for
from zsrobust.losses import cross_entropy
from zsrobust.pixels import to_pixels
from zsrobust.report.html import html
from zsrobust.report.markdown import markdown
from zsrobust.report.words import TWO_NUMBERS
from zsrobust.threat import Threat

THREAT = Threat("linf", "8/255")
BLOBS = labelled_by(Toy(), task(12))
PIXELS, LABELS = to_pixels(BLOBS.images(range(12))), torch.from_numpy(BLOBS.labels)
IDS = range(12)


def classifiers(text: str = "jpeg") -> tuple[ZeroShotClassifier, ZeroShotClassifier]:
    bare = Toy()
    return classifier_for(bare, BLOBS, rows=4), classifier_for(wrapped(bare, text), BLOBS, rows=4)


@pytest.mark.parametrize("attack", [APGD(THREAT, 3), PGD(THREAT, 4)])
def test_images_are_those_of_the_undefended_model(attack: PGD | APGD) -> None:
    bare, defended = classifiers("ttc:samples=3")
    found = Oblivious(attack).search(defended, PIXELS, LABELS, seed=3, examples=IDS)
    alone: Attack = ToTheEnd.of(attack) if isinstance(attack, PGD) else attack
    expected = alone.search(bare, PIXELS, LABELS, seed=3, examples=IDS)
    assert torch.equal(found.pixels, expected.pixels)
    assert torch.equal(found.backwards, expected.backwards)
    assert found.claimed is None or not bool(found.claimed.any())


def test_pgd_takes_all_its_steps() -> None:
    bare, defended = classifiers()
    attack = PGD(THREAT, 5, step_size=3 / 255)

    def objective(points: torch.Tensor) -> torch.Tensor:
        return cross_entropy(bare(points), LABELS)

    last = attack.perturb(objective, PIXELS, keys=[(7, example, "pgd", 0) for example in IDS])
    found = Oblivious(attack).search(defended, PIXELS, LABELS, seed=7, examples=IDS).pixels
    broken = bare(last).argmax(1) != LABELS
    assert 0 < int(broken.sum()) < 12
    torch.testing.assert_close(found, last)


def test_a_suite_stops_at_its_first_success_without_the_defence() -> None:
    bare, defended = classifiers()
    suite = Suite("paper:aa", Threat("linf", "4/255"))
    (attack,) = expand(Oblivious(suite), len(CLASSES), lambda _: bare)
    assert attack.name == "oblivious:paper:aa"
    some: dict[str, Any] = {"pixels": PIXELS[:6], "labels": LABELS[:6], "seed": 0, "examples": range(6)}
    found = attack.search(defended, **some)
    first, second = (member.search(bare, **some) for member in suite.members(len(CLASSES)))
    assert first.claimed is not None
    assert 0 < int(first.claimed.sum()) < 6
    assert torch.equal(found.pixels, torch.where(first.claimed.view(-1, 1, 1, 1), first.pixels, second.pixels))
    assert torch.equal(found.backwards, first.backwards + torch.where(first.claimed, 0, second.backwards))


def test_another_suite_for_few_classes_goes_by_its_own_name() -> None:
    asked = parse("oblivious:autoattack", THREAT)
    (few,), (many,) = (expand(asked, classes, lambda _: Toy()) for classes in (4, 10))
    assert (few.name, many.name) == ("oblivious:autoattack-few", "oblivious:autoattack")
    assert isinstance(few, Oblivious)
    assert [member.name for member in few.parts][1:3] == ["autoattack-few/apgd:ce", "autoattack-few/apgd:dlr-t"]
    assert few.describe()["name"] == few.name
    with pytest.warns(UserWarning, match="'oblivious:autoattack' is for 10 classes or more; on blobs: 'oblivious:auto"):
        _tell_of_other_suites([asked], [BLOBS])


def test_a_model_without_a_defence_has_nothing_to_ignore() -> None:
    bare, _ = classifiers()
    attack = parse("oblivious:pgd:2", THREAT)
    with pytest.raises(ConfigError, match=r"'oblivious:pgd:2' is for a model with a test-time defence.*'toy' has none"):
        attack.search(bare, PIXELS, LABELS, seed=0, examples=IDS)  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="'toy' has none"):
        check_defended([attack], [wrapped(Toy(), "jpeg"), Toy()])
    check_defended([PGD(THREAT)], [Toy()])


def test_the_report_shows_both_numbers_and_the_headline_is_the_worse(tmp_path: Path) -> None:
    defended = wrapped(Toy(), "jpeg:quality=40")
    blobs = labelled_by(defended, task(30))
    found = zr.evaluate(defended, blobs, attacks="oblivious:pgd:4,pgd:4", threat=THREAT, run=tmp_path / "both")
    (row,) = found.summary.rows
    assert row.defended is not None
    assert row.defended.adaptive is not None
    counts = {count.attack: 1 - count.broken / 30 for count in row.by_attack}
    assert row.defended.oblivious == pytest.approx(counts["oblivious:pgd:4"])
    assert row.defended.adaptive == pytest.approx(counts["pgd:4"])
    assert row.robust <= min(row.defended.oblivious, row.defended.adaptive)
    assert "oblivious-only" not in {alarm.name for alarm in row.flags}
    numbers = [f"{100 * number:.1f}" for number in (row.defended.oblivious, row.defended.adaptive)]
    for page in (str(found), markdown(found.summary), html(found.summary)):
        assert all(word in " ".join(page.split()) for word in ("oblivious", "adaptive", *numbers, TWO_NUMBERS[:60]))

    alone = zr.evaluate(defended, blobs, attacks="oblivious:pgd:4", threat=THREAT)
    (row,) = alone.summary.rows
    assert {alarm.name: alarm.strength for alarm in row.flags}["oblivious-only"] == "proved"
    assert row.defended is not None
    assert row.defended.adaptive is None
    assert "not tried" in str(alone)
    plain = zr.evaluate(defended, blobs, attacks="pgd:4", threat=THREAT)
    assert plain.summary.rows[0].defended is None
    assert TWO_NUMBERS[:30] not in str(plain)
