# SPDX-License-Identifier: Apache-2.0
"""The benchmark programs: what they print, write and draw, what they check first, what an interruption leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import bench
from bench import check, document, machine, neighbours, parts, record, rounding, sample_speed, scaling, setting, timing
from coltran.errors import UserError
from coltran_kernels.choose import IMPLEMENTATIONS
from coltran_kernels.cpu import native
from coltran_kernels.cpu.linear import why_not

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


@pytest.fixture(autouse=True, scope="module")
def _quick():
    """Limits measured on little, for a moment: nothing here is about their values. And nobody asks Triton whether it
    can sample: here it would, through the interpreter, for 10 seconds each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "MEMORY", 8 << 20)
        patch.setitem(machine.PRODUCT, "cpu", (64, 64, 64))
        patch.setattr(machine, "measure_limits", functools.partial(machine.measure_limits, seconds=0.001))
        patch.setattr(setting, "IMPLEMENTATIONS", tuple(name for name in IMPLEMENTATIONS if name != "triton"))
        yield


def _write_configurations(folder):
    """A tiny colorizer's configuration, of which the path is given, with its neighbours."""
    for name, sizes in SIZES.items():
        text = CONFIG.format(name=name, low=5, high=8, sizes=sizes)
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder / "colorizer.py"


@pytest.fixture
def config(tmp_path):
    return _write_configurations(tmp_path)


