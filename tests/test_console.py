# SPDX-License-Identifier: Apache-2.0
"""The conventions of the command line, for all programs alike."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import coltran
from coltran import __main__ as umbrella
from coltran import checkpoint, cli, colorize, console, export, networks
from tests.tiny import colorizer_config
from tests.tiny_training import write_photo

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = umbrella.programs()


@pytest.fixture
def runs(tmp_path) -> Path:
    checkpoint.save(networks.build(colorizer_config(8, 8)), tmp_path / "runs" / "colorizer")
    return tmp_path / "runs"


def _colorize(runs: Path, *options: str, photo: str = "old.png") -> int:
    write_photo(runs.parent / "old.png", 0)
    arguments = [str(runs.parent / photo), "-o", str(runs.parent / "out"), "--checkpoint", str(runs)]
    return colorize.main([*arguments, "--stage", "coarse", *options])


def test_every_module_that_can_be_started_is_a_command():
    assert {"colorize", "convert", "evaluate", "export", "run", "sample", "train"} <= set(PROGRAMS)
    assert "pipeline" not in PROGRAMS and all(PROGRAMS.values())


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_command_has_its_help_and_a_version(name, monkeypatch, capsys):
    """The help begins with an example."""
    for option, wanted in (
        ("--help", f"python -m coltran.{name} "),
        ("--help", "--quiet"),
        ("--version", f"coltran {coltran.__version__}"),
    ):
        monkeypatch.setattr(sys, "argv", ["coltran", name, option])
        with pytest.raises(SystemExit) as exit_:
            umbrella.main()
        assert exit_.value.code == 0
        assert wanted in capsys.readouterr().out


def test_the_umbrella_hands_on_what_follows_the_command(runs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["coltran", "export", str(runs), "-o", str(runs.parent / "out")])
    with pytest.raises(SystemExit) as exit_:
        umbrella.main()
    assert exit_.value.code == 0 and "colorizer" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["colourize"]])
def test_no_such_command_is_a_usage_error(argv, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["coltran", *argv])
    with pytest.raises(SystemExit) as exit_:
        umbrella.main()
    assert exit_.value.code == 2 and "usage: coltran" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_shell_completes_commands(shell, monkeypatch, capsys):
    pytest.importorskip("shtab")
    monkeypatch.setattr(sys, "argv", ["coltran", "--print-completion", shell])
    with pytest.raises(SystemExit):
        umbrella.main()
    script = capsys.readouterr().out
    assert all(name in script for name in PROGRAMS)
    subprocess.run(["bash", "-n"], input=script, text=True, check=shell == "bash")


def test_quiet_says_what_goes_wrong_and_else_nothing(runs, capsys):
    assert _colorize(runs, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    (runs.parent / "torn.png").write_bytes(b"no image")
    assert _colorize(runs, "--quiet", photo="torn.png") == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "torn.png is not an image" in captured.err
    config = "--config=coltran/test_configs/colorizer.py"  # of the flags of the original's commands
    assert cli.parse_flags([config, "--quiet"], "", lambda values: None).quiet
    assert console.is_quiet()


def test_json_is_all_there_is_on_standard_output(runs, capsys):
    assert _colorize(runs, "--json") == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    (photo,) = found["photos"].values()
    assert photo["colourings"][0]["file"] == "old-0.png" and found["problems"] == []
    assert "old.png" in captured.err


def test_json_of_an_export_has_the_sizes(runs, capsys):
    assert export.main([str(runs), "-o", str(runs.parent / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    size = sum(file.stat().st_size for file in (runs.parent / "out" / "colorizer").iterdir())
    assert found == {"bytes": {"colorizer": size}, "folder": str(runs.parent / "out"), "repository": None}


def test_a_name_in_another_encoding_is_said_as_well_as_can_be(monkeypatch):
    written = io.TextIOWrapper(io.BytesIO(), "utf-8", "strict")
    monkeypatch.setattr(sys, "stdout", written)
    said = logging.makeLogRecord({"levelno": logging.INFO, "msg": os.fsdecode(b"caf\xe9.jpg")})
    console._Console().emit(said)  # past pytest, which keeps what is logged and cannot write it
    written.flush()
    assert written.buffer.getvalue() == "caf\N{REPLACEMENT CHARACTER}.jpg\n".encode()
    plain = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(plain, "latin-1", write_through=True))
    console.LOG.info("%s", "фото.jpg")
    assert plain.getvalue() == b"????.jpg\n"


def test_messages_go_through_logging(caplog):
    console.LOG.addHandler(caplog.handler)
    try:
        with pytest.raises(SystemExit):
            cli.run(lambda: (_ for _ in ()).throw(cli.UserError("What went wrong.")))
    finally:
        console.LOG.removeHandler(caplog.handler)
    assert [(record.name, record.levelno, record.getMessage()) for record in caplog.records] == [
        ("coltran", logging.ERROR, "What went wrong.")
    ]


@pytest.mark.parametrize(
    ("environment", "colours", "animated"),
    [({}, False, False), ({"FORCE_COLOR": "1"}, True, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, True)],
)
def test_colours_are_forced_and_forbidden_as_elsewhere(monkeypatch, environment, colours, animated):
    """no-color.org and force-color.org."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    out = io.StringIO()
    monkeypatch.setattr(cli, "Console", lambda stderr: Console(file=out))
    with cli.progress_bar() as progress:
        progress.update(progress.add_task("photographs", total=2), completed=1)
        progress.refresh()
    codes = {code for code in out.getvalue().split("\x1b[")[1:] if code.split("m")[0].replace(";", "").isdigit()}
    assert bool(codes) == colours
    assert ("photographs" in out.getvalue()) == animated


def test_the_version_is_the_same_everywhere():
    assert f'\nversion = "{coltran.__version__}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_exit_codes_are_documented():
    codes = ["0", "1", "2", "130", "143"]
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (\d+) \|", page, re.MULTILINE) == codes
    assert set(codes) <= set(re.findall(r"\b\d+\b", str(umbrella.__doc__)))
