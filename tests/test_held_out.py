"""Scores on held-out images: in fp16 the attack is as strong as in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.fakes import Toy, labelled_by, task

from zsrobust.attacks.pgd import PGD
from zsrobust.distributed import World
from zsrobust.held_out import Examiner
from zsrobust.methods.base import Learner
from zsrobust.methods.tecoa import TeCoA
from zsrobust.recipe import Precision
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat


def examiner(precision: Precision, rows: int = 8) -> Examiner:
    """Of a model that is so sure that in fp16 its loss has no slope."""
    toy: Any = Toy(scale=100.0)
    examples = labelled_by(toy, task(24))
    learner = Learner(toy, toy, TextHead.build(toy, examples.class_names, examples.templates))
    attack = PGD(Threat("linf", "16/255"), 2)
    return Examiner(examples, learner, TeCoA(), attack, rows=rows, precision=precision, seed=0, world=World(0, 1, 0))


def test_in_fp16_images_are_scored_in_float32() -> None:
    exact, half = examiner("float32").scores(), examiner("fp16").scores()
    assert half == exact
    assert exact["held_out_clean_accuracy"] == 1
    assert 0 < exact["held_out_robust_accuracy"] < 0.9


@pytest.mark.parametrize(("precision", "passed"), [("float32", 8), ("bf16", 8), ("fp16", 4)])
def test_float32_in_the_place_of_fp16_takes_no_more_memory(
    precision: Precision, passed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    encode = Toy.encode_pixels

    def watched(toy: Toy, pixels: torch.Tensor) -> torch.Tensor:
        rows.append(len(pixels))
        return encode(toy, pixels)

    found = examiner(precision)
    monkeypatch.setattr(Toy, "encode_pixels", watched)
    found.scores()
    assert set(rows) == {passed}
