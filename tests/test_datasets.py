# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from coltran.errors import UserError
from coltran.image import PhotoError
from coltran.training.datasets import labels, photographs
from tests.tiny_training import write_photo, write_photos


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    for number, name in enumerate(["n02", "n01", "n03"]):
        for photo in range(4):
            write_photo(tmp_path / "train" / name / f"{name}_{photo}.png", photo, 8, 8)
        write_photo(tmp_path / "val" / name / f"val_{number}.png", 1, 8, 8)
    return tmp_path


def test_train_and_valid_are_the_training_folder_split_by_names(imagenet):
    train, valid = (photographs("imagenet", imagenet, subset, valid=3) for subset in ("train", "valid"))
    whole = photographs("imagenet", imagenet, "eval_train", valid=3)
    assert (len(train), len(valid), train + valid) == (9, 3, whole)
    assert sorted(whole) == sorted((imagenet / "train").rglob("*.png"))
    assert whole != sorted(whole)
    moved = imagenet.rename(imagenet.with_name("moved"))  # the split does not depend on where the folder is
    assert [path.name for path in photographs("imagenet", moved, "valid", valid=3)] == [path.name for path in valid]


def test_the_test_set_is_the_validation_folder_and_a_label_the_rank_of_its_class(imagenet):
    photos = photographs("imagenet", imagenet, "test")
    assert [path.name for path in photos] == ["val_1.png", "val_0.png", "val_2.png"]
    assert labels("imagenet", photos, imagenet) == [0, 1, 2]


def test_a_custom_folder_is_the_same_for_every_subset(tmp_path):
    folder = write_photos(tmp_path / "mine", 3)
    found = [photographs("custom", folder, subset) for subset in ("train", "valid", "test", "eval_train")]
    assert all(photos == found[0] for photos in found)
    assert labels("custom", found[0], folder) == [0, 1, 2]


@pytest.mark.parametrize(
    ("dataset", "folder", "reason"),
    [
        ("imagenet", "train", r"has no folder train; --dataset=custom"),
        ("coco", "", "must be one of imagenet, custom, not 'coco'"),
        ("imagenet", None, "--data_dir=DIR"),
        ("custom", None, "--data_dir=DIR"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_sentence(imagenet, dataset, folder, reason):
    with pytest.raises(UserError, match=reason):
        photographs(dataset, None if folder is None else imagenet / folder, "train")


def test_folders_with_too_few_images_or_that_are_not_there_are_refused(imagenet):
    with pytest.raises(UserError, match="holds 12 images, of which 10000 are kept"):
        photographs("imagenet", imagenet, "valid")
    with pytest.raises(PhotoError):
        photographs("custom", imagenet / "nowhere", "train")
