# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import multiprocessing
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coltran import image
from coltran.errors import UserError
from coltran.training import data
from coltran.training.data import Batch, eval_batches, train_batches
from tests.tiny_training import whole_config, write_photo, write_photos


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


def _train(folder: Path, name: str = "coltran_core", steps: int = 8, **options) -> list[Batch]:
    config = whole_config(name, **options.pop("config", {}))
    options.setdefault("workers", 0)
    return list(itertools.islice(train_batches(config, folder, name, **options), steps))


def _evaluate(folder: Path, name: str = "coltran_core", **options) -> list[Batch]:
    options.setdefault("workers", 0)
    return list(eval_batches(whole_config(name), folder, name, **options))


def _same(a: list[Batch], b: list[Batch]) -> bool:
    return all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in zip(a, b, strict=True))


def _flat_photos(folder: Path, count: int) -> Path:
    """Photographs of one colour each, so that a batch tells which ones it holds."""
    folder.mkdir()
    for i in range(count):
        Image.fromarray(np.full((9, 9, 3), 10 * i, dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def _which(batches: list[Batch]) -> list[int]:
    return [int(value) // 10 for batch in batches for value in batch["rgb"][:, 0, 0, 0]]


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("coltran_core", {"rgb": (2, 8, 8, 3)}),
        ("color_upsampler", {"rgb": (2, 8, 8, 3), "channel_index": (2,)}),
        ("spatial_upsampler", {"rgb": (2, 16, 16, 3), "low_res": (2, 16, 16, 3), "channel_index": (2,)}),
    ],
)
def test_a_training_batch_holds_what_its_network_needs(folder, name, shapes):
    (batch,) = _train(folder, name, steps=1)
    assert {key: tuple(tensor.shape) for key, tensor in batch.items()} == shapes
    kinds = {"channel_index": torch.int64}
    assert all(tensor.dtype == kinds.get(key, torch.uint8) for key, tensor in batch.items())


def test_options_turn_off_what_is_drawn_and_made_smaller(folder):
    (batch,) = _train(folder, steps=1, config={"downsample": False})
    assert batch["rgb"].shape == (2, 16, 16, 3)
    (batch,) = _train(folder, "color_upsampler", steps=1, config={"random_channel": False})
    assert "channel_index" not in batch


def test_every_channel_is_drawn(folder):
    drawn = torch.cat([batch["channel_index"] for batch in _train(folder, "color_upsampler", steps=20)])
    assert set(drawn.tolist()) == {0, 1, 2}


VARIED = {"random_flip": True, "random_resized_crop": 0.3}


@pytest.mark.parametrize("config", [{}, VARIED], ids=["plain", "varied"])
def test_batches_depend_on_the_step_and_no_number_of_workers(folder, config):
    alone = _train(folder, "spatial_upsampler", config=config)
    for workers in (1, 2):
        assert _same(alone, _train(folder, "spatial_upsampler", workers=workers, config=config))
    assert _same(alone[5:], _train(folder, "spatial_upsampler", 3, start_step=5, config=config))
    assert _same(_evaluate(folder, batch_size=2), _evaluate(folder, batch_size=2, workers=2))


def test_the_seed_changes_the_batches(folder):
    assert not _same(_train(folder, seed=0), _train(folder, seed=1))


def test_an_epoch_shows_every_photo_once_in_an_order_of_its_own(tmp_path):
    which = _which(_train(_flat_photos(tmp_path / "flat", 8), steps=8))
    assert sorted(which[:8]) == sorted(which[8:]) == list(range(8))
    assert which[:8] != which[8:]


def test_training_crops_at_random(tmp_path):
    write_photo(tmp_path / "wide.png", 0, height=16, width=64)
    images = torch.cat([batch["rgb"] for batch in _train(tmp_path, config={"downsample": False})])
    assert len(images.unique(dim=0)) > 8


def test_half_of_the_samples_are_mirrored(tmp_path):
    (tmp_path / "one").mkdir()
    ramp = np.repeat(np.arange(0, 240, 15, dtype=np.uint8)[None, :, None], 16, 0).repeat(3, 2)
    Image.fromarray(ramp).save(tmp_path / "one" / "ramp.png")
    batches = _train(tmp_path / "one", steps=32, config={"random_flip": True})
    mirrored = sum(int(rgb[0, 0, 0] > rgb[0, -1, 0]) for batch in batches for rgb in batch["rgb"])
    assert 16 <= mirrored <= 48  # of 64: four standard deviations to either side


def test_smaller_crops_keep_at_least_the_share_of_the_area():
    square = np.zeros((100, 100, 3), np.uint8)
    rng = np.random.default_rng(0)
    sides = [image.random_part(square, 0.3, rng).shape[0] for _ in range(300)]
    assert 55 <= min(sides) < 60  # the root of 0.3 is 0.548
    assert max(sides) > 95


def test_variations_change_the_images_and_leave_the_channels_as_they_were(folder):
    plain, varied = (_train(folder, "color_upsampler", config=changes) for changes in ({}, VARIED))
    assert [b["channel_index"].tolist() for b in plain] == [b["channel_index"].tolist() for b in varied]
    assert not _same(plain, varied)


def test_a_share_that_is_none_is_refused(folder):
    with pytest.raises(UserError, match="config.random_resized_crop must lie in"):
        _train(folder, config={"random_resized_crop": 1.5})


def test_evaluation_crops_centrally_and_resizes_twice(folder):
    first = image.load_photo(folder / "p00.png")
    expected = image.area_resize(image.area_resize(image.center_square(first), 16), 8)
    np.testing.assert_array_equal(_evaluate(folder)[0]["rgb"][0], expected)


def test_the_spatial_upsampler_sees_the_small_image_brought_back_up(folder):
    batch = _evaluate(folder, "spatial_upsampler")[0]
    expected = image.area_resize(image.area_resize(batch["rgb"][0].numpy(), 8), 16)
    np.testing.assert_array_equal(batch["low_res"][0], expected)


def test_evaluation_shows_every_photo_once_in_name_order(tmp_path):
    assert _which(_evaluate(_flat_photos(tmp_path / "flat", 7))) == list(range(7))


def test_evaluation_ends_with_what_is_left_or_at_the_limit_and_draws_no_channel(folder):
    assert [len(batch["rgb"]) for batch in _evaluate(folder)] == [4, 1]
    assert [len(batch["rgb"]) for batch in _evaluate(folder, limit=3, batch_size=2)] == [2, 1]
    assert set(_evaluate(folder, "color_upsampler")[0]) == {"rgb"}


def test_photographs_of_any_format_and_depth_in_folders_are_found(tmp_path):
    for i, name in enumerate(["a.png", "deeper/b.jpg", "deeper/still/c.bmp", "d.webp"]):
        write_photo(tmp_path / name, i)
    assert sum(len(batch["rgb"]) for batch in _evaluate(tmp_path)) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_each_unreadable_photo_is_warned_of_once(folder, workers):
    (folder / "broken.png").write_bytes(b"no photograph")
    (folder / "p01.png").write_bytes((folder / "p01.png").read_bytes()[:60])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _train(folder, steps=12, workers=workers)
    named = sorted(part for warning in caught for part in ("broken.png", "p01.png") if part in str(warning.message))
    assert named == ["broken.png", "p01.png"]


@pytest.mark.filterwarnings("ignore:Skipped")
def test_training_batches_stay_full_and_evaluation_leaves_out_what_cannot_be_read(folder):
    (folder / "p02.png").write_bytes(b"no photograph")
    assert {len(batch["rgb"]) for batch in _train(folder)} == {2}
    assert [len(batch["rgb"]) for batch in _evaluate(folder, batch_size=2)] == [2, 1, 1]


@pytest.mark.filterwarnings("ignore:Skipped")
def test_photographs_that_vanish_end_the_training(folder):
    (folder / "p00.png").write_bytes(b"broken")
    batches = train_batches(whole_config(), folder, "coltran_core", workers=0)
    for _ in range(4):  # by then the broken one was met
        next(batches)
    shutil.rmtree(folder)
    with pytest.raises(image.PhotoError, match="None of the photographs"):
        next(batches)


def test_a_batch_of_no_photographs_is_refused(folder):
    with pytest.raises(UserError, match=r"config\.eval_batch_size must be a whole number from 1 on, not 0"):
        _evaluate(folder, batch_size=0)
    with pytest.raises(UserError, match=r"config\.eval_num_examples must be a whole number from 1 on, not -1"):
        _evaluate(folder, limit=-1)


def test_an_error_in_a_worker_leaves_no_worker_behind(folder, monkeypatch):
    before = multiprocessing.active_children()  # such as the compilers that other tests have started
    monkeypatch.setattr(data, "prepare", None)
    with pytest.raises(TypeError) as error:
        _train(folder, workers=1)
    assert error.value is not None  # with it every frame that it came through is still there
    assert multiprocessing.active_children() == before


@pytest.mark.filterwarnings("ignore:Skipped")
@pytest.mark.parametrize("read", [_train, _evaluate])
def test_a_folder_without_a_readable_photo_is_an_error(tmp_path, read):
    with pytest.raises(image.PhotoError, match=tmp_path.name):
        read(tmp_path)
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(b"no photograph")
    with pytest.raises(image.PhotoError, match="None of the photographs"):
        read(tmp_path)


def test_reading_leaves_torchs_random_state_alone(folder):
    before = torch.get_rng_state()
    _train(folder, workers=1, steps=2)
    assert torch.equal(torch.get_rng_state(), before)
