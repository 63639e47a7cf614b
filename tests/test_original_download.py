# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import io
import sys
import threading
import zipfile
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import google_crc32c
import pytest

from coltran import checkpoint
from coltran import download as program
from coltran.checkpoint import CheckpointError
from coltran.errors import UserError
from coltran.loading import find_networks
from coltran.original import download
from tests.tf_bundle import tensors_of, write_bundle
from tests.tiny import tiny_networks


class Server(BaseHTTPRequestHandler):
    content = b""
    asked: list[str | None] = []
    breaks_after: int | None = None
    ranges = True
    checksum: bytes | None = None

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.asked.append(asked)
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        if self.path != "/coltran.zip" or first >= len(self.content):
            self.send_error(416 if first else 404)
            return
        self.send_response(206 if asked and self.ranges else 200)
        self.send_header("Content-Length", str(len(self.content) - first))
        if self.checksum is not None:
            self.send_header("x-goog-hash", f"crc32c={base64.b64encode(self.checksum).decode()}")
            self.send_header("x-goog-hash", "md5=AAAA")
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


def test_the_networks_are_converted_into_folders_of_their_own_and_nothing_else_stays(server, tmp_path, monkeypatch):
    """A conversion that stopped goes on, and what lies beside the networks is left alone."""
    (tmp_path / "coltran").mkdir()
    (tmp_path / "coltran" / "mine.py").write_text("mine")
    (tmp_path / "colorizer").mkdir()
    assert not download.is_installed(tmp_path, server.url)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download, "convert", Mock(side_effect=KeyboardInterrupt))
        download.install(tmp_path, server.url)
    assert not download.is_installed(tmp_path, server.url)
    found = download.install(tmp_path, server.url)
    assert download.is_installed(tmp_path, server.url) and len(server.asked) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"coltran", "colorizer", "spatial_upsampler"}
    for place, (network, _) in found.items():
        assert type(checkpoint.load(place)) is type(network)
    assert (tmp_path / "coltran" / "mine.py").read_text() == "mine"


def test_a_file_that_is_not_what_the_servers_checksum_says_is_fetched_anew(server, tmp_path, archive):
    server.checksum = google_crc32c.Checksum(archive).digest()
    server.content = archive[:-1] + b"?"
    with pytest.raises(UserError, match="is damaged; the same command again"):
        download.fetch(server.url, tmp_path / "coltran.zip")
    assert list(tmp_path.iterdir()) == []
    server.content = archive
    assert download.fetch(server.url, tmp_path / "coltran.zip").read_bytes() == archive


def test_an_archive_larger_than_the_disk_is_one_sentence(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"unpacks to \d+ MB, and 0 MB are free\.$"):
        download.install(tmp_path, server.url)


def test_the_program_fills_the_cache_and_says_what_it_fetched(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["download", "--url", server.url])
    assert program.main() == 0
    out = capsys.readouterr().out
    place = tmp_path / "coltran" / "published"
    assert f"Fetched {server.url}.\n{place}/colorizer: 0.06 M parameters, 7 training steps\n" in out
    assert f"Licence of these networks: {download.LICENCE}." in out
    assert program.main() == 0
    assert capsys.readouterr().out == f"The published networks are in {place}.\n"
    assert len(server.asked) == 1


def test_the_published_networks_are_found_by_that_name(server, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"not here yet: python -m coltran.download fetches them\.$"):
        find_networks("published")
    (download.cached() / "colorizer").mkdir(parents=True)
    (download.cached() / "colorizer" / "model.safetensors").touch()
    assert find_networks("published") == download.cached() == tmp_path / "cache" / "coltran" / "published"
    Path("published").mkdir()
    assert find_networks("published") == Path("published")


@pytest.mark.parametrize("ranges", [True, False], ids=["resumes", "starts over"])
def test_an_interrupted_download_goes_on(server, tmp_path, archive, ranges):
    server.breaks_after = 1000
    with pytest.raises(UserError, match="broke off"):
        download.fetch(server.url, tmp_path / "coltran.zip")
    server.breaks_after, server.ranges, progress = None, ranges, Mock()
    assert download.fetch(server.url, tmp_path / "coltran.zip", progress).read_bytes() == archive
    progress.assert_called_with(len(archive), len(archive))
    assert server.asked == [None, "bytes=1000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["coltran.zip"]


def test_what_was_fetched_whole_is_not_fetched_again(server, tmp_path, archive):
    (tmp_path / "coltran.zip.part").write_bytes(archive)
    for _ in range(2):
        assert download.fetch(server.url, tmp_path / "coltran.zip").read_bytes() == archive
    assert server.asked == [f"bytes={len(archive)}-"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        *(
            (url, "is no address of an archive")
            for url in ("foo", "foo/bar.zip", "https://x.org/", "ftp://x.org/x.zip")
        ),
        ("http://127.0.0.1:9/coltran.zip", r"cannot be reached \(.+\): is there a network\?"),
        ("gone.zip", "the server answers 404"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(server, tmp_path, url, reason):
    with pytest.raises(UserError, match=reason):
        download.install(tmp_path, server.url.replace("coltran.zip", url) if url == "gone.zip" else url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [None, zlib.error("bad"), NotImplementedError("kind"), RuntimeError("encrypted")])
def test_a_damaged_archive_is_one_sentence(server, tmp_path, monkeypatch, error):
    if error:
        monkeypatch.setattr(zipfile.ZipFile, "extractall", Mock(side_effect=error))
    else:
        server.content = server.content[:-200]
    with pytest.raises(UserError, match="is damaged"):
        download.install(tmp_path, server.url)
