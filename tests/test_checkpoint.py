"""Checkpoints: whole or absent, of this run or refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from zsrobust.checkpoint import Position, latest, restore, save
from zsrobust.errors import RunError
from zsrobust.recipe import OPTIMIZERS

CONFIGURATION = {"lr": 0.1, "method": {"name": "tecoa", "scale": None}, "templates": ["a {}"]}


def model(seed: int = 0, width: int = 3) -> tuple[dict[str, nn.Parameter], nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(2, width), nn.Linear(width, 2))
    return dict(sorted(net.named_parameters())), net


def step(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    net(torch.randn(4, 2, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("before", [0, 2])
def test_training_goes_on_bit_for_bit(name: str, before: int, tmp_path: Path) -> None:
    parameters, net = model()
    optimizer = OPTIMIZERS[name](list(parameters.values()), 0.1, 0.01)
    for i in range(before):
        step(net, optimizer, i)
    torch.manual_seed(5)
    path = save(tmp_path, Position(before, {"mean": 1.5}), parameters, optimizer, CONFIGURATION)
    expected_draw = torch.rand(3)
    step(net, optimizer, 99)

    others, twin = model(seed=1)
    fresh = OPTIMIZERS[name](list(others.values()), 0.1, 0.01)
    assert restore(path, others, fresh, CONFIGURATION) == Position(before, {"mean": 1.5})
    assert torch.equal(torch.rand(3), expected_draw)
    step(twin, fresh, 99)
    assert all(torch.equal(others[key], parameters[key]) for key in parameters)
    mine, theirs = fresh.state_dict()["state"], optimizer.state_dict()["state"]
    assert mine.keys() == theirs.keys() == set(range(4))
    for i in mine:
        assert all(torch.equal(mine[i][key], theirs[i][key]) for key in theirs[i])


def saved(folder: Path, steps: int, *, width: int = 3) -> Path:
    parameters, net = model(width=width)
    optimizer = OPTIMIZERS["sgd"](list(parameters.values()), 0.1, 0.0)
    step(net, optimizer, 0)
    return save(folder, Position(steps, {}), parameters, optimizer, CONFIGURATION)


def restored(path: Path, configuration: Any = CONFIGURATION, *, width: int = 3) -> Position:
    parameters, _ = model(width=width)
    return restore(path, parameters, OPTIMIZERS["sgd"](list(parameters.values()), 0.1, 0.0), configuration)


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    assert latest(tmp_path / "nothing") is None
    for steps in (5, 90, 100, 1000):
        assert latest(tmp_path) != saved(tmp_path, steps) == latest(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000100", "step-00001000"]


def test_saving_a_step_again_replaces_it_and_what_a_kill_left(tmp_path: Path) -> None:
    left = tmp_path / ".step-00000003.tmp"
    left.mkdir()
    (left / "weights.safetensors").write_bytes(b"half")
    assert latest(tmp_path) is None
    saved(tmp_path, 3)
    assert restored(saved(tmp_path, 3)).step == 3
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "weights cut": lambda p: cut(p / "weights.safetensors"),
    "weights empty": lambda p: (p / "weights.safetensors").write_bytes(b""),
    "optimizer cut": lambda p: cut(p / "optimizer.safetensors"),
    "optimizer missing": lambda p: (p / "optimizer.safetensors").unlink(),
    "optimizer of other content": lambda p: (p / "weights.safetensors").replace(p / "optimizer.safetensors"),
    "state cut": lambda p: cut(p / "state.json"),
    "state no object": lambda p: (p / "state.json").write_text("[]"),
    "state incomplete": lambda p: (p / "state.json").write_text('{"format": "zsrobust.checkpoint/1", "step": 3}'),
    "all missing": lambda p: [file.unlink() for file in p.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    path = saved(tmp_path, 3)
    DAMAGE[damage](path)
    with pytest.raises(RunError, match=r"step-00000003 cannot be read .*remove it to go on from the one before"):
        restored(path)


def test_another_format_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, 3)
    (path / "state.json").write_text('{"format": "zsrobust.checkpoint/2", "position": 3}')
    with pytest.raises(
        RunError, match=r"written as 'zsrobust\.checkpoint/2', this version reads 'zsrobust\.checkpoint/1'"
    ):
        restored(path)


def test_another_configuration_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, 3)
    assert restored(path).step == 3
    with pytest.raises(RunError, match=r"another configuration: lr was 0\.1, now 0\.2"):
        restored(path, CONFIGURATION | {"lr": 0.2})
    with pytest.raises(RunError, match="another configuration: warmup was not set, now 1"):
        restored(path, CONFIGURATION | {"warmup": 1})
    with pytest.raises(RunError, match=r"method\.scale was not set, now 3\.0"):
        restored(path, CONFIGURATION | {"method": {"name": "tecoa", "scale": 3.0}})
    assert restored(path, CONFIGURATION | {"templates": ("a {}",)}).step == 3  # JSON has no tuples


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"attention": "eager"}, "attention was 'sdpa', now 'eager'"),
        ({"compile": True}, "compile was False, now True"),
        ({"attack_precision": "bfloat16"}, "attack_precision was 'same', now 'bfloat16'"),
        ({"micro_batch": 4}, "micro_batch was not set, now 4"),
    ],
)
def test_what_a_configuration_leaves_out_is_told_as_it_is(option: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"another configuration: {told};"):
        restored(saved(tmp_path, 3), CONFIGURATION | option)


def test_another_model_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, 3)
    with pytest.raises(RunError, match=r"belongs to another model: 0\.bias is \(3,\)"):
        restored(path, width=4)
    parameters, _ = model()
    del parameters["0.bias"]
    with pytest.raises(RunError, match="belongs to another model: it holds 4 tensors, not 3"):
        restore(path, parameters, OPTIMIZERS["sgd"](list(parameters.values()), 0.1, 0.0), CONFIGURATION)


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """The system refuses to write files beyond ``size`` bytes, as a full disk would."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [64, 500])
def test_a_full_disk_is_one_line_and_leaves_the_others_alone(size: int, tmp_path: Path) -> None:
    before = saved(tmp_path, 3)
    parameters, net = model()
    optimizer = OPTIMIZERS["sgd"](list(parameters.values()), 0.1, 0.0)
    step(net, optimizer, 0)
    with room_for(size), pytest.raises(RunError) as caught:
        save(tmp_path, Position(6, {}), parameters, optimizer, CONFIGURATION)
    assert re.search("cannot write .*step-00000006: .*; nothing already saved is lost", str(caught.value))
    assert "\n" not in str(caught.value)
    assert latest(tmp_path) == before
    assert restored(before).step == 3
    assert latest(tmp_path) != saved(tmp_path, 6)


def test_a_folder_under_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write .*step-00000003"):
        saved(tmp_path / "file" / "checkpoints", 3)


def test_the_state_can_be_read_by_eye(tmp_path: Path) -> None:
    path = saved(tmp_path, 3)
    state = json.loads((path / "state.json").read_text())
    assert state == {"format": "zsrobust.checkpoint/1", "step": 3, "losses": {}, "configuration": CONFIGURATION}
    assert load_file(path / "weights.safetensors").keys() == {"0.bias", "0.weight", "1.bias", "1.weight"}
