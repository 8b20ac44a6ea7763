"""Where task TOMLs are: in this package, in installed packages, and in a folder of the user's.

A package adds tasks through the entry-point group ``zsrobust.tasks``. Its value loads to a folder that holds
TOMLs (a ``str`` or ``Path``), to a module or package (its own folder), or to a callable without arguments
that returns a folder:

    [project.entry-points."zsrobust.tasks"]
    mine = "my_package.tasks"
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from zsrobust.errors import ConfigError
from zsrobust.tasks.suites import SUITES

HERE = Path(__file__).parent
GROUP = "zsrobust.tasks"


def catalogue(tasks_dir: str | Path | None = None) -> dict[str, Path]:
    """Task name → its TOML. A name is a file's stem; no file is read.

    Raises:
        ConfigError: two TOMLs have one name (a result called cifar10 must always mean the same), the folder
            does not exist, or an installed package's entry point is broken.
    """
    found: dict[str, Path] = {}
    _add(found, HERE)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        _add(found, _folder(entry))
    if tasks_dir is not None:
        folder = Path(tasks_dir).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"the tasks folder {tasks_dir} does not exist")
        _add(found, folder)
    return found


def _add(found: dict[str, Path], folder: Path) -> None:
    for file in sorted(folder.glob("*.toml")):
        if file.stem in SUITES:
            raise ConfigError(f"{file}: '{file.stem}' is the name of a suite of tasks; rename it")
        if file.stem in found:
            raise ConfigError(f"task '{file.stem}' of {file} clashes with {found[file.stem]}; rename it")
        found[file.stem] = file


def _folder(entry: EntryPoint) -> Path:
    called = f"entry point {entry.name} = {entry.value} of group {GROUP}"
    try:
        value = entry.load()
        value = value() if callable(value) else value
    except Exception as problem:  # somebody else's code
        raise ConfigError(f"{called} cannot be loaded ({type(problem).__name__}: {problem})") from problem
    if isinstance(value, ModuleType) and value.__file__ is not None:
        return Path(value.__file__).parent
    if not isinstance(value, (str, Path)) or not Path(value).is_dir():
        raise ConfigError(f"{called} gives {value!r}; expected a folder with task TOMLs")
    return Path(value)
