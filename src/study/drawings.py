"""Pictures of the model: curves over wavelength, the table of skins, the network, a face beside its truth."""

from collections.abc import Collection, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle

from bioface import network, plotting, skin, spectra
from study import figures

Maps = Mapping[str, torch.Tensor]
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


def skin_curves(name: str, absorbers: Mapping[str, Any], melanin: Any, haemoglobin: Any, reflectance: Any) -> None:
    """What absorbs in skin, each (33,) cm⁻¹ by its name, beside the reflectance (n, 33) of n skins, saved."""
    skins = zip(plotting.to_numpy(melanin), plotting.to_numpy(haemoglobin), reflectance, strict=True)
    absorption = "absorption, each of its maximum"
    panels = {absorption: {name: values / values.max() for name, values in absorbers.items()}}
    panels["reflectance of skin"] = {f"melanin {m:.2f}, haemoglobin {h:.2f}": r for m, h, r in skins}
    alt = (
        "Left: absorption of two melanins and of blood with and without oxygen, 400 to 720 nm. Right: spectra of skin; "
    )
    alt += "more melanin darkens all, more blood deepens two dips near 550 nm."
    curves(name, panels, data="none (arithmetic)", alt=alt, logarithmic=[absorption])


def camera_curves(name: str, cameras: Mapping[str, Any], lights: Mapping[str, Any]) -> None:
    """Sensitivities (3, 33) of cameras by name, beside spectra (33,) of lights, each of its maximum, saved."""
    panels = {"cameras": cameras, "lights": {name: light / light.max() for name, light in lights.items()}}
    alt = f"Left: red, green and blue sensitivities of {len(cameras)} cameras. Right: {', '.join(lights)}."
    curves(name, panels, data="28 cameras, Jiang 2013 (measured); CIE illuminants", alt=alt)


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
    figures.save(figure, name, numbers={"corners": table[:, ::63, ::63]}, data="none (arithmetic)", alt=alt)


def architecture(name: str, net: network.BioFaceNet, *, size: int = 64) -> None:
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
    alt = "The network drawn: a photo goes through five shrinking blocks, from there through four growing decoders to "
    alt += f"the four maps, and down to camera and light; {sum(weights.values()):,d} weights in all."
    figures.save(figure, name, numbers={"weights": weights}, data="none (a drawing)", alt=alt)


def face_and_truth(name: str, truth: Maps, said: Maps, mask: torch.Tensor, numbers: Mapping[str, Any]) -> None:
    """One face: its photo and its true maps above, what a network says of them below, saved.

    Parameters
    ----------
    truth, said : by name of quantity: ``linear_rgb`` (1, H, W, 3) first, then maps (1, H, W)
    mask : bool (1, H, W)
    numbers : what was measured of it, to be kept with the figure
    """
    both = (truth, said)
    tops = {q: torch.cat([maps[q][mask] for maps in both]).quantile(0.99) for q in list(truth)[1:]}
    figure, _ = plotting.panel_grid(
        [[maps[q][0] for q in truth] for maps in both],
        quantities=list(truth),
        titles=["photo", *(q.replace("_", " ") for q in tops)],
        row_labels=["truth", "network"],
        masks=[mask[0], mask[0]],
        limits={q: (0.0, float(top)) for q, top in tops.items()},
        panel=1.7,
    )
    alt = "Photo and true maps of a synthetic face above, the network's below: the photos look alike, the maps do not."
    figures.save(figure, name, numbers=numbers, data="twin, one face (synthetic)", alt=alt)
