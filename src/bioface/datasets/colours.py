"""What a picture says of its colours, and how they become sRGB.

==== ======================================================================================================
PNG  cICP, then an ICC profile, then sRGB, then gAMA and cHRM (PNG, third edition, section 4.3)
AVIF an ICC profile, then nclx
TIFF an ICC profile, then white point and primaries
all  an ICC profile, then EXIF's Adobe RGB; a profile that is damaged or for another kind of colour is ignored, with a
     warning
==== ======================================================================================================

What says nothing is taken for sRGB. What sRGB cannot show is clipped, so negative light becomes none.

References: ITU-T H.273 (2021), tables 2 and 3, for the codes of cICP and nclx; Adobe RGB (1998) Color Image Encoding.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from bioface.errors import DataError

D65, C = (0.3127, 0.3290), (0.310, 0.316)
SRGB = (*D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # x and y of white, red, green and blue
_SMPTE = (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070)
PRIMARIES = {
    1: SRGB,
    4: (*C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: _SMPTE,
    7: _SMPTE,
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
ADOBE = (*D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
#: Codes of transfer functions: exponents, and those with a straight part near black as (exponent, offset, threshold,
#: slope). 2 is "unspecified".
_BT709 = (1 / 0.45, 0.099, 0.081, 4.5)
_CURVE = (2.4, 0.055, 0.04045, 12.92)
TRANSFERS: dict[int, float | tuple[float, ...]] = {
    1: _BT709,
    2: _CURVE,
    4: 2.2,
    5: 2.8,
    6: _BT709,
    8: 1.0,
    13: _CURVE,
    14: _BT709,
    15: _BT709,
}
HDR = {16: "PQ", 18: "HLG"}
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_FAMILIES = {"GRAY": ("grey",), "RGB": ("RGB", "grey"), "CMYK": ("CMYK",)}  # what a kind of profile is for
STRIP = 1_000_000  # values at a time


class Ignored(UserWarning):
    """Something that a picture says of itself cannot be meant."""


@dataclasses.dataclass(frozen=True)
class Colours:
    """How stored values become sRGB.

    Attributes
    ----------
    said : for the reader, what the colours are and how that is known
    profile : an ICC profile's way from 8 bits of its own kind of colour to sRGB; else
    transfer, primaries : an exponent or a curve of :data:`TRANSFERS`, and chromaticities
    full : whether values go from 0 to 1, not from 16 / 255 to 235 / 255
    """

    said: str = "sRGB, assumed: it states none"
    profile: ImageCms.ImageCmsTransform | None = None
    transfer: float | tuple[float, ...] = _CURVE
    primaries: tuple[float, ...] = SRGB
    full: bool = True

    def apply(self, values: np.ndarray) -> np.ndarray:
        """sRGB (H, W, 3) float32 of stored values (H, W, 3) in [0, 1]; not for those with a profile."""
        if (self.transfer, self.primaries, self.full) == (_CURVE, SRGB, True):
            return values  # sRGB already
        to_srgb = (np.linalg.inv(_to_xyz(SRGB)) @ _to_xyz(self.primaries)).astype(np.float32)
        flat = values.reshape(-1, 3)
        for start in range(0, len(flat), STRIP):
            some = flat[start : start + STRIP]
            some = some if self.full else ((255 * some - 16) / 219).clip(0, 1)
            linear = (_decode(some, self.transfer) @ to_srgb.T).clip(0, 1)
            flat[start : start + STRIP] = np.where(
                linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** np.float32(1 / 2.4) - 0.055
            )
        return flat.reshape(values.shape)


def stated(path: Path, image: Image.Image) -> Colours:
    """What a picture that was opened, and perhaps not yet read, says of its colours.

    Raises
    ------
    DataError : colours of high dynamic range, or with a code that is not known
    """
    profile = image.info.get("icc_profile", b"")  # None where Pillow could not make it out
    codes = _cicp(image) if image.format == "PNG" else None
    nclx = _nclx(image) if image.format == "AVIF" and not profile else None
    if codes or nclx:
        primaries, transfer, full = codes or nclx or (1, 13, True)
        if transfer in HDR:
            raise DataError(path, "a photo of standard dynamic range", f"one in {HDR[transfer]}: convert it first")
        if transfer not in TRANSFERS or primaries not in (2, *PRIMARIES):
            raise DataError(path, "colours by a known code of H.273", f"primaries {primaries}, transfer {transfer}")
        said = f"primaries {primaries} and transfer {transfer} of H.273, as its {'cICP' if codes else 'nclx'} says"
        return Colours(said, None, TRANSFERS[transfer], PRIMARIES.get(primaries, SRGB), full)
    if profile != b"":
        return _profile(path, image, profile)
    if "srgb" in image.info:
        return Colours("sRGB, as it says")
    gamma, chromaticity = image.info.get("gamma", 0), image.info.get("chromaticity", SRGB)
    tags = getattr(image, "tag_v2", {})
    if 318 in tags and 319 in tags:
        chromaticity = tuple(float(v) for v in (*tags[318], *tags[319]))
    if not _is_triangle(chromaticity) or np.allclose(chromaticity, SRGB, atol=1e-3):
        chromaticity = SRGB
    # what writers put beside sRGB's primaries for sRGB's curve (PNG, section 11.3.2.5)
    transfer = _CURVE if not gamma or (abs(gamma - 1 / 2.2) < 1e-3 and chromaticity == SRGB) else 1 / gamma
    if gamma or chromaticity != SRGB:
        return Colours("its own gamma and primaries, as it says", None, transfer, chromaticity)
    if _is_adobe(image):
        return Colours("Adobe RGB, as its EXIF says", None, 563 / 256, ADOBE)
    return Colours()


def by_profile(image: Image.Image, profile: ImageCms.ImageCmsTransform) -> Image.Image:
    """An 8-bit picture in sRGB, by :attr:`Colours.profile`."""
    # A grey picture may carry an RGB profile: bring it to the profile's own kind of colour first.
    image = image if image.mode == profile.input_mode else image.convert(profile.input_mode)
    return profile.apply(image)


def _profile(path: Path, image: Image.Image, profile: bytes | None) -> Colours:
    mode = image.mode
    if mode == "LAB":  # Pillow's own profile for it, which says no more
        return Colours("Lab, as it says")
    mine = "grey" if mode[0] in "1IF" or mode in ("L", "LA", "La") else "CMYK" if mode == "CMYK" else "RGB"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        kind, name = source.profile.xcolor_space.strip(), ImageCms.getProfileDescription(source).strip()
        if mine in _FAMILIES.get(kind, ()):
            own = {"GRAY": "L", "CMYK": "CMYK"}.get(kind, "RGB")
            to_srgb = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), own, "RGB")
            return Colours(f"{name or 'a profile without a name'}, as its profile says", to_srgb)
        why, said = f"is for {kind}, and it is {mine}", f"for {kind}"
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        why, said = f"is damaged ({error})", "damaged"
    warnings.warn(f"{path.name}: its colour profile {why}: ignored", Ignored, stacklevel=2)
    return Colours(f"sRGB, assumed: its profile is {said}")


# --- what is in the files ----------------------------------------------------------------------------------


def _head(image: Image.Image, size: int = 1 << 22) -> bytes:
    """The first bytes of the file of a picture; none where that is not at hand."""
    stream: Any = getattr(image, "fp", None)
    try:
        if stream is None:
            with open(getattr(image, "filename", ""), "rb") as file:
                return file.read(size)
        place = stream.tell()
        stream.seek(0)
        head = stream.read(size)
        stream.seek(place)
        return bytes(head)
    except (OSError, ValueError):
        return b""


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of what stands before the pixels of a PNG."""
    place = 8
    while place + 8 <= len(png) and (name := png[place + 4 : place + 8]) != b"IDAT":
        (size,) = struct.unpack(">I", png[place : place + 4])
        yield name, png[place + 8 : place + 8 + size]
        place += 12 + size


