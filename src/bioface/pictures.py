"""A photo, however it comes, in linear light and of a size that fits in memory; and pictures in other sizes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from PIL import Image

from bioface import image_formation
from bioface.arrays import as_mask
from bioface.datasets import photos
from bioface.errors import BiofaceError, DataError

MAX_PIXELS = 4_000_000  #: of a photo; larger ones are shrunk first
SMALLEST = 16  #: pixels a side; less shows no face
STRIP = 250_000  #: pixels of a photo that are worked on at a time


def read(image: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """Linear RGB (H, W, 3) float32 and the mask (H, W), checked and of no more than :data:`MAX_PIXELS`.

    Parameters, errors: those of :func:`bioface.decomposition.decompose`.
    """
    picture = str | Path | Image.Image
    if isinstance(image, picture):
        given = mask if mask is None or isinstance(mask, picture) else np.asarray(mask)
        photo = photos.read(image, given, limit=MAX_PIXELS)
        _check_sides(photo.mask.shape, image)
        return image_formation.srgb_decode(photo.rgb), photo.mask
    if isinstance(image, photos.Photo):
        mask = image.mask if mask is None else mask
        image = image.rgb
    values = np.asarray(image)
    if values.ndim != 2 and not (values.ndim == 3 and values.shape[2] in (3, 4)):
        raise BiofaceError(f"expected a photo (H, W, 3), (H, W) or (H, W, 4), found shape {values.shape}")
    top = {"uint8": 255, "uint16": 65535}.get(values.dtype.name, 1)
    if top == 1 and values.dtype.kind != "f":
        raise BiofaceError(f"expected a photo of floats in [0, 1], uint8 or uint16, found {values.dtype}")
    size = values.shape[:2]
    _check_sides(size)
    if top == 1 and not (values.min() >= -photos.SLIGHT and values.max() <= 1 + photos.SLIGHT):
        range_found = f"{values.min():g} to {values.max():g}" if np.isfinite(values).all() else "NaN or infinity"
        raise BiofaceError(f"expected display values within 0–1, found {range_found}")
    values = np.atleast_3d(values)
    if mask is not None:
        found = photos.read_mask(mask) if isinstance(mask, picture) else as_mask(mask)
    else:
        found = values[..., 3] > top / 2 if values.shape[2] == 4 else np.ones(size, bool)
        if not found.any():
            raise BiofaceError("expected a photo that is opaque somewhere, found one that is not")
    if found.shape != size:
        raise _error(mask, f"a mask of {size[0]} × {size[1]} as the photo", f"shape {found.shape}")
    if not found.any():
        raise _error(mask, "a mask with at least one pixel", "an empty one")
    linear = _linear(values[..., :3], top)
    found = photos.nearest(found, linear.shape[:2])
    if not found.any():
        raise _error(mask, f"a mask that is left when the photo is shrunk to {linear.shape[:2]}", "too small a one")
    return linear, found


def _error(source: Any, expected: str, found: str) -> BiofaceError:
    """Of a file, if that is what it came from."""
    is_file = isinstance(source, str | Path)
    return DataError(source, expected, found) if is_file else BiofaceError(f"expected {expected}, found {found}")


def _check_sides(size: tuple[int, ...], source: Any = None) -> None:
    if min(size) < SMALLEST:
        raise _error(source, f"a photo of at least {SMALLEST} pixels a side", f"{size[0]} × {size[1]}")


def _linear(display: np.ndarray, top: int) -> np.ndarray:
    """Linear RGB (h, w, 3) float32 of display values (H, W, 1 or 3) in [0, top], of at most ``MAX_PIXELS``."""
    H, W = display.shape[:2]
    shrink = max(1, math.sqrt(H * W / MAX_PIXELS))
    height, width = int(H / shrink), int(W / shrink)
    linear = image_formation.srgb_decode(np.asarray(display, np.float32).clip(0, top) / np.float32(top))
    rows, columns = windows(H, 0, H / height, height), windows(W, 0, W / width, width)
    return resample(np.broadcast_to(linear, (H, W, 3)), rows, columns)


def windows(size: int, start: int | float, step: int | float, count: int) -> scipy.sparse.csr_array:
    """Weights (count, size): averages of a line of pixels over ``count`` windows, one every ``step`` from ``start``.

    A window is as wide as a step, which averages all pixels alike, but no less than a pixel, which is linear
    interpolation. Beyond its ends the line goes on as it ends.
    """
    centres = start + (np.arange(count) + 0.5) * step
    half = max(step, 1) / 2
    reach = math.ceil(2 * half) + 1
    pixels = np.floor(centres - half).astype(int)[:, None] + np.arange(reach)  # (count, reach)
    low, high = np.maximum(pixels, (centres - half)[:, None]), np.minimum(pixels + 1, (centres + half)[:, None])
    share = (high - low).clip(0) / (2 * half)
    row = np.repeat(np.arange(count), reach)
    at = row, pixels.ravel().clip(0, size - 1)
    return scipy.sparse.coo_array((share.ravel().astype(np.float32), at), (count, size)).tocsr()


def resample(values: np.ndarray, rows: Any, columns: Any) -> np.ndarray:
    """(H, W) or (H, W, 3) to (h, w) or (h, w, 3) by the weights (h, H) and (w, W) of :func:`windows`."""
    H, W, *rest = values.shape
    down = (rows @ values.reshape(H, -1)).reshape(-1, W, *rest)
    across = columns @ np.swapaxes(down, 0, 1).reshape(W, -1)
    return np.ascontiguousarray(np.swapaxes(across.reshape(-1, len(down), *rest), 0, 1))
