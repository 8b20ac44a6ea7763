"""Whole jobs for programs: what is wrong with a request is one line, before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.fakes import Toy, task

from zsrobust.errors import ZSRobustError
from zsrobust.jobs import adapt_job


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"held_out": 4}, r"held_out=4 .* of a task that is given by name; .* give an open task"),
        ({"batchsize": 4}, r"unknown option of adapt 'batchsize'.*batch_size"),
        ({"held_out": 0}, r"held_out must be at least 1"),
    ],
)
def test_a_request_that_cannot_be_is_one_line(tmp_path: Path, more: dict[str, Any], line: str) -> None:
    with pytest.raises(ZSRobustError, match=line) as found:
        adapt_job(model=Toy(), task=task(8), run=tmp_path / "run", **more)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "run").exists()


def test_a_finished_job_refuses_held_out_images_that_it_never_scored(tmp_path: Path) -> None:
    examples = task(8)
    given: dict[str, Any] = {"task": examples, "run": tmp_path / "run", "epochs": 1, "batch_size": 4, "steps": 1}
    adapt_job(model="tiny", **given)
    with pytest.raises(ZSRobustError, match="held_out"):
        adapt_job(model="tiny", **given, held_out=examples)
