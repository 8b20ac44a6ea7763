"""The upload code of huggingface_hub against a hub on this machine; its LFS protocol, not Xet's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants
from tests.export.upload_server import TOKEN, UploadHub, upload_hub

from zsrobust.encoders.huggingface import from_folder
from zsrobust.errors import ConfigError, ModelError
from zsrobust.export import export
from zsrobust.export.publish import publish


@pytest.fixture(scope="module")
def folder(random_clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("publish") / "out"
    export(from_folder(random_clip_folder), out, format="visual")
    (out / ".eval_results").mkdir()
    (out / ".eval_results" / "task.yaml").write_text("[]\n")
    return out


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[UploadHub]:
    with upload_hub() as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for name, value in {
            "ENDPOINT": server.url, "HF_HUB_DISABLE_XET": True, "HF_HUB_OFFLINE": False,
            "HF_TOKEN_PATH": str(tmp_path / "token"),
        }.items():  # fmt: skip
            monkeypatch.setattr(constants, name, value)
        close_session()
        yield server
        close_session()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_arrives_is_the_folder(hub: UploadHub, folder: Path) -> None:
    address = publish(folder, "me/robust")
    assert address.startswith(f"{hub.url}/me/robust/commit/")
    assert hub.repos["me/robust"]["main"] == contents(folder)
    assert hub.visibility["me/robust"] == "private"
    assert publish(folder, "me/robust", revision="v2", visibility="public")  # there already: its visibility stays
    assert hub.repos["me/robust"]["v2"] == contents(folder)
    assert hub.visibility["me/robust"] == "private"


def test_what_was_measured_of_an_earlier_model_does_not_stay(hub: UploadHub, folder: Path) -> None:
    publish(folder, "me/robust")
    mine = {"notes.md": b"mine", ".eval_results/other.yaml": b"[]"}
    hub.repos["me/robust"]["main"] |= mine
    publish(folder, "me/robust")
    assert hub.repos["me/robust"]["main"] == {**contents(folder), "notes.md": b"mine"}


def test_refusals_are_one_line(hub: UploadHub, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refusal(repo: str = "me/robust", place: Path = folder) -> str:
        with pytest.raises((ModelError, ConfigError)) as caught:
            publish(place, repo)
        line = str(caught.value)
        assert "\n" not in line
        return line

    assert "the token may not write there" in refusal("they/robust")
    assert "is not the name of a repository: OWNER/NAME" in refusal("robust")
    assert "is no export (no export.json)" in refusal(place=tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "the token was refused" in refusal()
    monkeypatch.delenv("HF_TOKEN")
    assert "no token; log in with 'hf auth login', or set HF_TOKEN" in refusal()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached" in refusal()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal()
    assert hub.repos == {}
