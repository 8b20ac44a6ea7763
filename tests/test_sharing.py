"""How work is shared out and collected, without processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes import Toy, labelled_by, task

from zsrobust.attacks.pgd import PGD
from zsrobust.distributed import Watch, World
from zsrobust.errors import RunError
from zsrobust.evaluation import classifier_for, evaluate_task, unfinished
from zsrobust.records import Done, Record
from zsrobust.sharing import Collector, Exchange, Part, pieces
from zsrobust.threat import Threat

ATTACKS = [PGD(Threat("linf", "4/255"), 3)]


def record(example: int) -> Record:
    return Record("m", "t–1", example, "i", 1, 0, "clean", "none", 1, True, 0.1 + example, 0.0, 1, 0)


@given(st.lists(st.integers(0, 90), min_size=1, max_size=4), st.integers(1, 40), st.integers(1, 64), st.integers(1, 9))
def test_pieces_are_all_that_is_left_once_and_nobody_is_idle(
    counts: list[int], rows: int, most: int, processes: int
) -> None:
    left = [range(7, 7 + count) for count in counts]
    found = pieces(left, rows=rows, most=most, processes=processes)
    for number, positions in enumerate(left):
        assert [i for piece in found if piece.task == number for i in piece.positions] == list(positions)
    total, largest = sum(counts), max((len(piece.positions) for piece in found), default=0)
    assert largest <= most
    if total >= rows * processes and rows <= most:
        assert all(
            len(p.positions) >= min(rows, counts[p.task]) or p.positions[-1] == 6 + counts[p.task] for p in found
        )
    if len(counts) == 1:
        assert len(found) >= min(total / rows, processes) // 2
        assert total < processes or len(found) * 2 > processes


def test_a_part_travels_as_text() -> None:
    part = Part(2, [record(1), record(2)], 5, 1)
    assert Part.from_text(part.to_text()) == part
    assert Part.from_text(Part(0, []).to_text()) == Part(0, [])


def test_pieces_give_the_records_of_the_whole() -> None:
    encoder = Toy(scale=50.0)
    blobs = labelled_by(encoder, task(14), wrong=[3, 8])
    classifier = classifier_for(encoder, blobs, rows=4)

    def found(positions: Sequence[int] | None, done: Done) -> list[str]:
        parts = evaluate_task(classifier, blobs, ATTACKS, model="m", seed=0, done=done, positions=positions)
        return [r.to_json() for part in parts for r in part]

    whole = found(None, Done())
    done = Done()
    assert unfinished(done, ATTACKS, blobs) == list(range(14))
    split = found([1, 3, 13], done)
    rest = unfinished(done, ATTACKS, blobs)
    assert rest == [i for i in range(14) if i not in (1, 3, 13)]
    split += found(rest[5:], done) + found(rest[:5], done)
    assert sorted(split) == sorted(whole)
    assert unfinished(done, ATTACKS, blobs) == []


def until(ready: Any) -> None:
    end = time.monotonic() + 20
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_first_process_keeps_what_the_others_send_while_it_works() -> None:
    store, kept = dist.HashStore(), []
    me, other = World(0, 2, 0), Exchange(store, World(1, 2, 1))
    with Collector(store, me, lambda part: kept.append(part.records[0].example), Watch(store, me)) as collector:
        assert [Exchange(store, me).take(), other.take(), other.take()] == [0, 1, 2]
        other.send(Part(0, [record(1)]))
        collector.keep(Part(0, [record(0)]))
        until(lambda: len(kept) == 2)
        assert not collector.complete()
        other.send(Part(0, [record(2)]))
        other.finish()
        until(collector.complete)
    assert sorted(kept) == [0, 1, 2]


def test_a_full_disk_and_a_dead_process_stop_the_first_one_and_nothing_that_arrived_is_lost() -> None:
    def full(part: Part) -> None:
        raise RunError("disk full")

    me = World(0, 2, 0)
    store = dist.HashStore()
    Exchange(store, World(1, 2, 1)).send(Part(0, [record(1)]))
    with Collector(store, me, full, Watch(store, me)) as collector, pytest.raises(RunError, match="disk full"):
        until(collector.complete)

    store, kept = dist.HashStore(), []

    def work() -> None:
        with Collector(store, me, lambda part: kept.append(part.records[0].example), Watch(store, me)) as collector:
            store.set("stopped/1", "")
            until(lambda: not collector._thread.is_alive())
            Exchange(store, World(1, 2, 1)).send(Part(0, [record(7)]))
            collector.keep(Part(0, [record(8)]))

    with pytest.raises(RunError, match="process 1 of this job stopped"):
        work()
    assert kept == [7]
