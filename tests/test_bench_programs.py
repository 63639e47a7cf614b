# SPDX-License-Identifier: Apache-2.0
"""The benchmark programs: what they print, write and draw, what they check first, what an interruption leaves."""

from __future__ import annotations

import dataclasses
import functools
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import check, document, machine, record, sample_speed, scaling, setting, timing
from coltran.errors import UserError
from coltran_kernels.ops import IMPLEMENTATIONS

ROOT = Path(__file__).resolve().parent.parent
CONFIG = """
from coltran.test_configs import {name}


def get_config():
    config = {name}.get_config()
    config.downsample_res, config.resolution = {low}, [{high}, {high}]
    config.model.update({sizes})
    return config
"""
SIZES = {
    "colorizer": "hidden_size=16, **{part: {'hidden_size': 16, 'ff_size': 16} for part in ('encoder', 'decoder')}",
    "color_upsampler": "hidden_size=16, ff_size=16",
    "spatial_upsampler": "hidden_size=16, ff_size=16",
}
PNG = b"\x89PNG\r\n"


@pytest.fixture(autouse=True)
def _quick_limits(monkeypatch):
    """Limits measured on little, for a moment: nothing here is about their values."""
    monkeypatch.setattr(machine, "MEMORY", 8 << 20)
    monkeypatch.setitem(machine.PRODUCT, "cpu", (64, 64, 64))
    monkeypatch.setattr(machine, "measure_limits", functools.partial(machine.measure_limits, seconds=0.001))


@pytest.fixture(autouse=True)
def _without_the_interpreter(monkeypatch):
    """Nobody asks Triton whether it can sample: here it would, through the interpreter, for 10 seconds each time."""
    monkeypatch.setattr(setting, "IMPLEMENTATIONS", tuple(name for name in IMPLEMENTATIONS if name != "triton"))


@pytest.fixture
def config(tmp_path):
    """The path of a tiny colorizer's configuration, with its neighbours."""
    for name, sizes in SIZES.items():
        text = CONFIG.format(name=name, low=5, high=8, sizes=sizes)
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    return tmp_path / "colorizer.py"


def _run(config, *options):
    folder = config.parent / "results"
    arguments = ["--config", str(config), "--results", str(folder), "--repeats", "2", "--device", "cpu", *options]
    code = sample_speed.main(arguments)
    lines = (folder / "sample_speed.jsonl").read_text(encoding="utf-8").splitlines()
    return code, [json.loads(line) for line in lines]


def test_a_run_writes_one_line_and_draws_a_chart(config, capsys):
    code, lines = _run(config, "--batch", "1", "3", "--implementation", "default", "reference", "--plot")
    assert code == 0 and len(lines) == 1
    result = lines[0]
    sides = [record.RECOMPUTING, "default", "reference"]
    expected = [("colorizer", batch, side) for batch in (1, 3) for side in sides]
    expected += [(name, 1, side) for name in ("color_upsampler", "spatial_upsampler") for side in sides[1:]]
    assert [(m["network"], m["batch"], m["implementation"]) for m in result["measurements"]] == expected
    assert all(len(m["runs"]) == 2 and m["share_of_limit"] > 0 for m in result["measurements"])
    assert result["interrupted"] is False and result["options"]["batch"] == [1, 3]
    assert result["machine"]["torch"] == torch.__version__
    assert (config.parent / "results" / "sample_speed.png").read_bytes().startswith(PNG)
    printed = capsys.readouterr().out
    assert all(title in printed for title in ("The machine", "Time an image", "Where the time goes", "sequential part"))
    assert "not here: xla" in printed


def test_every_stage_is_timed(config):
    _, (result,) = _run(config, "--batch", "1")
    stages = {m["implementation"]: set(m["stages"]) for m in result["measurements"] if m["network"] == "colorizer"}
    assert stages["default"] == {"encoder", "outer decoder", "conditioning", "row decoding"}
    assert stages[record.RECOMPUTING] == {"encoder", "outer decoder", "inner decoder"}
    for m in result["measurements"]:
        if not m["extrapolated_rows"]:
            assert 0.5 * sum(m["runs"]) / 2 < sum(m["stages"].values()) <= max(m["runs"]) * 1.001


def test_rows_that_were_not_timed_are_labelled_as_extrapolated(config, capsys):
    _, (result,) = _run(config, "--batch", "1", "--rows", "2", "--stages", "colorizer")
    rows = {m["implementation"]: m["extrapolated_rows"] for m in result["measurements"]}
    assert rows == {record.RECOMPUTING: [2, 5], "default": None}
    assert "Extrapolated: 2 of 5 rows" in capsys.readouterr().out


def test_full_extrapolates_nothing(config, capsys):
    _, (result,) = _run(config, "--batch", "1", "--full", "--stages", "colorizer")
    assert all(m["extrapolated_rows"] is None for m in result["measurements"])
    assert result["checks"]["default"]["first 5 rows"]["pixels"] == 25
    assert "xtrapolated" not in capsys.readouterr().out


def test_a_second_run_adds_a_second_line(config):
    _run(config, "--batch", "1", "--stages", "color_upsampler")
    _, lines = _run(config, "--batch", "1", "--stages", "color_upsampler")
    assert len(lines) == 2


