# SPDX-License-Identifier: Apache-2.0
"""Image arithmetic against the original's arrays, against exact rational arithmetic, and on hostile files.

`fixtures/image.npz` holds a cut-out of a public-domain photograph with its crops and resizes, and a 333 x 333
image whose area means lie within float32 rounding of a tie, where float64 gives another level. Its expected
arrays were computed when the implementation reproduced every array of the original's bit for bit.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coltran import image
from coltran.image import PhotoError
from coltran.photo import files

FIXTURE = Path(__file__).parent / "fixtures" / "image.npz"


@pytest.fixture(scope="module")
def fixture():
    with np.load(FIXTURE) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def original(parity_folder):
    """The original's arrays."""
    with np.load(parity_folder / "preprocess.npz") as arrays:
        return dict(arrays)


def exact_mean(source: np.ndarray, height: int, width: int) -> list[list[Fraction]]:
    """The area means of a gray image as exact fractions."""

    def shares(n_in: int, n_out: int) -> list[list[Fraction]]:
        scale = Fraction(n_in, n_out)
        return [
            [max(Fraction(0), min((i + 1) * scale, j + 1) - max(i * scale, j)) / scale for j in range(n_in)]
            for i in range(n_out)
        ]

    columns = shares(source.shape[1], width)
    narrow = [[sum(f * int(v) for f, v in zip(c, row, strict=True)) for c in columns] for row in source]
    rows = shares(source.shape[0], height)
    return [[sum(f * narrow[j][x] for j, f in enumerate(r)) for x in range(width)] for r in rows]


# --- the original's arrays ---


@pytest.mark.parametrize("k", range(4))
def test_crops_resizes_and_grays_equal_the_originals(original, k):
    found = {"targets": image.area_resize(image.center_square(original[f"{k}/image"]), 256)}
    found["targets_64"] = image.area_resize(found["targets"], 64)
    found["targets_64_up_back"] = image.area_resize(found["targets_64"], 256)
    for colour, gray in (("targets", "gray"), ("targets_64", "gray_64")):
        found[gray] = image.rgb_to_gray(found[colour])[..., None]
    found["gray_input_256"] = image.area_resize(image.center_square(original[f"{k}/gray_input"]), 256)
    found["gray_input_64"] = image.area_resize(found["gray_input_256"], 64)
    for name, pixels in found.items():
        np.testing.assert_array_equal(pixels, original[f"{k}/{name}"], err_msg=name)


def test_grays_bits_labels_and_their_colours_equal_the_originals(original):
    np.testing.assert_array_equal(image.rgb_to_gray(original["rgb"]), original["rgb_gray_int32"][..., 0])
    coarse = image.to_bits(original["rgb"], 8, 3)
    np.testing.assert_array_equal(coarse, original["rgb_3bit"])
    np.testing.assert_array_equal(image.colors_to_labels(coarse), original["rgb_bin"])
    np.testing.assert_array_equal(image.labels_to_colors(np.arange(512)), original["bin_rgb"])


# --- grayscale, bits, labels ---


