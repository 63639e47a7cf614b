# SPDX-License-Identifier: Apache-2.0
"""The files of photographs: what of them, beside the colours, a coloured copy keeps."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from coltran.files import written_whole
from coltran.image import PhotoError, gray_values, reading, upright_to_rgb
from coltran.photo import profiles
from coltran.photo.encode import encode

FORMATS = {"jpeg": ".jpg", "png": ".png", "webp": ".webp", "tiff": ".tif"}  # and the suffix of each
# What a TIFF says of how its own pixels are stored (TIFF 6.0), in the same place as what EXIF says of the photograph;
# and 700, XMP, which may say once more how the photograph is turned.
_STORAGE = frozenset(
    [*range(254, 268), 273, 700, *range(277, 282), 284, *range(288, 294), 297, 301, *range(317, 326), *range(330, 348)]
    + [*range(512, 522), *range(529, 533), 34675]
)


OURS = "Coloured by coltran"  # what a result's description begins with


@dataclass(frozen=True)
class Photograph:
    """A photograph as it was read."""

    pixels: np.ndarray  # upright, in sRGB: uint8 [H, W, 3], or uint16 [H, W] where the file has 16 bits of gray
    alpha: np.ndarray | None  # uint8 [H, W]; None where everything is opaque
    format: str  # one of FORMATS; png where the file has another
    exif: bytes  # without the orientation, which is applied; empty where there is none


def read(path: str | Path, file: BinaryIO | None = None) -> Photograph:
    """Reads a photograph; of an animation, the first image.

    A colour profile in it is applied, so that the pixels are sRGB. What is fully transparent becomes white.

    Args:
        path: where it is, or its name for a person where `file` is given.
        file: what to read it from in place of the path.

    Raises:
        PhotoError: as of `coltran.image.load_photo`.
    """
    with reading(path), Image.open(file or path) as opened:
        return of_image(opened)


def of_image(opened: Image.Image) -> Photograph:
    """The photograph that a Pillow image is, as `read` reads it; its EXIF no longer has the orientation then.

    Raises:
        OSError, ValueError: it cannot be read, as of `coltran.image.image_to_rgb`.
    """
    if not opened.width * opened.height:
        raise ValueError("it has no pixels")
    found, profile = (opened.format or "").lower(), opened.info.get("icc_profile")
    image = _upright(opened)
    exif = _exif(opened)  # only now, as it takes the orientation out
    alpha = None
    if image.mode == "I" or image.mode.startswith("I;16"):
        pixels = gray_values(image)
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            alpha = np.where(pixels == clear, 0, 255).astype(np.uint8)
        pixels = profiles.gray_to_srgb(pixels, profile) if profile else pixels
    else:
        if image.has_transparency_data:
            gray = image.mode in ("LA", "La")
            image = image.convert("LA" if gray else "RGBA")
            alpha = np.array(image.getchannel("A"))
            image = image.getchannel("L") if gray else image.convert("RGB")
        if profile:
            plain = image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")
            image = profiles.to_srgb(plain, profile)
        pixels = upright_to_rgb(image)
    if alpha is not None:
        pixels[alpha == 0] = np.iinfo(pixels.dtype).max
    return Photograph(pixels, alpha, {"mpo": "jpeg"}.get(found, found if found in FORMATS else "png"), exif)


# What Pillow raises at EXIF that makes no sense.
_SENSELESS = (struct.error, ValueError, TypeError, KeyError, IndexError, SyntaxError, OSError, AttributeError)


def _upright(file: Image.Image) -> Image.Image:
    """The image as EXIF says that it is turned; as it is where EXIF makes no sense."""
    file.load()
    try:
        return ImageOps.exif_transpose(file)
    except _SENSELESS:
        return file


def _exif(file: Image.Image) -> bytes:
    """What a file's EXIF says of the photograph; empty where that makes no sense."""
    try:
        exif = file.getexif()
        for tag in _STORAGE.intersection(exif) | {ExifTags.Base.Orientation}:
            exif.pop(tag, None)
        _keep_bytes(exif)
        return exif.tobytes() if exif else b""
    except _SENSELESS:
        return b""


def _keep_bytes(exif: Image.Exif) -> None:
    """Undoes that Pillow reads texts as Latin-1, as it writes them as ASCII: their bytes are UTF-8 or anything else."""
    for tags in (exif, *(exif.get_ifd(tag) for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo))):
        for tag, value in list(tags.items()):
            if isinstance(value, str) and not value.isascii():
                tags[tag] = value.encode("latin-1", "replace")


def write(
    pixels: np.ndarray,
    path: Path,
    *,
    format: str,
    quality: int,
    exif: bytes = b"",
    alpha: np.ndarray | None = None,
    description: str = "",
) -> None:
    """Writes an image as one of FORMATS, whole or not at all, tagged as sRGB.

    Args:
        pixels: uint8 or uint16 [H, W, 3]; JPEG and WebP have no room for 16 bits and get 8.
        quality: of JPEG and WebP, 1 to 100; from 90 on JPEG keeps the colours of every pixel.
        exif, alpha: as of `Photograph`; JPEG has no room for an alpha, so the image is laid over white.
        description: put into EXIF's ImageDescription; `said_by_us` knows by its first words what a run has made.

    Raises:
        OSError: it cannot be written; what was there remains.
    """
    tags = Image.Exif()
    if exif:
        tags.load(exif)
        _keep_bytes(tags)
    if description:
        tags[ExifTags.Base.ImageDescription] = description
    # The whole file first: what an encoder itself writes can end early unnoticed where the disk is full.
    content = encode(pixels, alpha, format=format, quality=quality, exif=tags)
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


def write_png(pixels: np.ndarray, path: Path) -> None:
    """Writes uint8 [H, W, 3] as a PNG that says that it is ours, whole or not at all."""
    said = PngImagePlugin.PngInfo()
    said.add_text("Description", OURS)
    with written_whole(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=said)


def said_by_us(path: Path) -> str | None:
    """What this program has written into a file about it, as into colourings, sheets and maps; None into no other."""
    try:
        with Image.open(path) as image:
            said = image.info.get("Description")
            if said is None and (image.format != "PNG" or "exif" in image.info):  # else Pillow decodes all of it first
                said = image.getexif().get(ExifTags.Base.ImageDescription)
    except (*_SENSELESS, Image.DecompressionBombError):
        return None
    return str(said) if str(said).startswith(OURS) else None


def check_side(pixels: np.ndarray, format: str) -> None:
    """Raises PhotoError where a format has no room for so many pixels a side."""
    most = {"jpeg": 65500, "webp": 16383}.get(format)
    if most is not None and max(pixels.shape[:2]) > most:
        raise PhotoError(f"{format} holds at most {most} pixels a side: --format png takes {max(pixels.shape[:2])}.")
