# SPDX-License-Identifier: Apache-2.0
"""What a photograph's file says besides its pixels, and what a coloured copy says as well.

Captions, keywords, copyright, comments, texts and the resolution stay as they are. What this program says of a
colouring goes beside them: into XMP under a name of its own, into Software where that is free, and into a text of PNG.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from html import escape, unescape
from typing import Any

from PIL import Image

from coltran.photo import exif
from coltran.photo.exif import IMAGE, Directories, Tag

OURS = "Coloured by coltran"  # what is said of a result begins with it
KEY = "Coloring"  # of the PNG text, and of the XMP property
NAMESPACE = "urn:coltran:1.0:"
# What a TIFF says of how its own pixels are stored (TIFF 6.0), in the same place as what EXIF says of the photograph;
# what is kept elsewhere here; and the orientation, which is applied.
_STORAGE = frozenset(
    [*range(254, 268), 273, 274, 700, 33723, 34377, *range(277, 282), 284, *range(288, 294), 297, 301]
    + [*range(317, 326), *range(330, 348), *range(512, 522), *range(529, 533), 34675]
    + [exif.X_RESOLUTION, exif.Y_RESOLUTION, exif.RESOLUTION_UNIT]
)
_ARTIST, _COPYRIGHT = 0x013B, 0x8298
_XMP_MOST = 65502  # bytes, in a JPEG
_OUR_XMP = re.compile(rb"<(\w+):Description [^>]*xmlns:coltran=[^>]*>.*?</\1:Description>\s*", re.DOTALL)
_OUR_WORDS = re.compile(rb"<coltran:Coloring>([^<]*)</coltran:Coloring>")
_TURNED = (
    (re.compile(rb"(tiff:Orientation\s*=\s*[\"'])\s*\d+"), rb"\g<1>1"),
    (re.compile(rb"(<tiff:Orientation[^>]*>)\s*\d+"), rb"\g<1>1"),
)


@dataclass(frozen=True)
class Metadata:
    """What is kept of a file besides its pixels."""

    directories: Directories = field(default_factory=dict)  # of EXIF, but for what the other fields have
    xmp: bytes = b""
    iptc: bytes = b""  # data sets of IPTC-IIM
    comment: bytes = b""  # of JPEG and GIF
    texts: Mapping[str, str] = field(default_factory=dict)  # of PNG
    dpi: tuple[float, float] | None = None


def read(image: Image.Image, tags: Directories) -> Metadata:
    """What is kept of an image that is open; what makes no sense is left out.

    Args:
        tags: of `exif.of_image`.
    """
    info = image.info
    kept = {name: dict(found) for name, found in tags.items()}
    own = kept.get(IMAGE, {})
    iptc = _iptc(image, own)
    for number in _STORAGE.intersection(own):
        del own[number]
    for number in (exif.DESCRIPTION, exif.SOFTWARE):
        if number in own and own[number].data.startswith(OURS.encode()):
            del own[number]  # the photograph is a colouring itself
    kept.get(exif.CAMERA, {}).pop(exif.ORIENTATION, None)
    comment = info.get("comment", b"")
    comment = comment.encode(errors="replace") if isinstance(comment, str) else comment
    comment = comment if isinstance(comment, bytes) else b""
    found = getattr(image, "text", None) if image.format == "PNG" else None
    hidden = ("XML:com.adobe.xmp", KEY)
    texts = {
        str(name): str(text)
        for name, text in (found or {}).items()
        if name not in hidden and not name.startswith("Raw profile type") and not str(text).startswith(OURS)
    }
    return Metadata(
        kept, _plain(exif.xmp(image, tags)), iptc, comment[:65533], texts, _resolution(image, tags.get(IMAGE, {}))
    )


def _iptc(image: Image.Image, tags: Mapping[int, Tag]) -> bytes:
    photoshop = image.info.get("photoshop")
    found = photoshop.get(0x0404) if isinstance(photoshop, dict) else None
    if not found and exif.IPTC in tags:
        found = tags[exif.IPTC].data
        if tags[exif.IPTC].type == exif.LONG and found[:1] != b"\x1c":  # bytes that were written as numbers
            found = b"".join(found[k : k + 4][::-1] for k in range(0, len(found), 4))
    if not found and "Raw profile type iptc" in image.info:
        found = exif.profile_text(image.info["Raw profile type iptc"])
        if found.startswith(b"8BIM\x04\x04"):  # name of an even length, size
            begin = 6 + (found[6] + 2) // 2 * 2
            found = found[begin + 4 : begin + 4 + int.from_bytes(found[begin : begin + 4], "big")]
    return found if isinstance(found, bytes) and found[:1] == b"\x1c" and len(found) < 60_000 else b""


def _resolution(image: Image.Image, tags: Mapping[int, Tag]) -> tuple[float, float] | None:
    across, down = exif.ratio(tags.get(exif.X_RESOLUTION)), exif.ratio(tags.get(exif.Y_RESOLUTION))
    found: Any = image.info.get("dpi")
    if image.format == "TIFF" or (image.format in ("JPEG", "MPO") and image.info.get("jfif_unit") not in (1, 2)):
        found = None  # Pillow's guess, or what is read here
    if found is None and across and down:
        unit = exif.number(tags.get(exif.RESOLUTION_UNIT)) or 2
        found = {2: (across, down), 3: (across * 2.54, down * 2.54)}.get(unit)
    try:
        x, y = (float(value) for value in found)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return (x, y) if all(math.isfinite(one) and 0.1 <= one < 60_000 for one in (x, y)) else None


def colored(kept: Metadata, said: str) -> Metadata:
    """What a coloured copy says: all that the photograph's file did, and what is said of the colouring."""
    if not said:
        return kept
    own = dict(kept.directories.get(IMAGE, {}))
    own.setdefault(exif.SOFTWARE, exif.text(said))
    return replace(
        kept,
        directories=dict(kept.directories) | {IMAGE: own},
        xmp=_with_ours(kept.xmp, said),
        texts=dict(kept.texts) | {KEY: said},
    )


