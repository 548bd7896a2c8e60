"""Pictures of notebooks 00, 01 and 04: the model, the audit of a data set, and the multispectral fit.

The first arguments say what is drawn; ``name``, ``numbers`` and ``data`` are those of :func:`study.figures.save`.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle

from bioface import identifiability, network, plotting, shading, skin, smith2019, spectra
from bioface.datasets import nfe, skin_spectra
from study import audit, calibration, figures

TWIN, ARITHMETIC = "twin (synthetic)", "none (arithmetic)"
#: Pigment fractions that are marked along the axes of the table.
MARKS = {"melanin": (0.005, 0.05, 0.2, 0.4), "haemoglobin": (0.001, 0.01, 0.03, 0.06)}
#: Those of :func:`study.audit.mistakes` that are shown.
MISTAKES = (
    audit.RIGHT,
    "normals not decoded",
    "light of another face",
    "min–max stretched",
    "coordinate map as shading",
)
#: The column order of the report's Figure 3.
REPORT = ("diffuse_shading", "specular_shading", "melanin", "haemoglobin")


def curves(name: str, panels: Mapping[str, Mapping[str, Any]], *, data: str) -> None:
    """Spectra side by side, saved: by title, by label, (33,) or, of a camera, (3, 33); absorption by decades."""
    figure, axes = plt.subplots(1, len(panels), figsize=(9, 3), layout="constrained")
    for ax, (title, lines) in zip(axes, panels.items(), strict=True):
        for k, (label, values) in enumerate(lines.items()):
            rows = plotting.to_numpy(values).reshape(-1, len(spectra.WAVELENGTHS))
            colours = ("#c23b22", "C2", "C0") if len(rows) == 3 else (f"C{k}",)  # R, G, B of a camera
            for row, colour in zip(rows, colours, strict=True):
                ax.plot(spectra.WAVELENGTHS, row, "-" if k == 0 or len(rows) == 1 else ":", color=colour)
            ax.lines[-1].set_label(label)
        ax.set(title=title, xlabel="wavelength (nm)", yscale="log" if "absorption" in title else "linear")
        ax.legend()
    told = "; ".join(f"{title}: {', '.join(lines)}" for title, lines in panels.items())
    figures.save(figure, name, numbers=panels, data=data, alt=f"Curves from 400 to 720 nm. {told}.")


def skin_table(name: str, table: torch.Tensor) -> None:
    """The colours (3, K, K) of all skins under one light, :func:`bioface.image_formation.colour_table`, saved."""
    figure, ax = plt.subplots(figsize=(4, 3.4), layout="constrained")
    ax.imshow(plotting.painted(table.movedim(0, -1), "linear_rgb"), origin="lower", aspect="auto")
    steps = (table.shape[-1] - 1) / 2
    for pigment, top, axis in zip(MARKS, (skin.MELANIN_RANGE[1], skin.HAEMOGLOBIN_RANGE[1]), "yx", strict=True):
        places = (skin.table_coordinate(np.array(MARKS[pigment]), top) + 1) * steps
        ax.set(**{f"{axis}ticks": places, f"{axis}ticklabels": [f"{100 * m:g} %" for m in MARKS[pigment]]})
    ax.set(ylabel="melanin", xlabel="haemoglobin")
    alt = (
        "A square of skin colours: pale at the bottom left, redder to the right with more blood, dark brown at the top "
    )
    alt += "with more melanin."
    figures.save(figure, name, numbers={"corners": table[:, ::63, ::63]}, data=ARITHMETIC, alt=alt)


def architecture(name: str, net: network.BioFaceNet) -> None:
    """The network as blocks, whose heights go with the side of the maps, for images of 64 × 64; saved."""
    figure, ax = plt.subplots(figsize=(9, 3), layout="constrained")
    for level in range(network.LEVELS):
        height = 3.4 - 0.6 * level
        ax.add_patch(Rectangle((1.2 + level, 2 - height / 2), 0.5, height, color="0.6"))
        text = f"{64 // 2**level}²\n× {net.width * 2**level}"
        ax.text(1.45 + level, 2.1 + height / 2, text, ha="center", fontsize=9)
    ax.text(0.1, 2, "photo", va="center")
    for row, said in enumerate(("melanin", "haemoglobin", "diffuse shading", "specular shading")):
        ax.plot([5.7, 6.5], [2, row + 0.5], color="0.6")
        for k in range(1, network.LEVELS):
            ax.add_patch(Rectangle((5.5 + k, row + 0.5 - 0.1 * k), 0.5, 0.2 * k, color=f"C{row}", alpha=0.7))
        ax.text(10.2, row + 0.5, said, va="center")
    ax.annotate("camera and light", (5.45, 1.5), (5.45, -0.1), ha="center", arrowprops={"arrowstyle": "<-"})
    ax.set(xlim=(0, 12.4), ylim=(-0.3, 4.6))
    ax.axis("off")
    weights = {part: sum(p.numel() for p in module.parameters()) for part, module in net.named_children()}
    alt = "The network drawn: a photo goes through five shrinking blocks, from there through four growing decoders to "
    alt += f"the four maps, and down to camera and light; {sum(weights.values()):,d} weights in all."
    figures.save(figure, name, numbers={"weights": weights}, data="none (a drawing)", alt=alt)


def learning_curve(name: str, errors: Sequence[float], constant: float) -> None:
    """RMSE of the photo at each step, and that of the face's mean colour; saved."""
    figure, ax = plt.subplots(figsize=(6, 2.6), layout="constrained")
    ax.semilogy(errors)
    ax.axhline(constant, color="0.5", ls=":", label="the face's mean colour")
    ax.set(xlabel="step", ylabel="RMSE, linear RGB")
    ax.legend()
    alt = "The error of the photo falls quickly, then slowly, and ends below that of the face's mean colour."
    figures.save(
        figure, name, numbers={"rmse": errors, "constant": constant}, data="twin, one face (synthetic)", alt=alt
    )


