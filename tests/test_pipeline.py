# SPDX-License-Identifier: Apache-2.0
"""The pipeline with tiny random networks: 8 pixels a side for the first two, 16 for the spatial upsampler."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coltran import checkpoint, loading, networks
from coltran.checkpoint import CheckpointError
from coltran.image import PhotoError, area_resize, center_square, rgb_to_gray
from coltran.loading import from_pretrained
from coltran.networks.colorizer import Colorizer
from coltran.photo import squares
from coltran.photo.hints import Box, Edits, Hint, HintError, hinted_labels
from coltran.photo.recolor import luminance, recolor, without_specks
from coltran.pipeline import Pipeline
from coltran.sampling import sample, upsample_color, upsample_space
from tests.tiny import HIGH, LOW, colorizer_config, save_tiny_networks, tiny_pipeline, upsampler_config

RAW = {"fit": "crop", "size": "network"}  # what the networks draw of the central square


@pytest.fixture(scope="module")
def tiny() -> Pipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)


@pytest.fixture
def saved(tiny: Pipeline, tmp_path: Path) -> Path:
    return save_tiny_networks(tmp_path)


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return len(first) == len(second) and all(map(np.array_equal, first, second))


def test_the_stages_are_joined_as_the_model_says(tiny, photo):
    gray_high = area_resize(center_square(rgb_to_gray(photo)), HIGH)
    gray_low = torch.from_numpy(area_resize(gray_high, LOW))[None]
    coarse = sample(tiny.colorizer, gray_low, seed=3).rgb
    for options in ({}, {"estimate": "argmax"}):
        estimate = {"estimate": "sharp"} | options
        fine = upsample_color(tiny.color_upsampler, coarse, gray_low, **estimate)
        enlarged = torch.from_numpy(area_resize(fine[0].numpy(), HIGH))[None]
        final = upsample_space(tiny.spatial_upsampler, enlarged, torch.from_numpy(gray_high)[None], **estimate)
        for stage, expected in (("coarse", coarse), ("color", fine), ("final", final)):
            found = tiny(photo, seed=3, stage=stage, **RAW, **options)
            np.testing.assert_array_equal(found.images[0], expected[0].numpy(), strict=True)
            assert (found.gray.shape, found.gray.dtype) == (found.images[0].shape[:2], np.uint8)


def test_colour_and_gray_versions_of_a_photograph_get_the_same_colours(tiny, photo):
    assert same(tiny(photo, size="network").images, tiny(rgb_to_gray(photo), size="network").images)


def test_paths_images_and_arrays_give_the_same(tiny, photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    expected = tiny(photo).images
    assert same(tiny(tmp_path / "photo.png").images, expected)
    assert same(tiny(str(tmp_path / "photo.png")).images, expected)
    assert same(tiny(Image.fromarray(photo)).images, expected)


def test_more_samples_add_to_fewer_in_any_batches(tiny, photo):
    two = tiny(photo, samples=2, seed=9)
    five = tiny(photo, samples=5, seed=9, batch_size=2)
    assert same(five.images[:2], two.images)
    assert five.log_prob[:2] == pytest.approx(two.log_prob)


def test_samples_differ_from_each_other_and_between_seeds(tiny, photo):
    images = [image.tobytes() for seed in (0, 1) for image in tiny(photo, samples=2, seed=seed).images]
    assert len(set(images)) == 4


def test_log_prob_is_the_mean_log2_probability_a_pixel(tiny, photo):
    result = tiny(photo, seed=4, stage="coarse", **RAW)
    drawn = sample(tiny.colorizer, torch.from_numpy(result.gray)[None], seed=4)
    assert result.log_prob == pytest.approx([drawn.log_prob.mean().item() / np.log(2)])


def test_options_reach_the_sampler(tiny, photo):
    gray = torch.from_numpy(tiny(photo, stage="coarse", **RAW).gray)[None]
    options = {"seed": 2, "temperature": 0.5, "top_p": 0.7, "norm": "rowcontext", "implementation": "reference"}
    expected = sample(tiny.colorizer, gray, **options).rgb[0].numpy()
    np.testing.assert_array_equal(tiny(photo, stage="coarse", **RAW, **options).images[0], expected)
    best = sample(tiny.colorizer, gray, mode="argmax").rgb[0].numpy()
    np.testing.assert_array_equal(tiny(photo, stage="coarse", mode="argmax", **RAW).images[0], best)


def test_progress_ends_each_stage_at_its_total(tiny, photo):
    calls = []
    tiny(photo, samples=3, batch_size=2, stage="final", progress=lambda *call: calls.append(call))
    coarse = [(done, total) for stage, done, total in calls if stage == "coarse"]
    assert coarse == [(done, 3 * LOW) for done in [*range(2, 2 * LOW + 1, 2), *range(2 * LOW + 1, 3 * LOW + 1)]]
    assert [call for call in calls if call[0] != "coarse"] == [("final", k, 3) for k in (1, 2, 3)]


@pytest.mark.parametrize("shape", [(1, 1), (20, 31), (31, 20), (12, 61), (90, 9), (50, 1), (1, 5000), (5, 300)])
def test_the_result_is_the_photograph_with_its_luminance(tiny, shape):
    photo = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for image in tiny(photo, samples=2).images:
        assert (image.shape, image.dtype) == (photo.shape, np.uint8)
        assert np.abs(luminance(image) - luminance(photo)).max() <= 0.5 + 1e-3


def test_the_whole_photograph_is_stretched_and_its_colours_stretched_back(tiny, photo):
    raw = tiny(photo, size="network", levels="keep")
    assert raw.images[0].shape == (HIGH, HIGH, 3)
    np.testing.assert_array_equal(raw.gray, area_resize(rgb_to_gray(photo), (HIGH, HIGH)))
    whole = tiny(photo, stage="final", levels="keep").images[0]
    np.testing.assert_array_equal(whole, recolor(luminance(photo), without_specks(raw.images[0])))
    assert tiny(photo, fit="crop").images[0].shape == (20, 20, 3)  # the central square keeps its own size too


@pytest.mark.parametrize("shape", [(10, 36), (36, 10)])
def test_squares_along_a_panorama_agree_where_they_overlap(tiny, shape):
    photo = np.random.default_rng(2).integers(0, 256, (*shape, 3), dtype=np.uint8)
    axis = int(shape[1] > shape[0])
    coarse = tiny(photo, stage="coarse", size="network", seed=3).images[0]
    gray = torch.from_numpy(tiny(photo, stage="coarse", size="network").gray)
    begins = squares.starts(coarse.shape[axis], LOW)
    assert len(begins) > 2
    before = None
    for k, begin in enumerate(begins):
        square = slice(begin, begin + LOW)
        of_square = gray[:, square] if axis else gray[square]
        given = None
        if before is not None:
            given = torch.full((1, LOW, LOW), -1)
            shared = begins[k - 1] + LOW - begin
            known = before[:, :, -shared:] if axis else before[:, -shared:]
            (given[:, :, :shared] if axis else given[:, :shared])[:] = known
        drawn = sample(tiny.colorizer, of_square[None], seed=3, image_index=[k << 32], given=given)
        found = coarse[:, square] if axis else coarse[square]
        np.testing.assert_array_equal(found, drawn.rgb[0].numpy())
        before = drawn.labels


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_photographs_coloured_together_are_as_one_by_one(tiny, photo, batch_size):
    photos = [photo, photo[:, ::-1], photo[:6], photo[:, :7]]
    together = tiny.colorize(photos, samples=2, batch_size=batch_size)
    for one, of_all in zip(photos, together, strict=True):
        alone = tiny(one, samples=2)
        assert same(of_all.images, alone.images)
        assert of_all.log_prob == pytest.approx(alone.log_prob)


def test_the_old_name_of_colorize_gives_the_same(tiny, photo):
    edits = [Edits([Hint(3, 2, (255, 0, 0))])]
    old, new = tiny.colour([photo], wishes=edits), tiny.colorize([photo], edits=edits)
    assert same(old[0].images, new[0].images)


@pytest.mark.parametrize("samples", [1, 3])
def test_images_that_are_upsampled_at_once_are_as_one_by_one(tiny, photo, samples):
    photos, stages, whole = [photo, photo[:, ::-1], photo[:6]], [], 3 * samples
    one_thread = [tiny(one, samples=samples, stage="final") for one in photos]
    torch.set_num_threads(2)
    try:
        several = tiny.colorize(photos, samples=samples, stage="final", progress=lambda *done: stages.append(done))
        with pytest.raises(KeyboardInterrupt):
            tiny.colorize(photos, samples=samples, stage="final", progress=_interrupt)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    for one, other in zip(one_thread, several, strict=True):
        assert same(one.images, other.images)
    assert [done for stage, *done in stages if stage == "final"] == [[n, whole] for n in range(1, whole + 1)]


def _interrupt(stage, done, total):
    if stage == "final":
        raise KeyboardInterrupt


def test_stages_without_a_network_are_refused(tiny, photo):
    alone = Pipeline(tiny.colorizer)
    assert alone.stages == ("coarse",)
    with pytest.raises(ValueError, match="stages of this pipeline are coarse"):
        alone(photo, stage="color")


def test_networks_of_different_sizes_or_not_square_do_not_go_together(tiny):
    with pytest.raises(ValueError, match="16 pixels a side, the colorizer at 8"):
        Pipeline(tiny.colorizer, networks.build(upsampler_config("color_upsampler", HIGH, HIGH)))
    with pytest.raises(ValueError, match="6 x 8"):
        Pipeline(networks.build(colorizer_config(6, 8)))


def test_saved_networks_colour_as_before_are_the_default_and_may_lack_upsamplers(tiny, saved, photo, monkeypatch):
    assert same(from_pretrained(saved)(photo).images, tiny(photo).images)
    (saved / "spatial_upsampler").rename(saved / "elsewhere")
    monkeypatch.setattr(loading, "PRETRAINED", saved)
    assert from_pretrained().stages == ("coarse", "color")


def test_saved_networks_that_do_not_go_together_are_refused(tiny, saved):
    checkpoint.save(networks.build(upsampler_config("color_upsampler", 4, 4)), saved / "color_upsampler")
    with pytest.raises(CheckpointError, match="do not go together"):
        from_pretrained(saved)
    checkpoint.save(tiny.spatial_upsampler, saved / "colorizer")
    with pytest.raises(CheckpointError, match="colorizer is the checkpoint of a spatial_upsampler"):
        from_pretrained(saved)


def test_missing_weights_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "PRETRAINED", tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="No weights come with this installation"):
        from_pretrained()
    with pytest.raises(CheckpointError, match="There is no folder .*nowhere"):
        from_pretrained(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no folder named colorizer"):
        from_pretrained(tmp_path)


def test_a_hint_is_imposed_and_the_rest_is_drawn_after_it(tiny, photo):
    hint = Hint(16, 10, (250, 20, 10))
    view = tiny.look(photo)
    given = torch.from_numpy(hinted_labels([hint], view))
    expected = sample(tiny.colorizer, torch.from_numpy(view.gray_low)[None], seed=3, given=given[None]).labels[0]
    assert given[4, 4] >= 0
    np.testing.assert_array_equal(tiny(photo, seed=3, hints=[hint]).labels[0], expected)


def test_hints_reach_every_square_of_a_panorama_that_shows_them(tiny):
    photo = np.random.default_rng(2).integers(0, 256, (10, 36, 3), dtype=np.uint8)
    hints = [Hint(x, 5, (10, 10, 250)) for x in (0, 11, 24, 35)]
    imposed = hinted_labels(hints, tiny.look(photo))
    for particles in (1, 8):
        labels = tiny(photo, hints=hints, particles=particles).labels[0]
        np.testing.assert_array_equal(labels[imposed >= 0], imposed[imposed >= 0])


def test_the_part_outside_a_box_is_kept_and_another_seed_draws_the_rest_anew(tiny, photo):
    first = tiny(photo, seed=3)
    again = tiny(photo, seed=4, kept=first.labels[0], redraw=Box(0, 10, 31, 20))
    np.testing.assert_array_equal(again.labels[0][:4], first.labels[0][:4])
    assert (again.labels[0][4:] != first.labels[0][4:]).any()
    same_seed = tiny(photo, seed=3, kept=first.labels[0], redraw=Box(0, 10, 31, 20))
    np.testing.assert_array_equal(same_seed.labels[0], first.labels[0])


def test_a_kept_colouring_is_the_colouring(tiny, photo):
    first = tiny(photo, seed=3)
    kept = tiny(photo, kept=first.labels[0])
    assert same(kept.images, first.images)
    assert kept.log_prob == pytest.approx(first.log_prob)


@pytest.mark.parametrize("particles", [1, 6])
def test_a_preview_after_every_row_ends_with_the_colouring(tiny, photo, particles):
    seen = []
    found = tiny(photo, particles=particles, preview=lambda *call: seen.append(call))
    assert [(n, s, int((labels >= 0).sum())) for n, s, labels in seen] == [
        (0, 0, LOW * row) for row in range(1, LOW + 1)
    ]
    if particles == 1:
        np.testing.assert_array_equal(seen[-1][2], found.labels[0])


def test_previews_of_a_panorama_never_lose_what_was_drawn(tiny):
    photo = np.random.default_rng(2).integers(0, 256, (10, 36, 3), dtype=np.uint8)
    seen = []
    found = tiny(photo, samples=2, preview=lambda n, s, labels: seen.append((s, labels)))
    for s in range(2):
        drawn = [labels for of, labels in seen if of == s]
        for labels in drawn:
            known = labels >= 0
            np.testing.assert_array_equal(labels[known], found.labels[s][known])
        counts = [int((labels >= 0).sum()) for labels in drawn]
        assert counts == sorted(counts)


def test_what_a_preview_raises_ends_the_work(tiny, photo):
    def stop(n, s, labels):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny(photo, preview=stop)


def test_particles_make_the_pixels_above_a_hint_agree_with_it(tiny, photo):
    hints = [Hint(16, 10, (250, 20, 10))]
    found = tiny(photo, hints=hints, particles=12, samples=5, seed=3)
    again = tiny(photo, hints=hints, particles=12, samples=5, seed=3)
    assert same(found.labels, again.labels)
    assert same(tiny(photo, hints=hints, particles=12, samples=2, seed=3).labels, found.labels[:2])
    assert 1 <= found.effective < 12
    assert len(found.images) == len(found.log_prob) == 5
    kept = tiny(photo, kept=found.labels[2])
    assert kept.log_prob == pytest.approx(found.log_prob[2:3])


def test_particles_without_wishes_are_the_samples(tiny, photo):
    particles, samples = (tiny(photo, samples=4, **more).labels for more in ({"particles": 4}, {}))
    assert sorted(map(bytes, particles)) == sorted(map(bytes, samples))


def test_particles_of_a_panorama_are_whole_histories():
    torch.manual_seed(3)
    network = Colorizer(colorizer_config(LOW, LOW, cond_ln=False)).eval()
    with torch.no_grad():  # so that a colour depends much on those before it
        network.embedding.weight.normal_(std=3)
        network.logits.weight.normal_(std=0.5)
    alone = Pipeline(network)
    photo = np.random.default_rng(2).integers(0, 256, (10, 36, 3), dtype=np.uint8)
    hints = [Hint(x, y, (10, 10, 250)) for x in (0, 11, 24, 35) for y in (2, 5)]
    found = alone(photo, hints=hints, particles=16, samples=16, seed=1, stage="coarse")
    assert found.effective < 8  # below half of them, particles are chosen anew
    kept = [alone(photo, kept=labels, stage="coarse").log_prob[0] for labels in found.labels]
    assert kept == pytest.approx(found.log_prob)


def test_chosen_colourings_keep_what_belongs_to_them(tiny, photo):
    found = tiny(photo, samples=3)
    chosen = found.choose([2, 0])
    assert same(chosen.images, [found.images[2], found.images[0]])
    assert chosen.log_prob == [found.log_prob[2], found.log_prob[0]]
    assert same(chosen.labels, [found.labels[2], found.labels[0]])


def test_photographs_can_have_a_seed_each(tiny, photo):
    each = tiny.colorize([photo, photo], samples=2, seed=[3, 4])
    for found, seed in zip(each, (3, 4), strict=True):
        np.testing.assert_array_equal(found.images, tiny(photo, samples=2, seed=seed).images)
    assert not np.array_equal(each[0].images, each[1].images)


def test_the_best_samples_are_those_of_all_and_alone_are_upsampled(tiny, monkeypatch):
    upsampled, upsample = [], Pipeline.upsample
    photo = np.random.default_rng(0).integers(0, 256, (12, 15, 3), dtype=np.uint8)
    every = tiny(photo, samples=5, seed=3)
    monkeypatch.setattr(Pipeline, "upsample", lambda self, *a, **o: upsampled.append(1) or upsample(self, *a, **o))
    best = tiny(photo, samples=5, best=2, seed=3)
    assert len(upsampled) == 2
    order = sorted(range(5), key=lambda s: -every.log_prob[s])[:2]
    assert (best.samples, best.log_prob) == (order, [every.log_prob[s] for s in order])
    for image, s in zip(best.images, order, strict=True):
        np.testing.assert_array_equal(image, every.images[s])


def test_a_pillow_image_is_read_as_its_file_is(tiny, tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (12, 15), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        found = tiny(image).images[0]
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, tiny(tmp_path / "a.png").images[0])


BLANK = np.zeros((12, 15, 3), np.uint8)


@pytest.mark.parametrize(
    ("photo", "options", "kind", "said"),
    [
        (np.zeros((4, 4, 4), np.uint8), {}, ValueError, "an image is uint8"),
        (np.zeros(4, np.uint8), {}, ValueError, "an image is uint8"),
        (np.zeros((0, 4, 3), np.uint8), {}, ValueError, "an image is uint8"),
        (Image.new("F", (4, 4)), {}, PhotoError, "floating-point"),
        (BLANK, {"samples": 0}, ValueError, "samples.*got"),
        (BLANK, {"batch_size": 0}, ValueError, "batch_size.*got"),
        (BLANK, {"stage": "colour"}, ValueError, "stage.*got"),
        (BLANK, {"samples": 4, "particles": 3}, ValueError, "particles must be 1, or at least the 4 samples, got 3"),
        (BLANK, {"seed": [1, 2]}, ValueError, "seed"),
        (BLANK, {"seed": 3.7}, TypeError, "as an integer"),
        (BLANK, {"best": 2}, ValueError, "best"),
        (BLANK, {"redraw": Box(0, 0, 5, 5)}, HintError, "."),
        (BLANK, {"hints": [Hint(3, 3, (999, 0, 0))]}, HintError, "."),
        (BLANK, {"hints": [Hint(3, 3, (9, 0, 0), -5)]}, HintError, "."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_coloured_or_meant_is_refused(tiny, photo, options, kind, said):
    with pytest.raises(kind, match=said):
        tiny(photo, **options)
