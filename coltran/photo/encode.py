# SPDX-License-Identifier: Apache-2.0
"""Images as the bytes of a file, with what it says besides its pixels and sRGB's profile.

Pillow writes JPEG and WebP, and 8 bits a channel of PNG; but no PNG of 16 bits a channel, and no TIFF with tags that it
does not know.
"""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

from coltran.image import to_eight_bits
from coltran.photo import exif, metadata, profiles
from coltran.photo.exif import IMAGE, LONG, SHORT, Tag
from coltran.photo.metadata import Metadata


def encode(pixels: np.ndarray, alpha: np.ndarray | None, *, format: str, quality: int, kept: Metadata) -> bytes:
    """The bytes of a file; arguments as of `coltran.photo.files.write`."""
    if format in ("jpeg", "webp") and pixels.dtype == np.uint16:
        pixels = to_eight_bits(pixels)
    if alpha is not None:
        alpha = alpha.astype(pixels.dtype) * (np.iinfo(pixels.dtype).max // 255)
        pixels = np.concatenate((pixels, alpha[..., None]), -1)
    if format == "tiff":
        return _tiff(pixels, kept)
    if format == "png":
        return _png(pixels, kept)
    image = Image.fromarray(pixels)
    options: dict[str, object] = {"icc_profile": profiles.srgb(), "quality": quality}
    if format == "jpeg":
        options |= metadata.jpeg_options(kept) | {"subsampling": 0 if quality >= 90 else 2}
        if alpha is not None:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    else:
        options |= {"exif": metadata.as_exif(kept, everything=True)} | ({"xmp": kept.xmp} if kept.xmp else {})
    out = io.BytesIO()
    image.save(out, format=format.upper(), **options)
    return out.getvalue()


def _png(pixels: np.ndarray, kept: Metadata) -> bytes:
    """The profile and what is said come between the first of its chunks, IHDR, and the rest."""
    if pixels.dtype == np.uint16:
        order = [2, 1, 0, 3][: pixels.shape[2]]
        file = cv2.imencode(".png", np.ascontiguousarray(pixels[..., order]))[1].tobytes()
    else:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, format="PNG")
        file = out.getvalue()
    chunks = [(b"iCCP", b"sRGB\0\0" + zlib.compress(profiles.srgb())), *metadata.png_chunks(kept)]
    begin = 8 + 25  # the signature and IHDR
    return file[:begin] + b"".join(_chunk(name, content) for name, content in chunks) + file[begin:]


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _tiff(pixels: np.ndarray, kept: Metadata) -> bytes:
    """One strip of differences along the rows (TIFF 6.0, section 14), compressed, after the directories."""
    height, width, samples = pixels.shape
    differences = pixels.astype(pixels.dtype.newbyteorder("<"))
    differences[:, 1:] -= pixels[:, :-1]
    strip = zlib.compress(differences.data)
    directories = metadata.tiff_tags(kept)
    numbers = {
        256: [width], 257: [height],
        258: [8 * pixels.itemsize] * samples, 277: [samples],  # bits of each sample, samples a pixel
        259: [8], 317: [2],  # deflate, differences
        262: [2],  # RGB
        273: [0], 278: [height], 279: [len(strip)],  # the strip's place, rows and length
    }  # fmt: skip
    if samples == 4:
        numbers[338] = [2]  # the fourth is an alpha by which the others are not multiplied
    for number, values in numbers.items():
        kind, letter = (SHORT, "H") if number in (258, 259, 262, 277, 317, 338) else (LONG, "I")
        directories[IMAGE][number] = Tag(kind, struct.pack(f"<{len(values)}{letter}", *values))
    directories[IMAGE][34675] = Tag(exif.UNDEFINED, profiles.srgb())
    size = len(exif.to_bytes(directories)) - 6
    directories[IMAGE][273] = Tag(LONG, struct.pack("<I", size))
    return exif.to_bytes(directories)[6:] + strip
