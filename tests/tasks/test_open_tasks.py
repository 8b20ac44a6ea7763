"""What cannot be asked of a task that is open already; names of classes that are no words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests import fakes
from tests.tasks.tiny_data import write_folder

from zsrobust.api import resolve_tasks
from zsrobust.errors import ConfigError
from zsrobust.tasks import task


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"classes": ["a", "b"]}, "classes"),
        ({"templates": ["a {}"], "select": ["0"]}, "templates and select"),
        ({"on_bad_image": "skip"}, "on_bad_image"),
    ],
)
def test_an_open_task_is_not_opened_in_another_way(options: dict[str, Any], named: str) -> None:
    opened = fakes.task()
    line = rf"{named} cannot change task '{opened.name}', which is open already: give its name"
    for tasks in (opened, ["digits", opened]):
        with pytest.raises(ConfigError, match=line):
            resolve_tasks(tasks, limit=2, **options)
    assert resolve_tasks(opened) == [opened]


def test_wordnet_ids_are_no_class_names(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", {"n01440764": 1, "n01443537": 2})
    with pytest.raises(ConfigError, match=r"images: its classes are called by WordNet ids .*the task 'imagenet' knows"):
        task(tmp_path / "images")
    assert task(tmp_path / "images", classes=["tench", "goldfish"]).class_names == ("tench", "goldfish")
    write_folder(tmp_path / "mixed", {"n01440764": 1, "goldfish": 2})
    assert task(tmp_path / "mixed").class_names == ("goldfish", "n01440764")
