"""What is wrong with a face data set: what the usual mistakes cost, and shading that belies its photo.

The score itself is in :mod:`bioface.shading`; here it is chosen among others. :mod:`study.checks` looks at the files.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage

from bioface import image_formation, metrics, shading
from bioface.datasets import nfe
from bioface.errors import BiofaceError, DataError, unknown_name

SMALLEST = 400  #: pixels that a mask must have, a tenth of the image, for its face to be looked at


# --- where the faces are -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """The data set under audit.

    Attributes
    ----------
    name : "NFE (measured)" or "twin (synthetic)", as claims and figures say it
    streams : its files by split (twin) or by number (NFE)
    faces : those under audit, with their truth when there is one
    left_out : how many more would be, had they a mask of :data:`SMALLEST` pixels
    """

    name: str
    streams: Mapping[str, nfe.NFE]
    faces: nfe.Faces
    left_out: int = 0

    @property
    def is_real(self) -> bool:
        """Whether people were photographed: rendered faces have a truth."""
        return self.faces.truth is None


def open_source(limit: int = 512) -> Source:
    """NFE when its files are in the data folder, else the twin.

    Parameters
    ----------
    limit : at most so many NFE faces, evenly over the files; the twin is taken whole

    Raises
    ------
    BiofaceError : a limit below 2
    DataError : a damaged file, or hardly a face in the files
    """
    if limit < 2:
        raise BiofaceError(f"expected at least 2 faces to audit, found {limit}")
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


def _rms(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.sqrt((values**2 * where).sum((1, 2)) / where.sum((1, 2)))


def _standardised(c: shading.Comparison) -> np.ndarray:
    """Residual around mouth and nose after the data set's mean residual, in units of its spread there."""
    count = c.mask.sum(0).clip(2)
    mean = (c.residual * c.mask).sum(0) / count
    spread = np.sqrt(((c.residual - mean) ** 2 * c.mask).sum(0) / count)
    return _rms((c.residual - mean) / np.maximum(spread, 0.01), c.window)


def _missing(c: shading.Comparison) -> np.ndarray:
    """1 − slope of the photo's details on the stored ones: the share of the stored relief that is not there."""
    stored = np.where(c.window, c.stored_detail, 0)
    return 1 - (stored * c.photo_detail).sum((1, 2)) / np.maximum((stored**2).sum((1, 2)), 1e-9)


def _uncorrelated(c: shading.Comparison, where: np.ndarray) -> np.ndarray:
    return 1 - np.nan_to_num(metrics.correlation(np.exp(c.log_photo), c.stored.astype(float), where))


def _unlike(c: shading.Comparison) -> np.ndarray:
    return 1 - shading.cosine(c.photo_detail, c.stored_detail, c.window)


#: Every score that was tried: how to read the photo, and what to make of the comparison, highest for the worst. The
#: first is the plain one to beat, the last was chosen on the twin's training faces.
SCORES: dict[str, tuple[str, Callable[[shading.Comparison], np.ndarray]]] = {
    "1 − correlation with luminance, face": ("luminance", lambda c: _uncorrelated(c, c.mask)),
    "1 − correlation with luminance, mouth + nose": ("luminance", lambda c: _uncorrelated(c, c.window)),
    "residual of details": ("red", lambda c: _rms(c.residual, c.window)),
    "  / the rest of the face's": ("red", lambda c: _rms(c.residual, c.window) / _rms(c.residual, c.mask & ~c.window)),
    "  standardised by the data set": ("red", _standardised),
    "missing details, pigments out": ("pigments", _missing),
    "1 − correlation of details, pigments out": ("pigments", _unlike),
    "1 − correlation of details, red": ("red", _unlike),
    "  weighted by stored relief, pigments out": ("pigments", shading.unlike_relief),
    "  weighted by stored relief, red": ("red", shading.unlike_relief),
}
BASELINE, CHOSEN = next(iter(SCORES)), next(reversed(SCORES))


def mismatch_score(faces: nfe.Faces, score: str = CHOSEN, align: bool = True) -> np.ndarray:
    """(N,) how little the stored shading fits the photo around mouth and nose, higher for worse.

    Parameters
    ----------
    faces : photos, normals, masks, lights; their truth is not looked at
    score : a name in :data:`SCORES`
    align : allow one pixel between photo and normals

    Raises
    ------
    BiofaceError : an unknown score
    """
    if score not in SCORES:
        raise unknown_name("score", score, SCORES)
    reading, function = SCORES[score]
    return function(shading.compare(faces, reading, align))


