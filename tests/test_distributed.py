"""Several processes: who they are, how they notice a death, and that they measure what one measures."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests import shared_runs

from zsrobust import distributed
from zsrobust.attacks import suites
from zsrobust.distributed import OfOneProcess, Stopped, Watch, World, broadcast, from_environment, total, world
from zsrobust.errors import ConfigError, DataError, RunError
from zsrobust.models import choose_device
from zsrobust.records import RecordFile

ROOT = Path(__file__).parents[1]
WHOLE = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    def given(**variables: str) -> None:
        for name in WHOLE:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    given()
    return given


def test_one_process_is_alone_and_agrees_with_itself(environment: Any) -> None:
    assert (world(), from_environment()) == (World(0, 1, 0), None)
    assert (world().main, world().alone) == (True, True)
    assert broadcast({"a": 1}) == {"a": 1}
    counts = torch.arange(3)
    assert total(counts) is counts
    with distributed.joined() as me:
        assert me.alone
    environment(**WHOLE | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"})
    with distributed.joined() as me:
        assert me.alone
    assert not dist.is_initialized()


def test_torchrun_says_who_this_process_is(environment: Any) -> None:
    environment(**WHOLE)
    me = from_environment()
    assert me == World(1, 4, 1)
    assert (me.main, me.alone) == (False, False)
    environment(MASTER_ADDR="a-cluster-sets-this-everywhere")
    assert from_environment() is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"MASTER_ADDR": ""}, "no MASTER_ADDR: start with torchrun"),
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE=four, which must be a whole number"),
        ({"WORLD_SIZE": ""}, "has RANK but no WORLD_SIZE"),
        ({"RANK": "4"}, "RANK=4, LOCAL_RANK=1 and WORLD_SIZE=4: that cannot be"),
        ({"LOCAL_RANK": ""}, "has RANK and WORLD_SIZE but no LOCAL_RANK"),
    ],
)
def test_half_an_environment_is_one_clear_line(environment: Any, change: dict[str, str], said: str) -> None:
    environment(**WHOLE | change)
    with pytest.raises(ConfigError, match=said):
        from_environment()


def test_each_process_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cuda") == "cuda"
    monkeypatch.setattr("zsrobust.models.world", lambda: World(5, 8, 1))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [choose_device(d) for d in ("auto", "cuda", "cuda:0", "cpu")] == ["cuda:1", "cuda:1", "cuda:0", "cpu"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="process 5 has no GPU: this machine has 1"):
        choose_device("auto")


def test_a_process_that_gives_no_sign_of_life_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, store = [100.0], dist.HashStore()
    monkeypatch.setattr(distributed.time, "monotonic", lambda: clock[0])
    watch = Watch(store, World(0, 3, 0))
    for _ in range(9):  # process 1 beats, process 2 is in a group that nobody joined
        store.add("beat/1", 1)
        clock[0] += distributed.PATIENCE / 3
        watch.look()
    clock[0] += distributed.PATIENCE + 1
    with pytest.raises(Stopped, match="process 1 of this job stopped; the same command goes on"):
        watch.look()
    store.set("stopped/2", "no room on its disk")
    other = Watch(store, World(0, 3, 0))
    with pytest.raises(Stopped, match="process 2 of this job stopped"):
        other.look()
    Watch(store, World(1, 3, 1)).look()  # looks at the first process only


def test_a_process_that_left_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, store = [100.0], dist.HashStore()
    monkeypatch.setattr(distributed, "store", lambda prefix="": store)
    monkeypatch.setattr(distributed, "world", lambda: World(0, 2, 0))
    for _ in range(2):  # it comes again
        with distributed._beating():
            assert store.add("beat/0", 0) > 0
        monkeypatch.setattr(distributed.time, "monotonic", lambda: clock[0])
        watch = Watch(store, World(1, 2, 1))
        for _ in range(3):
            clock[0] += distributed.PATIENCE + 1
            watch.look()


@pytest.fixture
def of_two(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Process 1 of 2, as far as errors are concerned."""
    kept = dist.HashStore()
    monkeypatch.setattr(distributed, "store", lambda prefix="": kept)
    monkeypatch.setattr(distributed, "world", lambda: World(1, 2, 1))
    monkeypatch.setattr(distributed, "AGREE", 0.2)
    return kept


