"""The figures of the multispectral fit (notebook 04): spectra, maps by solver, the landscape, predicted deviations."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from bioface import identifiability, minima, plotting, smith2019
from bioface.datasets import cubes, skin_spectra
from study import calibration, figures

#: The column order of the report's Figure 3.
REPORT = ("diffuse_shading", "specular_shading", "melanin", "haemoglobin")
COLUMNS = [identifiability.MAPS.index(name) for name in REPORT]


def spectra(name: str, issa: skin_spectra.SkinSpectra, fits: Mapping[str, smith2019.FitResult]) -> None:
    """A measured spectrum of each group, where the residual of the last fit is the group's median, and all fits."""
    figure, axes = plt.subplots(2, 4, figsize=(9, 4.6), sharex=True, sharey=True, layout="constrained")
    last = list(fits.values())[-1].residual
    for ax, group in zip(axes.flat, issa.groups, strict=True):
        rows = np.flatnonzero(issa.group == group)
        row = rows[[np.argsort(last[rows])[len(rows) // 2]]]
        ax.plot(issa.wavelengths, issa.reflectance[row[0]], "k.", label="measured")
        for colour, (text, fit) in zip(("C1", "C0"), fits.items(), strict=True):
            left = calibration.residuals(fit.maps[row], issa[row], fit.model)
            ax.plot(issa.wavelengths, (issa.reflectance[row] - left)[0], colour, label=text)
        ax.set_title(group.split("(")[-1].rstrip(")"))
    axes[0, 0].legend(loc="upper left")
    axes[1, 0].set(xlabel="wavelength (nm)", ylabel="reflectance")
    medians = {text: [np.median(f.residual[issa.group == g]) for g in issa.groups] for text, f in fits.items()}
    alt = "A spectrum of each of eight groups: published misses the blue end and the blood bands, layered follows."
    figures.save(figure, name, numbers={"groups": list(issa.groups), **medians}, data="ISSA (measured)", alt=alt)


def maps(name: str, rows: Mapping[str, np.ndarray], mask: np.ndarray, error: Mapping[str, Mapping[str, float]]) -> None:
    """Maps (n, 4) of the skin of one face by method, the truth last, in the order of the report's Figure 3."""
    images = np.full((len(rows), len(REPORT), *mask.shape), np.nan)
    for image, values in zip(images, rows.values(), strict=True):
        image[:, mask] = values[:, COLUMNS].T
    tops = np.quantile(list(rows.values())[-1][:, COLUMNS], 0.95, axis=0)  # brows and lips go beyond
    limits = {quantity: (0.0, float(top)) for quantity, top in zip(REPORT, tops, strict=True)}
    figure, _ = plotting.panel_grid(
        list(images), quantities=REPORT, row_labels=list(rows), masks=[mask] * len(rows), limits=limits, panel=1.9
    )
    alt = "Diffuse, specular, melanin, haemoglobin: descent has shading in its blood; ours is like the truth."
    figures.save(figure, name, numbers={"rmse": error}, data="twin cube, 1 face (synthetic)", alt=alt)


def landscape(
    name: str,
    seen: Sequence[tuple[str, cubes.Cube, np.ndarray]],
    true: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
    sigma: float,
) -> None:
    """The residual at the most typical pixel of faces over both pigments, with the best shadings at each point.

    Parameters
    ----------
    seen : group, cube and noisy pixels (n, D) of each face
    true, found : maps (n, 4) of each
    """
    m, h = 0.4 * np.linspace(0.25, 1, 60) ** 3, 0.2 * np.linspace(0.1, 1, 60) ** 3
    figure, axes = plt.subplots(1, len(seen), figsize=(9, 3), layout="constrained", sharey=True)
    surfaces: dict[str, np.ndarray] = {"melanin": m, "haemoglobin": h}
    filled: Any = None
    for ax, (group, cube, y), truth, said in zip(axes, seen, true, found, strict=True):
        p = int(np.argmin(np.abs(truth[:, :2] / np.median(truth[:, :2], 0) - 1).max(1)))
        surface = minima.loss_surface(y[p], m, h, cube.wavelengths, cube.illuminant)
        levels = np.linspace(-0.2, 1.8, 21)
        filled = ax.contourf(m, h, np.log10(surface.T / sigma), levels, cmap="viridis", extend="both")
        ax.plot(*truth[p, :2], "w+", *said[p, :2], "r.", ms=10)
        ax.set(title=group.split("(")[-1].rstrip(")"), xscale="log", yscale="log", xlabel="melanin")
        surfaces[group] = surface
    axes[0].set_ylabel("haemoglobin")
    figure.colorbar(filled, ax=axes, label="log₁₀ (residual / noise)")
    alt = "Residual over melanin and haemoglobin at a pixel of three faces: one valley each, the truth at its bottom."
    figures.save(figure, name, numbers=surfaces, data="twin cubes (synthetic)", alt=alt)


def deviations(name: str, z: np.ndarray) -> None:
    """Histograms of error over predicted standard deviation (n, 4), with the normal curve."""
    figure, axes = plt.subplots(1, 4, figsize=(9, 2.5), layout="constrained", sharey=True)
    bins = np.linspace(-4, 4, 61)
    for ax, values, quantity in zip(axes, z.T, identifiability.MAPS, strict=True):
        ax.hist(values, bins, density=True, alpha=0.7)
        ax.plot(bins, np.exp(-(bins**2) / 2) / np.sqrt(2 * np.pi), "k", lw=1)
        ax.set(title=quantity.replace("_", " "), xlabel="error / prediction")
    spread = dict(zip(identifiability.MAPS, np.sqrt(np.mean(z**2, 0)), strict=True))
    alt = "Histograms of error over predicted deviation of the four maps, each close to the normal curve."
    figures.save(figure, name, numbers={"rms": spread}, data="twin cubes (synthetic)", alt=alt)
