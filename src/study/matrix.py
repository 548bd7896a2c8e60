"""Skins made by one model and read by another: what each fit makes of the others' pigments.

Skins are the pigments that a fit finds on ISSA's faces, painted by ``published``, ``layered`` or radiative transfer, or
the measured spectra themselves. The two models are fitted to each, with free diffuse and specular shading. Measured
spectra have no true pigments: there the fits are held to that of ``layered``.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from bioface import skin, smith2019, transfer
from bioface.datasets import skin_spectra
from study import figures
from study.calibration import SURFACE

MODELS = (*skin.MODELS, "radiative transfer", "measured")  #: of skins


#: By (made by, read by): the median RMSE as "residual"; 5 %, median and 95 % of found over true, by pigment.
Cells = Mapping[tuple[str, str], Mapping[str, Any]]


def matrix(step: int = 15) -> Cells:
    """Every pair (made by, read by), of every ``step``-th spectrum of ISSA within the table of radiative transfer.

    All are without what the surface reflects. Those of measured skins are to what ``layered`` finds.
    """
    melanin, haemoglobin = skin_spectra.pigments()
    inside = (melanin < transfer.RANGE[0]) & (haemoglobin < transfer.RANGE[1]) & (haemoglobin > 1e-3)
    rows = np.flatnonzero(inside)[::step]
    measured = skin_spectra.load("issa")[rows]
    pigments = melanin[rows], haemoglobin[rows]
    nm, cells = measured.wavelengths, dict[tuple[str, str], dict[str, Any]]()
    skins = {model: skin.reflectance(*pigments, model, nm) for model in skin.MODELS}
    skins["radiative transfer"] = transfer.reflectance(*pigments)[:, : len(nm)]
    skins["measured"] = np.maximum(measured.reflectance - SURFACE, 1e-4)
    for made, spectra in skins.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a model does not fit is what its residual is for here
            found = {read: smith2019.fit(spectra, nm, model=read) for read in skin.MODELS}
        layered = found["layered"]
        truth = (layered.melanin, layered.haemoglobin) if made == "measured" else pigments
        for read, fit in found.items():
            cell = cells[made, read] = {"residual": float(np.nanmedian(fit.residual))}
            for pigment, true in zip(("melanin", "haemoglobin"), truth, strict=True):
                true = np.where(true > 0, true, np.nan)  # where none is found there is no ratio
                ratio = getattr(fit, pigment) / true
                cell[pigment] = np.nanquantile(ratio, [0.05, 0.5, 0.95]).tolist()
    return cells


def draw(name: str, cells: Cells) -> None:
    """Both pigments made by × read by, found over true: median, 5–95 %, and below them the residual × 1000."""
    readers = list(skin.MODELS)
    figure, axes = plt.subplots(1, 2, figsize=(6, 3.9), layout="constrained", sharey=True)
    for ax, pigment in zip(axes, ("melanin", "haemoglobin"), strict=True):
        shown = [[np.log2(cells[made, read][pigment][1]) for read in readers] for made in MODELS]
        ax.imshow(shown, "PuOr_r", vmin=-4, vmax=4)
        for (made, read), cell in cells.items():
            low, middle, high = cell[pigment]
            text = f"{middle:.2f}\n{low:.2f}–{high:.2f}\n({1e3 * cell['residual']:.1f})"
            colour = "w" if abs(np.log2(middle)) > 3 else "k"
            at = readers.index(read), MODELS.index(made)
            ax.text(*at, text, color=colour, ha="center", va="center", fontsize=8)
        ax.set_xticks(range(len(readers)), readers)
        ax.set(title=f"{pigment}, found over true", xlabel="read by", aspect="auto")
    axes[0].set_yticks(range(len(MODELS)), [model.replace(" ", "\n") for model in MODELS])
    axes[0].set_ylabel("made by")
    numbers = {f"{made} read by {read}": cell for (made, read), cell in cells.items()}
    data = "ISSA (measured) and skins of its pigments (synthetic)"
    alt = "Skins made by four models, read by two: pigments found over true, far from 1 where the published constants "
    alt += "make or read."
    figures.save(figure, name, numbers=numbers, data=data, alt=alt)