def _plain(xmp: bytes) -> bytes:
    """XMP in UTF-8 that says that the picture is upright, without what an earlier colouring has said."""
    if xmp[:2] in (b"\xff\xfe", b"\xfe\xff"):
        xmp = xmp.decode("utf-16", "replace").encode()
    xmp = _OUR_XMP.sub(b"", xmp.rstrip(b"\0"))
    for pattern, upright in _TURNED:
        xmp = pattern.sub(upright, xmp)
    return xmp


def _with_ours(xmp: bytes, said: str) -> bytes:
    """XMP (ISO 16684-1) that says so too."""
    ends = list(re.finditer(rb"</(\w+):RDF\s*>", xmp))
    prefix = ends[-1][1].decode() if ends else "rdf"
    ours = (
        f'<{prefix}:Description {prefix}:about="" xmlns:coltran="{NAMESPACE}">'
        f"<coltran:{KEY}>{escape(said)}</coltran:{KEY}></{prefix}:Description>"
    ).encode()
    if not ends:
        ours = b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">' + ours + b"</rdf:RDF>"
        ends = list(re.finditer(rb"</\w+:xmpmeta\s*>", xmp))
    if ends:
        return xmp[: ends[-1].start()] + ours + xmp[ends[-1].start() :]
    head = b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    return xmp or head + ours + b'</x:xmpmeta><?xpacket end="w"?>'


def said_of(image: Image.Image) -> str | None:
    """What this program has said of an image that is open and not loaded; None of any other."""
    tags = exif.of_image(image)
    own = tags.get(IMAGE, {})
    found = [str(image.info.get(key, "")) for key in (KEY, "Description")]
    if ours := _OUR_WORDS.search(exif.xmp(image, tags)):
        found.append(unescape(ours[1].decode(errors="replace")))
    for number in (exif.SOFTWARE, exif.DESCRIPTION):  # the latter in earlier versions
        if number in own:
            found.append(own[number].data.rstrip(b"\0").decode(errors="replace"))
    return next((said for said in found if said.startswith(OURS)), None)


