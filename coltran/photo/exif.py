# SPDX-License-Identifier: Apache-2.0
"""EXIF as it is found: each tag is read by itself, so that one that makes no sense costs no other.

EXIF is a TIFF's directories without its image (TIFF 6.0; EXIF 2.32, section 4.6). Pillow refuses a directory for one
wrong tag, and with it the orientation. What is read here is a mapping of each directory to its tags, in one byte order,
which `to_bytes` writes as a directory of its own.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

from PIL import Image

# Bytes of each type's value, and of the numbers that it is made of, which the byte order turns.
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_UNITS = SIZES | {5: 4, 10: 4}
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, LONG8 = 1, 2, 3, 4, 5, 7, 16
IMAGE, CAMERA, PLACE, INTEROP = 0, 0x8769, 0x8825, 0xA005  # directories: the image's, and those that a tag points to
_POINTERS = {IMAGE: (CAMERA, PLACE), CAMERA: (INTEROP,), PLACE: (), INTEROP: ()}
ORIENTATION, DESCRIPTION, SOFTWARE, XMP, IPTC, COMMENT = 0x0112, 0x010E, 0x0131, 700, 33723, 0x9286
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
MOST = 1 << 24  # bytes of a value; more is no tag but damage
MOST_TAGS = 4096  # of a directory


class Tag(NamedTuple):
    """A tag's value."""

    type: int  # of SIZES
    data: bytes  # the lower byte of each number first


Directories = dict[int, dict[int, Tag]]  # {IMAGE, CAMERA, ...: {number of a tag: its value}}


def parse(block: bytes | BinaryIO, frame: int = 0) -> Directories:
    """The tags of EXIF, with or without its `Exif` in front, or of a TIFF's directory number `frame`; never raises.

    A tag of an unknown type, or whose value lies outside, is left out; of two of the same number the first counts.
    """
    if isinstance(block, bytes):
        while block.startswith(b"Exif\0\0"):
            block = block[6:]
        block = io.BytesIO(block)
    head = _at(block, 0, 16)
    if head[:2] not in (b"II", b"MM") or len(head) < 8:
        return {}
    order = "<" if head[:2] == b"II" else ">"
    version = struct.unpack(f"{order}H", head[2:4])[0]
    big = version == 43
    if version not in (42, 43) or (big and len(head) < 16):
        return {}
    (offset,) = struct.unpack(f"{order}Q", head[8:]) if big else struct.unpack(f"{order}I", head[4:8])
    for _ in range(frame):
        offset = _next(block, order, big, offset)
    found: Directories = {}
    left = [(IMAGE, offset)]
    while left:
        name, offset = left.pop()
        found[name] = dict(_tags(block, order, big, offset))
        for pointer in (CAMERA, PLACE, INTEROP):
            place = number(found[name].pop(pointer, None))
            if place is not None and pointer in _POINTERS[name] and pointer not in found:
                left.append((pointer, place))
    return found


def _at(file: BinaryIO, offset: int, count: int) -> bytes:
    try:
        file.seek(offset)
        return file.read(count)
    except (OSError, ValueError, OverflowError):
        return b""


def _count(file: BinaryIO, order: str, big: bool, offset: int) -> int:
    head = _at(file, offset, 8 if big else 2)
    return struct.unpack(order + ("Q" if big else "H"), head)[0] if len(head) == (8 if big else 2) else 0


def _next(file: BinaryIO, order: str, big: bool, offset: int) -> int:
    size = 20 if big else 12
    end = offset + (8 if big else 2) + size * _count(file, order, big, offset)
    value = _at(file, end, 8 if big else 4)
    return struct.unpack(order + ("Q" if big else "I"), value)[0] if len(value) == (8 if big else 4) else 0


def _tags(file: BinaryIO, order: str, big: bool, offset: int) -> Iterator[tuple[int, Tag]]:
    """The tags of a directory, the first of each number last, so that it counts."""
    count, size = min(_count(file, order, big, offset), MOST_TAGS), 20 if big else 12
    entries = _at(file, offset + (8 if big else 2), count * size)
    for start in reversed(range(0, len(entries) - size + 1, size)):
        tag, kind = struct.unpack_from(f"{order}HH", entries, start)
        (length,) = struct.unpack_from(order + ("Q" if big else "I"), entries, start + 4)
        inline = entries[start + size - (8 if big else 4) : start + size]
        total = SIZES.get(kind, 0) * length
        if not 0 < total <= MOST:
            continue
        if total > len(inline):
            inline = _at(file, struct.unpack(order + ("Q" if big else "I"), inline)[0], total)
            if len(inline) < total:
                continue
        yield tag, Tag(kind, _turned(inline[:total], _UNITS[kind]) if order == ">" else inline[:total])


def _turned(data: bytes, unit: int) -> bytes:
    """Numbers of so many bytes in the other byte order."""
    return b"".join(data[start : start + unit][::-1] for start in range(0, len(data), unit)) if unit > 1 else data


def number(tag: Tag | None) -> int | None:
    """A tag's first number where it is a whole one, of whatever type; else None."""
    if tag is None or tag.type in (ASCII, UNDEFINED, 11, 12):
        return None
    if tag.type in (5, 10):
        over, under = struct.unpack("<ii" if tag.type == 10 else "<II", tag.data[:8])
        return over // under if under and over % under == 0 else None
    return int.from_bytes(tag.data[: SIZES[tag.type]], "little", signed=tag.type in (6, 8, 9, 17))