def by_row(
    name: str, rows: Mapping[str, Sequence[Any]], quantities: Sequence[str], mask: Any, *,
    numbers: Mapping[str, Any], data: str, alt: str, titles: Sequence[str] | None = None,
    below: Sequence[Sequence[str]] = (), panel: float = 1.6,
) -> None:  # fmt: skip
    """Images and maps of one face by label of the row, a map in one range for all rows, saved.

    The range goes up to the median, over the rows, of what 95 % of the face stay below. ``below`` are texts by panel.
    """
    inside, shown = plotting.to_numpy(mask), [list(map(plotting.to_numpy, row)) for row in rows.values()]
    kinds: list[str | plotting.Quantity] = list(quantities)
    for k, quantity in enumerate(quantities):
        if plotting.QUANTITIES[quantity].cmap:
            top = np.median([np.nanquantile(row[k][inside], 0.95) for row in shown])
            kinds[k] = plotting.known_quantity(quantity, (0.0, float(top)))
    labels, masks = [textwrap.fill(label, 18) for label in rows], [inside] * len(rows)
    figure, axes = plotting.panel_grid(
        shown, quantities=kinds, titles=titles, row_labels=labels, masks=masks, panel=panel
    )
    figure.set_figheight(figure.get_figheight() + 0.25 * len(below))
    for line, texts in zip(axes, below, strict=False):
        for ax, text in zip(line, texts, strict=True):
            ax.set_xlabel(text, fontsize=10)
    figures.save(figure, name, numbers=numbers, data=data, alt=alt)


# --- the audit ---------------------------------------------------------------------------------------------


def channels(name: str, faces: nfe.Faces, stored: np.ndarray, *, data: str) -> None:
    """What the files hold of two faces, and their ``stored`` shading; ``name`` and ``data`` of the figure."""
    two = faces[[0, 1]]
    shade = plotting.known_quantity("diffuse_shading", (0.0, float(stored[:2].max())))
    kinds: list[str | plotting.Quantity] = ["rgb", "normals", "mask", "coordinates", shade]
    maps = (two.rgb, two.normals, two.mask, two.coordinates, stored[:2])
    titles = ["photo", "normals", "mask", "coordinates", "shading nᵀMn"]
    rows = list(zip(*maps, strict=True))
    alt = "Two faces: photo, normals, mask, coordinates as colours, and the shading of the normals under the light."
    figure, _ = plotting.panel_grid(rows, quantities=kinds, titles=titles, panel=1.8)
    figures.save(figure, name, numbers={"faces": list(two.names)}, data=data, alt=alt)


