"""A Hugging Face hub on 127.0.0.1 with just enough of its protocol for a download, and faults on demand."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves ``repos`` (id → folder), every one at commit COMMIT on its branch ``main``.

    Attributes:
        gated: Ids that answer 403 GatedRepo.
        down: Every answer is 501.
        cut: File name → (bytes to send before the connection goes, "close" or "reset"); used up by the first hit.
        requests: (method, path, Range header) of everything asked for.
    """

    daemon_threads = True

    def __init__(self, repos: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos = repos
        self.gated: set[str] = set()
        self.down = False
        self.cut: dict[str, tuple[int, str]] = {}
        self.requests: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection cut on purpose is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repo, rest = "/".join(parts[2:4]), parts[4:]
        else:
            repo, rest = "/".join(parts[:2]), parts[2:]
        if self.server.down:
            return self._error("Down", 501)
        folder = self.server.repos.get(repo)
        if folder is None:
            return self._error("RepoNotFound", 404)
        if repo in self.server.gated:
            return self._error("GatedRepo", 403)
        if len(rest) > 1 and rest[1] not in ("main", COMMIT):
            return self._error("RevisionNotFound", 404)
        files = sorted(file for file in folder.iterdir() if file.is_file())
        if rest[:1] == ["tree"]:
            return self._json(
                [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": _oid(f)} for f in files]
            )
        if rest[:1] == ["resolve"]:
            return self._file(folder / rest[2], body=body)
        return self._json({"id": repo, "sha": COMMIT, "siblings": [{"rfilename": f.name} for f in files]})

    def _json(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(data))})
        self.wfile.write(data)

    def _error(self, code: str, status: int) -> None:
        self._head(status, {"X-Error-Code": code, "X-Error-Message": "no", "Content-Length": "0"})

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Connection", "close")  # or a stopped server would go on answering old connections
        self.end_headers()

    def _file(self, file: Path, *, body: bool) -> None:
        if not file.is_file():
            return self._error("EntryNotFound", 404)
        data = file.read_bytes()
        headers = {"ETag": f'"{_oid(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        start = 0
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        headers["Content-Length"] = str(len(data) - start)
        self._head(206 if wanted else 200, headers)
        if not body:
            return
        if file.name in self.server.cut:
            size, how = self.server.cut.pop(file.name)
            return self._break(data[start : start + size], how)
        self.wfile.write(data[start:])

    def _break(self, data: bytes, how: str) -> None:
        self.wfile.write(data)
        self.wfile.flush()
        if how == "reset":
            # linger of zero seconds: closing sends RST, as a crashed proxy does
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()
        self.close_connection = True


def _oid(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def hub(repos: dict[str, Path]) -> Iterator[Hub]:
    """A running hub, stopped at the end of the block."""
    server = Hub(repos)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
