"""Skins made by one model and read by another: what each inversion makes of the others' pigments.

Skins are the pigments that a fit finds on ISSA's faces, painted by ``published``, ``layered`` or radiative transfer, or
the measured spectra themselves. Each is inverted by the same models, with free diffuse and specular shading, and by the
nearest measured spectrum. Measured spectra have no true pigments: there the inverting models are held to ``layered``.
"""

import dataclasses
import warnings
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from scipy.spatial.distance import cdist

from bioface import skin, smith2019, transfer
from bioface.datasets import skin_spectra
from study import figures
from study.calibration import SURFACE

MODELS = ("published", "layered", "radiative transfer", "measured")  #: of skins and of inversions
GRID = 128  #: pigments of each kind in the table that radiative transfer is inverted by
Pigments = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One cell of the matrix: medians, and (5 %, median, 95 %) of found over true pigments."""

    residual: float  #: median over spectra of the RMSE
    melanin: tuple[float, float, float]
    haemoglobin: tuple[float, float, float]


def issa_sample(step: int = 15) -> tuple[skin_spectra.SkinSpectra, Pigments]:
    """Every ``step``-th face spectrum of ISSA within the table of radiative transfer, with the pigments of its fit."""
    melanin, haemoglobin = skin_spectra.pigments()
    inside = (melanin < transfer.RANGE[0]) & (haemoglobin < transfer.RANGE[1]) & (haemoglobin > 1e-3)
    rows = np.flatnonzero(inside)[::step]
    return skin_spectra.load("issa")[rows], (melanin[rows], haemoglobin[rows])


def paint(model: str, measured: skin_spectra.SkinSpectra, pigments: Pigments) -> np.ndarray:
    """(N, 31) reflectance of skins of these pigments, 400–700 nm, without what the surface reflects."""
    if model == "measured":
        return np.maximum(measured.reflectance - SURFACE, 1e-4)
    if model == "radiative transfer":
        return transfer.reflectance(*pigments)[:, : len(measured.wavelengths)]
    return skin.reflectance(*pigments, model, measured.wavelengths)


def invert(model: str, spectra: np.ndarray, measured: skin_spectra.SkinSpectra, pigments: Pigments) -> np.ndarray:
    """(N, 3) melanin, haemoglobin and RMSE that a model finds in spectra (N, 31).

    ``measured`` and ``pigments`` are what "measured" looks its answers up in; a spectrum is never its own answer there.
    """
    if model in skin.MODELS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a model does not fit is what its residual is for here
            f = smith2019.fit(spectra, measured.wavelengths, model=model)
        return np.stack([f.melanin, f.haemoglobin, f.residual], -1)
    if model == "measured":
        table = paint(model, measured, pigments)
        best, rmse = _nearest(spectra, table, own=True)
        return np.stack([pigments[0][best], pigments[1][best], rmse], -1)
    u = np.linspace(0.05, 1, GRID)
    m, h = (x.ravel() for x in np.meshgrid(*(top * u**3 for top in transfer.RANGE), indexing="ij"))
    table = transfer.reflectance(m, h)[:, : spectra.shape[1]]
    best, _ = _nearest(spectra, table)
    return _refined(spectra, table.reshape(GRID, GRID, -1), np.stack(np.unravel_index(best, (GRID, GRID)), -1), u)


def _nearest(spectra: np.ndarray, table: np.ndarray, own: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Which row of a table is nearest to each spectrum, both shadings free, and the RMSE."""
    likeness = 1 - cdist(spectra, table, "correlation")
    if own:
        np.fill_diagonal(likeness, -1)
    best = likeness.argmax(1)
    return best, spectra.std(-1) * np.sqrt(np.maximum(1 - likeness.max(1) ** 2, 0))


def _refined(spectra: np.ndarray, table: np.ndarray, at: np.ndarray, u: np.ndarray) -> np.ndarray:
    """One linear step from the nearest node of a table (K, K, D) over u, in melanin, haemoglobin and both shadings."""
    i, j = np.clip(at, 1, len(u) - 2).T
    slopes = [(table[i + 1, j] - table[i - 1, j]) / 2, (table[i, j + 1] - table[i, j - 1]) / 2]
    A = np.stack([table[i, j], np.ones_like(spectra), *slopes], -1)
    x = (np.linalg.pinv(A) @ spectra[..., None])[..., 0]
    step = np.clip(x[:, 2:] / x[:, :1], -1, 1)  # of nodes
    found = np.stack([np.interp(k + s, np.arange(len(u)), u) for k, s in zip((i, j), step.T, strict=True)])
    rmse = np.sqrt(np.mean(((A @ x[..., None])[..., 0] - spectra) ** 2, -1))
    return np.stack([*(np.array(transfer.RANGE)[:, None] * found**3), rmse], -1)


def matrix(step: int = 15) -> Mapping[tuple[str, str], Entry]:
    """Every pair (made by, read by) of :data:`MODELS`; those of measured skins are to what ``layered`` finds."""
    (measured, truth), cells = issa_sample(step), {}
    for made in MODELS:
        spectra = paint(made, measured, truth)
        found = {read: invert(read, spectra, measured, truth) for read in MODELS}
        true = np.stack(truth, -1) if made != "measured" else found["layered"][:, :2]
        true = np.where(true > 0, true, np.nan)  # where none is found there is no ratio
        for read, values in found.items():
            ratios = np.nanquantile(values[:, :2] / true, [0.05, 0.5, 0.95], axis=0).T
            melanin, haemoglobin = ((float(low), float(middle), float(high)) for low, middle, high in ratios)
            cells[made, read] = Entry(float(np.nanmedian(values[:, 2])), melanin, haemoglobin)
    return cells


def draw(name: str, cells: Mapping[tuple[str, str], Entry]) -> None:
    """Both pigments made by × read by, found over true: median, 5–95 %, and below them the residual × 1000."""
    labels = [model.replace(" ", "\n") for model in MODELS]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.9), layout="constrained", sharey=True)
    for ax, pigment in zip(axes, ("melanin", "haemoglobin"), strict=True):
        ax.imshow(
            [[np.log2(getattr(cells[a, b], pigment)[1]) for b in MODELS] for a in MODELS], "PuOr_r", vmin=-4, vmax=4
        )
        for (made, read), cell in cells.items():
            low, middle, high = getattr(cell, pigment)
            text = f"{middle:.2f}\n{low:.2f}–{high:.2f}\n({1e3 * cell.residual:.1f})"
            colour = "w" if abs(np.log2(middle)) > 3 else "k"
            ax.text(MODELS.index(read), MODELS.index(made), text, color=colour, ha="center", va="center", fontsize=8)
        ax.set_xticks(range(len(labels)), labels)
        ax.set(title=f"{pigment}, found over true", xlabel="read by", aspect="auto")
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].set_ylabel("made by")
    numbers = {f"{made} read by {read}": dataclasses.asdict(cell) for (made, read), cell in cells.items()}
    data = "ISSA (measured) and skins of its pigments (synthetic)"
    alt = "Skins made by four models, read by each: pigments found over true, far from 1 where the published constants "
    alt += "make or read."
    figures.save(figure, name, numbers=numbers, data=data, alt=alt)
