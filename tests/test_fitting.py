"""The batch size that is found: by errors on a GPU, by measured growth on a CPU."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.fakes import Toy, task

from zsrobust import adaptation, fitting
from zsrobust.adaptation import adapt
from zsrobust.attacks.pgd import PGD
from zsrobust.distributed import World
from zsrobust.errors import ConfigError, RunError
from zsrobust.memory import peak_of, resident
from zsrobust.methods.base import Batch, Learner
from zsrobust.methods.dual import Dual
from zsrobust.methods.tecoa import TeCoA
from zsrobust.recipe import Recipe
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat
from zsrobust.training_step import Step

MIB = 2**20


def run(images: int = 20, **options: Any) -> Any:
    common: dict[str, Any] = {"attack": PGD(Threat("linf", "8/255"), 2), "epochs": 2, "lr": 0.1, "progress": False}
    return adapt(Toy(), task=task(images), **(common | options))


@pytest.mark.filterwarnings("ignore:batch_size auto")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_looking_for_the_batch_size_leaves_no_trace(optimizer: str) -> None:
    found, expected = run(batch_size="auto", optimizer=optimizer), run(batch_size=16, optimizer=optimizer)
    assert found.provenance["adaptation"]["batch_size"] == 16, "the largest power of two in 20 images"
    assert all(torch.equal(tensor, found.state_dict()[name]) for name, tensor in expected.state_dict().items())


def test_a_run_that_goes_on_keeps_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="batch_size auto: 16 images fit into memory"):
        run(run=tmp_path, batch_size="auto")
    state = json.loads(next(tmp_path.glob("checkpoints/*/state.json")).read_text())
    assert state["configuration"]["batch_size"] == 16
    monkeypatch.setattr(adaptation, "fitting_batch", lambda *_: pytest.fail("it is known"))
    run(run=tmp_path, batch_size="auto")
    with pytest.raises(RunError, match="batch_size was 16, now 8"):
        run(run=tmp_path, batch_size=8)


@pytest.mark.parametrize(
    ("free", "most", "expected"),
    [(1000, 1024, 64), (1000, 32, 32), (249, 1024, 8), (1e9, 1024, 1024), (130, 1024, 0), (200, 2, 2), (200, 1, 1)],
)
def test_a_step_grows_by_a_constant_and_so_much_an_image(
    free: float, most: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 MiB and 10 an image, of which four fifths of what is free may be taken."""
    rows: list[int] = []

    def peak(work: Any) -> int:
        work()
        return (500 + 100 + 10 * rows[-1]) * MIB

    monkeypatch.setattr(fitting, "peak_of", peak)
    monkeypatch.setattr(fitting, "resident", lambda: 500 * MIB)
    assert fitting._by_growth(rows.append, most, int(free * MIB)) == expected
    assert max(rows, default=0) <= 2 * fitting.PROBE, "a step that is too large would kill the process"


def test_on_a_gpu_it_is_tried_until_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def work(rows: int) -> None:
        tried.append(rows)
        if rows > 40:
            raise torch.OutOfMemoryError

    assert fitting._until_it_fails(work, 1024, torch.device("cpu")) == 32
    assert tried == [1, 2, 4, 8, 16, 32, 64]
    assert fitting._until_it_fails(work, 16, torch.device("cpu")) == 16


class Heavy(TeCoA):
    """On the way back from more than 4 images there is no memory."""

    def outer(self, learner: Learner, points: torch.Tensor, batch: Batch) -> torch.Tensor:
        losses = super().outer(learner, points, batch)

        def ran_out(_: torch.Tensor) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        if len(points) > 4:
            losses.register_hook(ran_out)
        return losses


@pytest.mark.parametrize("processes", [1, 2])
def test_memory_that_runs_out_on_the_way_back_ends_the_trying(processes: int) -> None:
    toy, examples = Toy(), task(20)
    parameters = dict(toy.visual_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    learner = Learner(toy, toy, TextHead.build(toy, examples.class_names, examples.templates))
    optimizer = torch.optim.SGD(list(parameters.values()), 0.1)
    attack, place = PGD(Threat(), 1), World(0, processes, 0)
    step = Step(learner, Heavy(), attack, parameters, optimizer, Recipe(batch_size="auto"), place)
    assert fitting._until_it_fails(lambda rows: fitting._tried(step, examples, rows), 16, step.device) == 4


@pytest.mark.parametrize(
    ("processes", "others", "most", "expected"),
    [(1, 0, 256, 64), (2, 32, 128, 64), (2, 128, 128, 128), (3, 32, 128, 64), (8, 32, 32, 256), (8, 64, 32, 256)],
)
def test_processes_take_what_the_smallest_can(
    processes: int, others: int, most: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This one finds 64; of 400 images the largest batch is 256."""
    asked: list[tuple[int, int]] = []

    def by_growth(_: Any, rows: int, free: int) -> int:
        asked.append((rows, free))
        return 64

    def total(own: torch.Tensor) -> torch.Tensor:
        assert own.tolist() == [0.0] * (processes - 1) + [64.0]
        return torch.tensor([float(others)] * (processes - 1) + [64.0])

    monkeypatch.setattr(fitting, "_by_growth", by_growth)
    monkeypatch.setattr(fitting, "total", total)
    monkeypatch.setattr(fitting, "available", lambda: 6000)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    step: Any = SimpleNamespace(device=torch.device("cpu"), method=TeCoA())
    assert fitting.fitting_batch(step, task(400), World(processes - 1, processes, 0)) == expected
    assert asked == [(most, 2000)], "a process tries its part of the largest batch, with its part of the memory"


def test_a_batch_that_fits_must_say_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_by_growth", lambda *_: 1)
    monkeypatch.setattr(fitting, "available", lambda: 1)
    step: Any = SimpleNamespace(device=torch.device("cpu"), method=Dual(relations=1.0))
    with pytest.raises(ConfigError, match="no batch fits into memory"):
        fitting.fitting_batch(step, task(400), World(0, 1, 0))
    step.method = Dual()  # compares no images
    assert fitting.fitting_batch(step, task(400), World(0, 1, 0)) == 1
    monkeypatch.setattr(fitting, "_by_growth", lambda *_: 0)
    with pytest.raises(ConfigError, match="no batch fits into memory"):
        fitting.fitting_batch(step, task(400), World(0, 1, 0))


def test_a_peak_is_measured() -> None:
    def fill() -> None:
        with mmap.mmap(-1, 64 * MIB) as fresh:  # what malloc gives may be memory that the process has already
            for start in range(0, 64 * MIB, mmap.PAGESIZE):
                fresh[start] = 1

    before = resident()
    grown = peak_of(fill) - before
    assert 48 * MIB < grown < 256 * MIB
    assert peak_of(lambda: None) - before < 32 * MIB


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch_size": "largest"}, "batch_size must be a whole number of at least 1, or auto, not 'largest'"),
        ({"batch_size": "auto", "micro_batch": 4}, "with a micro_batch every batch_size fits"),
    ],
)
def test_what_cannot_be_found_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        run(**options)
