"""What is wrong with a face data set: what the usual mistakes cost, and what shading does that belies its photo.

The score that finds such shading is in :mod:`bioface.shading`. :mod:`study.checks` looks at the files.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage

from bioface import image_formation, metrics, shading
from bioface.datasets import nfe
from bioface.errors import DataError

SMALLEST = 400  #: pixels that a mask must have, a tenth of the image, for its face to be looked at


# --- where the faces are -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """The data set under audit."""

    name: str  #: "NFE (measured)" or "twin (synthetic)", as claims and figures say it
    streams: Mapping[str, nfe.NFE]  #: its files by split (twin) or by number (NFE)
    faces: nfe.Faces  #: those under audit, with their truth when there is one
    left_out: int = 0  #: how many more would be, had they a mask of :data:`SMALLEST` pixels

    @property
    def is_real(self) -> bool:
        """Whether people were photographed: rendered faces have a truth."""
        return self.faces.truth is None


def open_source(limit: int = 512) -> Source:
    """NFE when its files are in the data folder, at most ``limit`` faces evenly over them; else the twin, whole.

    Raises
    ------
    DataError : a damaged file, or hardly a face in the files
    """
    pairs = nfe.find()
    if pairs:
        every = nfe.NFE([p.images for p in pairs], [p.lights for p in pairs])
        faces = every[np.unique(np.linspace(0, len(every) - 1, min(limit, len(every))).round().astype(int))]
        large = faces.mask.sum((1, 2)) >= SMALLEST
        if large.sum() < 2:
            raise DataError(pairs[0].images.parent, f"faces with masks of at least {SMALLEST} pixels", f"{large.sum()}")
        streams = {f"{p.number:02d}": nfe.NFE(p.images, p.lights) for p in pairs}
        return Source("NFE (measured)", streams, faces[large], left_out=int((~large).sum()))
    from bioface.datasets import twin  # needs the ray caster, which NFE does not

    where = twin.make()
    files = {split: twin.file_names(split) for split in twin.SPLITS}
    streams = {split: nfe.NFE(where / images, where / lights) for split, (images, lights, _) in files.items()}
    return Source("twin (synthetic)", streams, twin.load())


# --- does the shading belong to the photo? -----------------------------------------------------------------


def plain_score(faces: nfe.Faces) -> np.ndarray:
    """(N,) 1 − correlation of the photo's luminance with the stored shading around mouth and nose: the one to beat."""
    stored = shading.stored_shading(faces)
    window = shading.mouth_and_nose(faces.mask)
    return 1 - np.nan_to_num(metrics.correlation(shading.luminance(faces), stored, window))


# --- harder faces ------------------------------------------------------------------------------------------

#: What a real data set does to photos and normals of *all* faces, matched or not; the twin's are exact to the last bit.
DEGRADATIONS = ("photo", "normals", "offset", "light")


def degrade(faces: nfe.Faces, rng: np.random.Generator, kinds: Sequence[str] = DEGRADATIONS) -> nfe.Faces:
    """The faces as a less careful data set would hold them; truth is left as it is.

    Parameters
    ----------
    kinds : of ``photo``: blurred by 0.6 pixels, noise of 0.015 in display values; ``normals``: smoothed by 1.5 pixels,
        as a fitted model smooths; ``offset``: normals moved by −1, 0 or 1 pixel each way; ``light``: each coefficient
        times 1 ± 0.15
    """
    rgb, normals, lighting = faces.rgb, faces.normals, faces.lighting
    if "photo" in kinds:
        soft = scipy.ndimage.gaussian_filter(rgb, (0, 0.6, 0.6, 0))
        rgb = np.clip(soft + rng.normal(0, 0.015, rgb.shape), 0, 1).astype(np.float32)
    if "normals" in kinds:
        normals = _unit(scipy.ndimage.gaussian_filter(normals, (0, 1.5, 1.5, 0)), faces.mask)
    if "offset" in kinds:
        shifts = rng.integers(-1, 2, (len(faces), 2))
        moved = np.stack([np.roll(n, tuple(s), (0, 1)) for n, s in zip(normals, shifts, strict=True)])
        known = (moved != 0).any(-1, keepdims=True)  # at the edge of the mask the old ones stay
        normals = _unit(np.where(known, moved, normals), faces.mask)
    if "light" in kinds:
        lighting = (lighting * rng.normal(1, 0.15, (len(faces), 1, 9))).astype(np.float32)
    return dataclasses.replace(faces, rgb=rgb, normals=normals, lighting=lighting)


