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
from threading import Thread

import httpx
import pytest
from PIL import Image

from coltran.errors import UserError
from coltran.page import serve
from coltran.pipeline import Pipeline
from tests.ranks import free_port
from tests.web.visitor import Visitor

ROOT = Path(__file__).resolve().parents[2]
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


def test_a_request_that_is_too_large_is_refused_wherever_it_goes(server: str) -> None:
    for path, most in (("upload", 3 << 20), ("queue/join", 1 << 20)):
        for body in (bytes(most + 1), (bytes(1 << 16) for _ in range(most // (1 << 16) + 1))):
            headers = {"content-type": "application/json"}
            answer = httpx.post(f"{server}/gradio_api/{path}", content=body, headers=headers, trust_env=False)
            assert answer.status_code in (400, 413)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:7860"}, 200),
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
    with photo.open("rb") as file:
        files = {"files": (photo.name, file)}
        answer = httpx.post(f"{server}/gradio_api/upload", files=files, headers=headers, trust_env=False)
    assert answer.status_code == status


def test_an_image_that_is_decoded_before_its_size_is_known_is_refused(server: str, tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    Image.new("RGB", (40, 40), "teal").save(path, format="ICO")
    visitor = Visitor(server)
    assert "is not an image that can be read" in visitor.open(visitor.upload(path).json()[0])


def test_a_name_that_is_given_is_answered_to(another: Callable[..., str]) -> None:
    named = another(name="colours.example")
    for host, status in (("colours.example", 200), ("other.example", 403)):
        assert httpx.get(named, headers={"host": host}, trust_env=False).status_code == status


@pytest.mark.parametrize(
    "path",
    ["process_recording", "component_server", "deep_link", "vibe-edit", "proxy=http://x/", "file=http://127.0.0.1"],
)
def test_what_the_page_does_not_use_is_not_there(server: str, path: str) -> None:
    for method in ("GET", "POST"):
        assert httpx.request(method, f"{server}/gradio_api/{path}", trust_env=False).status_code == 404


def test_nothing_is_fetched_from_an_address(server: str) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(1)
        assert Visitor(server).open(f"http://127.0.0.1:{listening.getsockname()[1]}/a.png") != "done"
        with pytest.raises(TimeoutError):
            listening.accept()


def test_two_with_the_same_photograph_have_results_of_their_own(server: str, folder: Path, photo: Path) -> None:
    before = _files(folder)
    for seed in (0, 5):
        visitor = Visitor(server)
        assert visitor.open(visitor.upload(photo).json()[0]) == visitor.draw(seed=seed) == "done"
    results = [path.read_bytes() for path in _files(folder) - before if path.name == "small-coloured.png"]
    assert len(results) == len(set(results)) == 2


@pytest.mark.parametrize("seed", [None, 2**64])
def test_a_seed_that_is_none_is_said(server: str, photo: Path, seed: int | None) -> None:
    visitor = Visitor(server)
    assert visitor.open(visitor.upload(photo).json()[0]) == "done"
    assert "seed" in visitor.draw(seed=seed).lower()


def test_a_photograph_that_is_too_long_is_refused(server: str, tmp_path: Path) -> None:
    Image.new("L", (70_000, 2)).save(tmp_path / "long.png")
    visitor = Visitor(server)
    assert "a side of 70000 pixels" in visitor.open(visitor.upload(tmp_path / "long.png").json()[0])


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
    assert policy.startswith("default-src 'self'") and "http" not in policy


def test_it_listens_on_this_machine_only(server: str) -> None:
    port = int(server.rpartition(":")[2])
    others = {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in others - {"127.0.0.1"}:
        if not address.startswith("127."):
            with socket.socket() as tried:
                tried.settimeout(2)
                assert tried.connect_ex((address, port)) != 0


def test_a_port_that_is_taken_is_said(server: str, pipeline: Pipeline, folder: Path, taken) -> None:
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


def test_what_nobody_uses_any_more_is_deleted(server: str, folder: Path, photo: Path) -> None:
    visitor, before = Visitor(server), _files(folder)
    Image.linear_gradient("L").resize((50, 30)).save(photo)  # no other test's
    uploaded = visitor.upload(photo).json()[0]
    assert visitor.open(uploaded) == "done" and visitor.draw() == "done"
    made = _files(folder) - before
    assert Path(uploaded) in made and "small-coloured.png" in {path.name for path in made}
    serve.forget(folder, 3600)
    assert _files(folder) >= made
    serve.forget(folder, 0)
    assert not _files(folder)
    assert "does not exist" in visitor.draw()


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
        assert visitor.open(visitor.upload(photo).json()[0]) == "done"
        assert _files(folder)
        Thread(target=visitor.draw, args=(32,), daemon=True).start()
        time.sleep(1)
        program.send_signal(number)
        assert program.wait(20) == code
    assert not _files(folder)


def test_who_finds_the_queue_full_is_told(another: Callable[..., str], photo: Path) -> None:
    crowded = another(queue=1)
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda _: Visitor(crowded).use(photo), range(8)))
    assert "done" in said
    refused = [one for one in said if one != "done"]
    assert refused and all("queue" in one.lower() for one in refused)


def test_a_photograph_that_cannot_be_opened_takes_the_place_of_the_one_before(
    server: str, photo: Path, tmp_path: Path
) -> None:
    visitor = Visitor(server)
    assert visitor.use(photo) == "done"
    broken = tmp_path / "new.png"
    broken.write_bytes(b"no image")
    assert "is not an image" in visitor.open(visitor.upload(broken).json()[0])
    visitor.opened = False
    assert "Choose a photograph first" in visitor.draw()