def ratio(tag: Tag | None) -> float | None:
    """A tag's first number as a resolution is told; None where that is none above 0."""
    if tag is None:
        return None
    if tag.type in (5, 10):
        over, under = struct.unpack("<ii" if tag.type == 10 else "<II", tag.data[:8])
        value = over / under if under else 0.0
    elif tag.type in (11, 12):
        (value,) = struct.unpack("<f" if tag.type == 11 else "<d", tag.data[: SIZES[tag.type]])
    else:
        value = float(number(tag) or 0)
    return value if 0 < value < 1e6 else None


def text(value: str) -> Tag:
    """A text as a tag; beyond ASCII it is UTF-8, as others write it too."""
    return Tag(ASCII, value.encode() + b"\0")


def to_bytes(directories: Directories) -> bytes:
    """EXIF that holds these tags, `Exif` in front; empty where there are none."""
    found = {name: dict(directories[name]) for name in (IMAGE, CAMERA, PLACE, INTEROP) if directories.get(name)}
    if not found:
        return b""
    if INTEROP in found:
        found.setdefault(CAMERA, {})
    found.setdefault(IMAGE, {})
    for name, pointers in _POINTERS.items():
        for pointer in pointers:
            if pointer in found:
                found[name][pointer] = Tag(LONG, bytes(4))
    begin, places = 8, {}
    for name in sorted(found):
        places[name] = begin
        begin += len(directory(found[name], begin))
    for name, pointers in _POINTERS.items():
        for pointer in pointers:
            if pointer in found:
                found[name][pointer] = Tag(LONG, struct.pack("<I", places[pointer]))
    return b"Exif\0\0II*\0\x08\0\0\0" + b"".join(directory(found[name], places[name]) for name in sorted(found))


def directory(tags: Mapping[int, Tag], begin: int, order: str = "<") -> bytes:
    """A directory of TIFF that begins there, with its values behind it and none to follow.

    Types of BigTIFF become those of TIFF; what they cannot hold is left out.
    """
    known = sorted((number, small) for number, tag in tags.items() if (small := _small(tag)) is not None)
    entries, values = bytearray(), bytearray()
    begin += 2 + 12 * len(known) + 4
    for number, (kind, data) in known:
        data = _turned(data, _UNITS[kind]) if order == ">" else data
        entries += struct.pack(f"{order}HHI", number, kind, len(data) // SIZES[kind])
        if len(data) <= 4:
            entries += data.ljust(4, b"\0")
        else:
            entries += struct.pack(f"{order}I", begin + len(values))
            values += data + bytes(len(data) % 2)
    return struct.pack(f"{order}H", len(known)) + entries + bytes(4) + values


def _small(tag: Tag) -> Tag | None:
    """A tag with a type that TIFF and EXIF know; None where it has none."""
    if tag.type not in (LONG8, 17, 18):
        return tag
    numbers = [int.from_bytes(tag.data[k : k + 8], "little") for k in range(0, len(tag.data), 8)]
    if max(numbers) >= 1 << 32:
        return None
    return Tag(LONG, b"".join(struct.pack("<I", value) for value in numbers))


def of_image(image: Image.Image) -> Directories:
    """The tags of an image that is open, of its EXIF or a TIFF's own directory; asked before its pixels are loaded."""
    block = image.info.get("exif")
    if not isinstance(block, bytes) and "Raw profile type exif" in image.info:  # ImageMagick's, in PNG
        block = profile_text(image.info["Raw profile type exif"])
    if isinstance(block, bytes):
        return parse(block)
    file = getattr(image, "fp", None)
    if (
        image.format != "TIFF" or file is None or image.__dict__.get("_im", image.__dict__.get("im")) is not None
    ):  # a TIFF that is loaded is upright
        return {}
    return parse(file, image.tell())


def profile_text(text: object) -> bytes:
    """The bytes of a profile that ImageMagick writes into PNG as text: a name, a length, and hexadecimal digits."""
    try:
        return bytes.fromhex("".join(str(text).split("\n")[3:]))
    except ValueError:
        return b""


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = re.compile(rb"tiff:Orientation(?:=[\"']|>)\s*([0-9])\b")


def orientation(image: Image.Image, tags: Directories) -> int:
    """How an image is turned, 1 .. 8: as its EXIF says; where that says nothing, as its XMP does."""
    found = number(tags.get(IMAGE, {}).get(ORIENTATION))
    if found is None and (said := _TURNED.search(xmp(image, tags))):
        found = int(said[1])
    return found if found in _TURNS else 1


def xmp(image: Image.Image, tags: Directories) -> bytes:
    """The XMP of an image; empty where it has none."""
    for name in ("xmp", "XML:com.adobe.xmp"):
        found = image.info.get(name)
        if isinstance(found, (str, bytes)) and found:  # a TIFF may have a number there
            return found.encode(errors="surrogateescape") if isinstance(found, str) else found
    kept = tags.get(IMAGE, {}).get(XMP)
    return kept.data if kept and kept.type in (BYTE, UNDEFINED) else b""


def upright(image: Image.Image, tags: Directories | None = None) -> Image.Image:
    """An image turned as `orientation` says: the one place where photographs are turned.

    Args:
        tags: of `of_image`, where they are known already.

    Raises:
        OSError, ValueError: as of Pillow, where the pixels cannot be read.
    """
    tags = of_image(image) if tags is None else tags
    turn = orientation(image, tags)
    if image.format == "TIFF":
        _keep_from_turning(image)
    image.load()
    if image.format == "TIFF":  # which takes the size as it is when turned
        image = image._new(image.im)
    return image.transpose(_TURNS[turn]) if turn in _TURNS else image


def _keep_from_turning(image: Image.Image) -> None:
    """Lets Pillow load a TIFF as it is stored; by itself it turns it, or refuses it where another tag is wrong."""
    image._exif = Image.Exif()
    image._exif._loaded = True
