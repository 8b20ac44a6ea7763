"""Everything a training loop needs to go on as if nothing had happened.

A checkpoint is a folder ``step-00000120`` with the adapted weights and the optimizer's state (safetensors) and a
readable ``state.json``. It is written beside its place and renamed, so a checkpoint that has its name is whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zsrobust.errors import RunError
from zsrobust.recipe import LATER
from zsrobust.run_folder import writing

FORMAT = "zsrobust.checkpoint/1"
KEEP = 2
_STATE = {"format", "step", "losses", "configuration"}
_MAY = {"scaler"}
CIRCUMSTANCES = ("threads", "processes")
"""Of a configuration, what may change when a run goes on: then the rest of it is the same up to rounding only."""
SWITCHES: Mapping[str, object] = {"attention": "sdpa", "compile": False}
"""What the switches of an encoder are in a run that does not say."""


@dataclass(frozen=True)
class Position:
    """Where training is.

    Attributes:
        step: Optimizer steps done.
        losses: What the divergence guard remembers.
        scaler: State of the loss's scaling in fp16; empty without one.
        changed: Which of :data:`CIRCUMSTANCES` are not what they were at the beginning, each in words.
    """

    step: int
    losses: Mapping[str, float]
    scaler: Mapping[str, Any] = field(default_factory=dict)
    changed: Sequence[str] = ()


@contextmanager
def claimed(run: Path) -> Iterator[None]:
    """Makes the run folder and keeps it for this process until the end: two would overwrite each other's checkpoints.

    Raises:
        RunError: another process has it, or it cannot be written.
    """
    with writing(run):
        run.mkdir(parents=True, exist_ok=True)
        stream = (run / ".adapt.lock").open("ab")
    with stream:
        try:
            import fcntl

            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{run} is being adapted in by another process; wait for it, or use another run folder"
            ) from None
        except (ImportError, OSError):
            pass  # Windows, or a file system without locks: two at once are not noticed
        yield


def save(
    folder: Path,
    position: Position,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    configuration: Mapping[str, object],
) -> Path:
    """Writes ``folder/step-N`` atomically and removes all but the last two.

    Raises:
        RunError: the disk is full or the folder read-only; earlier checkpoints are untouched.
    """
    final = folder / f"step-{position.step:08d}"
    temporary = folder / f".{final.name}.tmp"
    with writing(final):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _save_tensors(temporary / "weights.safetensors", {n: p.detach() for n, p in parameters.items()})
        _save_tensors(
            temporary / "optimizer.safetensors", _flatten(optimizer) | {"random_state": torch.get_rng_state()}
        )
        state = {"format": FORMAT, "step": position.step, "losses": position.losses, "configuration": configuration}
        state |= {"scaler": position.scaler} if position.scaler else {}
        (temporary / "state.json").write_text(json.dumps(state, indent=1))
        for file in [*temporary.iterdir(), temporary]:
            _sync(file)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        _sync(folder)
    for old in _steps(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    try:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, path)
    except Exception as error:  # safetensors wraps the operating system's errors in its own type
        raise OSError(0, str(error)) from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _steps(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"step-\d{8}", path.name))


def latest(folder: Path) -> Path | None:
    """The newest checkpoint, None where there is none."""
    steps = _steps(folder)
    return steps[-1] if steps else None


def restore(
    path: Path,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    configuration: Mapping[str, object],
) -> Position:
    """Loads a checkpoint into the weights, the optimizer and torch's random state.

    Raises:
        RunError: another configuration (the first key that differs is named), or a file that is not what it should
            be.
    """
    try:
        state = _state(path)
        weights = load_file(path / "weights.safetensors")
        tensors = load_file(path / "optimizer.safetensors")
        random_state = tensors.pop("random_state")
    except Exception as error:  # json, OS and safetensors each have their own
        raise _unreadable(path, error) from None
    _check_format(path, state)
    changed = _same_configuration(path, state["configuration"], configuration)
    if weights.keys() != parameters.keys():
        raise RunError(
            f"checkpoint {path} belongs to another model: it holds {len(weights)} tensors, not {len(parameters)}"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != weights[name].shape:
                raise RunError(f"checkpoint {path} belongs to another model: {name} is {tuple(weights[name].shape)}")
            parameter.copy_(weights[name])
    torch.set_rng_state(random_state)
    _unflatten(optimizer, tensors)
    return Position(int(state["step"]), state["losses"], state.get("scaler", {}), tuple(changed))


def begun_with(folder: Path) -> Mapping[str, Any]:
    """The configuration in the newest checkpoint of ``folder``; empty where there is none.

    Raises:
        RunError: it cannot be read.
    """
    path = latest(folder)
    if path is None:
        return {}
    try:
        state = _state(path)
    except Exception as error:  # as in restore
        raise _unreadable(path, error) from None
    _check_format(path, state)
    found: Mapping[str, Any] = state["configuration"]
    return found


def _state(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((path / "state.json").read_text())
    if not isinstance(state, dict) or (state.get("format") == FORMAT and state.keys() - _MAY != _STATE):
        raise ValueError(f"state.json does not hold {', '.join(sorted(_STATE))}")
    return state


def _unreadable(path: Path, error: Exception) -> RunError:
    return RunError(f"checkpoint {path} cannot be read ({error}); remove it to go on from the one before")


def _check_format(path: Path, state: Mapping[str, Any]) -> None:
    if state.get("format") != FORMAT:
        raise RunError(f"checkpoint {path} was written as {state.get('format')!r}, this version reads {FORMAT!r}")


def _same_configuration(path: Path, before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Which circumstances differ, in words; anything else that differs is an error."""
    now = json.loads(json.dumps(now))
    changed = []
    for name in CIRCUMSTANCES:
        was, became = (told.get(name, 1) for told in (before, now))
        if was != became:
            changed.append(f"{name} ({was}, now {became})")
    before, now = ({k: v for k, v in told.items() if k not in CIRCUMSTANCES} for told in (before, now))
    if before != now:
        key, was, became = _difference("", before, now)
        raise RunError(
            f"{path.parent.parent} was started with another configuration: {key} was {_told(key, was)}, "
            f"now {_told(key, became)}; resume with the old one, or use another run folder"
        )
    return changed


def _difference(name: str, before: object, now: object) -> tuple[str, object, object]:
    """The first value that differs, inside mappings too, as (``"tuning.count"``, before, now)."""
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return name, before, now
    keys = [key for key in before.keys() | now.keys() if before.get(key) != now.get(key)]
    first = min(keys, key=lambda key: (key != "name", key))  # another name makes other options
    return _difference(f"{name}.{first}" if name else first, before.get(first), now.get(first))


def _told(name: str, value: object) -> str:
    """A value of a configuration in words; one that is left out there is what it usually is."""
    usual = {**LATER, **SWITCHES}.get(name) if value is None else value
    return "not set" if usual is None else repr(usual)


def _flatten(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors as ``"<index of the parameter>.<name>"``."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": value for i, entry in state.items() for name, value in entry.items() if value is not None}


def _unflatten(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