def all_scores(faces: nfe.Faces) -> dict[str, np.ndarray]:
    """(N,) of every score in :data:`SCORES`."""
    compared = {reading: shading.compare(faces, reading) for reading in shading.READINGS}
    return {name: function(compared[reading]) for name, (reading, function) in SCORES.items()}


def threshold(scores: np.ndarray, labels: np.ndarray, false_alarms: int | float = 0.05) -> float:
    """The score that so small a share of matched faces exceeds.

    Raises
    ------
    BiofaceError : a share outside 0–1, or no matched face
    """
    if not 0 < false_alarms < 1:
        raise BiofaceError(f"expected a share of false alarms within 0–1, found {false_alarms}")
    if labels.all():
        raise BiofaceError("expected matched faces to set a threshold by, found none")
    return float(np.quantile(scores[~labels], 1 - false_alarms))


def estimated_share(scores: np.ndarray, limit: int | float, reference: np.ndarray, labels: np.ndarray) -> float:
    """Share of mismatched faces behind ``scores``, from the share above ``limit`` and how often that errs.

    Parameters
    ----------
    scores : (N,) of faces without labels
    limit : what counts as flagged
    reference, labels : (M,) scores and labels of the faces that tell how often flags are right (Rogan & Gladen
        1978, "Estimating prevalence from the results of a screening test")

    >>> reference, labels = np.array([0.0, 0, 0, 1, 1, 1]), np.array([False, False, False, True, True, True])
    >>> estimated_share(np.array([0.0, 0, 0, 1]), 0.5, reference, labels)
    0.25
    """
    found, alarms = (reference[labels] > limit).mean(), (reference[~labels] > limit).mean()
    if not found > alarms:
        raise BiofaceError(f"expected a limit that finds more than it alarms, found {found:.3f} and {alarms:.3f}")
    return float(np.clip(((scores > limit).mean() - alarms) / (found - alarms), 0, 1))


# --- harder faces ------------------------------------------------------------------------------------------

#: What a real data set does to photos and normals of *all* faces, matched or not. The twin is too clean without:
#: its matched normals are exact to the last bit.
DEGRADATIONS: dict[str, tuple[str, ...]] = {
    "none": (),
    "photo soft and noisy": ("photo",),
    "normals smoothed": ("normals",),
    "normals off by ≤ 1 px": ("offset",),
    "light off by 15 %": ("light",),
    "all of these": ("photo", "normals", "offset", "light"),
}


def degrade(faces: nfe.Faces, what: str, rng: np.random.Generator) -> nfe.Faces:
    """The faces as a less careful data set would hold them; truth is left as it is.

    Parameters
    ----------
    what : a name in :data:`DEGRADATIONS`. ``photo``: blurred by 0.6 pixels, noise of 0.015 in display values;
        ``normals``: smoothed by 1.5 pixels, as a fitted model smooths; ``offset``: normals moved by −1, 0 or 1
        pixel each way; ``light``: each coefficient times 1 ± 0.15

    Raises
    ------
    BiofaceError : an unknown degradation
    """
    if what not in DEGRADATIONS:
        raise unknown_name("degradation", what, DEGRADATIONS)
    kinds = DEGRADATIONS[what]
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
    """Faces with truth whose stored normals go only a ``share`` (0–1) of the way from the true to the stored.

    Raises
    ------
    BiofaceError : no truth, a share outside 0–1
    """
    if faces.truth is None:
        raise BiofaceError("expected faces with truth (the twin), found none")
    if not 0 <= share <= 1:
        raise BiofaceError(f"expected a share within 0–1, found {share}")
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


@dataclass(frozen=True)
class Cost:
    """What a wrong shading costs against the right one, for N faces.

    Attributes
    ----------
    correlation : (N,) with the right shading
    unexplained : (N,) what no line through it explains, √(1 − r²), in standard deviations of the right shading
    error : (N,) RMSE after the best scale, in the same unit
    """

    correlation: np.ndarray
    unexplained: np.ndarray
    error: np.ndarray


