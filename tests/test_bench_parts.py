# SPDX-License-Identifier: Apache-2.0
"""The parts of the benchmarks: taking turns, extrapolating, comparing images, asking who can run, tables."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import torch
from tiny import colorizer_config, upsampler_config

from bench import check, counting, machine, plots, recomputing, record, setting, tables, timing
from coltran.errors import UserError
from coltran.sampling import sample, uniforms

CPU = torch.device("cpu")
LIMITS = machine.Limits((4, 4, 4), {"float32": 100.0}, 8, 10.0, 1.0)


def _side(order: list[str], name: str) -> timing.Run:
    def run(clock: timing.StageClock) -> None:
        order.append(name)
        clock("work")

    return run


def test_sides_take_turns_and_the_first_round_is_not_counted():
    order: list[str] = []
    sides = {name: _side(order, name) for name in "AB"}
    given = [name for name, _ in timing.alternate(sides, CPU, repeats=2)]
    assert order == list("ABABAB")
    assert given == list("ABAB")


def test_the_clock_adds_up_the_time_before_each_mark(monkeypatch):
    moments = iter([0.0, 1.0, 3.0, 7.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(moments))
    clock = timing.StageClock(CPU)
    for stage in ("encoder", "row", "encoder"):
        clock(stage)
    assert clock.seconds() == {"encoder": 5.0, "row": 2.0}


def test_a_run_has_the_time_of_its_stages():
    timed = timing.time_run(lambda clock: (time.sleep(0.02), clock("sleep")), CPU)
    assert 0.02 <= timed.stages["sleep"] <= timed.seconds


def test_the_peak_of_memory_is_that_of_the_run_and_not_of_one_before():
    size = 128 << 20
    large = timing.time_run(lambda clock: torch.ones(size, dtype=torch.uint8).sum(), CPU)
    small = timing.time_run(lambda clock: None, CPU)
    if large.peak_bytes is None or small.peak_bytes is None:
        pytest.skip("this system does not tell the peak of a process's memory")
    assert large.peak_bytes - small.peak_bytes > 0.8 * size


def test_extrapolating_counts_every_stage_as_often_as_the_whole_run_has_it():
    network, gray = setting.build(colorizer_config(), CPU, torch.float32), torch.zeros(1, 6, 8, dtype=torch.uint8)

    def marks(rows: int) -> dict[str, float]:
        seen: list[str] = []
        recomputing.sample(network, gray, rows=rows, finished=seen.append)  # type: ignore[arg-type]
        return {stage: float(seen.count(stage)) for stage in set(seen)}

    partial = timing.Timing(sum(marks(2).values()), marks(2), None)
    assert timing.extrapolate(partial, 2, 6).stages == marks(6)
    assert timing.extrapolate(partial, 2, 6).seconds == sum(marks(6).values())


def test_a_whole_run_is_not_extrapolated():
    whole = timing.Timing(5.0, {"encoder": 1.0, "inner decoder": 2.0, "outer decoder": 1.0}, None)
    assert timing.extrapolate(whole, 6, 6) is whole


def test_a_measurement_is_the_median_and_its_share_is_of_the_work_at_the_rate():
    timings = [timing.Timing(seconds, {"row decoding": seconds}, 7) for seconds in (4.0, 9.0, 5.0)]
    work, read = {"row decoding": 100.0}, {"row decoding": 25.0}
    found = record.measurement("colorizer", "default", 2, timings, work, LIMITS, "float32", read=read, rows=None)
    assert found["seconds_an_image"] == 2.5 and found["spread"] == [2.0, 4.5]
    assert found["share_of_limit"] == pytest.approx(100 / 100 / 2.5)
    assert found["stage_shares"]["row decoding"] == pytest.approx(max(2 * 100 / 100, 25 / 10) / 5)
    assert found["over_read_time"]["row decoding"] == pytest.approx(5 / 2.5)
    assert found["peak_bytes"] == 7


def test_a_ratio_is_to_the_original_s_way_on_the_same_batch():
    rows = [("colorizer", record.RECOMPUTING, 1, 8.0), ("colorizer", "cpu", 1, 2.0), ("colorizer", "cpu", 4, 1.0)]
    rows.append(("color_upsampler", "cpu", 1, 1.0))
    found = [dict(zip(("network", "implementation", "batch", "seconds_an_image"), row, strict=True)) for row in rows]
    record.add_ratios(found)
    assert [m["ratio"] for m in found] == [1.0, 4.0, None, None]


def _drawn_and_forced():
    network, gray = setting.build(colorizer_config(), CPU, torch.float32), torch.randint(256, (2, 6, 8))
    drawn = sample(network, gray, seed=check.SEED)
    forced = recomputing.sample(network, gray, seed=check.SEED, rows=3, given=drawn.labels, return_probabilities=True)
    return drawn, forced, uniforms(check.SEED, range(2), 6, 8)


def test_the_same_image_is_recognised():
    agreement = check.compare(*_drawn_and_forced(), check.TOLERANCES[torch.float32])
    assert agreement.pixels == 2 * 3 * 8
    assert agreement.on_boundary <= 1
    assert agreement.log_prob_difference < 1e-4


def test_one_other_label_is_another_image():
    drawn, forced, numbers = _drawn_and_forced()
    drawn.labels[1, 2, 5] = (drawn.labels[1, 2, 5] + 2) % 512
    with pytest.raises(check.Disagreement, match="different images"):
        check.compare(drawn, forced, numbers, check.TOLERANCES[torch.float32])


def test_another_probability_of_the_same_label_is_another_image():
    drawn, forced, numbers = _drawn_and_forced()
    drawn.log_prob[0, 0, 0] += 0.01
    with pytest.raises(check.Disagreement, match="different images"):
        check.compare(drawn, forced, numbers, check.TOLERANCES[torch.float32])


def test_not_a_number_is_another_image():
    drawn, forced, numbers = _drawn_and_forced()
    forced.probabilities[0, 0, 0] = float("nan")
    with pytest.raises(check.Disagreement, match="different images"):
        check.compare(drawn, forced, numbers, check.TOLERANCES[torch.float32])


def test_a_number_on_the_boundary_is_counted():
    drawn, forced, numbers = _drawn_and_forced()
    probabilities = forced.probabilities[0, 0, 0].double()
    end = (probabilities.cumsum(-1) / probabilities.sum())[drawn.labels[0, 0, 0]]
    numbers = numbers.double()
    numbers[0, 0, 0] = end + 1e-6
    before = check.compare(*_drawn_and_forced(), check.TOLERANCES[torch.float32])
    after = check.compare(drawn, forced, numbers, check.TOLERANCES[torch.float32])
    assert after.on_boundary >= 1 and after.pixels == before.pixels


def test_whole_small_images_agree_in_both_meanings_of_sampling():
    agreement = check.check_whole(colorizer_config(), setting.DEFAULT, CPU, torch.float32)
    assert agreement.pixels == 2 * 2 * setting.SMALL_SIDE**2


def test_who_can_run_is_asked_and_a_refusal_keeps_its_reason():
    def call(name: str) -> None:
        if name in ("triton", "xla"):
            raise NotImplementedError("no such device")

    answers = setting.ask(call)
    assert [name for name, reason in answers.items() if reason is None] == ["default", "reference", "cpu"]
    assert answers["triton"] == "no such device"


def test_another_error_of_an_implementation_is_not_taken_for_a_refusal():
    def call(name: str) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        setting.ask(call)


@pytest.mark.parametrize("config", [colorizer_config(), upsampler_config("color_upsampler")])
def test_the_default_and_the_reference_can_run_every_network_anywhere(config, monkeypatch):
    monkeypatch.setattr(setting, "IMPLEMENTATIONS", ("reference",))  # Triton's would go through the interpreter
    assert setting.ask_network(config, CPU, torch.float32) == {"default": None, "reference": None}


def test_all_are_those_that_can_run_and_one_that_cannot_is_an_error_with_its_reason():
    answers = {"default": None, "reference": None, "cpu": "no compiler"}
    assert setting.pick(answers, ["all"]) == ["default", "reference"]
    assert setting.pick(answers, ["reference", "all"]) == ["reference", "default"]
    with pytest.raises(UserError, match="cannot run here: no compiler"):
        setting.pick(answers, ["cpu"])
    with pytest.raises(UserError, match="no implementation 'gpu'"):
        setting.pick(answers, ["gpu"])


def test_networks_and_images_are_the_same_every_time():
    first, second = (setting.build(colorizer_config(), CPU).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(*(setting.random_images(2, colorizer_config(), CPU) for _ in range(2)))


def test_the_limits_are_positive_and_the_best_of_two_is_taken_entry_by_entry(monkeypatch):
    monkeypatch.setattr(machine, "MEMORY", 8 << 20)
    monkeypatch.setitem(machine.PRODUCT, "cpu", (64, 64, 64))
    limits = machine.measure_limits(CPU, seconds=0.001)
    assert min(*limits.flops.values(), limits.cache_bandwidth, limits.memory_bandwidth) > 0
    slower = limits._replace(flops={name: rate / 2 for name, rate in limits.flops.items()})
    better = limits._replace(cache_bandwidth=2 * limits.cache_bandwidth)
    assert machine.best(slower, better) == better


def test_the_machine_is_described():
    described = machine.describe(CPU)
    assert described["threads"] == torch.get_num_threads()
    assert described["torch"] == torch.__version__
    assert described["processor"]


def test_records_that_were_interrupted_are_left_out(tmp_path):
    path = tmp_path / "deep" / "x.jsonl"
    assert record.read(path) == []
    for i, interrupted in enumerate((False, False, True)):
        record.append({"number": i, "interrupted": interrupted}, path)
    assert [found["number"] for found in record.read(path)] == [0, 1]


def test_sizes_measured_again_replace_those_of_the_same_commit_and_precision_only(tmp_path):
    def write(commit: str, seconds: dict[int, float], dtype: str = "float32") -> None:
        side = {"network": "colorizer", "implementation": "default", "dtype": dtype}
        measured = [side | {"batch": batch, "seconds_an_image": value} for batch, value in seconds.items()]
        described = {"commit": commit, "processor": "p", "threads": 2}
        record.append({"interrupted": False, "machine": described, "measurements": measured}, tmp_path / "x.jsonl")

    write("old", {1: 9.0, 4: 9.0})
    write("new", {1: 3.0, 8: 2.0})
    write("new+", {1: 1.0})
    write("new", {1: 0.5}, "bfloat16")
    found = record.completed(tmp_path / "x.jsonl")
    assert found is not None
    assert [(m["batch"], m["seconds_an_image"]) for m in found["measurements"]] == [(1, 1.0), (1, 0.5), (8, 2.0)]


@pytest.mark.parametrize(
    ("value", "text"), [(12.345, "12.3"), (0.0123456, "0.0123"), (12345.6, "12,346"), (0.00001, "1.0e-05"), (0, "0")]
)
def test_numbers_have_three_digits(value, text):
    assert tables.number(value) == text


def test_a_table_becomes_markdown():
    text = tables.to_markdown(tables.Table("t", ("a", "b"), [("1", "2")], "Note."))
    assert text == "| a | b |\n| --- | --- |\n| 1 | 2 |\n\nNote.\n"


def test_a_missing_matplotlib_is_one_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(UserError, match="Plots need matplotlib"):
        plots.pyplot()


def test_operations_are_two_a_multiply_add():
    assert counting.flops(3) == 6
    assert counting.flops({"a": 1, "b": 2}) == 6


def test_a_record_tells_no_paths_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(record.ROOT / "coltran")
    assert record.told(Path("configs")) == "coltran/configs"
    assert record.told(record.ROOT / "coltran" / "configs") == "coltran/configs"
    assert record.told(tmp_path / "photos") == "photos"
    assert record.told(["float32"]) == ["float32"]
    kept = [file.read_text(encoding="utf-8") for file in record.RESULTS.glob("*.jsonl")]
    assert kept and not [text for text in kept if re.search(r'"/\w', text)]
