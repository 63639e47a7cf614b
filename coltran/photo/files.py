# SPDX-License-Identifier: Apache-2.0
"""The files of photographs: what of them, beside the colours, a coloured copy keeps."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin

from coltran.files import written_whole
from coltran.image import gray_values, upright_to_rgb
from coltran.photo import exif, metadata, profiles, salvage
from coltran.photo.decoding import PhotoError, content_of, decode
from coltran.photo.encode import encode
from coltran.photo.exif import Directories
from coltran.photo.metadata import OURS, Metadata
from coltran.photo.notes import notes_on, notes_on_pages

NOTHING = Metadata()
FORMATS = {"jpeg": ".jpg", "png": ".png", "webp": ".webp", "tiff": ".tif"}  # and the suffix of each


@dataclass(frozen=True)
class Photograph:
    """A photograph as it was read."""

    pixels: np.ndarray  # upright, in sRGB: uint8 [H, W, 3], or uint16 [H, W] where the file has 16 bits of gray
    alpha: np.ndarray | None  # uint8 [H, W]; None where everything is opaque
    format: str  # one of FORMATS; png where the file has another
    metadata: Metadata  # what the file says besides
    notes: tuple[str, ...] = ()  # what a person should know of it: each the rest of a sentence


def read(
    path: str | Path, file: BinaryIO | None = None, *, page: int | None = None, strict: bool = False
) -> Photograph:
    """Reads a photograph, or a page of it; of an animation, a frame.

    A colour profile in it is applied, so that the pixels are sRGB. What is fully transparent becomes white, and so does
    what is missing of a JPEG that was cut off.

    Args:
        path: where it is, or its name for a person where `file` is given.
        file: what to read it from in place of the path.
        page: from 0 on; None is the first that is no thumbnail of another.
        strict: refuse a JPEG of which anything is missing; else it may be about a tenth.

    Raises:
        PhotoError: as of `coltran.image.load_photo`.
    """
    try:
        return decode(path, of_image, file=file, page=page)
    except PhotoError as error:
        try:
            content = content_of(path, file)
        except OSError:
            raise error from None
        mended = salvage.with_end(content)
        if mended is None:
            raise
        try:
            return decode(
                path, lambda image, tags: _salvaged(path, image, tags, content, strict), file=io.BytesIO(mended)
            )
        except PhotoError as other:
            raise other if "is cut off" in str(other) else error from None


def _salvaged(path: str | Path, image: Image.Image, tags: Directories, content: bytes, strict: bool) -> Photograph:
    """What there is of a JPEG that was cut off."""
    image.load()
    share, rows = salvage.missing(content, image)
    said = f"is cut off, and about {max(share, 0.01):.0%} of it {'is' if share < 0.015 else 'are'} missing"
    if share > salvage.MOST:
        raise PhotoError(f"{path} {said if share < 1 else 'is cut off, and too much of it is missing'}.")
    if strict:
        raise PhotoError(f"{path} {said}: without --strict it is coloured.")
    if rows:
        image.paste("white", (0, image.height - rows, image.width, image.height))
    photo = of_image(image, tags)
    return replace(photo, notes=(said, *photo.notes))


def of_image(opened: Image.Image, tags: Directories | None = None) -> Photograph:
    """The photograph that a Pillow image is, as `read` reads it.

    Args:
        tags: of `coltran.photo.exif.of_image`, where they are known already.

    Raises:
        OSError, ValueError: it cannot be read, as of `coltran.image.image_to_rgb`.
    """
    if not opened.width * opened.height:
        raise ValueError("it has no pixels")
    found, profile = (opened.format or "").lower(), opened.info.get("icc_profile")
    tags = exif.of_image(opened) if tags is None else tags  # before the pixels: a TIFF may be closed after them
    notes = list(notes_on_pages(opened))
    image = exif.upright(opened, tags)
    said = metadata.read(opened, tags)  # after them: in PNG there are texts behind them
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
    return Photograph(
        pixels,
        alpha,
        {"mpo": "jpeg"}.get(found, found if found in FORMATS else "png"),
        said,
        (*notes, *notes_on(pixels)),
    )


def encoded(
    pixels: np.ndarray,
    *,
    format: str,
    quality: int,
    kept: Metadata = NOTHING,
    alpha: np.ndarray | None = None,
    description: str = "",
) -> bytes:
    """The bytes of an image as one of FORMATS, tagged as sRGB.

    Args:
        pixels: uint8 or uint16 [H, W, 3]; JPEG and WebP have no room for 16 bits and get 8.
        quality: of JPEG and WebP, 1 to 100; from 90 on JPEG keeps the colours of every pixel.
        kept, alpha: as of `Photograph`; JPEG has no room for an alpha, so the image is laid over white.
        description: what is said of it beside what is kept (`coltran.photo.metadata`); `said_by_us` knows by its first
            words what a run has made.
    """
    return encode(pixels, alpha, format=format, quality=quality, kept=metadata.colored(kept, description))


def write(pixels: np.ndarray, path: Path, **options: Any) -> None:
    """Writes an image, whole or not at all; options as of `encoded`.

    Raises:
        OSError: it cannot be written; what was there remains.
    """
    write_bytes(encoded(pixels, **options), path)


def write_bytes(content: bytes, path: Path) -> None:
    """Writes a file, whole or not at all: what an encoder itself writes can end early unnoticed on a full disk.

    Raises:
        OSError: it cannot be written; what was there remains.
    """
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
            return metadata.said_of(image)
    except Exception:  # whatever it is, none of ours is so damaged
        return None


def check_side(pixels: np.ndarray, format: str) -> None:
    """Raises PhotoError where a format has no room for so many pixels a side."""
    most = {"jpeg": 65500, "webp": 16383}.get(format)
    if most is not None and max(pixels.shape[:2]) > most:
        raise PhotoError(f"{format} holds at most {most} pixels a side: --format png takes {max(pixels.shape[:2])}.")
