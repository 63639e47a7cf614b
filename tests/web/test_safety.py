# SPDX-License-Identifier: Apache-2.0
"""What someone who means ill, or many at once, can do: read no file of the server, and neither fill nor stop it."""

from __future__ import annotations

import os
import resource
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from coltran.errors import UserError
from coltran.page import serve
from coltran.pipeline import Pipeline
from tests.web.visitor import Visitor

SECRET = "nobody may read this"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "small.png"
    Image.linear_gradient("L").resize((40, 30)).save(path)
    return path


@pytest.mark.parametrize(
    "way",
    [
        "{secret}",
        "..{secret}",
        "{folder}/../{name}",
        "file://{secret}",
        "{link}",
        "%2e%2e/%2e%2e{secret}",
        "/etc/passwd",
    ],
)
def test_no_file_of_the_server_can_be_read(server: str, tmp_path: Path, way: str) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    link = tmp_path / "link.png"
    link.symlink_to(secret)
    asked = way.format(secret=secret, folder=tmp_path / "x", name=secret.name, link=link)
    for prefix in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/"):
        answer = httpx.get(f"{server}{prefix}{asked}", trust_env=False)
        assert SECRET not in answer.text and "root:" not in answer.text
        assert answer.status_code >= 400 or "html" in answer.headers["content-type"]


def test_a_path_of_the_server_cannot_be_opened_as_an_upload(server: str, photo: Path) -> None:
    visitor = Visitor(server)
    assert visitor.open(str(photo)) != "done"
    assert visitor.open("/etc/passwd") != "done"


def test_an_upload_that_is_too_large_is_refused(server: str, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(os.urandom(3 << 20))
    assert Visitor(server).upload(large).status_code == 413


def test_a_browser_may_load_nothing_from_elsewhere(server: str) -> None:
    policy = httpx.get(server, trust_env=False).headers["content-security-policy"]
    assert policy.startswith("default-src 'self'") and "http" not in policy


def test_it_listens_on_this_machine_only(server: str) -> None:
    port = int(server.rpartition(":")[2])
    others = {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in others - {"127.0.0.1"}:
        if not address.startswith("127."):
            with socket.socket() as tried:
                tried.settimeout(2)
                assert tried.connect_ex((address, port)) != 0


def test_a_port_that_is_taken_is_said(server: str, pipeline: Pipeline, tmp_path: Path, taken) -> None:
    with pytest.raises(UserError, match="cannot listen at 127.0.0.1"):
        serve.start(pipeline, tmp_path, taken)


def test_fifty_at_once_are_all_served_in_bounded_memory(server: str, tmp_path: Path) -> None:
    photo = tmp_path / "large.png"
    Image.linear_gradient("L").resize((1000, 1000)).save(photo)

    def use(_: int) -> str:
        visitor = Visitor(server)
        return visitor.open(visitor.upload(photo).json()[0])

    use(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(use, range(50))) == ["done"] * 50
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 500, f"{grown:.0f} MiB for fifty people"


def test_who_finds_the_queue_full_is_told(crowded: str, photo: Path) -> None:
    def use(_: int) -> str:
        visitor = Visitor(crowded)
        opened = visitor.open(visitor.upload(photo).json()[0])
        return visitor.draw() if opened == "done" else opened

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(use, range(8)))
    assert "done" in said
    refused = [one for one in said if one != "done"]
    assert refused and all("queue" in one.lower() for one in refused)
