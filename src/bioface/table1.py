"""The protocol of the paper's Table 1: decompositions of RGB held against a fit of all the bands of the same face.

A multispectral face is fitted pixel by pixel (:mod:`bioface.smith2019`); the maps that come out stand in for the truth.
The same face is rendered to RGB under D65 with the mean camera, taken apart by the method in question, and compared.

Reference: Alotaibi & Smith (2019), "BioFaceNet", BMVC, section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from bioface import camera, illumination, metrics, skin, smith2019, spectra
from bioface.datasets.iset import Cube
from bioface.decomposition import Decomposition
from bioface.errors import BiofaceError

MARGIN = 0.1  # of the mask's bounding square, around it

#: Where the table that renders the maps ends: fractions beyond it would be fitted with another shading.
_BOUNDS = ((0.0, skin.MELANIN_RANGE[1]), (0.0, skin.HAEMOGLOBIN_RANGE[1]))


def pseudo_truth(cube: Cube, size: int = 64) -> Decomposition:
    """The maps that a fit of all bands gives, with the RGB image that the mean camera takes of the face under D65.

    A cube of another size is cut to its mask's bounding square with a margin, and its reflectance factor (radiance /
    illuminant) averaged over the area of each new pixel, over skin only where more than half of it is. Bands come to
    the grid as :func:`bioface.smith2019.fit` brings them there. The image is made of the cube's own reflectance factor,
    not of the fit. Where the cube has no bands, at 400 and 410 nm of the ISET faces, the camera gets no light; white
    balance, over the bands there are, keeps white white.

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
    BiofaceError : a size below 1, fewer than four bands within 400–720 nm, no pixel whose fit converges
    """
    if size < 1:
        raise BiofaceError(f"expected a size of at least 1 pixel, found {size}")
    source = torch.from_numpy(cube.wavelengths)
    bands = spectra.bands_to_fit(source)
    to_bands = spectra.resampling_matrix(source, bands).numpy()
    if cube.shape[:2] == (size, size):
        factor, mask = cube.reflectance @ to_bands.T, cube.mask
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
    maps = [np.nan_to_num(values) for values in np.moveaxis(fit.maps, -1, 0)]  # NaN outside its mask
    return Decomposition.of_maps(*maps, np.zeros(2), d65.numpy(), image, mask)


def protocol(
    predict: Callable[[np.ndarray, np.ndarray], Decomposition], cubes: Iterable[Cube], size: int = 64
) -> tuple[dict[str, np.ndarray], tuple[Decomposition, Decomposition]]:
    """Table 1 of one method on multispectral faces.

    Parameters
    ----------
    predict : takes images (N, size, size, 3), linear RGB, and masks (N, size, size), gives their Decomposition
    cubes : the faces
    size : as :func:`pseudo_truth`

    Returns
    -------
    the columns of :func:`bioface.metrics.table1_row`, one number per face; and (prediction, pseudo-truth)

    Raises
    ------
    BiofaceError : no cube; see :func:`pseudo_truth` and :func:`bioface.metrics.table1_row`
    """
    truths = [pseudo_truth(cube, size) for cube in cubes]
    if not truths:
        raise BiofaceError("expected at least one cube, found none")
    truth = _stacked(truths)
    prediction = predict(truth.image, truth.mask)
    return metrics.table1_row(prediction, truth), (prediction, truth)


def _stacked(faces: list[Decomposition]) -> Decomposition:
    names = Decomposition.__dataclass_fields__
    return Decomposition(**{name: np.stack([getattr(face, name) for face in faces]) for name in names})


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
        side = max(np.ptp(rows), np.ptp(columns)) + 1
        side *= 1 + 2 * MARGIN
        top, left = (0.5 * (v[0] + v[-1] + 1) - side / 2 for v in (rows, columns))
    down, across = _areas(top, side, size, height), _areas(left, side, size, width)
    total = np.zeros((2, size, size, len(to_bands)))  # over all of a pixel, and over its skin
    for rows, radiance in cube.blocks():
        factor = radiance / cube.illuminant @ to_bands.T
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