def test_an_error_of_all_processes_is_told_by_the_first(of_two: Any) -> None:
    of_two.set("stopped/0", "no such task")
    error = ConfigError("no such task")
    assert distributed._last_words(error) is error
    assert of_two.get("stopped/1") == b"no such task"


def test_an_error_of_one_process_is_told_with_its_number(of_two: Any) -> None:
    for there in ("nothing yet", "another error"):
        if there == "another error":
            of_two.set("stopped/0", there)
        said = distributed._last_words(DataError("cat.png cannot be decoded"))
        assert isinstance(said, OfOneProcess)
        assert str(said) == "process 1: cat.png cannot be decoded"
    assert str(distributed._last_words(KeyError("name"))) == "process 1: KeyError: 'name'"


def test_that_the_first_process_was_killed_is_told_once(of_two: Any) -> None:
    gone = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.1.1]:9")
    told = [distributed._last_words(Stopped(0)), distributed._last_words(Stopped(0))]
    assert [type(one) for one in told] == [OfOneProcess, Stopped]
    of_two.set("stopped/0", "disk full")
    quiet = distributed._last_words(gone)
    assert type(quiet) is Stopped
    assert str(quiet) == "process 0 of this job stopped; the same command goes on from what is there"
    assert not distributed._lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not distributed._lost(RunError("x"))


# Real processes


def start(*argv: object, **variables: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-W", "error", *map(str, argv)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=ROOT, env=os.environ | variables, stdout=pipe, stderr=pipe, text=True)


def two(folder: Path, what: str) -> list[tuple[int, str, str]]:
    """(status, standard output, standard error) of two processes without torchrun: nobody takes the other down."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    same = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = [
        start("-m", "tests.shared_runs", folder, what, RANK=str(rank), LOCAL_RANK=str(rank), **same) for rank in (0, 1)
    ]
    try:
        found = []
        for process in running:
            out, error = process.communicate(timeout=120)
            found.append((process.returncode, out, error))
        return found
    finally:
        for process in running:
            process.kill()


def lines(run: Path) -> list[str]:
    return sorted((run / "records.jsonl").read_text().splitlines())


@pytest.fixture
def shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    short = shared_runs.short
    monkeypatch.setattr(suites, "SUITES", MappingProxyType({**suites.SUITES, "autoattack-few": short}))
    monkeypatch.setattr("zsrobust.attacks.lanes.SECONDS", 0.0)


class Interrupted(BaseException):
    """As Ctrl-C."""


def test_two_processes_give_the_records_of_one_also_when_they_go_on_with_its_run(
    shortened: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = shared_runs.evaluated(tmp_path / "whole")
    original, calls = RecordFile.append, [0]

    def append(self: RecordFile, records: Any) -> None:
        calls[0] += 1
        if calls[0] == 9:
            raise Interrupted
        original(self, records)

    with monkeypatch.context() as patch:
        patch.setattr(RecordFile, "append", append)
        with pytest.raises(Interrupted):
            shared_runs.evaluated(tmp_path / "begun")
    assert 0 < len(lines(tmp_path / "begun")) < len(whole.run.records)
    found = two(tmp_path, "all")
    assert [status for status, _, _ in found] == [0, 0], found
    for rank, (_, out, _) in enumerate(found):
        assert out == f"process {rank}: {len(whole.run.records)} records\n" * 2
    for name in ("new", "begun"):
        assert lines(tmp_path / name) == lines(tmp_path / "whole")
        for file in ("summary.json", "report.md"):
            assert (tmp_path / name / file).exists()


def test_a_killed_process_takes_the_job_down_and_one_process_goes_on(shortened: None, tmp_path: Path) -> None:
    shared_runs.evaluated(tmp_path / "whole")
    (status, _, error), (killed, _, _) = two(tmp_path, "killed")
    assert (status, killed) == (2, -9), error
    said = "Stopped: process 1 of this job stopped; the same command goes on from what is there\n"
    assert error.endswith(said)
    assert "Traceback" not in error
    assert 0 < len(lines(tmp_path / "killed")) < len(lines(tmp_path / "whole"))
    shared_runs.evaluated(tmp_path / "killed")
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
