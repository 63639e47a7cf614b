# SPDX-License-Identifier: Apache-2.0
"""Opening the files of photographs: every program does it here, so that what one can read, all can.

A file whose picture is whole is read whatever else it says: where Pillow stumbles over that, a copy without it is read.
"""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from PIL import Image, UnidentifiedImageError

from coltran.errors import reason
from coltran.photo import exif, memory
from coltran.photo.exif import IMAGE, Directories
from coltran.photo.kinds import RAW, kind_of, register_heif

T = TypeVar("T")
DNG_VERSION = 50706  # of Adobe's DNG, a TIFF whose first directory may be a thumbnail
MOST_BYTES = 1 << 30  # of a file of which a copy is made
# How a TIFF's pixels are stored (TIFF 6.0), and its colour profile.
_PIXELS = (254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 338, 339,
           347, 529, 530, 531, 532, 34675)  # fmt: skip


class PhotoError(ValueError):
    """A file or folder that holds no readable photograph; the message is one sentence that names it."""


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turns whatever goes wrong while an image is read into a PhotoError of one sentence."""
    try:
        yield
    except PhotoError:
        raise
    except FileNotFoundError:
        raise PhotoError(f"{path} does not exist.") from None
    except IsADirectoryError:
        raise PhotoError(f"{path} is a folder, not an image.") from None
    except UnidentifiedImageError:
        kind = kind_of(Path(path))
        raise PhotoError(f"{path} is {f'of {kind}' if kind else 'not an image that can be read'}.") from None
    except Image.DecompressionBombError as error:
        size = re.search(r"\d+", str(error))
        found = f"{int(size[0]) / 1e6:.0f} megapixels" if size else "too many pixels"
        lifted = f"up to {most_megapixels():.0f} are read: --megapixels of coltran.colorize lifts that"
        raise PhotoError(f"{path} has {found}, and {lifted}.") from error
    except Exception as error:  # Pillow and the libraries below it raise what they like at what makes no sense
        raise PhotoError(f"{path} cannot be read as an image: {reason(error)}.") from error


def decode(
    path: str | Path,
    work: Callable[[Image.Image, Directories], T],
    *,
    file: BinaryIO | None = None,
    least: int = 0,
    page: int | None = None,
    formats: list[str] | None = None,
) -> T:
    """What `work` makes of an image file, opened but not loaded, and of the tags that it has.

    Args:
        path: where it is, or its name for a person where `file` is given.
        least: see `coltran.image.load_photo`.
        page: from 0 on; None is the first that is no thumbnail of another (TIFF 6.0, NewSubfileType).
        formats: of Pillow; None takes all.

    Raises:
        PhotoError: it cannot be read.
    """

    def attempt(source: str | Path | BinaryIO, tags: Directories | None = None) -> T:
        with Image.open(source, formats=formats) as image:
            _check_size(path, image)
            if tags is None and image.format == "TIFF":
                _check_directory(image)
            _turn_to(image, page)
            if least:
                image.draft(None, (least, least))
            return work(image, exif.of_image(image) if tags is None else tags)

    with reading(path):
        if kind_of(Path(path)) == RAW:
            raise PhotoError(f"{path} is {RAW}.")
        try:
            try:
                return attempt(file or path)
            except UnidentifiedImageError:
                if formats is not None or not register_heif():
                    raise
                return attempt(file or path)
        except (FileNotFoundError, IsADirectoryError, PermissionError, MemoryError, Image.DecompressionBombError):
            raise
        except PhotoError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EIO:
                raise
            plain = without_tags(content_of(path, file))
            if plain is None:
                raise
            try:
                return attempt(io.BytesIO(plain[0]), plain[1])
            except Exception:
                raise error from None  # of the file as it is


def most_megapixels() -> float:
    """How large a photograph may be; more may be a file that is made to exhaust the memory."""
    return 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6


def allow_megapixels(most: float) -> None:
    """Lets this process read photographs of up to so many megapixels."""
    Image.MAX_IMAGE_PIXELS = math.ceil(most * 1e6 / 2)


def _check_size(path: str | Path, image: Image.Image) -> None:
    """Raises PhotoError where a photograph is camera raw, or there is too little memory for it."""
    if image.format == "TIFF" and DNG_VERSION in getattr(image, "tag_v2", {}):
        raise PhotoError(f"{path} is {RAW}.")
    if image.width * image.height < memory.SMALL:
        return
    need, left = memory.needed(*image.size), memory.available()
    if left is not None and need > left:
        size = f"{image.width * image.height / 1e6:.0f} megapixels"
        raise PhotoError(f"{path} has {size} and needs about {need / 1e9:.1f} GB of memory: {left / 1e9:.1f} are free.")


def _check_directory(image: Image.Image) -> None:
    """Raises ValueError where Pillow has left a TIFF's directory early, at a tag without sense."""
    own = exif.of_image(image).get(IMAGE, {})
    if missing := [number for number in _PIXELS if number in own and number not in image.tag_v2]:  # type: ignore[attr-defined]
        raise ValueError(f"its tags {missing} are not read")


