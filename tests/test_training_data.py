"""The batches of a run: who takes which images, in which order, whoever decodes them."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes import Toy, task

from zsrobust import adaptation, training_data
from zsrobust.adaptation import adapt
from zsrobust.attacks.pgd import PGD
from zsrobust.distributed import World
from zsrobust.methods.gathering import Share, gathered, part
from zsrobust.tasks import Task
from zsrobust.threat import Threat
from zsrobust.training_data import Feed, decoding_threads, rows_at_once

CPU = torch.device("cpu")
ALONE = World(0, 1, 0)


@given(count=st.integers(1, 40), size=st.integers(1, 12))
def test_processes_share_a_batch_without_gap_or_overlap(count: int, size: int) -> None:
    shares = [part(count, rank, size) for rank in range(size)]
    own = [range(share.first, share.first + share.rows) for share in shares if share.counts]
    assert list(itertools.chain(*own)) == list(range(count))
    assert all(share.rows >= 1 and share.of == count for share in shares)
    assert max(map(len, own)) - min(map(len, own)) <= 1
    assert all((share.first, share.rows) == (0, 1) for share in shares if not share.counts)


def test_a_whole_batch_is_gathered_as_it_is() -> None:
    rows = torch.rand(3, 2)
    assert gathered(rows, Share(0, 3, 3)) is rows


def fed(examples: Task, *, first: int = 0, world: World = ALONE) -> list[training_data.Part]:
    return list(Feed(examples, 5, 3, CPU, first=first, steps=8, world=world))


def test_threads_change_neither_order_nor_content(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, images = fed(task(17)), Task.images
    lazy = itertools.cycle([0.02, 0.0, 0.01])

    def slow(self: Task, indices: Any) -> np.ndarray:
        time.sleep(next(lazy))
        return images(self, indices)

    monkeypatch.setattr(Task, "images", slow)
    monkeypatch.setattr(training_data, "decoding_threads", lambda _: 4)
    found = fed(task(17))
    assert [len(part.keys) for part in found] == [5, 5, 5, 2] * 2
    for one, other in zip(found, expected, strict=True):
        assert one.keys == other.keys
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.truth, other.truth)
    assert [part.keys for part in fed(task(17), first=3)] == [part.keys for part in expected[3:]]


def test_the_parts_of_two_processes_are_the_batch() -> None:
    whole, *halves = fed(task(17)), *(fed(task(17), world=World(rank, 2, rank)) for rank in (0, 1))
    for batch, one, other in zip(whole, *halves, strict=True):
        assert batch.keys == one.keys + other.keys
        assert torch.equal(batch.pixels, torch.cat([one.pixels, other.pixels]))


def test_images_are_decoded_while_the_loop_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_data, "decoding_threads", lambda _: 3)
    images, begun = Task.images, threading.Semaphore(0)

    def noted(self: Task, indices: Any) -> np.ndarray:
        begun.release()
        return images(self, indices)

    monkeypatch.setattr(Task, "images", noted)
    batches = iter(Feed(task(17), 5, 0, CPU, first=0, steps=8, world=World(0, 1, 0)))
    next(batches)
    assert all(begun.acquire(timeout=10) for _ in range(5)), "this one, and four ahead"
    assert not begun.acquire(timeout=0.05), "and no more"
    batches.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("zsrobust-decode")]


@pytest.mark.parametrize(
    ("cores", "torch_threads", "here", "device", "expected"),
    [
        (2, 2, "1", "cpu", 1), (16, 4, "1", "cpu", 8), (8, 4, "1", "cpu", 4), (16, 1, "8", "cuda", 1),
        (1, 1, "", "cpu", 1),
    ],
)  # fmt: skip
def test_images_are_decoded_by_cores_that_are_left(
    cores: int, torch_threads: int, here: str, device: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: torch_threads)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    assert decoding_threads(torch.device(device)) == expected


@pytest.mark.parametrize(
    ("batch_size", "micro_batch", "processes", "expected"),
    [(256, None, 1, 256), (256, None, 8, 32), (10, None, 4, 3), (256, 16, 1, 16), (256, 16, 32, 8), (4, 9, 1, 4)],
)
def test_no_pass_is_larger_than_a_part_or_a_piece_of_it(
    batch_size: int, micro_batch: int | None, processes: int, expected: int
) -> None:
    assert rows_at_once(batch_size, micro_batch, processes) == expected


def test_a_feed_adds_up_what_the_loop_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(training_data, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    feed = Feed(task(17), 5, 3, CPU, first=5, steps=8, world=ALONE)
    assert [feed.waited for _ in feed] == [1.0, 2.0, 3.0], "one tick passes while it waits for a batch"


def test_metrics_say_how_long_the_loop_waited_and_count_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Feed):
        waited = property(lambda _: 4.0, lambda *_: None)  # type: ignore[assignment]

    clock = itertools.count(100.0, 10.0)
    monkeypatch.setattr(adaptation, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(adaptation, "Feed", Slow)
    common: dict[str, Any] = {"attack": PGD(Threat(), 1), "epochs": 1, "batch_size": 6, "progress": False}
    adapt(Toy(), task=task(16), run=tmp_path, **common)
    (line,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert line["waiting"] == 0.4
    assert line["images_per_second"] == 1.6, "the last batch has 4 images"
