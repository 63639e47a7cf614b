# SPDX-License-Identifier: Apache-2.0
"""Images as the bytes of a file, with EXIF and sRGB's profile.

Pillow writes JPEG, WebP and PNG; but no image of 16 bits a channel, and no compressed TIFF of a camera's EXIF.
"""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from PIL.TiffTags import TAGS_V2_GROUPS

from coltran.image import to_eight_bits
from coltran.photo import profiles

MOST_EXIF = 65533  # bytes, in a JPEG


def encode(pixels: np.ndarray, alpha: np.ndarray | None, *, format: str, quality: int, exif: Image.Exif) -> bytes:
    """The bytes of a file; arguments as of `coltran.photo.files.write`."""
    if format in ("jpeg", "webp") and pixels.dtype == np.uint16:
        pixels = to_eight_bits(pixels)
    if alpha is not None:
        alpha = alpha.astype(pixels.dtype) * (np.iinfo(pixels.dtype).max // 255)
        pixels = np.concatenate((pixels, alpha[..., None]), -1)
    if format == "tiff":
        return _tiff(pixels, exif)
    if pixels.dtype == np.uint16:
        return _deep_png(pixels, exif)
    image = Image.fromarray(pixels)
    if format == "jpeg" and len(exif.tobytes()) > MOST_EXIF:
        description, exif = exif.get(ExifTags.Base.ImageDescription, ""), Image.Exif()
        exif[ExifTags.Base.ImageDescription] = description
    options: dict[str, object] = {"exif": exif.tobytes(), "icc_profile": profiles.srgb()}
    if format == "jpeg":
        options["subsampling"] = 0 if quality >= 90 else 2
        if alpha is not None:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if format != "png":
        options["quality"] = quality
    out = io.BytesIO()
    image.save(out, format=format.upper(), **options)
    return out.getvalue()


def _deep_png(pixels: np.ndarray, exif: Image.Exif) -> bytes:
    """OpenCV writes the pixels; EXIF and the profile come between the first of its chunks, IHDR, and the rest."""
    order = [2, 1, 0, 3][: pixels.shape[2]]
    file = cv2.imencode(".png", np.ascontiguousarray(pixels[..., order]))[1].tobytes()
    begin = 8 + 25  # the signature and IHDR
    profile = b"sRGB\0\0" + zlib.compress(profiles.srgb())
    return file[:begin] + _chunk(b"iCCP", profile) + _chunk(b"eXIf", exif.tobytes()[6:]) + file[begin:]


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _tiff(pixels: np.ndarray, exif: Image.Exif) -> bytes:
    """One strip of differences along the rows (TIFF 6.0, section 14), compressed; Pillow writes the rest."""
    height, width, samples = pixels.shape
    differences = pixels.astype(pixels.dtype.newbyteorder("<"))
    differences[:, 1:] -= pixels[:, :-1]
    strip = zlib.compress(differences.data)
    directory = ImageFileDirectory_v2(prefix=b"II")
    for tag in exif:
        directory[tag] = exif.get_ifd(tag) if tag in TAGS_V2_GROUPS else exif[tag]
    directory[256], directory[257] = width, height
    directory[258], directory[277] = (8 * pixels.itemsize,) * samples, samples  # bits of each sample, samples a pixel
    directory[259], directory[317] = 8, 2  # deflate, differences
    directory[262] = 2  # RGB
    if samples == 4:
        directory[338] = 2  # the fourth is an alpha by which the others are not multiplied
    directory[273], directory[278], directory[279] = 0, height, len(strip)  # the strip's place, rows and length
    directory[34675] = profiles.srgb()
    out = io.BytesIO()
    directory.save(out)  # which adds its own length to the strip's place
    return out.getvalue() + strip
