"""Does a stored shading belong to its photo? The shading that a photo shows, and the mismatch score.

The mismatch score asks: *is the relief that the normals claim around mouth and nose in the photo?* Where albedo is
smooth, log photo = log shading + log albedo has the details of the shading. Red light shows them best: neither pigment
absorbs much of it. So a low pass is taken away from log red and from the log of the stored shading, and the score is
1 − their correlation, each pixel weighted by the relief that the normals claim there. No truth enters the score.

Reference: Shu et al. (2017), "Neural Face Editing with Intrinsic Image Disentangling": the data set and its shading.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage

from bioface import illumination, image_formation
from bioface.arrays import extent
from bioface.datasets import nfe
from bioface.errors import BiofaceError

LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of linear sRGB, IEC 61966-2-1
DARKEST = 0.01  #: linear RGB below it is all quantisation and clipping: its logarithm stops here
DARKEST_SHADING = 0.05  #: likewise, of shading
DETAIL = 1.5  #: pixels: standard deviation of the low pass that separates details from the rest
WEAK = 1e-3  #: details of a logarithm below it, a tenth of a percent, are rounding
SHIFTS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))  #: pixels that photo and normals may be apart


def stored_shading(faces: nfe.Faces, normals: np.ndarray | None = None) -> np.ndarray:
    """(N, 64, 64) shading nᵀMn of the stored normals (or others) under the stored light, averaged over R, G, B."""
    normals = faces.normals if normals is None else normals
    return illumination.sh_shading(normals.astype(np.float32), faces.lighting.mean(1)) * faces.mask


def luminance(faces: nfe.Faces) -> np.ndarray:
    """(N, 64, 64) luminance of the photos, linear light."""
    return image_formation.srgb_decode(faces.rgb) @ LUMINANCE.astype(np.float32)


def mouth_and_nose(mask: np.ndarray) -> np.ndarray:
    """(N, 64, 64) bool: the pixels of each mask in its window of mouth and nose.

    The window ends above the mask's chin, spans the lower 3/5 of a face 48 pixels high, and a bit more than half the
    face's width around its middle.
    """
    row, column = np.mgrid[: mask.shape[1], : mask.shape[2]]
    window = np.zeros_like(mask)
    for face, out in zip(mask, window, strict=True):
        if not face.any():
            raise BiofaceError("expected a face in every mask, found an empty mask")
        rows, columns = extent(face)
        chin, width, middle = rows.stop - 1, columns.stop - columns.start - 1, column[face].mean()
        out[:] = face & (row > chin - 29) & (row <= chin - 2) & (np.abs(column - middle) < 0.28 * width)
    return window


def detail(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(N, H, W) what a Gaussian low pass over the mask takes away; 0 outside the mask."""
    sigma = (0, DETAIL, DETAIL)
    weight = scipy.ndimage.gaussian_filter(mask.astype(float), sigma)
    smooth = scipy.ndimage.gaussian_filter(np.where(mask, values, 0.0), sigma)
    return np.where(mask, values - smooth / np.where(mask, weight, 1), 0)


def shading_of_photo(faces: nfe.Faces, stored: np.ndarray) -> np.ndarray:
    """(N, 64, 64) logarithm of the shading that the photo shows, as if albedo were constant; 0 outside the mask.

    Its mean is that of log ``stored``, (N, 64, 64).
    """
    target = np.log(np.maximum(stored, DARKEST_SHADING))
    red = np.log(np.maximum(image_formation.srgb_decode(faces.rgb)[..., 0].astype(float), DARKEST))
    apart = np.mean(red - target, axis=(1, 2), keepdims=True, where=faces.mask)
    return np.where(faces.mask, red - apart, 0)


@dataclass(frozen=True)
class Comparison:
    """Stored shading beside the photo, for N faces; every score is a function of one. All are (N, 64, 64) but shift."""

    mask: np.ndarray  #: bool, the face
    window: np.ndarray  #: bool, mouth and nose in it
    stored: np.ndarray  #: stored shading
    log_photo: np.ndarray  #: log shading that the photo shows, see :func:`shading_of_photo`
    stored_detail: np.ndarray  #: of its logarithm, 0 where weaker than :data:`WEAK`, moved by ``shift``
    photo_detail: np.ndarray  #: likewise, where it is
    shift: np.ndarray  #: (N, 2) pixels (down, right) by which the stored details fit the photo's best over the face


def compare(faces: nfe.Faces) -> Comparison:
    """Put stored shading and photo side by side, with :data:`SHIFTS` between them."""
    stored = stored_shading(faces)
    log_photo = shading_of_photo(faces, stored)
    log_stored = np.log(np.maximum(stored, DARKEST_SHADING)).astype(float)
    details = (detail(values, faces.mask) for values in (log_photo, log_stored))
    photo, still = (np.where(np.abs(d) > WEAK, d, 0) for d in details)
    moved = [np.where(faces.mask, np.roll(still, shift, (1, 2)), 0) for shift in SHIFTS]
    best = np.argmax([cosine(photo, m, faces.mask) for m in moved], axis=0)
    return Comparison(
        mask=faces.mask,
        window=mouth_and_nose(faces.mask),
        stored=stored,
        log_photo=log_photo,
        stored_detail=np.choose(best[:, None, None], moved),
        photo_detail=photo,
        shift=np.array(SHIFTS)[best],
    )


def cosine(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(N,) of two stacks of maps, weighted; 0 where one of them is 0."""
    lengths = np.sqrt((weight * a * a).sum((1, 2)) * (weight * b * b).sum((1, 2)))
    return (weight * a * b).sum((1, 2)) / np.where(lengths > 0, lengths, 1)


def mismatch_score(faces: nfe.Faces) -> np.ndarray:
    """(N,) how little the stored shading fits the photo around mouth and nose, higher for worse."""
    c = compare(faces)
    return 1 - cosine(c.photo_detail, c.stored_detail, c.window * np.abs(c.stored_detail))
