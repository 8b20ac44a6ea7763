"""Latency: what is run and counted, never how long it takes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests import fakes
from torch import Tensor

from zsrobust import latency as module
from zsrobust.errors import ConfigError
from zsrobust.latency import MIB, Times, latency, threads


class Hungry(fakes.Toy):
    """Needs 48 MiB for the time of a forward pass."""

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        assert torch.ones(48 * MIB // 4).sum() > 0
        return super().encode_pixels(pixels)


def test_each_model_runs_as_often_as_it_says() -> None:
    models = [fakes.Toy(), fakes.Toy(name="other")]
    found = latency(models, batch_sizes=(1, 3), classes=7, repetitions=4, warm_up=2, progress=False)
    assert [(one.model, one.batch_size) for one in found.timings] == [
        ("toy", 1), ("other", 1), ("toy", 3), ("other", 3),
    ]  # fmt: skip
    for model in models:  # for each size: the width, warm-up, repetitions, and at most one more for the memory
        assert 14 <= model.pixel_calls <= 16
        assert model.text_calls == 0
    for one in found.timings:
        assert one.seconds.n == 4
        assert 0 < one.seconds.p10 <= one.seconds.median <= one.seconds.p90
        assert one.throughput == pytest.approx(one.batch_size / one.seconds.median)
        assert one.preprocessing is None
    assert found.timings[0].ratio == Times(1.0, 1.0, 1.0, 4)
    weights = sum(weight.numel() for weight in models[0].parameters())
    assert (found.sizes[0].parameters, found.sizes[0].bytes) == (weights, 4 * weights)
    assert found.sizes[0].visual == sum(weight.numel() for _, weight in models[0].visual_parameters())
    assert {"processor", "threads", "device", "versions"} <= set(found.machine)
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_clock_that_is_known_gives_known_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reading is one second later: preparing takes one second, scoring another."""
    now = iter(np.arange(1000.0))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(now)))
    photo = Image.new("RGB", (20, 10))
    (one,) = latency([fakes.Toy()], batch_sizes=(4,), repetitions=3, image=photo, progress=False).timings
    assert one.preprocessing == Times(1.0, 1.0, 1.0, 3)
    assert one.seconds == Times(2.0, 2.0, 2.0, 3)
    assert one.throughput == 2
    assert Times.of(list(range(11))) == Times(5.0, 1.0, 9.0, 11)


def test_peak_memory_is_that_of_a_batch() -> None:
    found = latency([Hungry(), fakes.Toy(name="modest")], batch_sizes=(1,), repetitions=2, warm_up=1, progress=False)
    hungry, modest = (one.peak_bytes for one in found.timings)
    if hungry is None or modest is None:
        assert found.memory in (module.NO_PEAK, module.RSS_PEAK)
        pytest.skip("this system does not tell the peak of a process")
    assert 44 * MIB <= hungry <= 80 * MIB
    assert modest <= 8 * MIB


def test_it_refuses() -> None:
    toy = fakes.Toy()
    for options, line in (
        ({"batch_sizes": (0,)}, "batch size must be at least 1, not 0"),
        ({"batch_sizes": ()}, "batch size must be at least 1"),
        ({"repetitions": 1}, "repetitions must be at least 2, not 1"),
        ({"classes": 0}, "classes must be at least 1, not 0"),
    ):
        with pytest.raises(ConfigError, match=line):
            latency([toy], progress=False, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="same name"):
        latency([toy, fakes.Toy()], progress=False)
    with pytest.raises(ConfigError, match="threads must be at least 1"), threads(0):
        pass