def test_white_is_254_because_grayscale_truncates():
    assert image.rgb_to_gray(np.full((1, 1, 3), 255, np.uint8)).item() == 254


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_grayscale_keeps_the_dtype_and_torch_equals_numpy(fixture, dtype):
    rgb = fixture["photo"].astype(dtype)
    from_torch = image.rgb_to_gray(torch.from_numpy(rgb))
    assert from_torch.dtype == torch.from_numpy(rgb).dtype
    np.testing.assert_array_equal(from_torch.numpy(), fixture["gray"].astype(dtype), strict=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_bits_keep_the_high_bits(dtype):
    values = np.arange(256).astype(dtype)
    np.testing.assert_array_equal(image.to_bits(values, 8, 3), (np.arange(256) // 32).astype(dtype), strict=True)
    np.testing.assert_array_equal(image.to_bits(values[:8], 3, 8), (np.arange(8) * 32).astype(dtype), strict=True)


def test_every_label_survives_the_way_to_a_colour_and_back():
    for labels in (np.arange(512), torch.arange(512)):
        colours = image.labels_to_colors(labels)
        assert str(colours.dtype).endswith("uint8")
        back = image.colors_to_labels(image.to_bits(colours, 8, 3))
        np.testing.assert_array_equal(np.asarray(back), np.arange(512), strict=True)


# --- crop and resize ---


def test_crop_and_resize_of_the_fixture(fixture):
    square = image.center_square(fixture["photo"])
    np.testing.assert_array_equal(image.area_resize(square, 16), fixture["square_to_16"])
    np.testing.assert_array_equal(image.area_resize(square, 50), fixture["square_to_50"])
    np.testing.assert_array_equal(image.area_resize(fixture["square_to_16"], 64), fixture["square_16_to_64"])


def test_near_ties_round_as_the_original_does(fixture):
    resized = image.area_resize(fixture["tie_image"], 256)
    np.testing.assert_array_equal(resized[tuple(fixture["tie_positions"].T)], fixture["tie_values"])


@pytest.mark.parametrize("source", [(1, 1), (1, 7), (5, 4), (13, 9), (24, 18)])
@pytest.mark.parametrize("target", [(1, 1), (3, 5), (8, 8), (17, 11)])
def test_resize_is_the_exact_area_mean_rounded(source, target):
    pixels = np.random.default_rng(7).integers(0, 256, source, dtype=np.uint8)
    means = np.array(exact_mean(pixels, *target))
    rounding = abs(image.area_resize(pixels, target).astype(int) - means)
    assert rounding.max() <= Fraction(1, 2) + Fraction(1, 10_000)  # the original sums in float32


def test_ties_round_to_even():
    pairs = np.array([[0, 1], [1, 2], [2, 3]], np.uint8)
    assert image.area_resize(pairs, (3, 1))[:, 0].tolist() == [0, 2, 2]


def test_resize_to_its_own_size_changes_nothing(fixture):
    photo = fixture["photo"]
    np.testing.assert_array_equal(image.area_resize(photo, photo.shape[:2]), photo)


@pytest.mark.parametrize("size", [(5000, 3), (20_000, 3)])
def test_white_stays_white_at_any_ratio(size):
    assert (image.area_resize(np.full((9999, 1), 255, np.uint8), size) == 255).all()


def test_channels_and_views_are_resized_independently(fixture):
    photo = fixture["photo"][::-1, ::2]
    together = image.area_resize(photo, (11, 40))
    for channel in range(3):
        np.testing.assert_array_equal(together[..., channel], image.area_resize(photo[..., channel], (11, 40)))


@pytest.mark.parametrize(
    ("pixels", "size"),
    [
        (np.zeros((4, 4), np.float32), 2),
        (np.zeros(4, np.uint8), 2),
        (np.zeros((0, 4), np.uint8), 2),
        (np.zeros((4, 4), np.uint8), 0),
    ],
)
def test_resize_refuses_what_it_cannot_do(pixels, size):
    with pytest.raises(ValueError, match="area_resize needs"):
        image.area_resize(pixels, size)


@pytest.mark.parametrize("shape", [(4, 7, 3), (7, 4, 3), (5, 5), (1, 6), (1, 1, 3)])
def test_central_square_is_the_middle(shape):
    pixels = np.arange(np.prod(shape)).reshape(shape)
    side = min(shape[:2])
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    np.testing.assert_array_equal(
        image.center_square(pixels), pixels[top : top + side, left : left + side], strict=True
    )


def test_random_squares_reach_every_place_and_nothing_else():
    pixels = np.arange(5 * 3 * 3).reshape(5, 3, 3)
    rng = np.random.default_rng(0)
    found = {image.random_square(pixels, rng).tobytes() for _ in range(100)}
    assert found == {pixels[top : top + 3].tobytes() for top in range(3)}


def test_random_square_repeats_with_its_seed():
    pixels = np.arange(5 * 90).reshape(5, 90)
    first, second = (image.random_square(pixels, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_gray_photograph_is_taken_as_it_is():
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(image.photo_to_gray(np.repeat(gray[..., None], 3, axis=-1)), gray)


def test_one_coloured_pixel_makes_a_colour_photograph():
    photo = np.full((2, 2, 3), 200, np.uint8)
    photo[1, 1] = (200, 200, 90)
    np.testing.assert_array_equal(image.photo_to_gray(photo), image.rgb_to_gray(photo))


# --- reading files ---


def saved(tmp_path: Path, picture: Image.Image, name: str = "photo.png", **options) -> Path:
    picture.save(tmp_path / name, **options)
    return tmp_path / name


def test_images_of_any_mode_are_read_as_colours(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(image.load_photo(saved(tmp_path, Image.fromarray(pixels))), pixels, strict=True)
    gray = image.load_photo(saved(tmp_path, Image.fromarray(pixels[..., 0])))
    np.testing.assert_array_equal(gray, pixels[..., :1].repeat(3, -1), strict=True)
    assert image.load_photo(saved(tmp_path, Image.new("RGB", (1, 1), (9, 8, 7)))).tolist() == [[[9, 8, 7]]]
    bits = Image.fromarray(np.array([[True, False]]))
    assert image.load_photo(saved(tmp_path, bits))[0, :, 0].tolist() == [255, 0]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert image.load_photo(saved(tmp_path, palette, "photo.gif")).tolist() == [[[10, 20, 30], [40, 50, 60]]]


@pytest.mark.parametrize(
    ("picture", "options", "expected"),
    [
        (Image.new("RGBA", (1, 1), (10, 20, 30, 0)), {}, 255),
        (Image.new("LA", (1, 1), (10, 0)), {}, 255),
        (Image.new("RGBA", (1, 1), (10, 20, 30, 0)).quantize(2), {}, 255),
        (Image.new("RGB", (1, 1), (10, 20, 30)), {"transparency": (10, 20, 30)}, 255),
        (Image.new("RGBA", (1, 1), (0, 0, 0, 127)), {}, 128),
    ],
    ids=["RGBA", "LA", "palette", "a colour", "half"],
)
def test_transparent_pixels_lie_over_white(tmp_path, picture, options, expected):
    assert image.load_photo(saved(tmp_path, picture, **options)).tolist() == [[[expected] * 3]]


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_premultiplied_modes_are_read_too(mode):
    straight = Image.new("RGBA" if mode == "RGBa" else "LA", (1, 1), "black")
    assert image.image_to_rgb(straight.convert(mode)).tolist() == [[[0, 0, 0]]]


def test_ink_colours_become_light(tmp_path):
    path = saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "photo.tif")
    red, green, blue = image.load_photo(path)[4, 4]
    assert red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize(("suffix", "dtype"), [("png", np.uint16), ("tif", np.uint16), ("tif", np.int32)])
def test_16_bits_are_scaled_and_not_clipped(tmp_path, suffix, dtype):
    deep = Image.fromarray(np.array([[0, 128, 129, 257, 32768, 65535]], dtype))
    loaded = image.load_photo(saved(tmp_path, deep, f"photo.{suffix}"))
    assert loaded[0, :, 1].tolist() == [0, 0, 1, 1, 128, 255]


@pytest.mark.parametrize("values", [np.array([[70_000]], np.int32), np.array([[0.5]], np.float32)])
def test_values_of_an_unknown_range_are_refused(tmp_path, values):
    with pytest.raises(PhotoError, match="photo.tif cannot be read as an image: it holds"):
        image.load_photo(saved(tmp_path, Image.fromarray(values), "photo.tif"))


@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_the_noted_orientation_is_applied(tmp_path, mode):
    orientation = Image.Exif()
    orientation[0x0112] = 6  # a quarter turn clockwise makes it upright
    path = saved(tmp_path, Image.new(mode, (4, 2)), exif=orientation)
    assert image.load_photo(path).shape == (4, 2, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "gif"])
def test_truncated_files_are_one_sentence(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), f"photo.{suffix}")
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(PhotoError, match=rf"photo\.{suffix} (cannot be read as|is not) an image[^\n]*\.$"):
        image.load_photo(path)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_other_files_are_not_images(tmp_path, content):
    (tmp_path / "photo.png").write_bytes(content)
    for path, sentence in (
        ("photo.png", "photo.png is not an image"),
        ("nowhere.png", "nowhere.png does not exist"),
        ("", "is a folder"),
    ):
        for read in (image.load_photo, files.read):
            with pytest.raises(PhotoError, match=sentence):
                read(tmp_path / path)


# --- listing ---


def test_folders_are_searched_deeply_and_sorted(tmp_path):
    for name in ("b.JPG", "a/z.png", "a/notes.txt", "a/.hidden.png", "c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert image.list_photos([tmp_path]) == [tmp_path / "a" / "z.png", tmp_path / "b.JPG", tmp_path / "c.webp"]


def test_files_keep_their_order_and_any_suffix_and_come_once(tmp_path):
    for name in ("b.data", "a.png"):
        (tmp_path / name).touch()
    named = [tmp_path / "b.data", tmp_path, tmp_path / "b.data"]
    assert image.list_photos(named) == [tmp_path / "b.data", tmp_path / "a.png"]


def test_what_holds_no_photographs_is_refused(tmp_path):
    with pytest.raises(PhotoError, match="holds no photographs"):
        image.list_photos([tmp_path])
    with pytest.raises(PhotoError, match="nowhere does not exist"):
        image.list_photos([tmp_path / "nowhere"])
