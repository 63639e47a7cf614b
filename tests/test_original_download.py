# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from coltran.errors import UserError
from coltran.original import download
from tests.tf_bundle import tensors_of, write_bundle
from tests.tiny import tiny_networks


class Server(BaseHTTPRequestHandler):
    content = b""
    asked: list[str | None] = []
    breaks_after: int | None = None
    ranges = True

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.asked.append(asked)
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        if self.path != "/coltran.zip" or first >= len(self.content):
            self.send_error(416 if first else 404)
            return
        self.send_response(206 if asked and self.ranges else 200)
        self.send_header("Content-Length", str(len(self.content) - first))
        self.end_headers()
        self.wfile.write(self.content[first:][: self.breaks_after])

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An archive of two checkpoints in folders whose names say nothing."""
    folder = tmp_path_factory.mktemp("archive")
    networks = tiny_networks()
    write_bundle(folder / "a" / "model-1", tensors_of(networks[0]))
    write_bundle(folder / "b" / "model-1", tensors_of(networks[4]))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder))
    return out.getvalue()


@pytest.fixture
def server(archive: bytes) -> Iterator[type[Server]]:
    handler = type("Handler", (Server,), {"content": archive, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        handler.url = f"http://127.0.0.1:{http.server_port}/coltran.zip"
        yield handler
        http.shutdown()


def test_the_networks_are_found_by_their_tensors(server, tmp_path):
    found = download.published(tmp_path, server.url)
    assert {target.name: source.name for target, source in found.items()} == {
        "colorizer": "a",
        "spatial_upsampler": "b",
    }


@pytest.mark.parametrize("ranges", [True, False], ids=["resumes", "starts over"])
def test_an_interrupted_download_goes_on(server, tmp_path, archive, ranges):
    server.breaks_after = 1000
    with pytest.raises(UserError, match="broke off"):
        download.fetch(server.url, tmp_path / "coltran.zip")
    server.breaks_after, server.ranges = None, ranges
    assert download.fetch(server.url, tmp_path / "coltran.zip").read_bytes() == archive
    assert server.asked == [None, "bytes=1000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["coltran.zip"]


def test_what_was_fetched_whole_is_not_fetched_again(server, tmp_path, archive):
    (tmp_path / "coltran.zip.part").write_bytes(archive)
    for _ in range(2):
        assert download.fetch(server.url, tmp_path / "coltran.zip").read_bytes() == archive
    assert server.asked == [f"bytes={len(archive)}-"]


def test_without_a_network_it_says_so(tmp_path):
    with pytest.raises(UserError, match=r"cannot be reached \(.+\): is there a network\?"):
        download.fetch("http://127.0.0.1:9/coltran.zip", tmp_path / "coltran.zip")
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_moved_is_one_sentence(server, tmp_path):
    with pytest.raises(UserError, match="the server answers 404"):
        download.fetch(server.url.replace("coltran.zip", "gone.zip"), tmp_path / "coltran.zip")


def test_a_damaged_archive_is_one_sentence(server, tmp_path: Path):
    server.content = server.content[:-200]
    with pytest.raises(UserError, match="is damaged"):
        download.published(tmp_path, server.url)
