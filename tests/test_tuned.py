"""What is measured on the device is measured once, kept, and leaves the encoders as they were."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zsrobust as zr
from zsrobust import tuned
from zsrobust.encoders import switches
from zsrobust.encoders.huggingface import HuggingFaceEncoder
from zsrobust.errors import ConfigError, RunError
from zsrobust.losses import cross_entropy
from zsrobust.passes import frozen, within_memory
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat


@pytest.fixture(scope="module")
def tiny() -> HuggingFaceEncoder:
    encoder = zr.load("tiny")
    assert isinstance(encoder, HuggingFaceEncoder)
    return encoder


def timed(monkeypatch: pytest.MonkeyPatch, seconds: Any) -> list[int]:
    """Passes take ``seconds(encoder, rows)``; what is returned fills with their rows."""
    asked: list[int] = []

    def passed(encoder: Any, pixels: Tensor, passes: str) -> float:
        asked.append(len(pixels))
        return float(seconds(encoder, len(pixels)))

    monkeypatch.setattr(tuned, "_pass", passed)
    monkeypatch.setattr(tuned, "_kept_by", lambda work: 1)
    return asked


@pytest.mark.parametrize(("eager", "chosen"), [(0.5, "eager"), (0.97, "sdpa"), (2.0, "sdpa")])
def test_another_attention_must_be_clearly_faster(
    tiny: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch, eager: float, chosen: str
) -> None:
    timed(monkeypatch, lambda encoder, rows: eager if encoder.attention == "eager" else 1.0)
    assert tuned.best_attention(tiny, rows=4) == chosen
    assert tiny.attention == "sdpa"


@pytest.mark.parametrize(("each", "turns"), [(0.01, 7), (0.5, 2), (60.0, 1)])
def test_attention_is_measured_until_its_time_is_over(
    tiny: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch, each: float, turns: int
) -> None:
    now = 0.0

    def seconds(encoder: Any, rows: int) -> float:
        nonlocal now
        now += each
        return each

    asked = timed(monkeypatch, seconds)
    monkeypatch.setattr(tuned, "time", SimpleNamespace(perf_counter=lambda: now))
    tuned.best_attention(tiny, rows=4)
    assert asked == [1, 1] + turns * [4, 4], "a short pass of each kind first, then turns"


def test_measuring_attention_touches_nothing(tiny: HuggingFaceEncoder) -> None:
    before, random_state = tiny.fingerprint(), torch.get_rng_state()
    assert tuned.best_attention(tiny, rows=4, passes="bf16") in ("sdpa", "eager")
    assert tiny.fingerprint() == before
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(weight.requires_grad or weight.grad is not None for weight in tiny.parameters())


@pytest.mark.parametrize(("fits", "measured"), [(4, 4), (3, 2), (1, 1)])
def test_attention_is_measured_on_as_many_images_as_fit(
    tiny: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch, fits: int, measured: int
) -> None:
    def seconds(encoder: Any, rows: int) -> float:
        if encoder.attention == "eager" and rows > fits:
            raise torch.OutOfMemoryError
        return 0.5 if encoder.attention == "eager" else 1.0

    asked = timed(monkeypatch, seconds)
    assert tuned.best_attention(tiny, rows=4) == "eager"
    assert asked[-1] == measured
    assert tiny.attention == "sdpa"


def test_where_not_one_image_fits_that_is_said(tiny: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(encoder: Any, rows: int) -> float:
        raise torch.OutOfMemoryError

    timed(monkeypatch, seconds)
    with pytest.raises(ConfigError, match="not one image fits into memory in a pass of tiny"):
        tuned.best_attention(tiny, rows=1)


@pytest.mark.parametrize(
    ("latency", "each", "fits", "best"),
    [(0.0, 0.01, 512, 16), (1.0, 0.01, 512, 512), (0.1, 0.01, 512, 256), (1.0, 0.01, 100, 64), (1.0, 0.01, 5, 4)],
)
def test_rows_are_the_fewest_that_are_fast_and_fit(
    tiny: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch, latency: float, each: float, fits: int, best: int
) -> None:
    """A pass takes latency + each · rows; the best throughput that is reached decides."""

    def seconds(_: Any, rows: int) -> float:
        if rows > fits:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes")
        return latency + each * rows

    asked = timed(monkeypatch, seconds)
    assert tuned.best_rows(tiny) == best
    assert max(asked) <= max(512, 2 * best)


def test_rows_stop_before_memory_does(tiny: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = timed(monkeypatch, lambda _, rows: 1.0)  # the more rows, the better
    monkeypatch.setattr(tuned, "_room", lambda device: 40)
    assert tuned.best_rows(tiny) == 32
    assert max(asked) == 32
    monkeypatch.setattr(tuned, "_room", lambda device: 0)
    with pytest.raises(ConfigError, match="not one image fits"):
        tuned.best_rows(tiny)


def test_another_error_is_not_taken_for_memory(tiny: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(_: Any, rows: int) -> float:
        raise RuntimeError("shapes do not match")

    timed(monkeypatch, seconds)
    with pytest.raises(RuntimeError, match="shapes"):
        tuned.best_rows(tiny)


def test_a_run_that_has_begun_keeps_what_it_has(
    tiny: HuggingFaceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"rows": 24, "attention": "eager", "compile": False}))
    assert tuned.evaluated_with(tmp_path) == {}  # without records it begins anew
    (tmp_path / "records.jsonl").touch()
    asked = timed(monkeypatch, lambda encoder, rows: 1.0)
    before = tuned.evaluated_with(tmp_path)
    with (
        pytest.warns(UserWarning, match="^compile changes nothing: this run was begun without it") as caught,
        tuned.tuned([tiny], before, rows="auto", attention="auto", compile=True) as rows,
    ):
        assert (rows, tiny.attention, tiny.compiled) == (24, "eager", "none")
    assert [warning.filename for warning in caught] == [__file__]
    assert asked == []
    assert tiny.attention == "sdpa"
    (tmp_path / "run.json").write_text(json.dumps({"rows": 32}))  # of an earlier version
    assert tuned.evaluated_with(tmp_path) == {"rows": 32, "attention": "sdpa", "compile": False}


def test_what_the_first_process_knows_of_a_run_holds_where_the_folder_is_not_seen(
    tiny: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {"rows": 24, "attention": "eager", "compile": False}
    monkeypatch.setattr(tuned, "broadcast", lambda value: first)
    asked = timed(monkeypatch, lambda encoder, rows: 1.0)
    with tuned.tuned([tiny], {}, rows="auto", attention="auto") as rows:
        assert (rows, tiny.attention) == (24, "eager")
    assert asked == []


def test_in_a_run_of_two_attentions_each_model_keeps_its_own(
    tiny: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = timed(monkeypatch, lambda encoder, rows: 1.0)
    models = [{"name": "another", "attention": "sdpa"}, {"name": tiny.name, "attention": "eager"}]
    before = {"rows": 24, "attention": "eager, sdpa", "models": models}
    with tuned.tuned([tiny], before, rows="auto", attention="auto"):
        assert tiny.attention == "eager"
    assert asked == []
    with tuned.tuned([tiny], {**before, "models": models[:1]}, rows="auto", attention="auto"):
        pass
    assert asked  # a model that is new in the run is measured


def test_by_default_nothing_is_measured_or_changed(tiny: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = timed(monkeypatch, lambda encoder, rows: 1.0)
    with tuned.tuned([tiny], {}, rows=32) as rows:
        assert (rows, tiny.attention, tiny.compiled) == (32, "sdpa", "none")
    assert asked == []


def test_a_compiler_that_fails_is_not_stored(tiny: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> object:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", broken)
    with (
        pytest.warns(UserWarning, match="torch.compile failed"),
        tuned.tuned([tiny], {}, rows=2, compile=True, compiled="gradients"),
    ):
        assert not switches.compiled([tiny])
    assert tiny.compiled == "none"


def test_compiling_is_tried_on_as_many_images_as_fit(tiny: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(encoder: Any, rows: int) -> float:
        if rows > 3:
            raise torch.OutOfMemoryError
        return 1.0

    asked = timed(monkeypatch, seconds)
    with tuned.tuned([tiny], {}, rows=6, compile=True, compiled="gradients") as rows:
        assert rows == 6
    assert asked == [6, 3]


def test_out_of_memory_names_the_option_that_helps() -> None:
    with pytest.raises(RunError, match=r"smaller --rows \(it is 64\)"), within_memory(64):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    with pytest.raises(RunError, match="smaller model"), within_memory(1):
        raise MemoryError
    with pytest.raises(RuntimeError, match="a bug"), within_memory(64):
        raise RuntimeError("a bug")


def test_a_thousand_classes_cost_an_attack_step_next_to_nothing(tiny: HuggingFaceEncoder) -> None:
    """The text tower is not called, and what a step keeps grows by the logits, the head and their like alone."""

    def kept(classes: int) -> int:
        rows, width = 4, tiny.encode_texts(["a"]).shape[1]
        embeddings = nn.functional.normalize(torch.rand(classes, width) - 0.5, dim=1)
        head = TextHead(tuple(map(str, range(classes))), ("{}",), embeddings)
        pixels, labels = torch.rand(rows, 3, *tiny.input_size), torch.arange(rows)
        attack = zr.PGD(Threat("linf", "1/255"), steps=1)

        def step() -> None:
            with frozen(tiny):
                attack.perturb(
                    lambda points: cross_entropy(head(tiny.encode_pixels(points), tiny.logit_scale), labels),
                    pixels,
                    keys=[(0, i) for i in range(rows)],
                )

        return tuned._kept_by(step)

    few = kept(10)
    calls: list[object] = []
    watch = tiny.model.text_model.register_forward_hook(lambda *_: calls.append(_))
    tiny.encode_texts(["a"])
    assert len(calls) == 1  # the hook would see it
    calls.clear()
    try:
        # kept(…) asks once for the width of a text feature
        many = kept(1000)
    finally:
        watch.remove()
    assert len(calls) == 1
    width = tiny.encode_texts(["a"]).shape[1]
    assert many - few <= 4 * 990 * (width + 8 * 4)
