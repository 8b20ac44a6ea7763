"""A run on disk: what was asked (config.yaml), what was used (run.json), what was measured (records.jsonl)."""

from __future__ import annotations

import copy
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import zsrobust
from zsrobust.errors import RunError
from zsrobust.line_file import LineFile, lock
from zsrobust.records import RecordFile

FORMAT = "zsrobust.run/1"
_DERIVED = ("fingerprint", "fingerprint_images")  # named last: what made them differ says more
_LATER = ("compile",)  # settings that runs of earlier versions do not say
_PLACES: Mapping[str, frozenset[str]] = {"tasks": frozenset({"source"})}  # the same images elsewhere are the same ones
_LOCK = ".evaluate.lock"
_PACKAGES = ("torch", "transformers", "numpy", "pillow")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a full disk, a read-only folder and their kin into one line that names the path."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}; nothing already saved is lost") from error


def write_atomically(path: Path, data: bytes) -> None:
    """The whole file or the old one, never half of it.

    Raises:
        RunError: the folder cannot be written, or the disk is full.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def check_kind(path: Path, kind: str) -> None:
    """Whether a folder has room for what this command writes: nothing of another command's is in it.

    Args:
        path: The folder; it need not exist.
        kind: What is to be written, as ``run.json`` says it; ``"adapt"``.

    Raises:
        RunError: it holds the run of another command.
    """
    found = _kinds(path)
    if found and kind not in found:
        raise RunError(
            f"{path} holds a run of '{found[0]}', which '{kind}' would overwrite in part: name another folder"
        )


@contextmanager
def named_or_temporary(run: str | Path | None) -> Iterator[str | Path]:
    """The place of a run: what is named, else a folder that is removed at the end."""
    if run is not None:
        yield run
        return
    with tempfile.TemporaryDirectory(prefix="zsrobust-") as temporary:
        yield temporary


@contextmanager
def claimed(path: Path, *, kind: str) -> Iterator[None]:
    """Makes the run folder and keeps it for this process until the end: two would overwrite each other's ``run.json``.

    A folder in which nothing came to be, because something was refused, is removed.

    Raises:
        RunError: another process has it, it holds the run of another command, or it cannot be written.
    """
    check_kind(path, kind)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        stream = (path / _LOCK).open("ab")
    with stream:
        lock(stream, path)
        try:
            yield
        finally:
            _remove_if_nothing_came(path)


def _remove_if_nothing_came(path: Path) -> None:
    with suppress(OSError):
        if [one.name for one in path.iterdir()] == [_LOCK]:
            (path / _LOCK).unlink()
            path.rmdir()


def _kinds(path: Path) -> list[str]:
    """What wrote into a folder, as far as there is something to protect."""
    found = []
    if any((path / name).exists() for name in ("records.jsonl", "found.jsonl")):
        with suppress(OSError, ValueError, KeyError, TypeError):  # whoever goes on with it says what is wrong with it
            found.append(str(json.loads((path / "run.json").read_text(encoding="utf-8"))["kind"]))
    if any((path / name).exists() for name in ("checkpoints", "metrics.jsonl")):
        found.append("adapt")
    return found


def versions() -> dict[str, str]:
    """Versions that a result may depend on."""
    own = {"python": platform.python_version(), "zsrobust": zsrobust.__version__}
    return own | {name: version(name) for name in _PACKAGES}


class RunFolder:
    """A run folder, new or resumed.

    What a name stands for cannot change within a run: a model, task or attack that comes again must be the same one.
    A run that stopped before its first record has nothing to protect and begins anew.

    Args:
        path: The folder; made if it does not exist.
        kind: What made it, for example ``"evaluate"``.
        settings: What must be the same when the run is resumed: precision, rows of a forward pass, space …

    Raises:
        RunError: not writable, not a run folder, another command's, made with other settings, or with records but no
            ``run.json``.
    """

    _held = False

    def __init__(self, path: str | Path, *, kind: str, settings: Mapping[str, object]) -> None:
        self.path = Path(path)
        self.records = RecordFile(self.path / "records.jsonl")
        check_kind(self.path, kind)
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        begun = (self.path / "run.json").exists()
        if not begun and LineFile(self.records.path).read():
            raise RunError(f"{self.path} has records but no run.json, which says of what: name another folder")
        fresh: dict[str, Any] = {
            "format": FORMAT,
            "kind": kind,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            **settings,
            "models": [],
            "tasks": [],
            "attacks": [],
            "threats": [],
            "seeds": [],
        }
        self.header = self._resume(fresh, settings) if begun else fresh
        self.save()

    def _resume(self, fresh: dict[str, Any], settings: Mapping[str, object]) -> dict[str, Any]:
        try:
            header: dict[str, Any] = json.loads((self.path / "run.json").read_text())
            if not isinstance(header, dict):
                raise ValueError("not a JSON object")
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / 'run.json'} cannot be read: {error}") from None
        if header.get("format") != FORMAT:
            raise RunError(
                f"{self.path} was written as {header.get('format')!r}, this version writes {FORMAT!r}; "
                "name another folder"
            )
        if not self.records.path.exists():
            return fresh
        for key, value in settings.items():
            if header.get(key, value if key in _LATER else None) != value:
                raise changed(self.path, key, header.get(key), value)
        return fresh | header

    def declare(self, section: str, item: Mapping[str, object] | str | int) -> None:
        """Adds a model, task, attack, threat or seed to ``run.json``; a second time it must be the same.

        Where a task's images are does not count: their fingerprint does.

        Raises:
            RunError: the run knows another thing by that name.
        """
        known: list[Any] = self.header[section]
        if isinstance(item, Mapping):
            entry: Any = json.loads(json.dumps(item))
            same = [old for old in known if old["name"] == entry["name"] and old.get("threat") == entry.get("threat")]
            before = json.dumps(same)
            for old in same:
                # Which tasks an attack is for may grow: another task is no other attack.
                if "tasks" in old and "tasks" in entry:
                    entry["tasks"] = old["tasks"] = [*dict.fromkeys([*old["tasks"], *entry["tasks"]])]
                compared = (old.keys() | entry.keys()) - _PLACES.get(section, frozenset())
                for key in sorted(compared, key=lambda key: (key in _DERIVED, key)):
                    if old.get(key) != entry.get(key):
                        what = f"{key} of {section[:-1]} '{entry['name']}'"
                        raise changed(self.path, what, old.get(key), entry.get(key))
            if same:
                if json.dumps(same) != before:
                    self.save()
                return
        elif item in known:
            return
        known.append(item)
        self.save()

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Writes ``run.json`` at the end; what was declared before one that is refused is forgotten again."""
        before, self._held = copy.deepcopy(self.header), True
        try:
            yield
        except BaseException:
            self.header = before
            raise
        finally:
            self._held = False
        self.save()

    def flag(self, item: Mapping[str, object]) -> None:
        """Adds an alarm to ``run.json``, once: ``name``, ``text`` and what it concerns (model, task, threat, seed)."""
        known: list[Any] = self.header.setdefault("flags", [])
        if not any(_about(old) == _about(item) for old in known):
            known.append(json.loads(json.dumps(item)))
            self.save()

    def flag_again(self, about: Mapping[str, object], item: Mapping[str, object] | None) -> None:
        """Puts an alarm in place of the one there is, now that more is known.

        Args:
            about: Its ``name``, and what exactly it concerns.
            item: As :meth:`flag` takes it; None: there is no reason for it any more.
        """
        known: list[Any] = self.header.get("flags", [])
        old = [flag for flag in known if _about(flag) == _about(about)]
        new = [] if item is None else [json.loads(json.dumps(item))]
        if old != new:
            self.header["flags"] = [flag for flag in known if flag not in old] + new
            self.save()

    def save(self) -> None:
        """Writes ``run.json`` as it is now; within :meth:`all_or_nothing`, later."""
        if self._held:
            return
        text = json.dumps(self.header, indent=1, ensure_ascii=False)
        write_atomically(self.path / "run.json", text.encode())

    def write_config(self, text: str) -> None:
        """Stores the resolved configuration as ``config.yaml``."""
        write_atomically(self.path / "config.yaml", text.encode())