def mistakes(
    name: str, faces: nfe.Faces, shadings: Mapping[str, np.ndarray], costs: Mapping[str, Any], *, data: str
) -> None:
    """Two faces' right shading beside what was taken for it, with median correlation and error above."""
    show = np.argsort(costs["light of another face"][0])[len(faces) // 4 :][:2]
    rows = [
        [faces.rgb[i], *(shadings[n][i] / np.quantile(shadings[n][i][faces.mask[i]], 0.99) for n in MISTAKES)]
        for i in show
    ]
    told = ("r {:.2f}, error {:.2f}".format(*map(np.median, costs[n])) for n in MISTAKES)
    titles = ["photo", *(f"{textwrap.fill(n, 17)}\n{text}" for n, text in zip(MISTAKES, told, strict=True))]
    each = plotting.Quantity("shading, each to its own maximum", "gray")
    kinds: list[str | plotting.Quantity] = ["rgb", *[each] * len(MISTAKES)]
    masks = list(faces.mask[show])
    figure, _ = plotting.panel_grid(rows, titles=titles, quantities=kinds, masks=masks, panel=1.6)
    numbers = {n: {"correlation": r, "error": e} for n, (r, e) in costs.items()}
    alt = "Two faces: the right shading beside four things that were taken for it; another's light differs most."
    figures.save(figure, name, numbers=numbers, data=data, alt=alt)


def belied(name: str, faces: nfe.Faces, score: np.ndarray, *, data: str) -> None:
    """The report's Figures 1a and 1b for the faces of highest score, with the photo's own shading and the residual."""
    some = np.argsort(score)[::-1][:3]
    c = shading.compare(faces[some])
    shade = plotting.known_quantity("diffuse_shading", (0.0, float(c.stored.max())))
    residual = plotting.Quantity("residual image", "PuOr_r", -0.4, 0.4, "log")
    left = np.where(c.window, c.stored_detail - c.photo_detail, np.nan)
    shown = (faces.rgb[some], c.stored, np.exp(c.log_photo), left)
    numbers = {"face": [faces.names[i] for i in some], "score": score[some]}
    figure, _ = plotting.panel_grid(
        list(zip(*shown, strict=True)),
        quantities=["rgb", shade, shade, residual],
        titles=["photo\n(Figure 1a)", "stored shading\n(Figure 1b)", "shading that\nthe photo shows", "residual image"],
        row_labels=[f"score {s:.2f}" for s in score[some]],
        masks=list(faces.mask[some]),
        panel=1.9,
    )
    alt = "Faces: the photo, the stored shading with another mouth, and the shading that the photo itself shows."
    figures.save(figure, name, numbers=numbers, data=data, alt=alt)


# --- the multispectral fit ---------------------------------------------------------------------------------


def fitted_spectra(name: str, issa: skin_spectra.SkinSpectra, fits: Mapping[str, smith2019.FitResult]) -> None:
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


def fitted_maps(name: str, rows: Mapping[str, np.ndarray], mask: np.ndarray, error: Mapping[str, Any]) -> None:
    """Maps (n, 4) of the skin of one face by method, in the order of the report's Figure 3."""
    images = np.full((len(rows), len(REPORT), *mask.shape), np.nan)
    for image, maps in zip(images, rows.values(), strict=True):
        image[:, mask] = maps[:, [identifiability.MAPS.index(quantity) for quantity in REPORT]].T
    alt = "Diffuse, specular, melanin, haemoglobin: descent's blood is beyond the scale, its melanin holds shading; "
    alt += "variable projection is like the truth."
    by_method = {label: list(image) for label, image in zip(rows, images, strict=True)}
    data = "twin cube, 1 face (synthetic)"
    by_row(name, by_method, REPORT, mask, numbers={"rmse": error}, data=data, alt=alt, panel=1.9)
