"""The package as a whole: every module imports, names resolve, and imports run one way."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import zsrobust as zr

SOURCE = Path(zr.__file__).parent
LEAVES = {
    "errors", "registry", "geometry", "records", "statistics", "threat", "losses", "randomness", "pixels", "passes",
    "run_folder", "metrics", "text_head", "squares", "hints", "yaml_files", "line_file", "cache",
    "distributed", "sharing", "memory",
}  # fmt: skip
WITHOUT_TORCH = ["zsrobust", "errors", "registry", "records", "statistics", "geometry", "tasks", "report", "cli"]
# Layer by layer; a module may import from lower ones only. What is not named is above them all.
LAYERS = [
    LEAVES, {"attacks", "encoders", "defences", "tasks"}, {"classifier", "methods", "tuning", "alarms"},
    {"evaluation"}, {"declarations"}, {"recording"},
]  # fmt: skip


def modules() -> list[str]:
    return sorted(m.name for m in pkgutil.walk_packages([str(SOURCE)], "zsrobust.") if not m.name.endswith("__main__"))


def path_of(module: str) -> Path:
    path = SOURCE.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports(module: str) -> Iterator[str]:
    """What a module of the package imports from the package, also within functions, but for type checkers."""
    nodes: list[ast.AST] = [ast.parse(path_of(module).read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "zsrobust")
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            if (node.module or "").split(".")[0] == "zsrobust":
                yield from (
                    found if found in ALL else str(node.module)
                    for found in (f"{node.module}.{a.name}" for a in node.names)
                )
        nodes.extend(ast.iter_child_nodes(node))


ALL = set(modules())


def room(module: str) -> str:
    """``zsrobust.attacks.pgd`` → ``attacks``; the package itself → nothing."""
    return [*module.split("."), ""][1]


def layer(name: str) -> int:
    return next((i for i, rooms in enumerate(LAYERS) if name in rooms), len(LAYERS))


@pytest.mark.parametrize("module", sorted(ALL))
def test_every_module_imports(module: str) -> None:
    importlib.import_module(module)


def test_public_names_are_sorted_and_resolve() -> None:
    assert sorted(zr.__all__, key=lambda name: (not name.isupper(), name)) == zr.__all__
    assert set(zr._HOMES) == set(zr.__all__) == set(dir(zr))
    for name in zr.__all__:
        assert getattr(zr, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'atack'"):
        zr.atack  # noqa: B018


def test_every_room_of_a_layer_is_there_and_in_one_layer_only() -> None:
    named = [name for rooms in LAYERS for name in rooms]
    assert len(named) == len(set(named))
    assert set(named) <= {room(module) for module in ALL}
    assert {name for name in WITHOUT_TORCH if name != "zsrobust"} <= {room(module) for module in ALL}


def test_imports_are_found_where_they_hide() -> None:
    assert {"zsrobust.alarms.checkup", "zsrobust.tasks"} <= set(imports("zsrobust.check_up"))
    assert "zsrobust.cli.attack_words" in set(imports("zsrobust.cli.attack"))  # within a function
    assert "zsrobust.encoders.base" not in set(imports("zsrobust.defences.resizing"))  # for type checkers alone


@pytest.mark.parametrize("module", sorted(ALL))
def test_imports_run_one_way(module: str) -> None:
    mine = room(module)
    for imported in imports(module):
        other = room(imported)
        if other in ("", mine):
            continue
        # Leaves, and what is above all layers, may use their equals; the rooms in between may not.
        below = layer(other) < layer(mine) or (layer(other) == layer(mine) and layer(mine) in (0, len(LAYERS)))
        assert below, f"{module} imports {imported}"


def test_a_report_is_made_from_records_alone() -> None:
    allowed = {"", "report", "records", "statistics", "errors"}
    for module in ALL:
        if room(module) == "report":
            assert {room(imported) for imported in imports(module)} <= allowed, module


def test_only_the_command_line_and_who_serves_it_import_the_command_line() -> None:
    for module in ALL:
        if room(module) != "cli":
            assert "cli" not in {room(imported) for imported in imports(module)}, module


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_what_needs_no_torch_does_not_import_it(name: str) -> None:
    module = name if name == "zsrobust" else f"zsrobust.{name}"
    heavy = "sorted({'torch', 'transformers', 'datasets', 'pyarrow'} & sys.modules.keys())"
    code = f"import sys, {module}; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


FORBIDDEN = {
    r"\.cuda\(": "",
    r"strict=False": "",
    r"\.backward\(": "attacks",
}


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_what_must_not_be_in_the_source(pattern: str) -> None:
    where = SOURCE / FORBIDDEN[pattern]
    files = sorted(where.rglob("*.py"))
    assert files
    assert not [path for path in files if re.search(pattern, path.read_text(encoding="utf-8"))]


def test_no_module_is_longer_than_400_lines_and_none_is_called_utils() -> None:
    for path in SOURCE.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 400, path
        assert path.stem not in ("utils", "helpers", "common", "misc"), path
