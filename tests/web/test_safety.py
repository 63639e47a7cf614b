# SPDX-License-Identifier: Apache-2.0
"""What someone who means ill, or many at once, can do: read no file of the server, and neither fill nor stop it."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from coltran import web
from coltran.errors import UserError
from coltran.page import serve
from coltran.page.serve import Studio
from coltran.pipeline import Pipeline
from tests.forked import free_port
from tests.web.visitor import Visitor

ROOT = Path(__file__).resolve().parents[2]
Held = Callable[[], Callable[[], None]]
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
    for prefix in ("/static/", "/demo/", "/api/photos/", "/"):
        answer = httpx.get(f"{server}{prefix}{asked}", trust_env=False)
        assert SECRET not in answer.text and "root:" not in answer.text
        assert answer.status_code >= 400


@pytest.mark.parametrize("name", ["../../escaped.png", "/etc/escaped.png", "a/../escaped.png", "..\\escaped.png"])
def test_a_name_of_an_upload_is_no_path(server: str, folder: Path, photo: Path, name: str) -> None:
    answer = httpx.post(f"{server}/api/photos", params={"name": name}, content=photo.read_bytes(), trust_env=False)
    assert answer.json()["name"] == "escaped.png"
    assert not list(folder.parent.rglob("escaped*"))


def test_a_photograph_is_seen_by_none_but_who_knows_its_key(server: str, photo: Path) -> None:
    visitor = Visitor(server)
    visitor.use(photo)
    for key in (visitor.key[:-1], visitor.key.swapcase()):
        for rest in ("", "/gray.jpg", "/1/download", "/swatches?x=0&y=0"):
            assert httpx.get(f"{server}/api/photos/{key}{rest}", trust_env=False).status_code == 404
    assert len(visitor.key) >= 20


def test_an_upload_that_is_too_large_is_refused(server: str, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(os.urandom(3 << 20))
    assert Visitor(server).upload(large).status_code == 413


def test_a_request_that_is_too_large_is_refused_wherever_it_goes(server: str, folder: Path) -> None:
    before = _files(folder)
    for path, most in (("photos", 3 << 20), ("photos/none/draw", 1 << 20)):
        for body in (bytes(most + 1), (bytes(1 << 16) for _ in range(most // (1 << 16) + 1))):
            answer = httpx.post(f"{server}/api/{path}", content=body, trust_env=False)
            assert answer.status_code in (404, 413)
    assert _files(folder) == before


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),
        ({"host": "localhost:7860"}, 201),
        ({"host": "other.example", "origin": "http://other.example"}, 403),  # a name that was made point here
        ({"origin": "http://other.example"}, 403),  # another page in the same browser
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:9999"}, 403),  # another server on this machine
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "http://["}, 403),
        ({"host": "["}, 403),
        ({"host": "", "origin": "http://127.0.0.1"}, 403),
    ],
)
def test_no_other_page_can_upload(server: str, photo: Path, headers: dict[str, str], status: int) -> None:
    answer = httpx.post(f"{server}/api/photos", content=photo.read_bytes(), headers=headers, trust_env=False)
    assert answer.status_code == status


def test_an_image_that_is_decoded_before_its_size_is_known_is_refused(server: str, tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    Image.new("RGB", (40, 40), "teal").save(path, format="ICO")
    visitor = Visitor(server)
    assert "is not an image that can be read" in visitor.open(path)


def test_a_name_that_is_given_is_answered_to(another: Callable[..., str]) -> None:
    named = another(name="colours.example")
    for host, status in (("colours.example", 200), ("other.example", 403)):
        assert httpx.get(named, headers={"host": host}, trust_env=False).status_code == status


def test_two_with_the_same_photograph_have_results_of_their_own(server: str, photo: Path) -> None:
    results = []
    for seed in (0, 5):
        visitor = Visitor(server)
        assert visitor.open(photo) == visitor.draw(seed=seed) == "done"
        results.append(visitor.fetch("/1/download").content)
    assert results[0] != results[1]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"seed": 2**64}, "Seed has to be a whole number"),
        ({"seed": 1.5}, "Seed has to be a whole number"),
        ({"samples": 33}, "Samples has to be a whole number from 1 to 32"),
        ({"particles": 0}, "Particles"),
        ({"temperature": 0}, "Temperature has to be a number"),
        ({"top_p": "x"}, "Top_p"),
        ({"base": 7}, "not there any more"),
        ({"box": [1, 2, 3]}, "four whole numbers"),
        ({"hints": 3}, "Hints are a list"),
        ({"hints": [{"points": [[1, 2]], "color": "red", "radius": 1}]}, "is not a hint"),
        ({"hints": [{"points": [[400, 2]], "color": "#ff0000", "radius": 1}]}, "outside of what is coloured"),
        ({"hints": [{"points": []}]}, "A hint is a list of points"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_sentence(server: str, photo: Path, asked: dict[str, Any], says: str) -> None:
    visitor = Visitor(server)
    assert visitor.open(photo) == "done"
    assert says in visitor.draw(**asked)


def test_a_body_that_is_no_json_is_said(server: str, photo: Path) -> None:
    visitor = Visitor(server)
    visitor.open(photo)
    answer = visitor.http.post(f"/api/photos/{visitor.key}/draw", content=b"{")
    assert answer.status_code == 400 and "JSON" in answer.json()["error"]


@pytest.mark.parametrize("query", ["saturation=9", "warmth=x", "warmth=nan"])
def test_an_adjustment_that_makes_no_sense_is_said(server: str, photo: Path, query: str) -> None:
    visitor = Visitor(server)
    visitor.use(photo)
    assert visitor.fetch(f"/1/shown.jpg?{query}").status_code == 400


def test_a_photograph_that_is_too_long_is_refused(server: str, tmp_path: Path) -> None:
    Image.new("L", (70_000, 2)).save(tmp_path / "long.png")
    visitor = Visitor(server)
    assert "a side of 70000 pixels" in visitor.open(tmp_path / "long.png")


@pytest.mark.parametrize(
    ("options", "environment", "says"),
    [
        (["--port", "70000"], {}, "cannot listen"),
        (["--host", "::1"], {}, "cannot listen"),
        ([], {"http_proxy": "http://127.0.0.1:9"}, "Open http"),
    ],
)
def test_it_starts_or_says_why_not(options: list[str], environment: dict[str, str], says: str) -> None:
    command = [sys.executable, "-m", "coltran.web", "--port", str(free_port()), *options]
    both: dict[str, int] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, text=True, **both) as program:
        assert program.stdout is not None
        said = program.stdout.readline()
        if says == "Open http":
            program.terminate()
        said += program.stdout.read()
    assert says in said and "Traceback" not in said


def test_a_browser_may_load_nothing_from_elsewhere(server: str) -> None:
    policy = httpx.get(server, trust_env=False).headers["content-security-policy"]
    assert policy.startswith("default-src 'self'") and "http" not in policy and "unsafe" not in policy


def test_it_listens_on_this_machine_only(server: str) -> None:
    port = int(server.rpartition(":")[2])
    others = {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in others - {"127.0.0.1"}:
        if not address.startswith("127."):
            with socket.socket() as tried:
                tried.settimeout(2)
                assert tried.connect_ex((address, port)) != 0


def test_a_port_that_is_taken_is_said(server: str, pipeline: Pipeline, folder: Path) -> None:
    taken = web.parse_arguments(["--port", server.rpartition(":")[2]])
    with pytest.raises(UserError, match="cannot listen at 127.0.0.1"):
        serve.start(pipeline, folder, taken)


def test_fifty_at_once_are_all_served_in_bounded_memory(
    server: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Each uploads a photograph of a megapixel and opens it, every fifth has it coloured; none is lost."""
    photo = tmp_path / "large.png"
    Image.linear_gradient("L").resize((1000, 1000)).save(photo)

    def use(number: int) -> str:
        return Visitor(server).use(photo, draw=number % 5 == 0)

    use(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(use, range(50))) == ["done"] * 50
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    record_property("fifty at once", f"all served in {time.monotonic() - start:.0f} s, {grown:.0f} MiB more")
    assert grown < 500, f"{grown:.0f} MiB for fifty people"


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_what_nobody_uses_any_more_is_deleted(server: str, studio: Studio, folder: Path, photo: Path) -> None:
    visitor, before = Visitor(server), _files(folder)
    assert visitor.use(photo) == "done"
    made = _files(folder) - before
    assert len(made) == 1
    studio.forget_unused(3600)
    assert _files(folder) >= made
    studio.forget_unused(0)
    assert not _files(folder)
    assert "deleted" in visitor.draw()


