"""Table 1: methods held against the truth of faces, known or stood in for by a fit of all their bands; verdicts.

The paper's protocol makes the truth: a multispectral face is fitted pixel by pixel (:mod:`bioface.smith2019`); the maps
that come out stand in for the truth. The same face is rendered to RGB under D65 with the mean camera, taken apart, and
compared. On the twin's people as no usual face shows them an error stands beside its share of what a constant gets on
the same faces: 1 is no skill at all, and what makes faces alike makes errors small without any.

Reference: Alotaibi & Smith (2019), "BioFaceNet", BMVC, section 4.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bioface import arrays, camera, illumination, metrics, skin, smith2019, spectra
from bioface.datasets import twin
from bioface.datasets.cubes import Cube
from bioface.datasets.nfe import Faces
from bioface.errors import BiofaceError
from bioface.maps import Decomposition, of_twin
from study import cache

#: The table as published: RMSE on 25 ISET faces; SfSNet has no maps of pigments or highlights.
AS_PUBLISHED = {
    "SfSNet": {"diffuse": 0.1898, "albedo": 0.1452, "reconstruction": 0.2831},
    "BioFaceNet": dict(zip(metrics.TABLE1, (0.1720, 0.0875, 0.1154, 0.5972, 0.2912, 0.0713), strict=True)),
}
#: How near to a published number ours must be, two standard errors included, to reproduce it, as a share of it: the
#: paper states no spread. Further away by as much, it is not reproduced; between the two nothing can be said.
NEAR = 0.2
#: What the methods are, by the names that tables of numbers have for them.
NAMES = {
    "predict 0": "zero everywhere",
    "training mean": "mean of the training faces",
    "image mean": "mean colour of the face",
    "density, ICA": "optical density, ICA",
    "density, fixed": "optical density, fixed",
    "likeliest": "Bayes, a pixel, likeliest",
    "expected": "Bayes, a pixel",
    "measured skin, whole face": "Bayes, face, measured skin",
    "expected, whole face": "Bayes, face, twin's skins",
    "published": "our recipe, paper's weights",
    "published, three seeds": "our recipe, three seeds",
    "published + measured skin": "network taught by Bayes",
    "synthetic truth": "network taught true maps",
    "U-Net, no skin model": "U-Net without skin model",
    "not recoloured": "network, not recoloured",
    "the network that ships": "network that ships",
}
BRIGHTNESS = "brightness"  #: the column that Table 1 lacks, see :func:`brightness`
COLUMNS = (*metrics.TABLE1, BRIGHTNESS)

Predict = Callable[[np.ndarray, np.ndarray], Decomposition]
Methods = Mapping[str, Predict | Sequence[Predict]]  #: by name; several where one was trained from several seeds
MARGIN = 0.1  # of the mask's bounding square, around it

#: Where the table that renders the maps ends: fractions beyond it would be fitted with another shading.
_BOUNDS = ((0.0, skin.MELANIN_RANGE[1]), (0.0, skin.HAEMOGLOBIN_RANGE[1]))


def pseudo_truth(cube: Cube, size: int = 64) -> Decomposition:
    """The maps that a fit of all bands gives, with the RGB image that the mean camera takes of the face under D65.

    A cube of another size is cut to its mask's bounding square with a margin, and its reflectance factor averaged over
    the area of each new pixel, over skin only where more than half of it is. The image is made of that factor, not of
    the fit. Where there are no bands, at 400 and 410 nm of the ISET faces, the camera gets no light; white stays white.

    Parameters
    ----------
    cube : one multispectral face; without a mask it is all face
    size : pixels along each side

    Returns
    -------
    Decomposition (size, size), ``layered`` skin within the ends of the table, specular shading in the fit's own scale.
    The mask holds the pixels whose fit converged. ``camera_b`` is 0, the illuminant D65.

    Raises
    ------
    BiofaceError : fewer than four bands within 400–720 nm, no pixel whose fit converges
    """
    source = torch.from_numpy(cube.wavelengths)
    bands = spectra.bands_to_fit(source)
    to_bands = spectra.resampling_matrix(source, bands).numpy()
    if cube.shape[:2] == (size, size):
        factor, mask = np.nan_to_num(cube.reflectance @ to_bands.T), cube.mask  # outside the mask it may be missing
    else:
        factor, mask = _shrunk(cube, to_bands, size)
    light = to_bands @ cube.illuminant  # of each band its weight in the fit, as when the cube is fitted as it is
    fit = smith2019.fit(factor * light, bands, light, mask, model="layered", bounds=_BOUNDS)
    mask = mask & fit.converged
    if not mask.any():
        raise BiofaceError(f"{cube.name}: expected pixels whose fit converges, found none")
    d65 = illumination.standard("D65")
    present, to_rgb = _camera(bands, d65)
    image = factor @ (to_rgb @ spectra.resampling_matrix(bands, present)).numpy().T
    m, h, i_d, i_s = (np.nan_to_num(values) for values in np.moveaxis(fit.maps, -1, 0))  # NaN outside its mask
    return Decomposition.of_maps(m, h, i_d, i_s, np.zeros(2), d65.numpy(), image, mask)


def pseudo_truths(cubes: Iterable[Cube], size: int = 64) -> Decomposition:
    """:func:`pseudo_truth` of several faces, (N, size, size)."""
    return arrays.join([pseudo_truth(cube, size)[None] for cube in cubes])


def _camera(bands: Tensor, illuminant: Tensor) -> tuple[Tensor, Tensor]:
    """Wavelengths (P,) of the grid that bands reach, and the matrix (3, P) from reflectance there to linear RGB."""
    grid = spectra.WAVELENGTHS
    inside = (grid >= bands[0] - 1e-6) & (grid <= bands[-1] + 1e-6)
    to_rgb = camera.reflectance_to_rgb(illuminant * inside, camera.CameraModel.load().sensitivity())
    return grid[inside], to_rgb[:, inside]


def _shrunk(cube: Cube, to_bands: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(size, size, B) mean reflectance factor over the area of each new pixel, and (size, size) where it is face."""
    height, width, _ = cube.shape
    if cube.mask.all():
        side = float(max(height, width))
        top, left = (height - side) / 2, (width - side) / 2
    else:
        rows, columns = (np.flatnonzero(cube.mask.any(axis)) for axis in (1, 0))
        side = float(max(np.ptp(rows), np.ptp(columns))) + 1
        side *= 1 + 2 * MARGIN
        top, left = (0.5 * (v[0] + v[-1] + 1) - side / 2 for v in (rows, columns))
    down, across = _areas(top, side, size, height), _areas(left, side, size, width)
    total = np.zeros((2, size, size, len(to_bands)))  # over all of a pixel, and over its skin
    for rows, radiance in cube.blocks():
        factor = np.nan_to_num(radiance / cube.illuminant @ to_bands.T)
        for k, part in enumerate((factor, factor * cube.mask[rows, :, None])):
            total[k] += np.einsum("oh,hpb->opb", down[:, rows], np.einsum("pw,hwb->hpb", across, part), optimize=True)
    area, covered = down.sum(1)[:, None] * across.sum(1), down @ cube.mask @ across.T
    mask = covered > 0.5 * (side / size) ** 2
    weight = np.where(mask, covered, area)[..., None]
    return np.where(mask[..., None], total[1], total[0]) / np.where(weight > 0, weight, 1), mask


