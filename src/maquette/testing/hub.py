"""A model hub on loopback, for tests of what is fetched from one.

It speaks as the public one does: small files it answers itself, weights it sends elsewhere for, to another address that
asks for no token. On demand it cuts connections, sends other bytes than it lists, or is busy.
"""

import hashlib
import json
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

APART = (".safetensors", ".bin")
"""What files end in that are kept apart from git."""
PORTION = 1 << 16
"""Bytes that are sent at once."""


class Asked(NamedTuple):
    """A request: `GET /path`, the first byte asked for, and the token that was shown."""

    what: str
    start: int
    token: str | None


class Refused(Exception):
    """An answer without a body: its status, and what the hub calls it."""

    def __init__(self, status: HTTPStatus, code: str = "") -> None:
        super().__init__(code)
        self.status = status
        self.code = code


@dataclass
class HubServer:
    """A running hub.

    Attributes:
        address: where it listens.
        elsewhere: where it sends for weights.
        repositories: files by path, by the repository's name.
        gated: repositories whose files only `token` is given.
        token: the one that it knows.
        cuts: after how many bytes the connection is cut that sends a file: the next one, the one after it, and so on.
        altered: what is sent in place of a file's bytes.
        ranges: whether it can send the rest of a file; else it sends the whole.
        pause: seconds before each 64 KB of a file.
        busy: how many requests for files are put off from now on.
        asked: all requests so far.
    """

    address: str = ""
    elsewhere: str = ""
    repositories: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = "hf_known"  # noqa: S105 - nobody else's
    cuts: dict[str, list[int]] = field(default_factory=dict)
    altered: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    pause: float = 0.0
    busy: int = 0
    asked: list[Asked] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which an operator would name it."""
        return {"HF_ENDPOINT": self.address}

    def commit(self, repository: str) -> str:
        """Of what a repository holds now."""
        digest = hashlib.sha1(usedforsecurity=False)
        for path, content in sorted(self.repositories[repository].items()):
            digest.update(f"{path} {_git_hash(content)}\n".encode())
        return digest.hexdigest()

    def starts(self, path: str) -> list[int]:
        """From which byte on a file was asked for, request by request."""
        return [asked.start for asked in self.asked if asked.what == f"GET /elsewhere/{path}"]


def files_of(folder: Path) -> dict[str, bytes]:
    """What a folder holds, as a repository."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def hub_server() -> Generator[HubServer]:
    """Start a hub without repositories; it ends with the block."""
    hub = HubServer()
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), partial(kind, hub)) for kind in (_Handler, _Elsewhere)]
    hub.address, hub.elsewhere = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [Thread(target=server.serve_forever, args=(0.01,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Answers for the hub itself."""

    protocol_version = "HTTP/1.1"

    def __init__(self, hub: HubServer, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Answer, and note what was asked."""
        path = unquote(urlsplit(self.path).path, errors="strict")
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.hub.asked.append(Asked(f"{self.command} {path}", start, self.headers.get("Authorization")))
        try:
            self.answer(path, start)
        except Refused as error:
            self.send([("X-Error-Code", error.code)] if error.code else [], status=error.status)

    do_HEAD = do_GET  # noqa: N815 - as the library calls it

    def answer(self, path: str, start: int) -> None:
        """Two owners' names, then what is asked for, at a revision."""
        asks_api = path.startswith("/api/models/")
        if len(parts := path.removeprefix("/api/models").strip("/").split("/")) < 4:
            raise Refused(HTTPStatus.NOT_FOUND)
        owner, name, call, *rest = parts
        repository = f"{owner}/{name}"
        if repository not in self.hub.repositories:
            raise Refused(HTTPStatus.UNAUTHORIZED, "RepoNotFound")
        commit = self.hub.commit(repository)
        if rest[0] not in ("main", commit):
            raise Refused(HTTPStatus.NOT_FOUND, "RevisionNotFound")
        if asks_api:
            self.send([("Content-Type", "application/json")], json.dumps(self.listing(repository, call)).encode())
        else:
            self.file(repository, "/".join(rest[1:]), start)

    def listing(self, repository: str, call: str) -> object:
        """What a repository holds, as either call lists it."""
        files = self.hub.repositories[repository].items()
        if call == "tree":
            return [
                {"type": "file", "path": path, "size": len(content), "oid": _git_hash(content)}
                | ({"lfs": {"oid": _hash(content), "size": len(content), "pointerSize": 1}} if _apart(path) else {})
                for path, content in files
            ]
        siblings = [
            {"rfilename": path, "size": len(content), "blobId": _git_hash(content)}
            | ({"lfs": {"sha256": _hash(content), "size": len(content), "pointerSize": 1}} if _apart(path) else {})
            for path, content in files
        ]
        return {"id": repository, "sha": self.hub.commit(repository), "siblings": siblings}

    def file(self, repository: str, path: str, start: int) -> None:
        """Send a file, or say where it is."""
        if repository in self.hub.gated and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            raise Refused(HTTPStatus.FORBIDDEN, "GatedRepo")
        if path not in self.hub.repositories[repository]:
            raise Refused(HTTPStatus.NOT_FOUND, "EntryNotFound")
        content = self.hub.repositories[repository][path]
        headers = [("X-Repo-Commit", self.hub.commit(repository)), ("ETag", f'"{_git_hash(content)}"')]
        if not _apart(path):
            self.send(headers, self.hub.altered.get(path, content), start)
            return
        headers += [("X-Linked-Size", str(len(content))), ("X-Linked-Etag", f'"{_hash(content)}"')]
        headers += [("Location", f"{self.hub.elsewhere}/elsewhere/{repository}/{path}")]
        self.send(headers, status=HTTPStatus.FOUND)

    def send(
        self, headers: list[tuple[str, str]], content: bytes = b"", start: int = 0, *, status: HTTPStatus | None = None
    ) -> None:
        """Send an answer, cut off if it is to be."""
        start = start if self.hub.ranges else 0
        self.send_response(status or (HTTPStatus.PARTIAL_CONTENT if start else HTTPStatus.OK))
        for name, value in [*headers, ("Content-Length", str(len(content) - start))]:
            self.send_header(name, value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        cuts = self.hub.cuts.get(self.path.partition("/elsewhere/")[2])
        self.close_connection = bool(cuts)
        sent = content[start : start + cuts.pop(0)] if cuts else content[start:]
        for first in range(0, len(sent), PORTION):
            time.sleep(self.hub.pause)
            self.wfile.write(sent[first : first + PORTION])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the library calls it
        """Nobody reads it."""


class _Elsewhere(_Handler):
    """Answers for the place where weights are."""

    def answer(self, path: str, start: int) -> None:
        """Send a file of a repository."""
        if self.hub.busy:
            self.hub.busy -= 1
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE)
        owner, name, *rest = path.removeprefix("/elsewhere/").split("/")
        content = self.hub.repositories[f"{owner}/{name}"]["/".join(rest)]
        self.send([], self.hub.altered.get("/".join(rest), content), start)


def _apart(path: str) -> bool:
    return path.endswith(APART)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
