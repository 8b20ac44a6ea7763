"""Run by test_hub.py in a process of its own: reads {repository: folder} from stdin, writes what happened to stdout."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.encoders.hub_server import COMMIT, Hub, hub

WEIGHTS = "model.safetensors"

said = io.StringIO()  # stands in for stderr from before huggingface_hub is imported: its log handler keeps the stream


def attempt(server: Hub, repo: str, **options: str) -> dict[str, Any]:
    from zsrobust.encoders import load
    from zsrobust.errors import ModelError

    server.requests.clear()
    result: dict[str, Any] = {"error": None}
    start = said.tell()
    try:
        encoder: Any = load(repo, **options)
        result |= {
            "fingerprint": encoder.fingerprint(),
            "name": encoder.name,
            "provenance": encoder.provenance,
        }
    except ModelError as error:
        result["error"] = str(error)
    return {**result, "stderr": said.getvalue()[start:], "requests": list(server.requests)}


def forget() -> None:
    """Empty the cache."""
    shutil.rmtree(Path(os.environ["HF_HOME"]) / "hub", ignore_errors=True)


@contextlib.contextmanager
def patched(thing: object, **values: object):
    before = {name: getattr(thing, name) for name in values}
    for name, value in values.items():
        setattr(thing, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(thing, name, value)


class EndlessCut(dict[str, tuple[int, str]]):
    def pop(self, key: str) -> tuple[int, str]:  # type: ignore[override]
        return self[key]


def with_server(server: Hub) -> dict[str, dict[str, Any]]:
    from huggingface_hub import constants

    # as small beside the checkpoint as the real chunk is beside a real one; a resume starts at a whole chunk
    constants.DOWNLOAD_CHUNK_SIZE = 1000
    told = {
        "plain": attempt(server, "small/clip"),
        "again": attempt(server, "small/clip"),
        "missing": attempt(server, "small/nothing"),
        "gated": attempt(server, "small/gated"),
        "revision": attempt(server, "small/clip", revision="v9"),
        "openclip": attempt(server, "small/openclip"),
        "pickled": attempt(server, "small/pickled"),
        "mirror": attempt(server, "hf-hub:small/mirror"),
    }
    for how in ("close", "reset"):
        forget()
        server.cut[WEIGHTS] = (5000, how)
        told[f"cut-{how}"] = attempt(server, "small/clip")
    forget()
    server.cut = EndlessCut({WEIGHTS: (5000, "reset")})
    told["cut-always"] = attempt(server, "small/clip")
    server.cut = {}
    forget()
    told["commit"] = attempt(server, "small/clip", revision=COMMIT)
    attempt(server, "small/clip")  # what the scenarios without a network find
    attempt(server, "small/mirror")
    server.down = True
    told["down"] = attempt(server, "small/other")
    told["down-cached"] = attempt(server, "small/clip")
    return told


def without_server(server: Hub) -> dict[str, dict[str, Any]]:
    from huggingface_hub import constants

    told = {
        "no-network": attempt(server, "small/other"),
        "no-network-cached": attempt(server, "small/clip"),
        "mirror-cached": attempt(server, "small/mirror"),
    }
    with patched(constants, HF_HUB_OFFLINE=True):
        told["offline"] = attempt(server, "small/other")
        told["offline-cached"] = attempt(server, "small/clip")
    return told


def main() -> None:
    repos = {name: Path(folder) for name, folder in json.load(sys.stdin).items()}
    waits: list[float] = []
    sleep: Callable[[float], None] = waits.append
    with contextlib.redirect_stderr(said), patched(time, sleep=sleep):
        with hub(repos) as server:
            server.gated.add("small/gated")
            os.environ["HF_ENDPOINT"] = server.url  # before huggingface_hub is imported
            told = with_server(server)
        told |= without_server(server)
    print(json.dumps(told))


main()
