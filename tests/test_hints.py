"""Type hints in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

from zsrobust.hints import in_words


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "a whole number"),
        (bool | None, "true or false or null"),
        (Literal["sgd", "adamw"], "one of sgd, adamw"),
        (Optional[Literal["native", "model"]], "one of native, model or null"),  # noqa: UP045
        (list[str], "a list of texts"),
        (Sequence[str | float], "a list of texts or numbers"),
        (list[str | int | float], "a list of texts or numbers"),
        (list[Any], "a list of values"),
        (int | Sequence[int], "a whole number or a list of whole numbers"),
        (dict[str, Any], "names with values"),
        (Mapping[str, Any] | None, "names with values or null"),
        (str | Path | None, "a text or null"),
    ],
)
def test_words(hint: Any, words: str) -> None:
    assert in_words(hint) == words