def _areas(start: float, side: float, size: int, count: int) -> np.ndarray:
    """(size, count): how much of each of ``count`` old pixels each of ``size`` new ones covers, 0 to 1."""
    edges = start + side * np.arange(size + 1) / size
    old = np.arange(count)
    return (np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)).clip(0, 1)


# --- rows --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One method on some faces."""

    errors: dict[str, np.ndarray]  #: {column: (seeds, N)}; one seed where nothing was trained
    predictions: tuple[Decomposition, ...]  #: of the faces, for each seed
    seconds: float  #: a face, as measured

    def mean(self, column: str) -> float:
        """Over faces and seeds; NaN where the method has no such map."""
        return float(self.errors[column].mean())

    def standard_error(self, column: str) -> float:
        """Of the mean: √(variance over faces / N + variance over seeds / seeds)."""
        return _standard_error(self.errors[column])

    def of(self, faces: np.ndarray) -> Row:
        """Some of the faces, by numbers or (N,) bool."""
        errors = {column: values[:, faces] for column, values in self.errors.items()}
        return Row(errors, tuple(p[faces] for p in self.predictions), self.seconds)


def _standard_error(values: np.ndarray) -> float:
    """Of (seeds, N) numbers: faces and seeds are drawn independently of one another."""
    seeds, faces = values.shape
    over_faces = values.mean(0).var(ddof=1) / faces if faces > 1 else math.nan
    over_seeds = values.mean(1).var(ddof=1) / seeds if seeds > 1 else 0.0
    return math.sqrt(over_faces + over_seeds)


