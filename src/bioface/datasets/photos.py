"""Photos of faces: any picture as display sRGB in [0, 1], with a mask.

EXIF's orientation, stated colours (:mod:`bioface.datasets.colours`), grey, palettes, CMYK, Lab, transparency and 16
bits are dealt with here: everything after sees one kind of array.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import skimage.transform
from PIL import Image, ImageCms, UnidentifiedImageError

from bioface.arrays import as_mask
from bioface.datasets import colours
from bioface.errors import DataError

SIZE = 64
LARGEST = 178_956_970  #: pixels; Pillow takes more for an attack, and so is it taken here

#: Endings of raw photos, whatever is in them.
RAW = re.compile(r"\.(3fr|arw|cr[23w]|dng|erf|iiq|kdc|mos|mrw|n[er][fw]|orf|pef|raf|rw[2l]|sr[2fw]|x3f)", re.IGNORECASE)
SLIGHT = 1e-3  #: by which floats may leave [0, 1]: they were computed, and 8 bits are coarser

# The face in scikit-image's astronaut: a detector puts it at row 70, column 175, 93 pixels wide; a tenth more
# on each side takes in the chin and the forehead, as in the crops of the training set.
_ROW, _COLUMN, _SIDE = 64, 166, 112
_ELLIPSE = (36.0, 33.0, 26.0, 23.0)  # centre row and column, half height and width, in the 64 × 64 crop


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photo and where its face is."""

    rgb: np.ndarray  #: (H, W, 3) float32, display sRGB in [0, 1]
    mask: np.ndarray  #: (H, W) bool
    name: str  #: the file's name without its ending


class Turned(UserWarning):
    """A photo is stored turned, and its mask does not say whether it is too."""


def read(
    path: str | Path | Image.Image,
    mask: str | Path | Image.Image | np.ndarray | None = None,
    limit: int | None = None,
) -> Photo:
    """Read a photo of any usual format.

    Grey becomes three equal channels. The orientation that the camera noted is applied, and colours become sRGB by what
    the file says of them. Precision is 8 bits, except for 16-bit and float grey without a profile.

    Parameters
    ----------
    path : the picture, or one that Pillow has opened
    mask : a picture file that is light on the face, or an (H, W) array, see :func:`bioface.arrays.as_mask`; without one
        the picture's own transparency, without that all of it. One drawn on the pixels as they are stored is turned
        with the photo; a warning says so, and where shapes do not tell which it is
    limit : a photo of more pixels is shrunk to no more than so many, by averaging its display values; its mask, which
        is of the size before, is shrunk with it

    Raises
    ------
    DataError : when the photo or mask is missing, not an image, a raw photo, of high dynamic range or of more than 179
        million pixels, or the mask is empty, without white, or of another size
    """
    opened = _open(path)
    rgb, alpha = _to_srgb(opened, limit)
    path, whole = opened.path, opened.image.size[::-1]
    if mask is None:
        if not (alpha > 0.5).any():
            raise DataError(path, "a photo that is opaque somewhere", "one that is transparent everywhere")
        return Photo(rgb, alpha > 0.5, path.stem)
    if isinstance(mask, np.ndarray):
        where, found, own = path, as_mask(mask, path), None
    else:
        drawn = _open(mask)
        where, found, own = drawn.path, _levels(drawn), drawn.turn
    if found.ndim == 2 and opened.turn is not None and own is None:
        found = _turned_as(found, opened, opened.turn, where)
    if found.shape != whole:
        raise DataError(where, f"a mask of {whole[0]} × {whole[1]} as {path.name}", f"shape {found.shape}")
    found = nearest(found, rgb.shape[:2])
    if not found.any():
        raise DataError(where, "a mask with at least one pixel", "an empty one")
    return Photo(rgb, found, path.stem)


def read_mask(path: str | Path | Image.Image) -> np.ndarray:
    """(H, W) bool from a picture that is light where the mask is, see :func:`bioface.arrays.as_mask`.

    One colour on black is light too. What is black all over is a mask by its opacity. DataError when it is missing, not
    an image, without anything light, or of several colours.
    """
    return _levels(_open(path))


def colours_of(path: str | Path) -> str:
    """What a picture's file says of its colours, or what is assumed; only its header is read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what :func:`read` warns
        with Image.open(path) as image:
            return colours.stated(Path(path), image).said


def nearest(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A mask (H, W) of the same view in another size (rows, columns): each pixel is the nearest one's."""
    rows, columns = ((np.arange(n) + 0.5) * m / n for n, m in zip(size, mask.shape, strict=True))
    return mask[rows.astype(int)[:, None], columns.astype(int)]


