# SPDX-License-Identifier: Apache-2.0
"""A Hub on this machine: as much of its protocol as making a repository, committing to it and reading it takes."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Hub:
    """Repositories in memory: {name: [the files of each commit]}."""

    def __init__(self) -> None:
        self.repositories: dict[str, list[dict[str, bytes]]] = {}
        self.requests: list[str] = []
        self.url = ""

    def sha(self, name: str, revision: str = "main") -> str | None:
        """The commit of a revision: `main` or a commit itself."""
        shas = self._shas(name)
        return shas[-1] if revision == "main" else revision if revision in shas else None

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a revision, {path: content}."""
        return self.repositories[name][self._shas(name).index(str(self.sha(name, revision)))]

    def _shas(self, name: str) -> list[str]:
        return [hashlib.sha1(f"{name} {i}".encode()).hexdigest() for i in range(len(self.repositories[name]))]


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def answer(self, status: int, value: object, **headers: str) -> None:
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def missing(self, code: str) -> None:
            self.answer(404, {"error": code}, X_Error_Code=code, X_Error_Message=code)

        def do_GET(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            parts = unquote(self.path).split("?")[0].strip("/").split("/")
            name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
            revision = parts[5] if parts[0] == "api" and len(parts) > 5 else parts[3] if "resolve" in parts else "main"
            if name not in hub.repositories:
                return self.missing("RepoNotFound")
            sha = hub.sha(name, revision)
            if sha is None:
                return self.missing("RevisionNotFound")
            files = hub.files(name, revision)
            if parts[0] == "api" and "tree" in parts:
                entry = {"type": "file", "oid": "0" * 40}
                return self.answer(200, [entry | {"path": path, "size": len(x)} for path, x in files.items()])
            if parts[0] == "api":
                return self.answer(200, {"id": name, "sha": sha, "siblings": [{"rfilename": path} for path in files]})
            path = "/".join(parts[4:])
            if path not in files:
                return self.missing("EntryNotFound")
            tag = hashlib.sha1(files[path]).hexdigest()
            return self.answer(200, files[path], ETag=f'"{tag}"', X_Repo_Commit=sha)

        do_HEAD = do_GET

        def do_POST(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers["Content-Length"]))
            parts = self.path.split("?")[0].strip("/").split("/")
            if self.headers.get("Authorization") != "Bearer hf_test":
                return self.answer(401, {"error": "Unauthorized"})
            if parts[1:] == ["repos", "create"]:
                wanted = json.loads(body)
                name = f"{wanted.get('organization')}/{wanted['name']}"
                hub.repositories.setdefault(name, [{}])
                return self.answer(200, {"url": f"{hub.url}/{name}"})
            if parts[1:] == ["validate-yaml"]:  # of the card
                return self.answer(200, {})
            name = "/".join(parts[2:4])
            if parts[4] == "preupload":
                mode = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
                files = [{"path": file["path"]} | mode for file in json.loads(body)["files"]]
                return self.answer(200, {"files": files})
            added = dict(hub.files(name))
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    added[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            hub.repositories[name].append(added)
            sha = hub.sha(name)
            return self.answer(200, {"commitUrl": f"{hub.url}/{name}/commit/{sha}", "commitOid": sha})

    return Handler


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub that answers at its `url` inside the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()  # how often it looks for an end
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