def row(predict: Predict | Sequence[Predict], truth: Decomposition) -> Row:
    """A method, or the same one trained from several seeds, held against the truth."""
    methods = [predict] if callable(predict) else predict
    began = time.perf_counter()
    predictions = tuple(method(truth.image, truth.mask) for method in methods)
    seconds = (time.perf_counter() - began) / len(methods) / len(truth)
    scores = [metrics.table1_row(p, truth) | {BRIGHTNESS: brightness(p, truth)} for p in predictions]
    return Row({column: np.stack([s[column] for s in scores]) for column in scores[0]}, predictions, seconds)


def brightness(prediction: Decomposition, truth: Decomposition) -> np.ndarray:
    """(N,) octaves by which each face's mean diffuse shading is off; NaN where a method has no shading.

    So much of a face's brightness is taken for its light, and not for its skin: below 0, skin is taken for lighter.
    """
    both = prediction.diffuse_shading, truth.diffuse_shading
    said, true = (np.where(truth.mask, shading, 0).sum((-2, -1)) for shading in both)
    return np.log2(np.maximum(said, 1e-6) / true)


def beyond(kind: str, count: int = 64) -> Faces:
    """Test faces "beyond" in one of :data:`bioface.datasets.twin.BEYOND`, the same people in each."""
    config = twin.TwinConfig(train=1, validation=1, test=count, cubes=0, beyond=kind)
    return twin.load("test", config=config, progress=False)


def each(methods: Methods, truth: Decomposition) -> dict[str, Row]:
    """{method: its :func:`row`}, several at once, each with one thread."""
    return dict(zip(methods, cache.side_by_side(row, [(method, truth) for method in methods.values()]), strict=True))


def rows(methods: Methods, kinds: Iterable[str], count: int = 64) -> dict[str, dict[str, Row]]:
    """{kind: {method: row}}, on the faces that are :func:`beyond`, several at once."""
    truths = {kind: of_twin(beyond(kind, count)) for kind in kinds}
    found = iter(cache.side_by_side(row, [(method, t) for t in truths.values() for method in methods.values()]))
    return {kind: {name: next(found) for name in methods} for kind in truths}


def error(row: Row, column: str) -> float:
    """Of a method: the mean over faces and seeds; of brightness, which is signed, the root mean square in octaves."""
    return float(np.sqrt(np.mean(row.errors[column] ** 2))) if column == BRIGHTNESS else row.mean(column)


def share(found: Mapping[str, Row], method: str, constant: str, column: str) -> float:
    """A method's error as a share of the constant's on the same faces."""
    return error(found[method], column) / error(found[constant], column)


def beside(found: Mapping[str, Row], column: str) -> str:
    """The error of each method, in words, for a claim to be read against."""
    return f"{column}: " + ", ".join(f"{NAMES.get(name, name)} {error(row, column):.3f}" for name, row in found.items())


def lead(ours: Row, other: Row, column: str) -> tuple[float, float]:
    """How much smaller our mean error is than another method's on the same faces, and the standard error of that.

    Face by face, which takes out that some faces are harder than others; (NaN, NaN) where one of them has no such map.
    """
    apart = other.errors[column].mean(0) - ours.errors[column]
    if np.isnan(apart).any():
        return math.nan, math.nan
    own = other.errors[column].mean(1)
    spread = own.var(ddof=1) / len(own) if len(own) > 1 else 0.0
    return float(apart.mean()), math.sqrt(_standard_error(apart) ** 2 + spread)


def least_lead(ours: Row, others: Mapping[str, Row], columns: Sequence[str] = metrics.TABLE1[:-1]) -> tuple[float, str]:
    """The least :func:`lead` over other methods, in standard errors, and over which in what.

    Without other columns it is over all of Table 1 but the reconstruction, which nearly any method has right.
    """
    leads = {(n, k): lead(ours, row, k) for n, row in others.items() for k in columns}
    in_errors = {name: apart / max(error, 1e-9) for name, (apart, error) in leads.items() if not math.isnan(apart)}
    least = min(in_errors, key=lambda name: in_errors[name])
    return in_errors[least], f"against {NAMES.get(least[0], least[0])}: {least[1]}"


