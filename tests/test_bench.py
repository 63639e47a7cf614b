# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run, and what their figures are made of is right: checks, counts, ratios, shares."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import colorizer_config, random_colorizer, upsampler_config
from tiny_training import whole_config

from bench import check, counting, gpu, machine, recomputing, record, sample_speed, setting, timing, train_step
from coltran.networks import model_config

ROOT, CPU = Path(__file__).resolve().parent.parent, torch.device("cpu")
MODELS = {
    "colorizer": colorizer_config(5, 5),
    "color_upsampler": upsampler_config("color_upsampler", 5, 5),
    "spatial_upsampler": upsampler_config("spatial_upsampler", 8, 8),
}


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The arguments of a run on tiny networks; limits measured on little, for a moment."""
    monkeypatch.setattr(
        setting, "load_models", lambda config=None, stages=setting.STAGES: {s: MODELS[s] for s in stages}
    )
    monkeypatch.setitem(machine.PRODUCT, "cpu", (64, 64, 64))
    monkeypatch.setattr(machine, "measure_limits", partial(machine.measure_limits, seconds=0.001))
    return [f"--results={tmp_path}", "--repeats=2", "--device=cpu"]


def _record(tmp_path, name="sample_speed"):
    (line,) = (tmp_path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads(line)


def test_the_headline_checks_then_times_both_ways_and_divides_them(tiny, tmp_path, capsys):
    assert sample_speed.main([*tiny, "--batch", "1", "3", "--rows", "2"]) == 0
    result, sides = _record(tmp_path), [record.RECOMPUTING, record.OURS]
    found = {(m["network"], m["batch"], m["implementation"]): m for m in result["measurements"]}
    upsamplers = [(stage, 1, record.OURS) for stage in setting.STAGES[1:]]
    assert list(found) == [("colorizer", batch, side) for batch in (1, 3) for side in sides] + upsamplers
    assert result["checks"].keys() == {"exact", "rowcontext", "first 2 rows"} and not result["interrupted"]
    for batch in (1, 3):
        slow, fast = (found["colorizer", batch, side] for side in sides)
        assert (slow["extrapolated_rows"], fast["extrapolated_rows"]) == ([2, 5], None)
        assert fast["ratio"] == pytest.approx(slow["seconds_an_image"] / fast["seconds_an_image"])
        assert fast["seconds_an_image"] == pytest.approx(sum(fast["runs"]) / 2 / batch)  # the median of two
        assert set(fast["stages"]) == {"encoder", "outer decoder", "conditioning", "row decoding"}
        assert sum(fast["stages"].values()) <= 1.001 * max(fast["runs"])
    assert "Extrapolated: 2 of 5 rows" in capsys.readouterr().out


def test_nothing_is_timed_where_the_images_differ(tiny, monkeypatch):
    sample = check.sample
    monkeypatch.setattr(check, "sample", lambda network, gray, **options: sample(network, 255 - gray, **options))
    monkeypatch.setattr(timing, "time_run", lambda *_: pytest.fail("something was timed"))
    with pytest.raises(check.Disagreement, match="Nothing was timed"):
        sample_speed.main([*tiny, "--batch", "1"])


def test_extrapolating_counts_every_stage_as_often_as_the_whole_run_has_it():
    network, gray = random_colorizer(), torch.zeros(1, 6, 8, dtype=torch.uint8)

    def marks(rows):
        seen = []
        recomputing.sample(network, gray, rows=rows, finished=seen.append)
        return {stage: float(seen.count(stage)) for stage in set(seen)}

    partly = timing.Timing(sum(marks(2).values()), marks(2))
    assert timing.extrapolate(partly, 2, 6) == (sum(marks(6).values()), marks(6))
    assert marks(6) == {"encoder": 1, "inner decoder": 6, "outer decoder": 5}


def test_the_papers_work_is_counted():
    paper = {stage: model_config(_config(stage)) for stage in setting.STAGES}
    work = counting.incremental(paper["colorizer"])
    # Known to two digits, some of them cut off rather than rounded: less than one in the last digit apart.
    assert abs(work["encoder"] / 1e9 - 54) < 1 and abs(work["outer decoder"] / 1e9 - 60) < 1
    assert abs(counting.flops(work) / 1e12 - 0.327) < 0.001
    assert round(counting.flops(counting.recomputing(paper["colorizer"])) / counting.flops(work)) == 43
    assert counting.flops(counting.upsampler(paper["color_upsampler"])) / 1e12 == pytest.approx(0.33, rel=0.02)
    assert counting.flops(counting.upsampler(paper["spatial_upsampler"])) / 1e12 == pytest.approx(4.4, rel=0.02)
    assert counting.step_weights(paper["colorizer"]) == 2 * 6 * 512**2 + 512 * 512


def _config(name):
    return __import__(f"coltran.configs.{name}", fromlist=["get_config"]).get_config()


def test_a_step_of_training_has_a_share(tiny, monkeypatch, capsys):
    config = whole_config("coltran_core")
    monkeypatch.setattr(train_step.importlib, "import_module", lambda _: SimpleNamespace(get_config=lambda: config))
    monkeypatch.setattr(train_step, "keep_memory", lambda: True)
    assert train_step.main(["--batch", "2", "--precision", "float32", "--steps", "2"]) == 0
    (step,) = json.loads(capsys.readouterr().out.splitlines()[-1])["steps"]
    assert step["gflop"] == pytest.approx(2 * 2 * counting.training_step(model_config(config)) / 1e9)
    rate = step["gflop/s of the large product by clock"]
    assert step["share by clock"] == pytest.approx(step["gflop"] / step["clock seconds"] / rate)


def test_what_a_gpu_is_given_is_counted_by_stage(tiny, capsys):
    assert gpu.main(["--launches", "--json", "--batch", "1"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = {
        row["stage"]: row for row in found["stages"] if (row["network"], row["precision"]) == ("colorizer", "bfloat16")
    }
    image, whole = found["image"], rows.pop("all")
    for name, count in whole.items():
        assert isinstance(count, str) or name == "batch" or count == sum(row[name] for row in rows.values())
    assert image["kernels"] == whole["kernels"] + whole["in_graphs"]
    height = rows["outer decoder"]["replays"] + 1
    assert image["replays"] == 1 + (height - 1) + whole["flags"] + height  # a flag a pass, and a pass behind it
    assert image["replays"] <= height * (1 + image["passes"] + 2)
    assert image["kernels_a_pass"] <= 12 and image["kernels_an_outer_row"] <= 30
    assert image["synchronisations"] == 0 and 0 < image["host_ms"] < 100
    assert {source for assumption in found["assumptions"].values() for source in assumption} == {"value", "source"}


@pytest.mark.parametrize("name", ["add_layer_norm", "cached_attention"])
def test_the_suite_compares_before_it_times(name):
    from bench import suite

    timed = []
    getattr(suite, f"test_{name}")(timed.append, "reference", 1)
    assert len(timed) == 1
