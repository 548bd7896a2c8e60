"""Photos of faces: any picture file as display sRGB in [0, 1], with a mask.

Orientation (EXIF), embedded colour profiles, greyscale, palettes, CMYK, transparency and 16 bits are dealt
with here, so that everything after sees one kind of array.
"""

from __future__ import annotations

import dataclasses
import io
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage.data
import skimage.transform
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from bioface.errors import DataError

SIZE = 64
LARGEST = 178_956_970  #: pixels; Pillow takes more for an attack, and so is it taken here

# The face in scikit-image's astronaut: a detector puts it at row 70, column 175, 93 pixels wide; a tenth more
# on each side takes in the chin and the forehead, as in the crops of the training set.
_ROW, _COLUMN, _SIDE = 64, 166, 112
_ELLIPSE = (36.0, 33.0, 26.0, 23.0)  # centre row and column, half height and width, in the 64 × 64 crop


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photo and where its face is.

    Attributes
    ----------
    rgb : (H, W, 3) float32, display sRGB in [0, 1]
    mask : (H, W) bool
    name : the file's name without its ending
    """

    rgb: np.ndarray
    mask: np.ndarray
    name: str


def read(
    path: str | Path,
    mask: str | Path | np.ndarray | None = None,
    resize_mask: bool = False,
    limit: int | None = None,
) -> Photo:
    """Read a photo of any usual format.

    Grey becomes three equal channels. The orientation that the camera noted is applied and an embedded colour
    profile converted to sRGB. Precision is 8 bits, except for 16-bit grey: Pillow reads 16-bit colour as 8 bits.

    Parameters
    ----------
    path : the picture
    mask : a picture file that is white on the face, or an (H, W) array: whole numbers above 0, others above 0.5 are
        face; without one the picture's own
        transparency, without that all of it
    resize_mask : bring a mask of another size to that of the photo (nearest pixel)
    limit : a photo of more pixels is shrunk to no more than so many, by averaging its display values; its mask, which
        is of the size before, is shrunk with it

    Raises
    ------
    DataError : when the photo or mask is missing, not an image or of more than 179 million pixels, or the mask is empty
        or of another size
    """
    path = Path(path)
    rgb, alpha, whole = _read(path, limit)
    if mask is None:
        if not (alpha > 0.5).any():
            raise DataError(path, "a photo that is opaque somewhere", "one that is transparent everywhere")
        return Photo(rgb, alpha > 0.5, path.stem)
    if isinstance(mask, np.ndarray):
        where, found, given = path, as_mask(mask), mask.shape
    else:
        where = Path(mask)
        values, opacity, given = _read(where, limit)
        found = _is_light(values, opacity)
    if len(given) != 2 or (given != whole and not resize_mask):
        hint = "; photos.read(…, resize_mask=True) fits a mask of the same view" if len(given) == 2 else ""
        raise DataError(where, f"a mask of {whole[0]} × {whole[1]} as {path.name}", f"shape {given}{hint}")
    return Photo(rgb, _not_empty(where, nearest(found, rgb.shape[:2])), path.stem)


def read_mask(path: str | Path) -> np.ndarray:
    """(H, W) bool from a picture that is light where the mask is.

    Raises
    ------
    DataError : when it is missing or not an image
    """
    rgb, alpha, _ = _read(Path(path), None)
    return _is_light(rgb, alpha)


def as_mask(values: np.ndarray) -> np.ndarray:
    """Booleans of the same shape: whole numbers above 0 are face, others above 0.5.

    >>> as_mask(np.array([0, 1, 255])).tolist(), as_mask(np.array([0.2, 0.7])).tolist()
    ([False, True, True], [False, True])
    """
    return values > (0 if values.dtype.kind in "biu" else 0.5)


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


def _read(path: Path, limit: int | None) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """sRGB (h, w, 3) and opacity (h, w) of at most ``limit`` pixels, and the file's own size (H, W)."""
    image = open_picture(path)
    height, width = whole = image.height, image.width
    if limit is not None and width * height > limit:
        shrink = math.sqrt(limit / (width * height))
        # a side of one pixel cannot shrink further: the other one does
        width = max(1, min(int(width * shrink), limit))
        height = max(1, min(int(height * shrink), limit))
    return *_to_srgb(path, image, (width, height)), whole


def open_picture(path: Path) -> Image.Image:
    """The picture, decoded and turned upright."""
    if not path.is_file():
        raise DataError(path, "a picture", "a folder" if path.is_dir() else "no such file")
    try:
        with warnings.catch_warnings():
            # from half of the pixels that it refuses on, Pillow warns: those are photos of today
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return image
    except Image.DecompressionBombError as error:
        raise DataError(path, f"a picture of at most {LARGEST // 10**6} million pixels", "a larger one") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(path, "a picture (JPEG, PNG, TIFF, …)", f"something unreadable ({error})") from error


def _to_srgb(path: Path, image: Image.Image, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) float32 sRGB and (H, W) float32 opacity, both in [0, 1], of ``size`` (W, H)."""

    def fitted(picture: Image.Image) -> Image.Image:
        return picture if picture.size == size else picture.resize(size, Image.Resampling.BOX)

    if image.mode.startswith("I") or image.mode == "F":
        grey = _deep_grey(path, image, fitted)
        return np.repeat(grey[..., None], 3, axis=-1), np.ones_like(grey)
    profile = image.info.get("icc_profile")
    opaque = np.ones(size[::-1], np.float32)
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        opaque = np.asarray(fitted(image.getchannel("A")), np.float32) / 255
        image = image.convert("RGB")  # before it shrinks: what is transparent keeps its colour
    if image.mode in ("1", "P"):
        image = image.convert("RGB")
    image = fitted(image)
    if profile:
        image = _apply_profile(path, image, profile)
    return np.asarray(image.convert("RGB"), np.float32) / 255, opaque


def _is_light(rgb: np.ndarray, opaque: np.ndarray) -> np.ndarray:
    return (rgb.mean(-1) > 0.5) & (opaque > 0.5)


def _deep_grey(path: Path, image: Image.Image, fitted: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """(H, W) float32 in [0, 1] from a 16-bit (or floating-point, already [0, 1]) grey picture."""
    values = np.asarray(fitted(image.convert("F")), dtype=np.float32)
    grey = values if image.mode == "F" else values / 65535
    low, high = float(grey.min()), float(grey.max())
    if not (low >= 0 and high <= 1):
        wanted = "values within [0, 1]" if image.mode == "F" else "16-bit values"
        raise DataError(path, wanted, f"{values.min():g} to {values.max():g}")
    return grey


def _apply_profile(path: Path, image: Image.Image, profile: bytes) -> Image.Image:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        # A grey picture may carry an RGB profile: bring it to the profile's own kind of colour first.
        kind = {"GRAY": "L", "CMYK": "CMYK"}.get(source.profile.xcolor_space.strip(), "RGB")
        image = image if image.mode == kind else image.convert(kind)
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise DataError(path, "a readable colour profile", f"a damaged one ({error})") from error
    return converted or image  # None only when asked to change in place


def _not_empty(path: Path, mask: np.ndarray) -> np.ndarray:
    if not mask.any():
        raise DataError(path, "a mask with at least one pixel", "an empty one")
    return mask
