"""What a picture says of its colours, and how they become sRGB.

==== ======================================================================================================
PNG  cICP, then an ICC profile, then sRGB, then gAMA and cHRM (PNG, third edition, section 4.3)
AVIF an ICC profile, then nclx
TIFF an ICC profile, then white point and primaries
all  an ICC profile, then EXIF's Adobe RGB; a profile that is damaged or for another kind of colour is ignored, with a
     warning
==== ======================================================================================================

What says nothing is taken for sRGB. What sRGB cannot show is clipped, so negative light becomes none.

Reference: ITU-T H.273 (2021), tables 2 and 3, for the codes of cICP and nclx.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from bioface import image_formation
from bioface.errors import DataError

SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # x and y of white, red, green and blue
#: Codes of primaries, by colour-science's names; 2 is "unspecified".
PRIMARIES: dict[int, str] = dict.fromkeys((1, 2), "sRGB") | dict.fromkeys((6, 7), "SMPTE C")
PRIMARIES |= {4: "ITU-R BT.470 - 525", 5: "ITU-R BT.470 - 625", 9: "ITU-R BT.2020", 11: "DCI-P3", 12: "P3-D65"}
#: Codes of transfer functions: an exponent, or a name.
TRANSFERS: dict[int, float | str] = {4: 2.2, 5: 2.8, 8: 1.0}
TRANSFERS |= dict.fromkeys((1, 6, 14, 15), "BT.709") | dict.fromkeys((2, 13), "sRGB")
HDR = {16: "PQ", 18: "HLG"}
_FAMILIES = {"GRAY": ("grey",), "RGB": ("RGB", "grey"), "CMYK": ("CMYK",)}  # what a kind of profile is for


class Ignored(UserWarning):
    """Something that a picture says of itself cannot be meant."""


@dataclasses.dataclass(frozen=True)
class Colours:
    """How stored values become sRGB."""

    said: str = "sRGB, assumed: it states none"  #: what the colours are and how that is known
    profile: ImageCms.ImageCmsTransform | None = None  #: from 8 bits of its own kind of colour to sRGB; else
    transfer: float | str = "sRGB"  #: an exponent, "sRGB" or "BT.709"
    primaries: str | tuple[float, ...] = "sRGB"  #: a name of colour-science, or chromaticities as :data:`SRGB`
    full: bool = True  #: whether values go from 0 to 1, not from 16 / 255 to 235 / 255

    def apply(self, values: np.ndarray) -> np.ndarray:
        """sRGB (H, W, 3) float32 of stored values (H, W, 3) in [0, 1]; not for those with a profile."""
        if (self.transfer, self.primaries, self.full) == ("sRGB", "sRGB", True):
            return values  # sRGB already
        with np.printoptions():  # which colour-science sets for all of NumPy; here, as it takes a second
            import colour

        given, named = self.primaries, colour.RGB_COLOURSPACES
        own = named[given].copy() if isinstance(given, str) else colour.RGB_Colourspace("own", given[2:], given[:2])
        srgb = named["sRGB"].copy()
        for space in (own, srgb):
            space.use_derived_transformation_matrices(True)  # those that standards print are rounded
        to_srgb = colour.matrix_RGB_to_RGB(own, srgb, "Bradford").astype(np.float32)
        values = values if self.full else ((255 * values - 16) / 219).clip(0, 1)
        if self.transfer == "sRGB":
            linear = image_formation.srgb_decode(values)
        elif self.transfer == "BT.709":
            linear = colour.models.oetf_inverse_BT709(values).astype(np.float32)
        else:
            linear = values ** np.float32(self.transfer)
        return np.asarray(image_formation.srgb_encode((linear @ to_srgb.T).clip(0, 1)))


def stated(path: Path, image: Image.Image) -> Colours:
    """What a picture that was opened, and perhaps not yet read, says of its colours.

    DataError on colours of high dynamic range, or with a code that is not known.
    """
    profile = image.info.get("icc_profile", b"")  # None where Pillow could not make it out
    is_png = image.format == "PNG"
    if (is_png or (image.format == "AVIF" and not profile)) and (codes := _codes(image, is_png)):
        primaries, transfer, full = codes
        if transfer in HDR:
            raise DataError(path, "a photo of standard dynamic range", f"one in {HDR[transfer]}: convert it first")
        if transfer not in TRANSFERS or primaries not in PRIMARIES:
            raise DataError(path, "colours by a known code of H.273", f"primaries {primaries}, transfer {transfer}")
        said = f"primaries {primaries} and transfer {transfer} of H.273, as its {'cICP' if is_png else 'nclx'} says"
        return Colours(said, None, TRANSFERS[transfer], PRIMARIES[primaries], full)
    if profile != b"":
        return _profile(path, image, profile)
    if "srgb" in image.info:
        return Colours("sRGB, as it says")
    gamma, chromaticity = image.info.get("gamma", 0), image.info.get("chromaticity", SRGB)
    tags = getattr(image, "tag_v2", {})
    if 318 in tags and 319 in tags:
        chromaticity = tuple(float(v) for v in (*tags[318], *tags[319]))
    is_srgb = not _is_triangle(chromaticity) or np.allclose(chromaticity, SRGB, atol=1e-3)
    # what writers put beside sRGB's primaries for sRGB's curve (PNG, section 11.3.2.5)
    transfer = "sRGB" if not gamma or (abs(gamma - 1 / 2.2) < 1e-3 and is_srgb) else 1 / gamma
    if gamma or not is_srgb:
        return Colours("its own gamma and primaries, as it says", None, transfer, "sRGB" if is_srgb else chromaticity)
    if _is_adobe(image):
        return Colours("Adobe RGB, as its EXIF says", None, 563 / 256, "Adobe RGB (1998)")
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


def _codes(image: Image.Image, is_png: bool) -> tuple[int, int, bool] | None:
    """Primaries, transfer and full range of a PNG's cICP or an AVIF's nclx, whose decoder deals with range."""
    before_pixels = _head(image).partition(b"IDAT")[0] if is_png else _head(image)
    _, found, rest = before_pixels.partition(b"\0\0\0\4cICP" if is_png else b"colrnclx")
    if not found or len(rest) < 4:
        return None
    return (rest[0], rest[1], rest[3] != 0) if is_png else (*struct.unpack(">HH", rest[:4]), True)


def _is_adobe(image: Image.Image) -> bool:
    """Cameras say it in EXIF's ColorSpace, or as the interoperability R03 (DCF 2.0)."""
    try:
        exif = image.getexif()
        space = exif.get_ifd(0x8769).get(0xA001)
        return space == 2 or (space == 0xFFFF and str(exif.get_ifd(0xA005).get(1)).startswith("R03"))
    except Exception:  # of any type: a damaged note says nothing
        return False


def _is_triangle(chromaticity: tuple[float, ...]) -> bool:
    """Whether primaries can be colours: apart from each other, with light."""
    if len(chromaticity) != 8:
        return False
    points = np.array(chromaticity).reshape(4, 2)
    return bool((points[:, 1] > 0).all() and abs(np.linalg.det(np.c_[points[1:], np.ones(3)])) > 1e-3)
