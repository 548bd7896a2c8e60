"""Pictures of the model that several notebooks show: curves over wavelength, the table of skins, the network."""

from collections.abc import Collection, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle

from bioface import network, plotting, skin, spectra
from study import figures

#: Pigment fractions that are marked along the axes of the table.
MARKS = {"melanin": (0.005, 0.05, 0.2, 0.4), "haemoglobin": (0.001, 0.01, 0.03, 0.06)}


def curves(
    name: str, panels: Mapping[str, Mapping[str, Any]], *, data: str, alt: str, logarithmic: Collection[str] = ()
) -> None:
    """Spectra side by side, saved as a figure with their numbers.

    Parameters
    ----------
    name, data, alt : as :func:`study.figures.save` takes them
    panels : by title, by label, (33,) or (channels, 33) values at :data:`bioface.spectra.WAVELENGTHS`
    logarithmic : titles of the panels whose values go by decades
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(9, 3), layout="constrained", squeeze=False)
    for ax, (title, lines) in zip(axes[0], panels.items(), strict=True):
        for k, (label, values) in enumerate(lines.items()):
            rows = plotting.to_numpy(values).reshape(-1, len(spectra.WAVELENGTHS))
            colours = ("#c23b22", "C2", "C0") if len(rows) == 3 else (f"C{k}",)  # R, G, B of a camera
            for row, colour in zip(rows, colours, strict=True):
                ax.plot(spectra.WAVELENGTHS, row, "-" if k == 0 or len(rows) == 1 else ":", color=colour)
            ax.lines[-1].set_label(label)
        ax.set(title=title, xlabel="wavelength (nm)", yscale="log" if title in logarithmic else "linear")
        ax.legend()
    figures.save(figure, name, numbers=panels, data=data, alt=alt)


def skin_table(name: str, table: torch.Tensor, *, alt: str) -> None:
    """The colours (3, K, K) of all skins under one light, :func:`bioface.image_formation.colour_table`, saved."""
    figure, ax = plt.subplots(figsize=(4, 3.4), layout="constrained")
    ax.imshow(plotting.painted(table.movedim(0, -1), "linear_rgb"), origin="lower", aspect="auto")
    steps = (table.shape[-1] - 1) / 2
    for pigment, top, axis in zip(MARKS, (skin.MELANIN_RANGE[1], skin.HAEMOGLOBIN_RANGE[1]), "yx", strict=True):
        places = (skin.table_coordinate(np.array(MARKS[pigment]), top) + 1) * steps
        ax.set(**{f"{axis}ticks": places, f"{axis}ticklabels": [f"{100 * m:g} %" for m in MARKS[pigment]]})
    ax.set(ylabel="melanin", xlabel="haemoglobin")
    figures.save(figure, name, numbers={"corners": table[:, ::63, ::63]}, data="none (arithmetic)", alt=alt)


def architecture(name: str, net: network.BioFaceNet, *, size: int = 64, alt: str) -> None:
    """The network as blocks, whose heights go with the side of the maps, for images of ``size``; saved."""
    figure, ax = plt.subplots(figsize=(9, 3), layout="constrained")
    for level in range(network.LEVELS):
        height = 3.4 - 0.6 * level
        ax.add_patch(Rectangle((1.2 + level, 2 - height / 2), 0.5, height, color="0.6"))
        text = f"{size // 2**level}²\n× {net.width * 2**level}"
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
    figures.save(figure, name, numbers={"weights": weights}, data="none (a drawing)", alt=alt)
