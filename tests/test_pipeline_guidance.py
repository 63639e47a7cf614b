# SPDX-License-Identifier: Apache-2.0
"""A guide in the pipeline: what it adds, what it leaves alone, and the colours that it expects by itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from coltran import checkpoint, from_pretrained, loading
from coltran.colorize import main as colorize
from coltran.image import colors_to_labels, to_bits
from coltran.networks.guide import expected_colors, shrink
from coltran.original import download
from coltran.photo.hints import Edits, Hint
from coltran.pipeline import Pipeline
from coltran.sampling import sample
from coltran.sampling.guidance import WEIGHT, guidance_term, guide_grays, probabilities
from tests.tiny import LOW, guided_pipeline, random_guide, save_tiny_networks, tiny_pipeline


@pytest.fixture(scope="module")
def guided() -> Pipeline:
    return guided_pipeline()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (20, 31, 3), dtype=np.uint8)


def test_the_term_is_the_clamped_ratio_to_the_table_times_the_weight():
    guide = random_guide(LOW)
    gray = torch.randint(0, 256, (2, 4 * LOW, 4 * LOW), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ratio = guide(gray) - guide.table[shrink(gray)]
        assert (ratio.abs() > 6).any()
        torch.testing.assert_close(guidance_term(guide, gray, guide(gray), 0.7), 0.7 * ratio.clamp(-6, 6))


def test_the_pipeline_draws_with_the_term_of_its_guide(guided, photo):
    view = guided.look(photo)
    seen = guide_grays(guided.guide, view)[0]
    with torch.no_grad():
        term = guidance_term(guided.guide, seen, guided.guide(seen), 0.5)
    gray = torch.from_numpy(view.gray_low)[None]
    drawn = sample(guided.colorizer, gray, seed=4, guidance=term)
    found = guided(photo, seed=4, guidance=0.5)
    assert (found.labels[0] == drawn.labels[0].numpy()).all()
    assert found.guided_log_prob[0] == pytest.approx(float(drawn.guided_log_prob.mean()) / np.log(2), rel=1e-5)
    assert found.guidance == 0.5


def test_a_weight_of_zero_is_the_plain_distribution_to_the_bit(guided, photo):
    plain = tiny_pipeline()(photo, samples=2)
    found = guided(photo, samples=2, guidance=0)
    assert all(map(np.array_equal, found.images, plain.images))
    assert found.log_prob == plain.log_prob == found.guided_log_prob


def test_the_plain_log_probability_is_that_of_the_imposed_labels(guided, photo):
    found = guided(photo, guidance=2.0)
    gray = torch.from_numpy(guided.look(photo).gray_low)[None]
    plain = sample(guided.colorizer, gray, given=torch.from_numpy(found.labels[0])[None], seed=0).log_prob
    assert found.log_prob[0] == pytest.approx(float(plain.mean()) / np.log(2), rel=1e-5)
    assert found.guided_log_prob[0] != found.log_prob[0]


def test_a_guide_steers_by_default(guided, photo):
    assert guided(photo).guidance == WEIGHT
    assert tiny_pipeline()(photo).guidance == 0


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_expected_colours_are_the_guides_mean(guided, photo, temperature):
    found = guided(photo, mode="expected", temperature=temperature, stage="color", size="network")
    with torch.no_grad():
        log_p = guided.guide(guide_grays(guided.guide, guided.look(photo, levels="auto"))[0])[0]
    expected = expected_colors(log_p, temperature).round().to(torch.uint8).numpy()
    np.testing.assert_array_equal(found.images[0], expected)
    np.testing.assert_array_equal(found.labels[0], colors_to_labels(to_bits(expected, 8, 3)))


def test_expected_colours_of_a_panorama_cover_it(guided):
    wide = np.random.default_rng(5).integers(0, 256, (20, 90, 3), dtype=np.uint8)
    assert guided(wide, mode="expected").images[0].shape == wide.shape


def test_the_guides_probabilities_are_those_of_each_cell(guided, photo):
    view = guided.look(photo)
    found = probabilities(guided.guide, view)
    assert found.shape == (*view.gray_low.shape, 512)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)


def test_swatches_are_distinct_colours_likeliest_first(guided, photo):
    found = guided.swatches(photo, 5, 6, count=4)
    chances = [chance for _, chance in found]
    assert chances == sorted(chances, reverse=True) and 0 < sum(chances) <= 1 + 1e-5
    assert len({color for color, _ in found}) == len(found) <= 4
    with pytest.raises(ValueError, match="outside"):
        guided.swatches(photo, 500, 6)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"guidance": -1.0}, "from 0 on"),
        ({"guidance": float("nan")}, "finite"),
        ({"mode": "expected", "samples": 2}, "one colouring"),
        ({"mode": "expected", "edits": [Edits((Hint(3, 3, (9, 9, 9), 1),))]}, "no hints"),
    ],
)
def test_what_a_guide_cannot_do_is_refused(guided, photo, options, reason):
    with pytest.raises(ValueError, match=reason):
        guided.colorize([photo], **options)


@pytest.mark.parametrize(("options", "reason"), [({"guidance": 0.5}, "have none"), ({"mode": "expected"}, "have none")])
def test_without_a_guide_nothing_can_be_guided(photo, options, reason):
    with pytest.raises(ValueError, match=reason):
        tiny_pipeline()(photo, **options)


def test_a_guide_of_another_size_is_refused():
    with pytest.raises(ValueError, match="the guide works at 16 pixels a side, the colorizer at 8"):
        Pipeline(tiny_pipeline().colorizer, guide=random_guide(16))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_networks(tmp_path / "networks")


def test_a_folder_brings_its_guide(folder):
    assert from_pretrained(folder).guide is None
    checkpoint.save(random_guide(LOW), folder / "guide")
    assert from_pretrained(folder).guide is not None


def test_the_published_networks_are_steered_by_the_packages_guide(folder, tmp_path, monkeypatch):
    checkpoint.save(random_guide(LOW), tmp_path / "package" / "guide")
    monkeypatch.setattr(download, "cached", lambda: folder)
    monkeypatch.setattr(loading, "PRETRAINED", tmp_path / "package")
    assert from_pretrained(folder).guide is not None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--guidance", "0.5"], "needs a guide"),
        (["--mode", "expected"], "needs a guide"),
        (["--guidance", "-1"], "from 0 on"),
        (["--guidance", "inf"], "from 0 on"),
        (["--mode", "expected", "--samples", "2"], "one colouring"),
    ],
)
def test_the_program_says_so_before_any_work(folder, tmp_path, program, capsys, arguments, reason):
    demo = loading.PRETRAINED.parent / "demo" / "moose.jpg"
    assert program(colorize, demo, "-o", tmp_path / "out", "--checkpoint", folder, *arguments) in (1, 2)
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_results_record_the_weight(folder, tmp_path):
    checkpoint.save(random_guide(LOW), folder / "guide")
    photo = shutil.copy(loading.PRETRAINED.parent / "demo" / "moose.jpg", tmp_path)
    assert colorize([str(photo), "-o", str(tmp_path / "out"), "--checkpoint", str(folder)]) == 0
    assert f'"guidance": {WEIGHT}' in (tmp_path / "out" / "colourings.json").read_text()
