"""The stored figures of speed are those of the command that is said to make them."""

from __future__ import annotations

import json

from benchmarks.speed.__main__ import OUT
from benchmarks.speed.workload import FULL


def test_the_ensemble_was_run_on_as_many_examples_as_the_command_takes() -> None:
    stored = json.loads(OUT.read_text())
    counts = {f["settings"]["examples"] for f in stored["figures"] if f["part"] == "autoattack"}
    assert (stored["workload"], stored["command"]) == ("full", "python -m benchmarks.speed")
    assert counts == {FULL.examples}
