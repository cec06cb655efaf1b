"""A small Hugging Face hub on the loopback: a real server for the real client.

It speaks what downloading a model takes: the model's info, its tree, and HEAD and GET of
files with ETags and ranges. It can cut transfers off, ask for a token and be out of order.
Weights have the ETag of a large file, the SHA-256, and all else that of git.
`Client` looks models up there, each time in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Seen:
    """One request that reached the server."""

    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Hub:
    """What the server has and how it behaves; `requests` is what it was asked."""

    models: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    # The newest version of all the models.
    commit: str = "0123456789abcdef0123456789abcdef01234567"
    # The licence that the card of a model states.
    licences: dict[str, str] = field(default_factory=dict)
    gated: dict[str, str] = field(default_factory=dict)
    # A file's name to the number of bytes after which its next transfer breaks off.
    cuts: dict[str, int] = field(default_factory=dict)
    # Files of which half is sent, and the rest never.
    stalls: set[str] = field(default_factory=set)
    # Files whose contents cannot be had at the moment.
    broken: set[str] = field(default_factory=set)
    # What the server says of a file's size instead of the truth.
    sizes: dict[str, int] = field(default_factory=dict)
    status: int | None = None
    requests: list[Seen] = field(default_factory=list)
    url: str = ""

    def add_folder(self, name: str, folder: Path) -> None:
        """Serve all files of a folder as the model `name`."""
        files = (path for path in folder.rglob("*") if path.is_file())
        self.models[name] = {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}

    def downloads(self) -> list[str]:
        """Return the names of the files that were asked for, in order."""
        return [
            found[1]
            for seen in self.requests
            if seen.method == "GET"
            and (found := re.search(r"/resolve/[0-9a-f]{40}/(.+)", seen.path))
        ]

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        """Serve on a free port of the loopback until the block ends."""
        hub = cls()
        handler = type("Handler", (_Handler,), {"hub": hub})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, *args: object) -> None:
        """Stay silent: what was asked is in `requests`."""

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ") or None
        self.hub.requests.append(Seen(self.command, path, self.headers["Range"], token))
        if self.hub.status is not None:
            self._send(self.hub.status, b"{}", with_body=with_body)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?", path):
            self._info(found[1])
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            self._tree(found[1])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self._file(found[1], found[2], token, with_body=with_body)
        else:
            self._refuse(404, "EntryNotFound")

    def _info(self, name: str) -> None:
        if name not in self.hub.models:
            # What the real hub says to somebody without a token.
            self._refuse(401, "RepoNotFound")
            return
        files = self.hub.models[name].items()
        sizes = {file: len(data) for file, data in files} | self.hub.sizes
        siblings = [
            {"rfilename": file, "size": sizes[file], "blobId": _oid(data), "lfs": _lfs(file, data)}
            for file, data in files
        ]
        card = {"license": self.hub.licences[name]} if name in self.hub.licences else {}
        self._json(
            {
                "id": name,
                "sha": self.hub.commit,
                "siblings": siblings,
                "tags": [],
                "cardData": card,
            }
        )

    def _tree(self, name: str) -> None:
        files = self.hub.models[name].items()
        self._json(
            [
                {
                    "type": "file",
                    "path": file,
                    "size": len(data),
                    "oid": _oid(data),
                    "lfs": _lfs(file, data),
                }
                for file, data in files
            ]
        )

    def _file(self, name: str, file: str, token: str | None, *, with_body: bool) -> None:
        if name in self.hub.gated and token != self.hub.gated[name]:
            self._refuse(403 if token else 401, "GatedRepo")
            return
        if with_body and file in self.hub.broken:
            self._refuse(500, "Broken")
            return
        data = self.hub.models[name][file]
        lfs = _lfs(file, data)
        headers = {
            "ETag": f'"{lfs["sha256"] if lfs else _oid(data)}"',
            "X-Repo-Commit": self.hub.commit,
            "Accept-Ranges": "bytes",
        }
        start = 0
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or ""):
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if with_body and file in self.hub.stalls:
            self._send(200, data, headers, cut=len(data) // 2)
            # Ends when the client does, who has nothing more to say.
            self.rfile.read(1)
            return
        cut = self.hub.cuts.pop(file, None) if with_body else None
        self._send(206 if start else 200, data[start:], headers, with_body=with_body, cut=cut)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code}, with_body=self.command == "GET")

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        with_body: bool = True,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True


def _oid(data: bytes) -> str:
    """Return the id that git gives to a file."""
    blob = b"blob %d\0" % len(data) + data
    return hashlib.sha1(blob, usedforsecurity=False).hexdigest()


def _lfs(file: str, data: bytes) -> dict[str, Any] | None:
    """Return what the hub says of a large file beside the rest; its hash has two names there."""
    if not file.endswith(".safetensors"):
        return None
    sha256 = hashlib.sha256(data).hexdigest()
    return {"sha256": sha256, "oid": sha256, "size": len(data), "pointerSize": 134}


# The hub's client reads its settings when it is imported, so each look-up has a process.
LOOK_UP = """
import json, logging, sys
from generation.errors import ModelError
from generation.catalog.hashing import weights_sha256
from generation.models.families import STABLE_DIFFUSION
from generation.models.locate import locate
progress, said = [], []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger("generation").addHandler(handler)
try:
    found = locate(sys.argv[1], on_download=progress.append)
    answer = {"folder": str(found.folder), "name": found.name,
              "sha256": weights_sha256(found.folder, STABLE_DIFFUSION.layout)}