def partly_wrong(faces: nfe.Faces, share: int | float) -> nfe.Faces:
    """Faces of the twin whose stored normals go only a ``share`` (0–1) of the way from the true to the stored."""
    blend = faces.truth.normals + share * (faces.normals - faces.truth.normals)
    return dataclasses.replace(faces, normals=_unit(blend, faces.mask))


def _unit(vectors: np.ndarray, mask: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(mask[..., None], vectors / np.where(length > 0, length, 1), 0).astype(np.float32)


# --- mistakes ----------------------------------------------------------------------------------------------

RIGHT = "right: nᵀMn of decoded normals"


def mistakes(faces: nfe.Faces, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What published re-implementations take for the shading: (N, 64, 64) each, :data:`RIGHT` first.

    ``rng`` picks the other face that lends its light.
    """
    right = shading.stored_shading(faces)
    borrowed = dataclasses.replace(faces, lighting=faces.lighting[other_faces(len(faces), rng)])
    low = np.where(faces.mask, right, np.inf).min((1, 2), keepdims=True)
    high = np.where(faces.mask, right, -np.inf).max((1, 2), keepdims=True)
    shadings = {
        RIGHT: right,
        "normals not decoded": shading.stored_shading(faces, (faces.normals + 1) / 2),
        "light of another face": shading.stored_shading(borrowed),
        "a normal component (z)": faces.normals[..., 2],
        "coordinate map as shading": faces.coordinates.mean(-1),
        "min–max stretched": (right - low) / np.where(high > low, high - low, 1),
        "display taken for linear": image_formation.srgb_decode(right / np.where(high > 0, high, 1)),
    }
    return {name: np.where(faces.mask, values, 0).astype(np.float32) for name, values in shadings.items()}


def other_faces(count: int, rng: np.random.Generator) -> np.ndarray:
    """For each of so many faces the number of another one."""
    return (np.arange(count) + rng.integers(1, count, count)) % count


def cost(shading: np.ndarray, right: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What it costs to take ``shading`` for ``right``, (N, H, W) each.

    Returns
    -------
    (N,) correlation with the right one, 0 for a constant; and (N,) RMSE after the best scale, in standard deviations of
    the right one, so that a constant costs 1
    """
    count = mask.sum((1, 2))
    mean = (right * mask).sum((1, 2)) / count
    deviation = np.sqrt(((right - mean[:, None, None]) ** 2 * mask).sum((1, 2)) / count)
    error = metrics.scale_aligned_rmse(shading, right, mask) / np.maximum(deviation, 1e-6)
    return np.nan_to_num(metrics.correlation(shading, right, mask)), error


# --- what wrong shading does -------------------------------------------------------------------------------


def floor(faces: nfe.Faces) -> dict[str, np.ndarray]:
    """RMSE (N,) of the twin's stored shading against the true, in the unit of Table 1's diffuse column, by "where".

    "face" and "mouth and nose": what a network that recovers the true shading is charged.
    """
    where = {"face": faces.mask, "mouth and nose": shading.mouth_and_nose(faces.mask)}
    stored = shading.stored_shading(faces)
    return {name: metrics.rmse(stored, faces.truth.diffuse_shading, inside) for name, inside in where.items()}


def mean_map(maps: np.ndarray, mask: np.ndarray, least: int | float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """Mean over faces and its standard error, (H, W) each; NaN where too few faces have the pixel.

    ``maps`` and ``mask`` are (N, H, W); ``least`` is the share of faces that must have a pixel, 5 in any case.
    """
    count = mask.sum(0)
    enough = count >= max(5, least * len(mask))
    safe = np.where(enough, count, 2)
    mean = (maps * mask).sum(0) / safe
    variance = ((maps - mean) ** 2 * mask).sum(0) / (safe - 1)
    return np.where(enough, mean, np.nan), np.where(enough, np.sqrt(variance / safe), np.nan)


def biased_share(
    maps: np.ndarray, mask: np.ndarray, where: np.ndarray, rng: np.random.Generator
) -> tuple[float, np.ndarray]:
    """Share of pixels ``where`` (H, W) whose mean over faces is beyond 2 standard errors, and what chance makes of it.

    Returns
    -------
    the share, and (500,) the shares when whole faces change sign at random: every face stays as it is, neighbours as
    alike as they are, and no bias is left
    """
    where = where & (mask.sum(0) >= 5)
    errors, known = maps[:, None, where], mask[:, None, where]  # (N, 1, pixels)

    def share(signs: np.ndarray) -> float:
        mean, error = mean_map(signs[:, None, None] * errors, known, least=0)
        return float(np.mean(np.abs(mean) > 2 * error))

    return share(np.ones(len(maps))), np.array([share(s) for s in rng.choice([-1.0, 1.0], (500, len(maps)))])
