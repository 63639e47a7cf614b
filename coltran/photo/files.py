# SPDX-License-Identifier: Apache-2.0
"""The files of photographs: what of them, beside the pixels, a coloured copy keeps."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

from coltran.files import written_whole
from coltran.image import PhotoError, image_to_rgb, reading

FORMATS = {"jpeg": ".jpg", "png": ".png", "webp": ".webp", "tiff": ".tif"}  # and the suffix of each
_SRGB = ImageCms.createProfile("sRGB")
_DATE = slice(24, 36)  # of a profile's making: without it the same photograph would give other bytes every day


@dataclass(frozen=True)
class Photograph:
    """A photograph as it was read."""

    rgb: np.ndarray  # uint8 [H, W, 3], upright, opaque, in sRGB
    format: str  # one of FORMATS; png where the file has another
    exif: bytes  # without the orientation, which is applied; empty where there is none


def read(path: str | Path, file: BinaryIO | None = None) -> Photograph:
    """Reads a photograph; a colour profile in it is applied, so that the pixels are sRGB.

    Args:
        path: where it is, or its name for a person where `file` is given.
        file: what to read it from in place of the path.

    Raises:
        PhotoError: as of `coltran.image.load_photo`.
    """
    with reading(path), Image.open(file or path) as image:
        found, exif = (image.format or "").lower(), image.getexif()
        profile = image.info.get("icc_profile")
        upright = ImageOps.exif_transpose(image)
        rgb = image_to_rgb(_to_srgb(upright, profile) if profile else upright)
    exif.pop(ExifTags.Base.Orientation, None)
    return Photograph(rgb, {"mpo": "jpeg"}.get(found, found if found in FORMATS else "png"), exif.tobytes())


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The image in sRGB; as it is where its profile is broken, or of another kind of image."""
    wanted = {"L": "RGB", "CMYK": "RGB", "RGB": "RGB", "RGBA": "RGBA"}.get(image.mode)
    if wanted is None:
        return image
    try:
        found = ImageCms.profileToProfile(image, io.BytesIO(profile), _SRGB, outputMode=wanted)
    except (ImageCms.PyCMSError, OSError):
        return image
    return image if found is None else found


def write(rgb: np.ndarray, path: Path, *, format: str, quality: int, exif: bytes = b"", description: str = "") -> None:
    """Writes uint8 [H, W, 3] as one of FORMATS, whole or not at all, tagged as sRGB.

    Args:
        quality: of JPEG and WebP, 1 to 100; from 90 on JPEG keeps the colours of every pixel.
        exif: as of `Photograph`.
        description: put into EXIF's ImageDescription.

    Raises:
        OSError: it cannot be written; what was there remains.
    """
    tags = Image.Exif()
    if exif:
        tags.load(exif)
    if description:
        tags[ExifTags.Base.ImageDescription] = description
    profile = bytearray(ImageCms.ImageCmsProfile(_SRGB).tobytes())
    profile[_DATE] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    options: dict[str, object] = {"exif": tags.tobytes(), "icc_profile": bytes(profile)}
    if format in ("jpeg", "webp"):
        options["quality"] = quality
    if format == "jpeg":
        options["subsampling"] = 0 if quality >= 90 else 2
    if format == "tiff":
        options["compression"] = "tiff_deflate"
    with written_whole(path) as temporary:
        Image.fromarray(rgb).save(temporary, format=format.upper(), **options)


def write_png(pixels: np.ndarray, path: Path) -> None:
    """Writes uint8 [H, W, 3] as a plain PNG, whole or not at all."""
    with written_whole(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def check_side(rgb: np.ndarray, format: str) -> None:
    """Raises PhotoError where a format has no room for so many pixels a side."""
    most = {"jpeg": 65535, "webp": 16383}.get(format)
    if most is not None and max(rgb.shape[:2]) > most:
        raise PhotoError(f"{format} holds at most {most} pixels a side: --format png takes {max(rgb.shape[:2])}.")
