# SPDX-License-Identifier: Apache-2.0
"""Networks go to the Hub and come back, with and without a connection; a Hub on this machine stands in for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coltran import checkpoint, export, hub, networks
from coltran.checkpoint import CheckpointError
from coltran.hub import Repository
from coltran.loading import PRETRAINED, find_networks, from_pretrained
from tests.hub_of_tests import Hub, serving
from tests.tiny import colorizer_config, upsampler_config


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    checkpoint.save(networks.build(colorizer_config(8, 8)), folder / "colorizer")
    checkpoint.save(networks.build(upsampler_config("color_upsampler", 8, 8)), folder / "color_upsampler")
    return folder


def test_names_and_folders_are_told_apart():
    assert hub.repository("owner/name") == Repository("owner/name", None)
    assert hub.repository("owner/name@v1.0") == Repository("owner/name", "v1.0")
    folders = ("./runs", "/tmp/runs", "runs", "runs/of/mine", "../runs")
    assert [hub.repository(folder) for folder in folders] == [None] * 5


def test_a_folder_that_is_there_is_never_looked_for_on_the_hub(runs, tmp_path, monkeypatch):
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").symlink_to(runs)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert find_networks("owner/name") == Path("owner/name")
    assert find_networks() == PRETRAINED


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda runs: from_pretrained(runs, revision="v1"), "no revision v1"),
        (
            lambda runs: from_pretrained("owner/name"),
            r"owner/name is on the Hub, which needs: pip install coltran\[hub\]",
        ),
        (lambda runs: hub.push([runs / "colorizer"], "trained"), "'trained' is no name of a repository"),
    ],
)
def test_what_needs_no_hub_to_be_refused_is_one_sentence(runs, monkeypatch, call, sentence):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=sentence):
        call(runs)


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Hub]:
    """A Hub that huggingface_hub takes for its own, with an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with serving() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield running


@pytest.fixture
def pushed(server, runs) -> str:
    """The first commit of owner/name, by the program."""
    assert export.main([str(runs), "--push", "owner/name", "--dtype", "float32"]) == 0
    return str(server.sha("owner/name"))


def _sum(*source: str, **options: str) -> float:
    return float(sum(p.detach().double().sum() for p in from_pretrained(*source, **options).colorizer.parameters()))


def test_a_push_is_the_networks_which_come_back_and_a_card(server, pushed, runs):
    files = server.files("owner/name")
    networks_there = {f"{name}/{file}" for name in ("colorizer", "color_upsampler") for file in hub.FILES}
    assert set(files) == {"README.md"} | networks_there
    assert 'coltran.from_pretrained("owner/name")' in files["README.md"].decode()
    assert _sum("owner/name") == _sum(str(runs))


def test_a_revision_is_what_was_there_then(server, pushed, runs):
    server.repositories["owner/name"].append(server.files("owner/name") | {"colorizer/config.yaml": b"damaged: ["})
    assert _sum("owner/name", revision=pushed) == _sum(f"owner/name@{pushed}") == _sum(str(runs))
    with pytest.raises(CheckpointError, match="config.yaml is damaged"):
        from_pretrained("owner/name")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("owner/absent", "There is no folder owner/absent, and no such repository on the Hub."),
        ("owner/name@v9", "owner/name has no revision v9 on the Hub."),
    ],
)
def test_what_is_not_there_is_one_sentence(pushed, name, sentence):
    with pytest.raises(CheckpointError) as error:
        from_pretrained(name)
    assert str(error.value) == sentence


def test_nothing_but_networks_is_fetched(server, pushed):
    server.repositories["owner/name"].append(server.files("owner/name") | {"run.py": b"evil", "x/weights.bin": b"evil"})
    folder = hub.fetch(Repository("owner/name", None))
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {"README.md", *hub.FILES}


def test_nothing_is_pushed_but_what_was_exported_and_a_card_that_is_there_stays(server, pushed, runs, tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "config.yaml").write_text("password: x")
    server.repositories["owner/name"].append(server.files("owner/name") | {"README.md": b"edited"})
    export.main([str(runs), "-o", str(tmp_path), "--push", "owner/name"])
    files = server.files("owner/name")
    assert "private/config.yaml" not in files and files["README.md"] == b"edited"


def test_who_may_not_write_is_told_so(server, runs, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(CheckpointError, match="owner/name cannot be written on the Hub: .*401"):
        hub.push([runs / "colorizer"], "owner/name")


@pytest.mark.parametrize(("setting", "value"), [("HF_HUB_OFFLINE", True), ("ENDPOINT", "http://127.0.0.1:9")])
def test_offline_or_without_a_connection_the_cache_serves(server, pushed, runs, monkeypatch, setting, value):
    hub.fetch(Repository("owner/name", None))
    monkeypatch.setattr(f"huggingface_hub.constants.{setting}", value)
    before = len(server.requests)
    assert _sum("owner/name") == _sum(str(runs))
    with pytest.raises(CheckpointError, match="owner/other is not in the cache, and the Hub cannot be reached"):
        from_pretrained("owner/other")
    assert len(server.requests) == before
