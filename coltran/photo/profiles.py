# SPDX-License-Identifier: Apache-2.0
"""Colour profiles (ICC.1:2010): photographs come in with one of many and leave as sRGB."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, ImageCms

_PROFILE = ImageCms.createProfile("sRGB")
_DATE = slice(24, 36)  # of a profile's making: without it the same photograph would give other bytes every day
_PARAMETERS = {0: "g", 1: "gab", 2: "gabc", 3: "gabcd", 4: "gabcdef"}  # of a parametric curve, by its type


def srgb() -> bytes:
    """The profile that results are tagged with."""
    profile = bytearray(ImageCms.ImageCmsProfile(_PROFILE).tobytes())
    profile[_DATE] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    return bytes(profile)


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """An image of mode L, RGB or CMYK in sRGB; as it is where its profile is broken, or of another kind of image."""
    try:
        found = ImageCms.profileToProfile(image, io.BytesIO(profile), _PROFILE, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image
    return image if found is None else found


def gray_to_srgb(values: np.ndarray, profile: bytes) -> np.ndarray:
    """uint16 [H, W] of a gray profile as sRGB's, all 16 bits of them; as they are where it is broken or of colours."""
    try:
        with np.errstate(all="ignore"):
            light = _curve(_tag(profile, b"kTRC"), np.linspace(0, 1, 65536))
    except (struct.error, ValueError, KeyError, ArithmeticError):
        return values
    if not np.isfinite(light).all():
        return values
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)
    return np.rint(65535 * encoded.clip(0, 1)).astype(np.uint16)[values]


def _tag(profile: bytes, name: bytes) -> bytes:
    """The content of a tag (7.3)."""
    (count,) = struct.unpack_from(">I", profile, 128)
    for k in range(min(count, 100)):
        signature, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * k)
        if signature == name:
            return profile[offset : offset + size]
    raise ValueError(f"the profile has no {name!r}")


def _curve(tag: bytes, x: np.ndarray) -> np.ndarray:
    """A tone curve at x, both in 0..1 (10.5 and 10.15)."""
    kind, count, function = struct.unpack_from(">4s4xI", tag) + struct.unpack_from(">H", tag, 8)
    if kind == b"curv":
        points = np.array(struct.unpack_from(f">{count}H", tag, 12))
        if count > 1:
            return np.interp(x, np.linspace(0, 1, count), points / 65535)
        return x ** (points[0] / 256) if count else x
    if kind != b"para":
        raise ValueError(f"a curve of an unknown kind {kind!r}")
    names = _PARAMETERS[function]
    p = dict.fromkeys("abcdef", 0.0) | {"a": 1.0}
    p |= dict(zip(names, (v / 65536 for v in struct.unpack_from(f">{len(names)}i", tag, 12)), strict=True))
    if function in (1, 2):  # a power above -b / a, a constant below
        e, f, begin, slope = p["c"], p["c"], -p["b"] / p["a"], 0.0
    else:  # a power above d, a line below
        e, f, begin, slope = p["e"], p["f"], p["d"], p["c"]
    power = np.maximum(p["a"] * x + p["b"], 0) ** p["g"]
    return np.where(x >= begin, power + e, slope * x + f)