except ModelError as error:
    answer = {"error": str(error)}
answer["said"] = said
answer["loaded"] = [name for name in ("torch", "diffusers") if name in sys.modules]
answer["progress"] = [(p.done, p.total, p.files_done, p.files, p.percent) for p in progress]
print(json.dumps(answer))
"""


@dataclass
class Answer:
    """What one look-up found, or the sentence that it ended with, and what it `said` in the log."""

    folder: Path | None
    name: str | None
    sha256: str | None
    error: str
    progress: list[tuple[int, int, int, int, int]]
    loaded: list[str]
    said: list[str]


@dataclass
class Client:
    """Looks models up in `hub`, with `home` as the cache."""

    hub: Hub
    home: Path
    # Code that runs before the model is looked up.
    before: str = ""

    def run(self, code: str, *arguments: str, **environment: str) -> str:
        """Return what the code prints in a fresh process that may warn of nothing."""
        with self._start(code, *arguments, **environment) as process:
            said, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
        return said

    @contextmanager
    def locating(self, name: str, left: str) -> Iterator[Path]:
        """Locate a model in a process that is killed by SIGTERM when the block ends.

        The block begins when there is a file of the pattern `left` in the cache.
        """
        with self._start(self.before + LOOK_UP, name) as process:
            try:
                yield self._appeared(process, left)
            finally:
                process.terminate()

    def _start(self, code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        own = {"HF_HOME": str(self.home), "HF_ENDPOINT": self.hub.url, "PATH": os.environ["PATH"]}
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=own | environment,
        )

    def _appeared(self, process: subprocess.Popen[str], pattern: str) -> Path:
        while process.poll() is None:
            for path in self.home.glob(pattern):
                return path
            time.sleep(0.01)
        raise AssertionError(process.communicate())

    def locate(self, name: str, **environment: str) -> Answer:
        """Locate the model in a fresh process with these settings of the hub's client."""
        values = json.loads(self.run(self.before + LOOK_UP, name, **environment))
        folder = values.get("folder")
        error = values.get("error", "")
        assert error == "" or ("\n" not in error and error.endswith("."))
        return Answer(
            folder=None if folder is None else Path(folder),
            name=values.get("name"),
            sha256=values.get("sha256"),
            error=error,
            progress=[tuple(p) for p in values["progress"]],
            loaded=values["loaded"],
            said=values["said"],
        )