def astronaut(size: int = SIZE) -> Photo:
    """Eileen Collins's face from scikit-image's ``astronaut`` (NASA, public domain), square, with an ellipse as mask.

    The picture ships with scikit-image: no download. At ``size`` 112 its pixels are those of the file.

    >>> astronaut().rgb.shape
    (64, 64, 3)
    """
    whole = skimage.data.astronaut() / 255.0
    face = whole[_ROW : _ROW + _SIDE, _COLUMN : _COLUMN + _SIDE]
    rgb = skimage.transform.resize(face, (size, size), order=1, anti_aliasing=size < _SIDE)
    row, column, height, width = _ELLIPSE
    y, x = (np.mgrid[:size, :size] + 0.5) * (SIZE / size) - 0.5
    mask = ((y - row) / height) ** 2 + ((x - column) / width) ** 2 <= 1
    return Photo(rgb.astype(np.float32), mask, "astronaut")


@dataclasses.dataclass(frozen=True)
class _Opened:
    """A picture, decoded and upright, and what it says of itself; ``turn`` made it upright, if anything."""

    path: Path
    image: Image.Image
    colours: colours.Colours
    turn: Image.Transpose | None


_TURNS = dict(zip(range(2, 9), [Image.Transpose(k) for k in (0, 3, 1, 5, 4, 6, 2)], strict=True))  # EXIF's orientations
_FLIPS = {_TURNS[k] for k in (2, 3, 4)}  # which leave the size as it is


def open_picture(path: str | Path) -> Image.Image:
    """The picture as Pillow has it, decoded and turned upright; errors as of :func:`read`."""
    return _open(path).image


def _open(source: Any) -> _Opened:
    """Of a file or of a picture that Pillow has opened."""
    is_open = isinstance(source, Image.Image)
    path = Path((getattr(source, "filename", "") or "picture") if is_open else source)
    if not is_open and not path.is_file():
        raise DataError(path, "a picture", "a folder" if path.is_dir() else "no such file")
    try:
        with warnings.catch_warnings():
            # Pillow warns from half of what it refuses on: those are photos of today
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with contextlib.nullcontext(source) if is_open else Image.open(path) as image:
                return _decoded(path, image)
    except Image.DecompressionBombError as error:
        raise DataError(path, f"a picture of at most {LARGEST // 10**6} million pixels", "a larger one") from error
    except DataError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        _refuse_raw(path)
        why = "more than 16 bits a colour?" if path.suffix.lower() in (".tif", ".tiff") else str(error)
        raise DataError(path, "a picture (JPEG, PNG, TIFF, …)", f"something unreadable ({why})") from error


def _decoded(path: Path, image: Image.Image) -> _Opened:
    _refuse_raw(path, image)
    stated, turn = colours.stated(path, image), _orientation(image)
    image = _planar(image) or image
    image.load()
    image = image.convert("LA") if image.mode == "La" else image
    return _Opened(path, image if turn is None else image.transpose(turn), stated, turn)


def _refuse_raw(path: Path, image: Image.Image | None = None) -> None:
    """Raw photos are TIFF files whose first picture is a thumbnail."""
    tags = getattr(image, "tag_v2", {})
    # DNGVersion; NewSubfileType 1; SubIFDs
    if RAW.fullmatch(path.suffix) or 50706 in tags or tags.get(254) == 1 or (330 in tags and _is_thumbnail(image)):
        raise DataError(path, "a developed photo (JPEG, PNG, TIFF, …)", "a raw photo: develop it first")


def _is_thumbnail(image: Any) -> bool:
    """Whether not all that is below a TIFF's first picture is smaller, as in a pyramid, or it cannot be read."""
    import tifffile

    try:
        image.fp.seek(0)
        below: Any = tifffile.TiffFile(image.fp).pages[0].pages
        return not all(page.imagewidth * page.imagelength < image.width * image.height for page in below)
    except Exception:  # of any type, as tifffile stumbles
        return True