def as_exif(kept: Metadata, most: int | None = None, *, everything: bool = False) -> bytes:
    """EXIF of it, with `Exif` in front, in at most so many bytes: what is largest is left out first.

    Args:
        everything: in a format that has no other place for the resolution, a comment, texts and IPTC.
    """
    directories = {name: dict(tags) for name, tags in kept.directories.items()}
    own = directories.setdefault(IMAGE, {})
    if kept.dpi is not None:
        for number, value in zip((exif.X_RESOLUTION, exif.Y_RESOLUTION), kept.dpi, strict=True):
            own[number] = Tag(exif.RATIONAL, struct.pack("<II", round(value * 10_000), 10_000))
        own[exif.RESOLUTION_UNIT] = Tag(exif.SHORT, struct.pack("<H", 2))
    texts = {name.lower(): text for name, text in kept.texts.items()}
    for number, names in (
        (exif.DESCRIPTION, ("description", "title", "caption")),
        (_ARTIST, ("author",)),
        (_COPYRIGHT, ("copyright",)),
    ):
        for text in [texts[name] for name in names if name in texts]:
            own.setdefault(number, exif.text(text))
    comment = kept.comment or texts.get("comment", "").encode()
    if everything and comment:
        directories.setdefault(exif.CAMERA, {}).setdefault(
            exif.COMMENT, Tag(exif.UNDEFINED, (b"ASCII\0\0\0" if comment.isascii() else bytes(8)) + comment)
        )
    if everything and kept.iptc:
        own.setdefault(exif.IPTC, Tag(exif.UNDEFINED, kept.iptc))
    block = exif.to_bytes(directories)
    while most is not None and len(block) > most:
        _, name, number = max((len(tag.data), name, n) for name, tags in directories.items() for n, tag in tags.items())
        del directories[name][number]
        block = exif.to_bytes(directories)
    return block


def jpeg_options(kept: Metadata) -> dict[str, Any]:
    """Options of Pillow for a JPEG that says it."""
    options: dict[str, Any] = {"exif": as_exif(kept, 65533)}
    if kept.dpi is not None:
        options["dpi"] = tuple(max(1, min(65535, round(value))) for value in kept.dpi)
    comment = kept.comment or next((t.encode() for n, t in kept.texts.items() if n.lower() == "comment"), b"")
    if comment:
        options["comment"] = comment[:65533]
    if len(kept.xmp) <= _XMP_MOST:
        options["xmp"] = kept.xmp
    if kept.iptc:
        block = _photoshop(kept.iptc)
        options["extra"] = b"\xff\xed" + struct.pack(">H", len(block) + 16) + b"Photoshop 3.0\0" + block
    return options


def png_chunks(kept: Metadata) -> list[tuple[bytes, bytes]]:
    """Chunks of a PNG that says it: their names and contents."""
    chunks = []
    if kept.dpi is not None:
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in kept.dpi), 1)))
    if block := as_exif(replace(kept, dpi=None, texts={})):
        chunks.append((b"eXIf", block[6:]))
    if kept.xmp:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + kept.xmp))
    texts = dict(kept.texts)
    if kept.comment and not any(name.lower() == "comment" for name in texts):
        texts["Comment"] = kept.comment.decode(errors="replace")
    if kept.iptc:
        block = _photoshop(kept.iptc)
        texts["Raw profile type iptc"] = f"\niptc\n{len(block):8}\n{block.hex()}\n"
    for name, text in texts.items():
        key = name.encode("latin-1", "replace")[:79].replace(b"\0", b" ").strip() or b"Comment"
        text = text.replace("\0", " ")
        try:
            chunks.append((b"tEXt", key + b"\0" + text.encode("latin-1")))
        except UnicodeEncodeError:
            chunks.append((b"iTXt", key + b"\0\0\0\0\0" + text.encode(errors="replace")))
    return chunks


def tiff_tags(kept: Metadata) -> Directories:
    """Directories of a TIFF that says it, but for how its pixels are stored."""
    directories = exif.parse(as_exif(kept, everything=True))
    own = directories.setdefault(IMAGE, {})
    if kept.xmp:
        own[exif.XMP] = Tag(exif.BYTE, kept.xmp)
    return directories


def _photoshop(iptc: bytes) -> bytes:
    """IPTC as an image resource of Photoshop."""
    return b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + bytes(len(iptc) % 2)
