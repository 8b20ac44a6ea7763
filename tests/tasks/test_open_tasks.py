"""What cannot be asked of a task that is open already."""

from __future__ import annotations

from typing import Any

import pytest
from tests import fakes

from zsrobust.api import resolve_tasks
from zsrobust.errors import ConfigError


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