def _turn_to(image: Image.Image, page: int | None) -> None:
    if page is not None:
        image.seek(page)
        return
    tag = getattr(image, "tag_v2", {})
    try:
        while tag.get(254, 0) & 1:  # reduced
            image.seek(image.tell() + 1)
    except Exception:  # there is no other page
        image.seek(0)


def pages_of(image: Image.Image) -> list[int]:
    """Which pages or frames an image that is open has, but for thumbnails; it stays at its own."""
    here = image.tell()
    try:
        pages = list(range(int(getattr(image, "n_frames", 1))))
        if image.format == "TIFF":
            pages = [page for page in pages if _is_whole(image, page)]
    except Exception:  # a chain of directories without sense
        pages = [here]
    image.seek(here)
    return pages or [here]


def _is_whole(image: Image.Image, page: int) -> bool:
    image.seek(page)
    return not image.tag_v2.get(254, 0) & 1  # type: ignore[attr-defined]


def find_pages(path: str | Path) -> list[int]:
    """The pages of a file; one where it cannot be read."""
    try:
        return decode(path, lambda image, _: pages_of(image))
    except PhotoError:
        return [0]


def content_of(path: str | Path, file: BinaryIO | None = None) -> bytes:
    """The bytes of a file, up to a gigabyte."""
    if file is not None:
        file.seek(0)
        return file.read(MOST_BYTES)
    with open(path, "rb") as opened:
        size = os.fstat(opened.fileno()).st_size  # reading takes the memory of what is asked for, not of what is there
        return opened.read(min(size, MOST_BYTES) or MOST_BYTES)


def without_tags(data: bytes) -> tuple[bytes, Directories] | None:
    """A file of the same picture without what else it says, and its tags; None where there is no such."""
    if data[:2] == b"\xff\xd8":
        return _plain_jpeg(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _plain_chunks(data, 8, ">I4s", 4)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _plain_chunks(data, 12, "<4sI", 0)
    return _plain_tiff(data) if data[:2] in (b"II", b"MM") else None


def _plain_jpeg(data: bytes) -> tuple[bytes, Directories] | None:
    out, block, at = [data[:2]], b"", 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, size = data[at + 1], 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:
            at += 1
            continue
        segment = data[at : at + size]
        if marker == 0xDA:
            return b"".join((*out, data[at:])), exif.parse(block)
        if marker == 0xE1 and segment[4:10] == b"Exif\0\0" and not block:
            block = segment[4:]
        profile = marker == 0xE2 and segment[4:15] == b"ICC_PROFILE"
        if not (0xE1 <= marker <= 0xEF or marker == 0xFE) or marker == 0xEE or profile:
            out.append(segment)
        at += size
    return None


def _plain_chunks(data: bytes, begin: int, head: str, tail: int) -> tuple[bytes, Directories] | None:
    """PNG and WebP: what is needed of their chunks, each with a head of 8 bytes, and a tail."""
    out, block, at = [data[:begin]], b"", begin
    while at + 8 <= len(data):
        fields = struct.unpack(head, data[at : at + 8])
        size, name = fields if isinstance(fields[0], int) else fields[::-1]
        end = at + 8 + size + (tail or size % 2)
        if name in (b"eXIf", b"EXIF"):
            block = data[at + 8 : at + 8 + size]
        elif name[:1].isupper() and name != b"XMP " or name in (b"tRNS", b"sRGB", b"gAMA", b"cHRM"):
            out.append(data[at:end])
        at = end
    made = b"".join(out)
    if tail == 0:
        made = made[:4] + struct.pack("<I", len(made) - 8) + made[8:]
    return made, exif.parse(block)


def _plain_tiff(data: bytes) -> tuple[bytes, Directories] | None:
    """A TIFF, or what BigTIFF can be as one: a directory of its own after all that the file has."""
    tags = exif.parse(data)
    kept = {number: tags[IMAGE][number] for number in _PIXELS if number in tags.get(IMAGE, {})}
    if 273 not in kept and 324 not in kept:
        return None
    order = "<" if data[:2] == b"II" else ">"
    data += bytes(len(data) % 2)
    if len(data) >= 1 << 32:
        return None
    directory = exif.directory(kept, len(data), order)
    return data[:2] + struct.pack(f"{order}HI", 42, len(data)) + data[8:] + directory, tags