Scores = dict[str, dict[str, tuple[float, float]]]


def scores(rows: Mapping[str, Row], columns: Sequence[str] = metrics.TABLE1) -> Scores:
    """{method: {column: (mean, its standard error)}}, as tables, figures and records have it."""
    return {name: {c: (row.mean(c), row.standard_error(c)) for c in columns} for name, row in rows.items()}


def as_text(found: Scores, columns: Sequence[str] = metrics.TABLE1) -> str:
    """A line for each method, "±" the standard error of the mean; "–" for no such map."""
    width = max(map(len, found)) + 2
    lines = [" " * width + "".join(f"{column:<{max(16, len(column) + 2)}}" for column in columns)]
    for name, of_method in found.items():
        pairs = ((len(column), *of_method[column]) for column in columns)
        texts = ((n, "–" if m is None or math.isnan(m) else f"{m:.3f} ± {e:.3f}") for n, m, e in pairs)
        lines.append(f"{name:{width}}" + "".join(f"{text:<{max(16, n + 2)}}" for n, text in texts))
    return "\n".join(line.rstrip() for line in lines)


def verdicts(constants: Mapping[str, Row], iset: Row | None = None) -> dict[str, dict[str, Any]]:
    """What can be said of each number of the paper's row "BioFaceNet". What was measured on the twin decides none.

    Parameters
    ----------
    constants : rows of methods that say the same of every face, on the faces at hand
    iset : the network trained by the paper's losses on ISET faces, by the paper's protocol; None where there are none

    Returns
    -------
    by column: ``published``, ``measured`` (None without ISET faces), ``verdict`` ("reproduced", "not reproduced" or
    "cannot be judged"), ``reason``, and ``constant``: the error of the best that sees nothing of a face
    """
    found = {}
    for column, published in AS_PUBLISHED["BioFaceNet"].items():
        measured, verdict, reason = None, "cannot be judged", "no ISET faces at hand"
        if iset is not None:
            measured, error = iset.mean(column), 2 * iset.standard_error(column)
            away, near = abs(measured - published), NEAR * published
            if away + error <= near:
                verdict = "reproduced"
            elif away - error > near:
                verdict = "not reproduced"
            count = iset.errors[column].shape[1]
            reason = f"ours is {measured:.3f} ± {error:.3f} (2 standard errors) on {count} ISET faces; the paper has 25"
        least = min(row.mean(column) for row in constants.values())
        found[column] = dict(published=published, measured=measured, verdict=verdict, reason=reason, constant=least)
    return found


def shading_leakage(decomposition: Decomposition, truth: Decomposition, pigment: str = "melanin") -> np.ndarray:
    """(N,) how much shading is left in "melanin" or "haemoglobin" of N faces, −1 to 1; 0 for none.

    Towards −1 shadows are taken for the pigment. The partial correlation, over the pixels of both masks, of the map's
    error (in table coordinates) with the true diffuse shading, given the true melanin and haemoglobin: without those a
    map that is merely too flat would count as leaking wherever skin and shading happen to go together. An error that
    the true pigments explain to the last rounding, none at all too, is 0.
    """
    said, true = (getattr(d, f"{pigment}_coordinate") for d in (decomposition, truth))
    both, found = decomposition.mask & truth.mask, []
    for mask, *maps in zip(
        both, said, true, truth.melanin_coordinate, truth.haemoglobin_coordinate, truth.diffuse_shading, strict=True
    ):
        of_face, of_truth, g, k, diffuse = (values[mask].astype(float) for values in maps)
        given, pair = np.stack([np.ones_like(g), g, k], 1), np.stack([of_face - of_truth, diffuse], 1)
        left = pair - given @ np.linalg.lstsq(given, pair, rcond=None)[0]
        spread = np.sqrt((left**2).sum(0))
        seen = (spread > 1e-6 * math.sqrt(len(g))).all()
        found.append(left[:, 0] @ left[:, 1] / spread.prod() if seen else 0.0)
    return np.array(found)