def _orientation(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # of any type, as Pillow stumbles over damaged notes: a photo with one is still a photo
        return None


def _planar(image: Any) -> Image.Image | None:
    """A TIFF of 16 bits whose colours are stored one after the other, which Pillow reads wrongly; else None."""
    tags = getattr(image, "tag_v2", {})
    is_deep = set(tags.get(258, ())) == {16} and image.mode in ("RGB", "RGBA")
    if not (is_deep and tags.get(284) == 2 and tags.get(259, 1) == 1):
        return None
    import tifffile

    image.fp.seek(0)
    planes = tifffile.imread(image.fp)  # (channels, H, W)
    return Image.fromarray(np.rint(np.moveaxis(planes, 0, -1) / 257).astype(np.uint8))


def _turned_as(mask: np.ndarray, photo: _Opened, turn: Image.Transpose, where: Path) -> np.ndarray:
    """A mask (H, W) that was drawn on the stored pixels, upright."""
    upright = photo.image.size[::-1]
    stored = upright if turn in _FLIPS else upright[::-1]
    if mask.shape == stored != upright:
        say = "it is of the photo as it is stored, and turned with it"
        mask = np.asarray(Image.fromarray(mask).transpose(turn))
    elif mask.shape == stored:
        say = "taken for drawn on the photo as it is shown; turn it if it was drawn on the pixels as they are stored"
    else:
        return mask
    warnings.warn(f"mask of {where.name}: {photo.path.name} is stored turned; {say}", Turned, stacklevel=3)
    return mask


def _to_srgb(opened: _Opened, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) float32 sRGB and (H, W) float32 opacity, both in [0, 1], of at most ``limit`` pixels."""
    image, stated = opened.image, opened.colours
    size = width, height = image.size
    if limit is not None and width * height > limit:
        shrink = math.sqrt(limit / (width * height))
        # a side of one pixel cannot shrink further: the other one does
        size = (max(1, min(int(width * shrink), limit)), max(1, min(int(height * shrink), limit)))

    def fitted(picture: Image.Image) -> Image.Image:
        return picture if picture.size == size else picture.resize(size, Image.Resampling.BOX)

    if image.mode.startswith("I") or image.mode == "F":
        grey = _deep_grey(opened.path, fitted(image.convert("F")), 1 if image.mode == "F" else 65535)
        rgb = np.repeat(grey[..., None], 3, axis=-1)
        if stated.profile:  # which is for 8 bits: its curve is read off a ramp
            ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
            curve = np.asarray(colours.by_profile(ramp, stated.profile), np.float32)[0] / 255
            rgb = np.stack([np.interp(grey, np.linspace(0, 1, 256), one) for one in curve.T], -1, dtype=np.float32)
        return stated.apply(rgb), np.ones_like(grey)
    opaque = np.ones(size[::-1], np.float32)
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        opaque = np.asarray(fitted(image.getchannel("A")), np.float32) / 255
        image = image.convert("RGB")  # before it shrinks: what is transparent keeps its colour
    if image.mode == "LAB":
        lab, srgb = (ImageCms.createProfile(name) for name in ("LAB", "sRGB"))
        image = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    image = fitted(image)
    if stated.profile:
        image = colours.by_profile(image, stated.profile)
    return stated.apply(np.asarray(image.convert("RGB"), np.float32) / 255), opaque


def _levels(opened: _Opened) -> np.ndarray:
    """(H, W) bool of a picture of a mask, by the numbers that it stores."""
    image, path = opened.image, opened.path
    if image.mode[0] in "1IF" or (image.mode == "L" and not image.has_transparency_data):
        return as_mask(np.asarray(image), path)
    pixels = np.asarray(image.convert("RGB" if image.mode == "LAB" else "RGBA").convert("RGBA"))
    top, opaque = pixels[..., :3].max(-1), pixels[..., 3] > 127
    light = (top > 127) & opaque
    if not light.any() and not opaque.all():
        return as_mask(pixels[..., 3], path)  # black, or nothing, on nothing
    counts = np.sort(np.bincount((pixels[light][:, :3] > 127) @ (1, 2, 4), minlength=8))
    if counts[-2] > 0.05 * counts.sum():
        raise DataError(path, "a mask of one colour on black", "several colours (labels?)")
    return as_mask(np.where(opaque, top, 0), path)


def _deep_grey(path: Path, picture: Image.Image, top: int) -> np.ndarray:
    """(H, W) float32 in [0, 1] of a grey picture of 16 bits, or of floats with 1 as ``top``."""
    values = np.asarray(picture, dtype=np.float32)
    grey = values / np.float32(top)
    if not (grey.min() >= -SLIGHT and grey.max() <= 1 + SLIGHT):
        wanted = "values within [0, 1]" if top == 1 else "16-bit values"
        raise DataError(path, wanted, f"{values.min():g} to {values.max():g}")
    return grey.clip(0, 1)