def test_nothing_is_timed_where_the_images_differ(config, monkeypatch):
    def other_image(*arguments, **options):
        drawn = original(*arguments, **options)
        return dataclasses.replace(drawn, labels=(drawn.labels + 7) % 512)

    original = check.draw
    monkeypatch.setattr(check, "draw", other_image)
    monkeypatch.setattr(timing, "time_run", lambda *_: pytest.fail("something was timed"))
    with pytest.raises(check.Disagreement, match="Nothing was timed"):
        _run(config, "--batch", "1")


def _interrupt(monkeypatch, after: int) -> None:
    """Lets Ctrl-C arrive in the run that follows as many others."""
    runs = 0
    time_run = timing.time_run

    def run(*arguments):
        nonlocal runs
        runs += 1
        if runs > after:
            signal.raise_signal(signal.SIGINT)
        return time_run(*arguments)

    monkeypatch.setattr(timing, "time_run", run)


def test_ctrl_c_leaves_what_was_measured(config, monkeypatch, capsys):
    _interrupt(monkeypatch, after=3)  # two of the first round, which is not counted, and one
    code, (result,) = _run(config, "--batch", "1", "--plot")
    assert code == 130 and result["interrupted"] is True
    assert [(m["implementation"], len(m["runs"])) for m in result["measurements"]] == [(record.RECOMPUTING, 1)]
    assert "Interrupted; this is what was measured." in capsys.readouterr().out
    assert (config.parent / "results" / "sample_speed.png").exists()


def test_ctrl_c_before_anything_was_measured_writes_nothing(config, monkeypatch):
    _interrupt(monkeypatch, after=1)
    with pytest.raises(KeyboardInterrupt):
        _run(config, "--batch", "1")
    assert not (config.parent / "results").exists()


def test_an_implementation_that_cannot_run_is_one_sentence(config):
    with pytest.raises(UserError, match="'xla' cannot run here"):
        _run(config, "--implementation", "xla")


def test_a_configuration_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no configuration file"):
        _run(tmp_path / "colorizer.py")


@pytest.mark.parametrize("program", ["sample_speed", "scaling", "gpu", "document"])
def test_a_program_explains_itself_from_anywhere(program, tmp_path):
    command = [sys.executable, str(ROOT / "bench" / f"{program}.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"python bench/{program}.py" in done.stdout


def test_scaling_fits_exponents_beside_those_of_counting(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "BASE", {"side": 3, "batch": 1, "hidden size": 8})
    options = [
        "--side",
        "2",
        "4",
        "--batch",
        "1",
        "4",
        "--hidden",
        "8",
        "16",
        "--repeats",
        "1",
        "--plot",
        "--device",
        "cpu",
    ]
    assert scaling.main([*options, "--results", str(tmp_path)]) == 0
    (result,) = (json.loads(line) for line in (tmp_path / "scaling.jsonl").read_text(encoding="utf-8").splitlines())
    assert [sweep["name"] for sweep in result["sweeps"]] == ["side", "batch", "hidden size"]
    counted = {series["implementation"]: series["counted"] for series in result["sweeps"][1]["series"]}
    assert counted == {record.RECOMPUTING: pytest.approx(1.0), "default": pytest.approx(1.0)}
    assert (tmp_path / "scaling.png").read_bytes().startswith(PNG)
    assert "measured exponent" in capsys.readouterr().out


def test_an_interrupted_scaling_keeps_the_points_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "BASE", {"side": 3, "batch": 1, "hidden size": 8})
    _interrupt(monkeypatch, after=8)  # two sides, two rounds, two points
    options = ["--side", "2", "3", "4", "--repeats", "1", "--device", "cpu", "--results", str(tmp_path)]
    assert scaling.main(options) == 130
    result = json.loads((tmp_path / "scaling.jsonl").read_text(encoding="utf-8"))
    assert result["interrupted"] is True
    assert [(sweep["name"], sweep["values"]) for sweep in result["sweeps"]] == [("side", [2, 3])]


def test_an_exponent_is_the_power_of_a_power_law():
    values = [16, 32, 64]
    assert scaling.exponent(values, [3 * value**2.5 for value in values]) == pytest.approx(2.5)


def test_the_document_is_filled_from_the_newest_records(config, tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "BASE", {"side": 3, "batch": 1, "hidden size": 8})
    results = config.parent / "results"
    _run(config, "--batch", "1", "--stages", "colorizer")
    scaling.main(
        ["--side", "2", "3", "--batch", "--hidden", "--repeats", "1", "--device", "cpu", "--results", str(results)]
    )
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    copy = tmp_path / "docs" / "performance.md"
    copy.parent.mkdir()
    copy.write_text(text, encoding="utf-8")
    assert document.main(["--results", str(results), "--document", str(copy)]) == 0
    filled = copy.read_text(encoding="utf-8")
    assert "at batch 1" in filled and "| row decoding | 1 | default |" in filled and "| side (batch 1" in filled
    assert all((copy.parent / "images" / f"{name}.png").read_bytes()[:6] == PNG for name in ("sample_speed", "scaling"))
    assert document.main(["--results", str(results), "--document", str(copy)]) == 0
    assert copy.read_text(encoding="utf-8") == filled


def test_the_document_s_estimates_are_those_that_are_counted():
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    counted = document.sections(ROOT / "no records", ROOT)["estimates"]
    assert document.fill(text, "estimates", counted) == text


def test_a_document_without_its_marks_is_one_sentence():
    with pytest.raises(UserError, match="needs the marks 'begin results'"):
        document.fill("text", "results", "table")
