"""A Hugging Face hub on 127.0.0.1 with what an upload needs of its protocol: create, tree, preupload, LFS, commit."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

TOKEN = "hf_right"
COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
OWNER = "me"


class UploadHub(ThreadingHTTPServer):
    """Takes pushes of ``OWNER`` with ``TOKEN``.

    Attributes:
        repos: Id → branch → path → content.
        visibility: Id → what was asked for when it was made.
        down: Every answer is 503.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.visibility: dict[str, str | None] = {}
        self.objects: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: UploadHub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        _, api, _, owner, name, verb, revision, *_ = [*urlsplit(self.path).path.split("/"), *8 * [""]]
        files = self.server.repos.get(f"{owner}/{name}", {}).get(revision)
        if (api, verb) == ("api", "tree") and files is not None:
            return self._answer(200, [{"type": "file", "path": p, "oid": "", "size": len(c)} for p, c in files.items()])
        self._answer(404, {"error": "not here"}, {"X-Error-Code": "RepoNotFound"})

    def do_PUT(self) -> None:
        self.server.objects[urlsplit(self.path).path.rsplit("/", 1)[-1]] = self._body()
        self._answer(200, {})

    def do_POST(self) -> None:
        body = self._body()
        path = urlsplit(self.path).path
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid user token."})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        _, _, _, owner, name, verb, revision = path.split("/", 6)
        branches = self.server.repos[f"{owner}/{name}"]
        if verb == "branch":
            branches.setdefault(revision, {})
            return self._answer(200, {})
        if verb == "preupload":
            return self._answer(200, {"files": [_mode(file["path"]) for file in json.loads(body)["files"]]})
        assert verb == "commit"
        for line in map(json.loads, body.splitlines()):
            self._take(branches[revision], line["key"], line["value"])
        url = f"{self.server.url}/{owner}/{name}/commit/{COMMIT}"
        return self._answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": url})

    def _create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != OWNER:
            return self._answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        status = 409 if repo in self.server.repos else 200
        if status == 200:
            self.server.repos[repo] = {"main": {}}
            self.server.visibility[repo] = asked.get("visibility") or str(asked.get("private"))
        return self._answer(status, {"url": f"{self.server.url}/{repo}"})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.server.url}/lfs/{each['oid']}"}}}
            for each in asked["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _take(self, files: dict[str, bytes], key: str, value: dict[str, Any]) -> None:
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        if key == "deletedFile":
            del files[value["path"]]
        if key == "lfsFile":
            content = self.server.objects[value["oid"]]
            assert hashlib.sha256(content).hexdigest() == value["oid"]
            files[value["path"]] = content

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for key, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)


def _mode(path: str) -> dict[str, Any]:
    large = path.endswith((".safetensors", ".pt", ".onnx"))
    return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}


@contextmanager
def upload_hub() -> Iterator[UploadHub]:
    """A running hub, stopped at the end of the block."""
    server = UploadHub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
