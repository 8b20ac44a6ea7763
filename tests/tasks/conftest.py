from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Tests see no ZSROBUST_DATA of the machine, unless they are marked to use it."""
    if request.node.get_closest_marker("data") is None:
        monkeypatch.delenv("ZSROBUST_DATA", raising=False)
