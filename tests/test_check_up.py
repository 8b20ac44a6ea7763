"""The check-up as a whole: what it counts, when it doubts, and what it refuses. Each alarm has its own tests."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from tests import planted
from tests.fakes import Toy, labelled_by, task

import zsrobust as zr
from zsrobust.check_up import CHECKS, Checkup
from zsrobust.errors import ConfigError
from zsrobust.tasks import Task
from zsrobust.threat import Threat

SIZE, LIMIT = 12, 4


def data(*, wrong: list[int] | None = None) -> Task:
    """Four images, one of each class; the honest toy is right but for the positions ``wrong``."""
    return labelled_by(Toy(size=SIZE), task(LIMIT, size=SIZE), wrong=wrong or [])


def look(kind: type[planted.Wrapped], **options: object) -> Checkup:
    given = {"threat": "linf:8/255", "limit": LIMIT, "rows": LIMIT} | options
    return zr.sanity(kind(Toy(size=SIZE)), given.pop("task", data()), given.pop("threat"), **given)  # type: ignore[arg-type]


def test_an_honest_model_gives_no_reason_for_doubt() -> None:
    said: list[str] = []
    found = look(planted.Wrapped, task=data(wrong=[2]), progress=said.append)
    assert found.alarms == ()
    assert not found.in_doubt
    assert (found.n, found.clean, found.standing) == (4, 3, 0)  # its own gradient breaks all that are right
    assert len(said) == len(set(said)) == found.checks == CHECKS
    assert found.to_json() == {
        "format": "zsrobust.sanity/1", "model": "wrapped toy", "task": "blobs", "threat": "linf:8/255:native",
        "n": 4, "clean": 3, "standing": 0, "checks": CHECKS, "in_doubt": False, "alarms": [],
    }  # fmt: skip


def test_a_masked_gradient_leaves_images_standing_that_a_black_box_breaks() -> None:
    found = look(planted.Quantised)
    assert found.in_doubt
    assert found.standing is not None
    assert 0 < found.standing <= found.clean <= found.n == LIMIT
    alarms = {alarm.name: alarm for alarm in found.alarms}
    assert alarms.keys() == {"zero-gradient", "black-box-stronger"}
    assert alarms["zero-gradient"].strength == "proved"
    assert alarms["black-box-stronger"].evidence["left_by_white_box"] == found.standing
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["in_doubt"]
    assert [alarm["name"] for alarm in told["alarms"]] == [alarm.name for alarm in found.alarms]
    assert told["alarms"][0]["evidence"] == {"images": LIMIT, "without_gradient": LIMIT}


def test_without_a_gradient_nobody_is_counted_as_standing() -> None:
    found = look(planted.Detached)
    assert [alarm.name for alarm in found.alarms] == ["zero-gradient"]
    assert found.standing is None
    assert found.clean == LIMIT


def test_the_attack_is_at_the_size_that_the_threat_names(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def full(subject, progress):  # type: ignore[no-untyped-def]
        seen.append((tuple(subject.pixels.shape), subject.threat, subject.seed, len(subject.others)))
        return []

    monkeypatch.setattr("zsrobust.check_up.full", full)
    small = task(LIMIT, size=6)
    look(planted.Detached, task=small, threat=Threat("l2", 0.5), seed=3)
    look(planted.Detached, task=small, threat="linf:1/255:model", limit=2, others=[Toy(size=SIZE)])
    assert seen == [
        ((4, 3, 6, 6), Threat("l2", 0.5), 3, 0),
        ((2, 3, SIZE, SIZE), Threat("linf", "1/255", "model"), 0, 1),
    ]


@pytest.mark.parametrize("limit", [0, -1, 65])
def test_a_limit_that_is_not_allowed(limit: int) -> None:
    with pytest.raises(ConfigError, match=f"^a check-up takes 1 to 64 examples, not {limit}$"):
        look(planted.Wrapped, limit=limit)


def test_a_task_of_one_class() -> None:
    one = replace(data(), class_names=("cat",), labels=np.zeros(LIMIT, dtype=np.int64))
    with pytest.raises(ConfigError, match=r"^task 'blobs' has 1 class: there is nothing to tell apart$"):
        look(planted.Wrapped, task=one)


def test_a_patch_is_refused_before_the_first_check() -> None:
    looked: list[str] = []
    with pytest.raises(ConfigError, match=r"^a check-up attacks within a ball, as in linf:1/255, and not within"):
        zr.sanity(Toy(), data(), "patch:0.1", progress=looked.append)
    assert looked == []
