"""What is wrong with a face data set: in its files, by the usual mistakes, and where shading belies its photo.

The score that finds such shading is in :mod:`bioface.shading`.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


def open_source(limit: int = 512) -> Source:
    """NFE when its files are in the data folder, at most ``limit`` faces evenly over them; else the twin, whole.

    Raises
    ------
    DataError : a damaged file, or hardly a face in the files
    """
    files = nfe.find()
    if files:
        every = nfe.NFE([*files.values()])
        faces = every[np.unique(np.linspace(0, len(every) - 1, min(limit, len(every))).round().astype(int))]
        large = faces.mask.sum((1, 2)) >= SMALLEST
        if large.sum() < 2:
            raise DataError(
                every.image_files[0].parent, f"faces with masks of at least {SMALLEST} pixels", f"{large.sum()}"
            )
        streams = {f"{number:02d}": nfe.NFE(file) for number, file in files.items()}
        return Source("NFE (measured)", streams, faces[large], left_out=int((~large).sum()))
    from bioface.datasets import twin  # needs the ray caster, which NFE does not

    where = twin.make()
    streams = {split: nfe.NFE(where / twin.file_names(split)[0]) for split in twin.SPLITS}
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
    known = mask[:, where]
    errors = np.where(known, maps[:, where], 0.0)  # (N, pixels)
    count = known.sum(0)
    chance = rng.choice([-1.0, 1.0], (500, len(maps)))
    signs = np.concatenate([np.ones((1, len(maps))), chance])
    mean = signs @ errors / count
    variance = ((errors**2).sum(0) - count * mean**2) / (count - 1)
    shares = np.mean(np.abs(mean) > 2 * np.sqrt(variance / count), axis=1)
    return float(shares[0]), shares[1:]


# --- the files ---------------------------------------------------------------------------------------------


class Check(NamedTuple):
    """One line of the audit: what was looked at, what was found, and "ok", "look" (a reader should) or "wrong"."""

    check: str
    found: str
    verdict: str


def _verdict(good: bool | np.bool_, otherwise: str = "wrong") -> str:
    return "ok" if good else otherwise


def check_files(source: Source) -> list[Check]:
    """Layout and value ranges of the files as they are stored, from the first 64 faces of each."""
    counts = ", ".join(f"{name} {len(stream)}" for name, stream in source.streams.items())
    raw = np.concatenate([stream.raw(slice(64)) for stream in source.streams.values()])
    last = np.moveaxis(raw, 1, -1)
    mask = last[..., 6]
    inside = last[mask > 0.5]  # (pixels, 10)
    rgb, normals = inside[:, :3], inside[:, 3:6]
    lengths = [np.quantile(np.linalg.norm(v, axis=-1), [0.01, 0.5, 0.99]) for v in (normals, 2 * normals - 1)]
    undecoded, decoded = ("length {1:.3f} ({0:.3f} to {2:.3f} for 98 %)".format(*v) for v in lengths)
    is_unit = abs(lengths[1] - 1).max() < 0.02
    clipped = ((rgb >= 1) | (rgb <= 0)).any(1).mean()
    levels = np.abs(255 * rgb - np.rint(255 * rgb)).max()
    part = ((mask > 0) & (mask < 1)).mean()
    masks = f"{part:.1%} neither 0 nor 1; {(mask > 0.5).mean():.0%} is face"
    few = f"{source.left_out} of {source.left_out + len(source.faces)}"
    return [
        Check("faces (N, 10, 64, 64), lights (N, 3, 9)", counts, "ok"),  # the reader refuses anything else
        Check("RGB, channels 0–2", f"{rgb.min():.3g} to {rgb.max():.3g}", _verdict(rgb.max() > 0.5, "look")),
        Check("  on 8-bit levels", f"furthest off {levels:.3f} of a level", _verdict(levels < 1e-3, "look")),
        Check("  clipped at 0 or 1, inside the mask", f"{clipped:.1%} of pixels", _verdict(clipped < 0.05, "look")),
        Check("normals, channels 3–5, as stored", undecoded, "look"),
        Check("  decoded by 2x − 1", decoded, _verdict(is_unit)),
        Check("mask, channel 6", masks, _verdict(part < 0.01)),
        Check("  hardly a face, left out below", few, _verdict(source.left_out == 0, "look")),
    ]


def check_coordinates(faces: nfe.Faces) -> list[Check]:
    """What channels 7–9 are: how each goes along with column, height and shading, inside the mask."""
    row, column = (np.broadcast_to(g, faces.mask.shape).astype(np.float32) for g in np.mgrid[:64, :64])
    found = []
    for number, channel in enumerate(np.moveaxis(faces.coordinates, -1, 0), start=7):
        others = (column, -row, shading.stored_shading(faces))
        x, y, light = (np.median(np.nan_to_num(metrics.correlation(channel, o, faces.mask))) for o in others)
        text = f"column {x:+.2f}, height {y:+.2f}, shading {light:+.2f}"
        found.append(Check(f"channel {number}: correlation with", text, _verdict(abs(light) < 0.7, "look")))
    return found


def own_light(faces: nfe.Faces, rng: np.random.Generator) -> float:
    """How often a face's own light explains its photo better than another face's: 1 always, 0.5 by chance.

    Explains: correlation of luminance with nᵀMn. Files whose lights are out of step come out at 0.5.
    """
    photo = shading.luminance(faces)

    def fit(light: np.ndarray) -> np.ndarray:
        shown = shading.stored_shading(dataclasses.replace(faces, lighting=light))
        return np.nan_to_num(metrics.correlation(photo, shown, faces.mask), nan=-1)

    own = fit(faces.lighting)
    return float(np.mean([own > fit(faces.lighting[other_faces(len(faces), rng)]) for _ in range(8)]))


def check_shading(faces: nfe.Faces, rng: np.random.Generator) -> list[Check]:
    """Whether normals, lights and photos agree with one another."""
    positive = float((shading.stored_shading(faces)[faces.mask] > 0).mean())
    wins = own_light(faces, rng)
    x = np.log(np.maximum(shading.stored_shading(faces), shading.DARKEST_SHADING))
    y = np.log(np.maximum(shading.luminance(faces), shading.DARKEST))
    slopes = []
    for a, b, inside in zip(x, y, faces.mask, strict=True):
        covariance = np.cov(a[inside], b[inside])
        slopes.append(covariance[0, 1] / max(covariance[0, 0], 1e-9))
    low, median, high = np.quantile(slopes, [0.25, 0.5, 0.75])
    slope = f"median {median:.2f}, quartiles {low:.2f} to {high:.2f}"
    return [
        Check("nᵀMn positive, inside the mask", f"{positive:.2%} of pixels", _verdict(positive > 0.99, "look")),
        Check("own light beats a stranger's", f"{wins:.1%} of pairs", _verdict(wins > 0.8)),
        # 1 in linear light; display values would show 2.2
        Check("log photo against log shading, slope", slope, _verdict(0.6 < median < 1.6, "look")),
    ]


def check_duplicates(source: Source) -> list[Check]:
    """The same photo twice among the faces under audit, and the same person in two splits where that is known."""
    digests = {hashlib.sha256(photo.tobytes()).digest() for photo in source.faces.rgb}
    twice = len(source.faces) - len(digests)
    found = [Check("photos that occur twice", f"{twice} of {len(source.faces)}", _verdict(twice == 0))]
    if source.faces.truth is None:  # people were photographed
        return [*found, Check("people in more than one split", "not known: files name no people", "look")]
    files = np.array([name.split(":")[0] for name in source.faces.names])
    people = [set(source.faces.truth.identity[files == file].tolist()) for file in np.unique(files)]
    shared = sum(map(len, people)) - len(set().union(*people))
    return [*found, Check("people in more than one split", f"{shared}", _verdict(shared == 0))]
