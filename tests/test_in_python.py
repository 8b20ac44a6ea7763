"""What a researcher's own program does around the library, and must not change a number."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.fakes import Toy, labelled_by, task
from torch import Tensor

import zsrobust as zr
from zsrobust.attacks.base import Outcome
from zsrobust.encoders.huggingface import HuggingFaceEncoder
from zsrobust.errors import ConfigError
from zsrobust.text_head import TextHead

HARD = {"attacks": "pgd:5", "threat": "linf:32/255"}


@pytest.fixture
def encoder() -> Toy:
    return Toy(scale=50.0)


@pytest.fixture(scope="module")
def tiny() -> HuggingFaceEncoder:
    model = zr.load("tiny")
    assert isinstance(model, HuggingFaceEncoder)
    return model


def test_an_attack_that_writes_into_what_it_is_given_gains_nothing(encoder: Toy) -> None:
    class Vandal:
        name, threat = "vandal", zr.Threat("linf", "1/255")

        def describe(self) -> dict[str, object]:
            return {"name": self.name}

        def search(self, model: Any, pixels: Tensor, labels: Tensor, *, seed: int, examples: Sequence[int]) -> Outcome:
            labels.fill_(0)
            return Outcome(pixels.mul_(0).add_(0.5), torch.zeros(len(pixels)), torch.zeros(len(pixels)))

    blobs = labelled_by(encoder, task(12))
    found = zr.evaluate(encoder, blobs, attacks=Vandal())  # type: ignore[arg-type]
    attacked = [record for record in found.run.records if record.attack == "vandal"]
    assert {record.label for record in attacked} == {int(label) for label in blobs.labels}
    sizes = [record.size for record in attacked]
    assert min(sizes) > 0
    assert max(sizes) <= 1 / 255 + 1e-6


def test_inference_mode_around_a_call_changes_nothing(encoder: Toy, tiny: HuggingFaceEncoder, tmp_path: Path) -> None:
    blobs = labelled_by(encoder, task(12))
    plain = zr.evaluate(encoder, blobs, **HARD)  # type: ignore[arg-type]
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            found = zr.evaluate(encoder, blobs, **HARD)  # type: ignore[arg-type]
        assert [row.robust for row in found.summary.rows] == [row.robust for row in plain.summary.rows]
        assert [row.flags for row in found.summary.rows] == [row.flags for row in plain.summary.rows]
    with torch.inference_mode():
        assert not TextHead.build(tiny, ["a word", "another"], ["{}"], cache=tmp_path).embeddings.is_inference()


def test_a_limit_of_numpy_is_a_limit(encoder: Toy) -> None:
    blobs = labelled_by(encoder, task(12))
    assert zr.evaluate(encoder, blobs, limit=np.int64(2), **HARD).summary.rows[0].n == 2  # type: ignore[arg-type]
    for limit in (2.0, "4"):
        with pytest.raises(ConfigError, match=r"^limit = .* must be a whole number of at least 1$"):
            zr.evaluate(encoder, blobs, limit=limit, **HARD)  # type: ignore[arg-type]


def test_a_text_of_names_is_read_as_on_the_command_line() -> None:
    (chosen,) = zr.api.resolve_tasks("digits", select="digit 0, digit 1", templates="a {}.", limit=4)
    assert (chosen.class_names, chosen.templates) == (("digit 0", "digit 1"), ("a {}.",))
    with pytest.raises(ConfigError, match="class names given: 2, but"):
        zr.api.resolve_tasks("digits", classes="robin,wren")


def test_one_thread_in_bfloat16_leaves_the_others_in_float32(tiny: HuggingFaceEncoder) -> None:
    pixels = torch.rand(2, 3, *tiny.input_size)
    exact, other = tiny.encode_pixels(pixels), []
    with tiny.lowered():
        rough = tiny.encode_pixels(pixels)
        thread = threading.Thread(target=lambda: other.append(tiny.encode_pixels(pixels)))
        thread.start()
        thread.join()
    assert torch.equal(other[0], exact)
    assert not torch.equal(rough, exact)


def test_weights_edited_by_hand_are_attacked_as_they_are(tiny: HuggingFaceEncoder) -> None:
    def found(model: HuggingFaceEncoder) -> list[float]:
        told = zr.evaluate(model, "digits", limit=4, mode="fast", attacks="pgd:1", threat="linf:1/255")
        return [record.margin for record in told.run.records]

    model = tiny.copy()
    found(model)
    for _, weight in model.visual_parameters():
        weight.data.mul_(1.01)
    fresh = tiny.copy()
    for _, weight in fresh.visual_parameters():
        weight.data.mul_(1.01)
    assert found(model) == found(fresh)


def test_what_is_not_open_is_one_line(encoder: Toy) -> None:
    blobs, attack = labelled_by(encoder, task(4)), zr.PGD(zr.Threat("linf", "1/255"), 1)
    wrong: list[tuple[Any, str]] = [
        (lambda: zr.adapt("tiny", task=blobs, attack=attack), "'tiny' is no encoder: zsrobust.load"),  # type: ignore[arg-type]
        (lambda: zr.adapt(encoder, task="digits", attack=attack), "'digits' is no task: zsrobust.task"),  # type: ignore[arg-type]
        (lambda: zr.sanity("tiny", blobs, "linf:1/255"), "'tiny' is no encoder: zsrobust.load"),  # type: ignore[arg-type]
        (lambda: zr.sanity(encoder, "digits", "linf:1/255"), "'digits' is no task: zsrobust.task"),  # type: ignore[arg-type]
        (lambda: zr.evaluate(torch.nn.Linear(2, 2), blobs), "a Linear is no encoder: zsrobust.load"),  # type: ignore[arg-type]
        (lambda: zr.evaluate(Path("nowhere/model"), blobs), "nowhere/model"),  # type: ignore[arg-type]
    ]
    for call, line in wrong:
        with pytest.raises(zr.ZSRobustError) as caught:
            call()
        assert line in str(caught.value)