def test_of_too_many_photographs_the_one_unused_for_longest_goes(
    server: str, studio: Studio, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio.forget_unused(0)
    monkeypatch.setattr(serve, "MOST_SESSIONS", 2)
    visitors = [Visitor(server) for _ in range(3)]
    for visitor in visitors:
        visitor.open(photo)
    assert [visitor.fetch("").status_code for visitor in visitors] == [404, 200, 200]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_nothing_stays_when_the_program_ends(tmp_path: Path, photo: Path, number: int, code: int) -> None:
    """Neither files nor, where someone's 32 colourings are being drawn, the program until they are done."""
    folder, port = tmp_path / "temporary", free_port()
    folder.mkdir()
    environment = os.environ | {"TMPDIR": str(folder)}
    command = [sys.executable, "-m", "coltran.web", "--port", str(port)]
    heard = {
        "preexec_fn": lambda: signal.signal(number, signal.SIG_DFL)
    }  # whatever these tests were started by ignores
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, **heard) as program:
        assert program.stdout is not None and "Open http" in program.stdout.readline()
        visitor = Visitor(f"http://127.0.0.1:{port}")
        assert visitor.open(photo) == "done"
        assert _files(folder)
        with visitor.drawing(samples=32) as told:
            assert any("stage" in one for one in told)
            program.send_signal(number)
            assert program.wait(120) == code
    assert not _files(folder)


def test_who_finds_the_queue_full_is_told(another: Callable[..., str], photo: Path, held: Held) -> None:
    crowded = another(queue=1)
    visitors = [Visitor(crowded) for _ in range(3)]
    for visitor in visitors:
        visitor.open(photo)
    release = held()
    with visitors[0].drawing() as draws, visitors[1].drawing() as waits:
        assert any("preview" in one for one in draws)
        assert any(one.get("waiting") == 1 for one in waits)
        assert "queue of this page is full" in visitors[2].draw()
        release()
        assert [list(told)[-1]["end"] for told in (draws, waits)] == ["done", "done"]
    assert visitors[2].draw() == "done"
