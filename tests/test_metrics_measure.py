# SPDX-License-Identifier: Apache-2.0
"""Reports on colourings: which photographs, which figures, the same twice."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coltran import colorize, evaluate
from coltran.devices import processes
from coltran.errors import UserError
from coltran.image import list_photos
from coltran.loading import from_pretrained
from coltran.metrics import features, measure, report
from coltran.metrics.arithmetic import ab_error, colorfulness, diversity, frechet_distance
from coltran.metrics.measure import Samples, square
from coltran.pipeline import NETWORKS
from coltran.training.data import eval_batches
from tests.forked import Ended, run_ranks
from tests.tiny import random_guide
from tests.tiny_training import whole_config, write_photos


@pytest.fixture(scope="module")
def folder(networks_dir, tmp_path_factory) -> Path:
    """Tiny networks, of 8 and 16 pixels a side, and six photographs."""
    here = tmp_path_factory.mktemp("metrics")
    (here / "networks").symlink_to(networks_dir)
    write_photos(here / "photos", 6)
    return here


@pytest.fixture
def photos(folder: Path) -> list[Path]:
    return list_photos([folder / "photos"])


def _means(images: np.ndarray) -> np.ndarray:
    """Features that can be computed by hand."""
    return images.astype(np.float64).mean((1, 2))


def _samples(photos: list[Path], count: int = 3) -> list[Samples]:
    rng = np.random.default_rng(0)
    return [Samples(list(rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)), 1) for _ in photos]


def test_protocol_a_compares_with_others_and_b_with_the_same(photos):
    assert measure.split(photos, "A") == (photos[:3], photos[3:])
    assert measure.split(photos, "A", 2) == (photos[:2], photos[2:4])
    assert measure.split(photos, "B") == (photos, photos)
    assert measure.split(photos, "B", 4) == (photos[:4], photos[:4])


def test_five_thousand_photographs_are_the_most():
    many = [Path(str(number)) for number in range(12_000)]
    assert measure.split(many, "A") == (many[:5000], many[5000:10_000])
    assert measure.split(many, "B") == (many[:5000], many[:5000])


def test_too_few_photographs_for_a_covariance_are_refused(photos):
    with pytest.raises(UserError, match="at least 2 photographs of 4"):
        measure.split(photos[:3], "A")


def test_the_figures_are_means_over_the_photographs(photos):
    samples = _samples(photos[:3])
    result = measure.measure_colorings(photos[:3], samples, photos[3:], 16, {"means": _means})
    truths = [square(photo, 16) for photo in photos[:3]]
    errors = [[ab_error(x, truth) for x in found.images] for found, truth in zip(samples, truths, strict=True)]
    assert result["ab_error_top1"] == pytest.approx(np.mean([row[1] for row in errors]))
    assert result["ab_error_best"] == pytest.approx(np.mean([min(row) for row in errors]))
    assert result["diversity"] == pytest.approx(np.mean([diversity(found.images) for found in samples]))
    assert result["colourfulness_truth"] == pytest.approx(np.mean([colorfulness(truth) for truth in truths]))
    first = np.concatenate([_means(found.images[0][None]) for found in samples])
    others = np.concatenate([_means(square(photo, 16)[None]) for photo in photos[3:]])
    assert result["means"] == pytest.approx(frechet_distance(first, others))


def test_the_diversity_by_lpips_is_the_mean_over_the_photographs(photos):
    samples = _samples(photos[:2])
    found = iter([0.25, 0.75])
    result = measure.measure_colorings(photos[:2], samples, photos[:2], 16, {}, lambda images: next(found))
    assert result["diversity_lpips"] == 0.5


def test_the_truth_itself_is_perfect(photos):
    truths = [Samples([square(photo, 16)], 0) for photo in photos]
    result = measure.measure_colorings(photos, truths, photos, 16, {"means": _means})
    assert (result["ab_error_top1"], result["colourfulness_difference"], result["samples"]) == (0, 0, 1)
    assert result["means"] == pytest.approx(0, abs=1e-9)
    assert "diversity" not in result


def test_an_image_without_any_error_leaves_the_mean_psnr_a_number():
    table = np.array([[1.0, 3.0, np.inf, 1.0], [2.0, 6.0, 30.0, np.nan]])
    found = measure._means(measure.OF_NETWORKS, table)
    assert found == {"bits_per_dimension": 1.5, "bits_per_pixel": 4.5, "psnr": 30.0, "ssim": 1.0}
    assert "psnr" not in measure._means(measure.OF_NETWORKS, table[:1])


def _write(folder: Path, levels: dict[str, int]) -> None:
    for name, level in levels.items():
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (level, 0, 0)).save(folder / name)


def _read(folder: Path, *names: str, **options: slice) -> list[list[int]]:
    """The levels of the results of photographs."""
    found = measure.read(folder, [Path(name) for name in names], 16, **options)
    return [[int(image[0, 0, 0]) for image in samples.images] for samples in found]


@pytest.mark.parametrize(
    ("photos", "results"),
    [(["x/1.png", "y/1.png"], ["1-0.png"]), (["1.png"], ["x/1-0.png", "y/1-0.png"]), (["1.png"], ["1.png", "1-0.png"])],
)
def test_results_that_could_be_of_several_photographs_are_refused(tmp_path, photos, results):
    _write(tmp_path, dict.fromkeys(results, 0))
    with pytest.raises(UserError, match=r"cannot be told apart|the same result"):
        _read(tmp_path, *photos)


def test_a_result_is_not_taken_for_one_of_a_photograph_with_a_shorter_name(tmp_path):
    """Nor where this process has to do with the shorter one alone."""
    _write(tmp_path, {"a.png": 10, "a-1.png": 90})
    assert _read(tmp_path, "a.png", "a-1.png") == [[10], [90]]
    assert _read(tmp_path, "a.png", "a-1.png", share=slice(0, None, 2)) == [[10]]


def test_results_are_found_by_the_photographs_names(tmp_path):
    levels = {"p00-0": 10, "p00-1": 20, "p01": 30, "p02-0": 40, "p02-sheet": 50, "p02-10": 60}
    _write(tmp_path, {f"{name}.png": level for name, level in levels.items()})
    assert _read(tmp_path, "p00.png", "p01.png", "p02.png") == [[10, 20], [30], [40, 60]]
    with pytest.raises(UserError, match="no result of .*p03"):
        _read(tmp_path, "p03.png")


def test_bits_are_those_of_the_evaluation(folder, photos):
    pipeline = from_pretrained(folder / "networks")
    pipeline.guide = random_guide(8)
    result = measure.measure_networks(pipeline, photos)
    for name in NETWORKS:
        kind = "coltran_core" if name == "colorizer" else name
        config = whole_config(kind)
        expected = evaluate.evaluate(getattr(pipeline, name), eval_batches(config, photos, kind, workers=0), config)
        key = "bits_per_pixel" if name in ("colorizer", "guide") else "bits_per_dimension"
        assert result[name][key] == pytest.approx(expected["loss"], rel=1e-5)
        assert result[name]["bits_per_pixel"] == pytest.approx(3 * result[name]["bits_per_dimension"])


def _report(monkeypatch, capsys, *arguments: object) -> tuple[str, dict]:
    monkeypatch.setattr(sys, "argv", ["evaluate", "--metrics", *map(str, arguments)])
    assert evaluate.main() == 0
    out = capsys.readouterr().out
    return out, json.loads(out.splitlines()[-1], parse_constant=pytest.fail)  # NaN and Infinity are no JSON


def test_the_same_command_twice_gives_the_same_figures(folder, monkeypatch, capsys, tmp_path):
    arguments = ["--data_dir", folder / "photos", "--checkpoint", folder / "networks", "--samples", 2]
    arguments += ["--protocol", "A", "--seed", 3, "--output", tmp_path]
    once, report = _report(monkeypatch, capsys, *arguments)
    assert _report(monkeypatch, capsys, *arguments)[0] == once
    assert (report["protocol"], report["photos"], report["reference_photos"], report["seed"]) == ("A", 3, 3, 3)
    assert "area to 16 x 16" in report["resize"] and "against as many others" in report["compared"]
    assert json.loads((tmp_path / "metrics.json").read_text()) == report
    assert (tmp_path / "reliability.png").exists()


@pytest.mark.parametrize(("count", "protocol"), [(2, "B"), (4, "A")])
def test_the_figures_do_not_depend_on_the_number_of_processes(folder, monkeypatch, tmp_path, count, protocol):
    """To the bit. Of four processes the last one has none of three photographs."""
    monkeypatch.setattr(measure, "SPATIAL", 3)
    monkeypatch.setattr(features, "efficientnet_lite2", lambda: _means)
    options = {"checkpoint": folder / "networks", "protocol": protocol, "samples": 2, "frechet": True}
    expected = report.colourings(folder / "photos", **options)
    ended = run_ranks(count, lambda: print(json.dumps(report.colourings(folder / "photos", **options))), tmp_path)
    assert [json.loads(end.said) for end in ended] == [expected] * count


def test_the_first_process_alone_reports(folder, monkeypatch, tmp_path):
    arguments = ["--data_dir", folder / "photos", "--checkpoint", folder / "networks", "--samples", 1]
    monkeypatch.setattr(sys, "argv", ["evaluate", "--metrics", *map(str, arguments), "--output", str(tmp_path / "out")])

    def work() -> int:
        monkeypatch.setattr(processes, "init_distributed", contextlib.nullcontext)  # as run_ranks has joined them
        return evaluate.main()

    first, second = run_ranks(2, work, tmp_path)
    assert json.loads(first.said.splitlines()[-1]) == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert second == Ended(0, "")


def test_another_seed_draws_other_colourings(folder, photos):
    pipeline = from_pretrained(folder / "networks")
    one, other = (next(measure.draw(pipeline, photos[:1], 1, seed)).images[0] for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_the_results_of_colorize_are_measured(folder, monkeypatch, capsys, tmp_path):
    arguments = [folder / "photos", "-o", tmp_path, "--checkpoint", folder / "networks", "--samples", 2]
    assert colorize.main(list(map(str, [*arguments, "--format", "png"]))) == 0
    capsys.readouterr()
    _, report = _report(monkeypatch, capsys, "--data_dir", folder / "photos", "--results", tmp_path)
    assert (report["photos"], report["samples"], report["results"]) == (6, 2, str(tmp_path))
    assert report["ab_error_best"] <= report["ab_error_top1"] and "colorizer" not in report
