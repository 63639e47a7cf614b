# SPDX-License-Identifier: Apache-2.0
"""Image arithmetic: grayscale, bits and colour labels, crop, area resize, and reading photographs.

Everything here equals the published model to the bit: the networks learned from images made this way, so a
different rounding is a different input. Functions that say "array or tensor" take numpy arrays and torch
tensors and return the same kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from coltran.photo.decoding import PhotoError, decode
from coltran.photo.exif import upright
from coltran.photo.kinds import PHOTO_SUFFIXES

Array = TypeVar("Array", np.ndarray, torch.Tensor)

LUMA = (0.2989, 0.587, 0.114)
_PRODUCTS = torch.from_numpy(np.array(LUMA, np.float32)[:, None] * np.arange(256, dtype=np.float32))  # [3, 256]

STRIP = 1 << 20  # pixels that are worked on at once where memory is not to grow with the photograph


def _cast(x: Array, dtype: str) -> Array:
    if isinstance(x, torch.Tensor):
        return x.to(getattr(torch, dtype))
    return x.astype(dtype)


def rgb_to_gray(rgb: Array) -> Array:
    """Grayscale as the networks know it: `int(0.2989 r + 0.587 g + 0.114 b)` in float32, truncated.

    Args:
        rgb: integer array or tensor [..., 3], 0..255.
    Returns:
        [...], 0..254, of the same dtype: the weights add up to 0.9999, so white becomes 254.
    """
    if isinstance(rgb, torch.Tensor) and rgb.device.type == "xla":
        # Compiled, a product and a sum may become one operation with one rounding, which moves 27 of all colours by a
        # level: products that are looked up leave nothing to join.
        products = _PRODUCTS.to(rgb.device)
        red, green, blue = (products[channel][_cast(rgb[..., channel], "int64")] for channel in range(3))
        return (red + green + blue).to(rgb.dtype)
    red, green, blue = (_cast(rgb[..., channel], "float32") for channel in range(3))
    luma = red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]
    return luma.to(rgb.dtype) if isinstance(rgb, torch.Tensor) else luma.astype(rgb.dtype)


def to_bits(x: Array, n_in: int, n_out: int) -> Array:
    """Change the number of bits a value has, keeping the high ones: 8 -> 3 is `x // 32`, 3 -> 8 is `x * 32`.

    Args:
        x: non-negative integer array or tensor of any shape, below `2**n_in`.
    Returns:
        The same shape and dtype, below `2**n_out`; a dtype too narrow for `n_out` bits wraps round.
    """
    return x << (n_out - n_in) if n_out > n_in else x >> (n_in - n_out)


def colors_to_labels(rgb: Array) -> Array:
    """The label of a 3-bit colour, `64 r + 8 g + b`.

    Args:
        rgb: integer array or tensor [..., 3], 0..7.
    Returns:
        int64 [...], 0..511.
    """
    red, green, blue = (_cast(rgb[..., channel], "int64") for channel in range(3))
    return red * 64 + green * 8 + blue


def labels_to_colors(labels: Array) -> Array:
    """The 8-bit colour of a label, `(r, g, b) * 32`.

    Args:
        labels: integer array or tensor [...], 0..511.
    Returns:
        uint8 [..., 3], multiples of 32, 0..224.
    """
    channels = [(labels >> shift & 7) * 32 for shift in (6, 3, 0)]
    if isinstance(labels, torch.Tensor):
        return torch.stack(channels, dim=-1).to(torch.uint8)
    return np.stack(channels, axis=-1).astype(np.uint8)


def center_square(image: np.ndarray) -> np.ndarray:
    """The central square of an image [H, W] or [H, W, c], of its shorter side; a view.

    Where the margin is odd, the smaller half is on top or on the left.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def random_square(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A square of the shorter side at a uniformly drawn place of an image [H, W] or [H, W, c]; a view."""
    height, width = image.shape[:2]
    side = min(height, width)
    top = int(rng.integers(height - side + 1))
    left = int(rng.integers(width - side + 1))
    return image[top : top + side, left : left + side]


def random_part(square: np.ndarray, least_area: float, rng: np.random.Generator) -> np.ndarray:
    """A smaller square at a uniformly drawn place of an image [N, N] or [N, N, c]; a view.

    Its share of the area is drawn uniformly from [least_area, 1].
    """
    side = len(square)
    part = max(1, round(side * float(rng.uniform(least_area, 1)) ** 0.5))
    top, left = (int(rng.integers(side - part + 1)) for _ in range(2))
    return square[top : top + part, left : left + part]


def _coverage(n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray, np.float32]:
    """Which of `n_in` source pixels each of `n_out` target pixels covers, and how much of each.

    Target pixel `i` covers the interval [i * scale, (i + 1) * scale) of the source, `scale = n_in / n_out`.

    Returns:
        source [n_out, k] int64 (in raster order), fraction [n_out, k] float32 (0 past the end), scale.
    """
    scale = np.float32(n_in) / np.float32(n_out)
    edges = np.arange(n_out + 1).astype(np.float32) * scale
    low, high = edges[:-1, None], edges[1:, None]
    first, past = np.floor(low).astype(np.int64), np.ceil(high).astype(np.int64)
    source = first + np.arange(int((past - first).max()))
    left, right = source.astype(np.float32), (source + 1).astype(np.float32)
    fraction = np.minimum(right, high) - np.maximum(left, low)
    # A target pixel strictly inside one source pixel covers exactly `scale` of it; `high - low` lost digits.
    fraction[(left < low) & (right > high)] = scale
    fraction[source >= past] = 0
    return np.minimum(source, n_in - 1), fraction, scale


def area_resize(image: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Resize so that each target pixel is the mean of the source area it covers, at any ratio up or down.

    A source pixel weighs the fraction of it that is covered. The sum runs in float32 from left to right and
    then from top to bottom, as the original's does, and rounds half to even: in another order, or in float64,
    sums that lie within rounding of a tie come out one level apart from the images the published networks
    were trained on.

    Args:
        image: uint8 [H, W] or [H, W, c].
        size: the target's side, or (height, width).
    Returns:
        uint8 [height, width] or [height, width, c].
    Raises:
        ValueError: not uint8, not two- or three-dimensional, without pixels, or a size below 1.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f"area_resize needs uint8 [H, W] or [H, W, c], not {image.dtype} {image.shape}.")
    if height < 1 or width < 1:
        raise ValueError(f"area_resize needs a target of at least 1 x 1 pixels, not {height} x {width}.")
    columns, column_fraction, column_scale = _coverage(image.shape[1], width)
    rows, row_fraction, row_scale = _coverage(image.shape[0], height)
    planes = np.ascontiguousarray(np.moveaxis(image.reshape(*image.shape[:2], -1), 0, -1))  # [W, c, H]
    narrow = np.zeros((width, *planes.shape[1:]), np.float32)  # [width, c, H]
    for k in range(columns.shape[1]):
        narrow += planes[columns[:, k]] * column_fraction[:, k, None, None]
    narrow = np.ascontiguousarray(np.moveaxis(narrow, -1, 0))  # [H, width, c]
    total = np.zeros((height, *narrow.shape[1:]), np.float32)  # [height, width, c]
    for k in range(rows.shape[1]):
        total += narrow[rows[:, k]] * row_fraction[:, k, None, None]
    mean = np.rint(total * (np.float32(1) / (row_scale * column_scale)))
    return np.minimum(mean, 255).astype(np.uint8).reshape(height, width, *image.shape[2:])


def photo_to_gray(photo: np.ndarray) -> np.ndarray:
    """The grayscale of a photograph that may or may not have colours.

    Args:
        photo: uint8 [H, W, 3].
    Returns:
        uint8 [H, W]: `rgb_to_gray` where any pixel has a colour; otherwise the common channel, unchanged, so
        that a grayscale made by `rgb_to_gray` and read back from a file is not darkened a second time.
    """
    first = photo[..., 0]
    if np.array_equal(first, photo[..., 1]) and np.array_equal(first, photo[..., 2]):
        return first
    rows = max(1, STRIP // photo.shape[1])
    return np.concatenate([rgb_to_gray(photo[top : top + rows]) for top in range(0, len(photo), rows)])


def gray_values(image: Image.Image) -> np.ndarray:
    """The values of a Pillow image of mode I or I;16, uint16 [H, W].

    Raises:
        ValueError: values outside 0..65535, whose range is not known.
    """
    values = np.asarray(image)
    if values.dtype.itemsize > 2 and (values.min() < 0 or values.max() > 65535):
        raise ValueError("it holds values outside 0..65535")
    return values.astype(np.uint16)


def to_eight_bits(values: np.ndarray) -> np.ndarray:
    """uint16 scaled to uint8, rounded."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def image_to_rgb(image: Image.Image) -> np.ndarray:
    """A Pillow image of any mode as uint8 [H, W, 3].

    The orientation noted in EXIF is applied, transparency is laid over white, and 16-bit values are scaled to
    8 bits (rounded). Of an animation, the current frame.

    Raises:
        ValueError: values whose range is not known (floating point, 32-bit integers beyond 65535), or a mode
            that Pillow cannot turn into RGB.
    """
    return upright_to_rgb(upright(image))


def upright_to_rgb(image: Image.Image) -> np.ndarray:
    """`image_to_rgb` of an image whose orientation was applied already, whatever its EXIF still says."""
    if image.mode == "F":
        raise ValueError("it holds floating-point values, of which nobody says where white is")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return np.repeat(to_eight_bits(gray_values(image))[..., None], 3, axis=-1)
    if image.mode == "La":  # Pillow turns premultiplied gray into nothing but LA
        image = image.convert("LA")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return np.array(image.convert("RGB"))


def load_photo(path: str | Path, *, least: int = 0) -> np.ndarray:
    """Read a photograph in any format that Pillow reads.

    Args:
        path: the file.
        least: a JPEG may come at 1/2, 1/4 or 1/8 of its size, averaged, where both sides stay at least so long, which
            takes a fraction of the time; 0: at its own.

    Returns:
        uint8 [H, W, 3], upright and opaque: see `image_to_rgb`.
    Raises:
        PhotoError: the file is missing, not an image, damaged, too large for Pillow's safety limit, or holds
            values of an unknown range.
    """
    return decode(path, lambda image, tags: upright_to_rgb(upright(image, tags)), least=least)


def photo_size(path: str | Path, *, least: int = 0) -> tuple[int, int]:
    """The sides of what `load_photo` gives, in either order, from the beginning of the file alone.

    Raises:
        PhotoError: the file is missing or not an image.
    """
    return decode(path, lambda image, tags: image.size, least=least)


def list_photos(paths: Iterable[str | Path]) -> list[Path]:
    """The photographs that a list of files and folders names, each once, in the order named.

    A file is taken whatever its suffix and whether it can be read or not (`load_photo` says so). A folder is
    searched with its subfolders for the suffixes in `PHOTO_SUFFIXES` in either case, sorted by path; hidden
    files are left out.

    Raises:
        PhotoError: a path does not exist, or a folder holds no photograph.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise PhotoError(f"{path} does not exist.")
        if not path.is_dir():
            found[path] = None
            continue
        photos = sorted(
            entry
            for entry in path.rglob("*")
            if entry.suffix.lower() in PHOTO_SUFFIXES and not entry.name.startswith(".") and entry.is_file()
        )
        if not photos:
            raise PhotoError(f"The folder {path} holds no photographs.")
        found.update(dict.fromkeys(photos))
    return list(found)