def cost(shading: np.ndarray, right: np.ndarray, mask: np.ndarray) -> Cost:
    """What it costs to take ``shading`` for ``right``; a constant one correlates with nothing, so 0."""
    r = np.nan_to_num(metrics.correlation(shading, right, mask), nan=0.0)
    count = mask.sum((1, 2))
    mean = (right * mask).sum((1, 2)) / count
    deviation = np.sqrt(((right - mean[:, None, None]) ** 2 * mask).sum((1, 2)) / count)
    error = metrics.scale_aligned_rmse(shading, right, mask) / np.maximum(deviation, 1e-6)
    return Cost(correlation=r, unexplained=np.sqrt(1 - r**2), error=error)


# --- the error floor ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Floor:
    """Error of the stored shading itself against the truth, for N faces: what a perfect network would be charged.

    Attributes
    ----------
    raw_face, raw_window : (N,) RMSE over the face, over mouth and nose
    aligned_face, aligned_window : (N,) the same after the best scale per image
    """

    raw_face: np.ndarray
    aligned_face: np.ndarray
    raw_window: np.ndarray
    aligned_window: np.ndarray


def floor(faces: nfe.Faces) -> Floor:
    """RMSE of the stored against the true diffuse shading, in the unit of Table 1's diffuse column.

    Raises
    ------
    BiofaceError : faces without truth
    """
    if faces.truth is None:
        raise BiofaceError("expected faces with truth (the twin), found none")
    stored, true = shading.stored_shading(faces), faces.truth.diffuse_shading
    window = shading.mouth_and_nose(faces.mask)
    aligned = metrics.best_scale(stored, true, faces.mask)[:, None, None] * stored  # of the face, also for the window
    return Floor(*(metrics.rmse(values, true, where) for where in (faces.mask, window) for values in (stored, aligned)))


def mean_map(maps: np.ndarray, mask: np.ndarray, least: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """Mean over faces and its standard error, (H, W) each; NaN where too few faces have the pixel.

    Parameters
    ----------
    maps : (N, H, W)
    mask : (N, H, W) bool
    least : share of the faces that must have a pixel; 5 faces in any case
    """
    count = mask.sum(0)
    enough = count >= max(5, least * len(mask))
    safe = np.where(enough, count, 2)
    mean = (maps * mask).sum(0) / safe
    variance = ((maps - mean) ** 2 * mask).sum(0) / (safe - 1)
    return np.where(enough, mean, np.nan), np.where(enough, np.sqrt(variance / safe), np.nan)


def biased_share(
    maps: np.ndarray, mask: np.ndarray, where: np.ndarray, rng: np.random.Generator, draws: int = 500
) -> tuple[float, np.ndarray]:
    """Share of pixels whose mean over faces is beyond 2 standard errors, and what chance makes of it.

    Parameters
    ----------
    maps, mask : (N, H, W) signed errors, and where they count
    where : (H, W) bool, the pixels to look at
    draws : how often the faces' signs are flipped at random, which leaves every face as it is, neighbours as alike
        as they are, and no bias

    Returns
    -------
    the share, and (draws,) the shares under flipped signs

    Raises
    ------
    BiofaceError : no pixel that 5 faces have
    """
    where = where & (mask.sum(0) >= 5)
    if not where.any():
        raise BiofaceError("expected pixels that at least 5 faces have, found none")
    errors = np.where(mask, maps, 0)[:, where]  # (N, pixels)
    count, power = mask[:, where].sum(0), (errors**2).sum(0)

    def share(signs: np.ndarray) -> np.ndarray:
        mean = signs @ errors / count
        variance = (power / count - mean**2) / (count - 1)
        return (mean**2 > 4 * variance).mean(-1)

    flipped = share(rng.choice([-1.0, 1.0], (draws, len(maps))))
    return float(share(np.ones((1, len(maps))))[0]), flipped


# --- tables ------------------------------------------------------------------------------------------------


def text_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns side by side in plain text, numbers right, words left.

    >>> print(text_table(["score", "AUC"], [["gain", "0.99"], ["plain correlation", "0.7"]]))
    score               AUC
    gain               0.99
    plain correlation   0.7
    """
    cells = [list(map(str, row)) for row in [header, *rows]]
    if any(len(row) != len(header) for row in cells):
        raise BiofaceError(f"expected {len(header)} cells in each row, found {sorted(set(map(len, cells)))}")
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [all(row[k][:1] in "0123456789+-−." for row in cells[1:]) for k in range(len(header))]
    return "\n".join(
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in cells
    )
