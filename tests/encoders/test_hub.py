"""The real download code against a hub on this machine: faults, refusals, and no network.

The scenarios run one after another in one subprocess, because huggingface_hub reads its environment when imported and
because importing torch and transformers is most of the time. What each of them printed comes back as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.encoders.foreign_files import openclip_folder
from tests.encoders.hub_server import COMMIT
from tests.encoders.small import save_clip

from zsrobust.encoders.huggingface import from_folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as repositories are: with files that nobody needs beside the weights."""
    folder = save_clip(tmp_path_factory.mktemp("hub") / "small-clip")
    (folder / "pytorch_model.bin").write_bytes(b"the same weights again")
    (folder / "flax_model.msgpack").write_bytes(b"and again")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Small\n")
    return folder


@pytest.fixture(scope="module")
def told(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every scenario of hub_scenarios.py returned or raised, with stderr and the requests it made."""
    work = tmp_path_factory.mktemp("work")
    pickled = Path(shutil.copytree(repository, work / "pickled"))
    (pickled / "model.safetensors").unlink()
    (pickled / "pytorch_model.bin").write_bytes(b"<html>")
    openclip = work / "openclip"
    openclip.mkdir()
    shutil.copy(repository / "config.json", openclip)
    (openclip / "open_clip_model.safetensors").write_bytes(b"x")
    mirror = openclip_folder(work / "mirror", from_folder(repository).model, repository)
    # as timm's mirrors are: a config.json of its own, and weights of the visual tower alone
    (mirror / "config.json").write_text('{"architecture": "vit_base_patch32_clip_224"}')
    (mirror / "model.safetensors").write_bytes(b"a visual tower for timm")
    repos = {
        "small/clip": repository,
        "small/mirror": mirror,
        "small/pickled": pickled,
        "small/openclip": openclip,
        "small/gated": openclip,
    }
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_") and "PROXY" not in key.upper()},
        "HF_HOME": str(work / "home"),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("hub_scenarios.py"))],
        input=json.dumps({name: str(folder) for name, folder in repos.items()}),
        env=environment, text=True, capture_output=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def asked(scenario: dict[str, Any], method: str = "GET") -> list[str]:
    return [path.rsplit("/", 1)[-1] for verb, path, _ in scenario["requests"] if verb == method and "/resolve/" in path]


def test_a_download_is_the_checkpoint_and_nothing_more(told: dict[str, Any], repository: Path) -> None:
    plain = told["plain"]
    assert plain["error"] is None
    assert plain["fingerprint"] == from_folder(repository).fingerprint()
    assert plain["name"] == "small/clip"
    assert plain["provenance"] == {
        "source": "small/clip", "revision": COMMIT, "adapted_on": [], "license": "mit"
    }  # fmt: skip
    fetched = asked(plain)
    assert sorted(fetched) == sorted(set(fetched))
    assert "model.safetensors" in fetched
    assert not {"pytorch_model.bin", "flax_model.msgpack"} & set(fetched)
    assert plain["stderr"] == ""


def test_a_repository_of_open_clip(told: dict[str, Any]) -> None:
    mirror = told["mirror"]
    assert mirror["error"] is None
    assert mirror["fingerprint"] == told["plain"]["fingerprint"]
    assert mirror["provenance"]["format"] == "open_clip folder, flat layout"
    assert (mirror["provenance"]["source"], mirror["provenance"]["revision"]) == ("small/mirror", COMMIT)
    fetched = asked(mirror)
    assert {"open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"} <= set(fetched)
    assert "model.safetensors" not in fetched
    assert told["mirror-cached"]["fingerprint"] == mirror["fingerprint"]


def test_what_is_in_the_cache_is_not_fetched_again(told: dict[str, Any]) -> None:
    assert asked(told["again"]) == []
    assert told["again"]["fingerprint"] == told["plain"]["fingerprint"]


def test_a_commit_can_be_asked_for(told: dict[str, Any]) -> None:
    assert told["commit"]["error"] is None
    assert told["commit"]["provenance"]["revision"] == COMMIT


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_connection_that_breaks_in_the_middle_is_tried_again(told: dict[str, Any], how: str) -> None:
    scenario = told[f"cut-{how}"]
    assert scenario["error"] is None
    assert scenario["fingerprint"] == told["plain"]["fingerprint"]
    assert asked(scenario).count("model.safetensors") == 2
    assert len(scenario["stderr"].splitlines()) == 1, scenario["stderr"]


def test_a_closed_connection_is_resumed_where_it_broke(told: dict[str, Any]) -> None:
    ranges = [r for verb, path, r in told["cut-close"]["requests"] if verb == "GET" and "model.safetensors" in path]
    assert ranges == [None, "bytes=5000-"]


def test_a_connection_that_keeps_breaking_is_given_up(told: dict[str, Any]) -> None:
    scenario = told["cut-always"]
    assert "small/clip" in scenario["error"]
    assert asked(scenario).count("model.safetensors") == 4
    lines = scenario["stderr"].splitlines()
    assert [line.rsplit("(", 1)[-1] for line in lines] == ["2 of 4)", "3 of 4)", "4 of 4)"]


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        ("missing", ["'small/nothing' was not found on http://127.0.0.1", "check the spelling", "hf auth login"]),
        ("gated", ["'small/gated' is gated", "hf auth login"]),
        ("revision", ["'small/clip' has no revision 'v9'"]),
        ("openclip", ["'small/openclip' has neither model.safetensors nor", "found open_clip_model.safetensors"]),
        ("pickled", ["pytorch_model.bin is broken or no torch checkpoint"]),
        ("no-network", ["'small/other' is not in the local cache and http://127.0.0.1", "cannot be reached",
                        "local folder", "HF_HUB_OFFLINE"]),
        ("down", ["'small/other' could not be fetched from http://127.0.0.1", "501"]),
        ("offline", ["'small/other' is not in the local cache and HF_HUB_OFFLINE is set", "local folder"]),
    ],
)  # fmt: skip
def test_what_cannot_be_fetched_is_one_line(told: dict[str, Any], scenario: str, words: list[str]) -> None:
    error = told[scenario]["error"]
    assert error is not None
    assert "\n" not in error
    for word in words:
        assert word in error
    assert told[scenario]["stderr"] == ""


def test_without_a_network_the_cache_serves(told: dict[str, Any]) -> None:
    for scenario in ("no-network-cached", "offline-cached", "down-cached"):
        assert told[scenario]["error"] is None
        assert told[scenario]["fingerprint"] == told["plain"]["fingerprint"]
        assert told[scenario]["provenance"]["revision"] == COMMIT
    notice = told["no-network-cached"]["stderr"]
    assert notice.startswith("zsrobust: no connection to http://127.0.0.1")
    assert notice.count("\n") == 1
    assert told["offline-cached"]["stderr"] == ""