def _cicp(image: Image.Image) -> tuple[int, int, bool] | None:
    """Primaries, transfer and full range of a PNG's cICP."""
    content = next((c for name, c in _chunks(_head(image)) if name == b"cICP"), b"")
    return (content[0], content[1], content[3] != 0) if len(content) == 4 else None


def _nclx(image: Image.Image) -> tuple[int, int, bool] | None:
    """The same of an AVIF, whose range its decoder has dealt with."""
    _, found, rest = _head(image).partition(b"colrnclx")
    return (*struct.unpack(">HH", rest[:4]), True) if found and len(rest) >= 4 else None


def _is_adobe(image: Image.Image) -> bool:
    """Cameras say it in EXIF's ColorSpace, or as the interoperability R03 (DCF 2.0)."""
    try:
        exif = image.getexif()
        space = exif.get_ifd(0x8769).get(0xA001)
        return space == 2 or (space == 0xFFFF and str(exif.get_ifd(0xA005).get(1)).startswith("R03"))
    except Exception:  # of any type: a damaged note says nothing
        return False


# --- arithmetic --------------------------------------------------------------------------------------------


def _decode(values: np.ndarray, transfer: float | tuple[float, ...]) -> np.ndarray:
    """Linear light of stored values."""
    if not isinstance(transfer, tuple):
        return values ** np.float32(transfer)
    exponent, offset, threshold, slope = map(np.float32, transfer)
    return np.where(values < threshold, values / slope, ((values + offset) / (1 + offset)) ** exponent)


def _is_triangle(chromaticity: tuple[float, ...]) -> bool:
    """Whether primaries can be colours: apart from each other, with light."""
    if len(chromaticity) != 8:
        return False
    points = np.array(chromaticity).reshape(4, 2)
    return bool((points[:, 1] > 0).all() and abs(np.linalg.det(np.c_[points[1:], np.ones(3)])) > 1e-3)


def _to_xyz(chromaticity: tuple[float, ...]) -> np.ndarray:
    """(3, 3) from linear RGB of given primaries to XYZ under D65 (adapted by Bradford's matrix)."""
    white, *primaries = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in np.array(chromaticity).reshape(4, 2))
    columns = np.stack(primaries, -1)
    to_xyz = columns * np.linalg.solve(columns, white)
    x, y = D65
    new = np.array([x / y, 1, (1 - x - y) / y])
    gain = (_BRADFORD @ new) / (_BRADFORD @ white)
    return np.linalg.inv(_BRADFORD) @ np.diag(gain) @ _BRADFORD @ to_xyz
