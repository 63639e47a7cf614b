# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are photographs, and what is said of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, features

HEIF = frozenset((".heic", ".heics", ".heif", ".heifs", ".hif"))
_AVIF = frozenset((".avif", ".avifs"))
# What Pillow itself decodes into one picture; not what holds no photograph (icons, stubs), or what it hands to other
# programs (EPS).
_PILLOW = frozenset((
    ".apng", ".bmp", ".bw", ".dcx", ".dds", ".dib", ".gif", ".icb", ".im", ".j2c", ".j2k", ".jfif", ".jp2",
    ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".msp", ".pbm", ".pcd", ".pcx", ".pgm", ".png",
    ".pnm", ".ppm", ".psd", ".pxr", ".qoi", ".ras", ".rgb", ".rgba", ".sgi", ".tga", ".tif", ".tiff", ".vda",
    ".vst", ".webp", ".xbm", ".xpm",
))  # fmt: skip
_RAW = frozenset((
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos",
    ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
))  # fmt: skip
_FILM = frozenset((".3gp", ".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".webm", ".wmv"))
RAW = "camera raw, to be saved as TIFF or JPEG first"


def _has_heif() -> bool:
    return find_spec("pillow_heif") is not None


PHOTO_SUFFIXES = _PILLOW | (HEIF if _has_heif() else frozenset()) | (
    _AVIF if features.check("avif") or _has_heif() else frozenset()
)  # fmt: skip


def register_heif() -> bool:
    """Lets Pillow read HEIC and AVIF by the package pillow-heif; returns whether that is new."""
    if not _has_heif() or "HEIF" in Image.OPEN:
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    if not features.check("avif") and hasattr(pillow_heif, "register_avif_opener"):
        pillow_heif.register_avif_opener()
    return True


def kind_of(path: Path) -> str | None:
    """What a file is that is no photograph here, by its suffix; None where that says nothing."""
    suffix = path.suffix.lower()
    if suffix in _RAW:
        return RAW
    if suffix in HEIF | _AVIF and suffix not in PHOTO_SUFFIXES:
        return "HEIC or AVIF, which pip install coltran[heif] lets it read"
    if suffix == ".jxl":
        return "JPEG XL, to be saved as TIFF or PNG first"
    if suffix in (".pdf", ".eps", ".ps", ".ai", ".svg"):
        return "documents"
    return "films, for python -m coltran.film" if suffix in _FILM else None


def left_out(files: Iterable[Path]) -> str | None:
    """How many files of a folder are of each kind that is no photograph here, in words; None where none is."""
    counts = Counter(kind for file in files if (kind := kind_of(file)) is not None)
    return "; ".join(f"{count} of {kind}" for kind, count in sorted(counts.items())) or None