class ReadOnly(RunFolder):
    """A run folder that another process of the job writes: declarations are compared, nothing is stored.

    Args:
        path: The folder, which need not exist on this machine.
        header: What the writing process has in ``run.json``.
        settings: Those of this process.

    Raises:
        RunError: they are not the writing process's.
    """

    def __init__(self, path: str | Path, header: Mapping[str, Any], *, settings: Mapping[str, object]) -> None:
        for key, value in settings.items():
            if header[key] != value:
                raise RunError(f"{key} is {_short(header[key])} in the first process, {_short(value)} in this one")
        self.path = Path(path)
        self.records = RecordFile(self.path / "records.jsonl")
        self.header = copy.deepcopy(dict(header))

    def compare(self, header: Mapping[str, Any]) -> None:
        """Whether this process has declared what the writing one has.

        Raises:
            RunError: another model or other images, say: on this machine they are other ones.
        """
        for section in ("models", "tasks", "attacks", "threats", "seeds"):
            if _but_places(section, header) != _but_places(section, self.header):
                raise RunError(
                    f"this process has other {section} than the first one: is the same data on every machine?"
                )

    def save(self) -> None:
        """Nothing."""

    def write_config(self, text: str) -> None:
        """Nothing."""


def _about(flag: Mapping[str, Any]) -> list[Any]:
    return [flag.get(key) for key in ("name", "model", "task", "threat", "seed")]


def _but_places(section: str, header: Mapping[str, Any]) -> list[Any]:
    """A section without what may differ between machines."""
    if section not in _PLACES:
        return list(header[section])
    return [{k: v for k, v in item.items() if k not in _PLACES[section]} for item in header[section]]


def changed(path: Path, what: str, before: object, now: object) -> RunError:
    """The error of a run that is resumed with another configuration."""
    return RunError(
        f"{path} was started with another configuration: {what} was {_short(before)}, now {_short(now)}; "
        "resume with the old one, or use another run folder"
    )


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