def _run(config, *options):
    folder = config.parent / "results"
    arguments = ["--config", str(config), "--results", str(folder), "--repeats", "2", "--device", "cpu", *options]
    code = sample_speed.main(arguments)
    lines = (folder / "sample_speed.jsonl").read_text(encoding="utf-8").splitlines()
    return code, [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(exit code, records, what was printed, the folder of results) of a run with everything in it."""
    config, printed = _write_configurations(tmp_path_factory.mktemp("run")), io.StringIO()
    options = ["--batch", "1", "3", "--rows", "2", "--implementation", "default", "reference"]
    with contextlib.redirect_stdout(printed):
        return *_run(config, *options, "--fixed-point", "--plot"), printed.getvalue(), config.parent / "results"


def test_a_run_writes_one_line_and_draws_a_chart(run):
    code, (result,), printed, folder = run
    sides = [record.RECOMPUTING, "default", "reference", record.FIXED_POINT]
    expected = [("colorizer", batch, side) for batch in (1, 3) for side in sides]
    expected += [(name, 1, side) for name in ("color_upsampler", "spatial_upsampler") for side in sides[1:3]]
    assert code == 0
    assert [(m["network"], m["batch"], m["implementation"]) for m in result["measurements"]] == expected
    assert all(len(m["runs"]) == 2 and m["share_of_limit"] > 0 for m in result["measurements"])
    assert result["interrupted"] is False and result["options"]["batch"] == [1, 3]
    assert result["machine"]["torch"] == torch.__version__
    assert (folder / "sample_speed.png").read_bytes().startswith(PNG)
    titles = ("The machine", "Time an image", "Where the time goes", "sequential part", "Rows by fixed point")
    assert all(title in printed for title in titles)
    settled = [m for m in result["measurements"] if "passes" in m]
    assert [m["implementation"] for m in settled] == [record.FIXED_POINT] * 2
    assert all(1 <= m["passes"] <= 5 and m["computed"] >= 1 for m in settled)  # of 5 x 5 pixels
    assert "not here: xla" in printed


def test_every_stage_is_timed(run):
    _, (result,), *_ = run
    stages = {m["implementation"]: set(m["stages"]) for m in result["measurements"] if m["network"] == "colorizer"}
    assert stages["default"] == {"encoder", "outer decoder", "conditioning", "row decoding"}
    assert stages[record.RECOMPUTING] == {"encoder", "outer decoder", "inner decoder"}
    for m in result["measurements"]:
        if not m["extrapolated_rows"]:
            assert 0.5 * sum(m["runs"]) / 2 < sum(m["stages"].values()) <= max(m["runs"]) * 1.001


def test_rows_that_were_not_timed_are_labelled_as_extrapolated(run):
    _, (result,), printed, _ = run
    rows = {m["implementation"]: m["extrapolated_rows"] for m in result["measurements"]}
    assert rows == {record.RECOMPUTING: [2, 5]} | dict.fromkeys(("default", "reference", record.FIXED_POINT))
    assert "Extrapolated: 2 of 5 rows" in printed


def test_no_rows_leave_the_originals_way_out(config):
    code, (result,) = _run(config, "--batch", "1", "--rows", "0", "--stages", "colorizer")
    assert code == 0 and list(result["checks"]["default"]) == ["small images"]
    assert [(m["implementation"], m["ratio"]) for m in result["measurements"]] == [("default", None)]


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


def test_a_configuration_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no configuration file"):
        _run(tmp_path / "colorizer.py")


@pytest.mark.skipif(why_not("bfloat16") is not None, reason=str(why_not("bfloat16")))
def test_what_bfloat16_changes_is_little_and_told(tmp_path, capsys):
    Image.new("RGB", (64, 64), "olive").save(tmp_path / "olive.png")
    rounding.main([str(tmp_path), "--images", "1", "--argmax", "1", "--space", "1"])
    told = capsys.readouterr().out
    change = float(re.search(r"in bfloat16 ([+-][\d.]+),", told)[1])
    assert abs(change) < 0.02
    assert [line.split(":")[0] for line in told.splitlines()[2:]] == ["colour upsampler", "spatial upsampler"]


def test_the_programs_explain_themselves_from_anywhere(tmp_path):
    programs, _, _ = str(bench.__doc__).partition("What they are made of")
    names = [name for name in re.findall(r"^([a-z_]+) {2,}", programs, re.MULTILINE) if name != "suite"]
    assert len(names) > 15
    files = [ROOT / "bench" / f"{name}.py" for name in names]
    code = """import runpy, sys
for file in sys.argv[1:]:
    sys.argv = [file, "--help"]
    try:
        runpy.run_path(file, run_name="__main__")
    except SystemExit as exit_:
        assert exit_.code == 0, file
"""
    done = subprocess.run([sys.executable, "-c", code, *files], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f"python bench/{file.name}" in done.stdout for file in files)


def test_scaling_fits_exponents_beside_those_of_counting(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "BASE", {"side": 3, "batch": 1, "hidden size": 8})
    options = ["--side", "2", "4", "--batch", "1", "4", "--hidden", "--repeats", "1", "--plot", "--device", "cpu"]
    assert scaling.main([*options, "--results", str(tmp_path)]) == 0
    (result,) = (json.loads(line) for line in (tmp_path / "scaling.jsonl").read_text(encoding="utf-8").splitlines())
    assert [sweep["name"] for sweep in result["sweeps"]] == ["side", "batch"]
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


def test_the_document_says_what_the_records_say(tmp_path):
    copy = tmp_path / "docs" / "performance.md"
    copy.parent.mkdir()
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    copy.write_text(document.fill(text, "results", "something else"), encoding="utf-8")
    assert document.main(["--document", str(copy)]) == 0
    assert copy.read_text(encoding="utf-8") == text
    assert all((copy.parent / "images" / f"{name}.png").read_bytes()[:6] == PNG for name in ("sample_speed", "scaling"))


def test_a_document_without_its_marks_is_one_sentence():
    with pytest.raises(UserError, match="needs the marks 'begin results'"):
        document.fill("text", "results", "table")


def test_neighbours_are_started_and_ended_and_the_times_kept(tmp_path):
    config = _write_configurations(tmp_path)
    assert neighbours.main([f"--config={config}", "--repeats=1", "--neighbours=1", f"--results={tmp_path}"]) == 0
    (found,) = json.loads((tmp_path / "neighbours.jsonl").read_text())["measurements"]
    assert set(found["seconds"]) == {"alone", "beside others", "beside others, all threads"}


@pytest.mark.skipif(why_not("bfloat16") is not None, reason=str(why_not("bfloat16")))
def test_products_in_bfloat16_are_measured_against_their_own_limit(tmp_path):
    config = _write_configurations(tmp_path)
    options = ["--precision=bfloat16", "--batch=1", "--repeats=1", "--stages=colorizer", "--device=cpu"]
    assert sample_speed.main([*options, f"--config={config}", f"--results={tmp_path}"]) == 0
    found = json.loads((tmp_path / "sample_speed.jsonl").read_text())
    dtypes = {m["implementation"]: m["dtype"] for m in found["measurements"]}
    assert dtypes == {record.RECOMPUTING: "float32", setting.DEFAULT: "bfloat16"}


@pytest.mark.skipif(native.why_not() is not None, reason="the native kernels are not to be had here")
def test_the_parts_of_an_images_time_sum_up_to_it(config, capsys):
    assert parts.main(["--config", str(config), "--batch", "2"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["seconds"]["2"]
    assert sum(seconds for kind, seconds in found.items() if kind != "all") == pytest.approx(found["all"])
    assert min(found[kind] for kind in ("products", "row decoding", "attention", "layer norm", "copies")) > 0
