"""Pictures in one style: maps with fixed colours and limits per quantity, and grids of panels.

Images and maps may be NumPy arrays or torch tensors, channels last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from bioface import paths
from bioface.errors import BiofaceError, unknown_name
from bioface.image_formation import srgb_encode

Limits = tuple[int | float, int | float]
BACKGROUND = 0.92  #: the grey of pixels outside the mask


@dataclass(frozen=True)
class Quantity:
    """How a quantity is drawn. ``cmap`` is None for colour images."""

    label: str
    cmap: str | None
    low: int | float = 0.0
    high: int | float = 1.0
    unit: str = ""


#: Fixed colours and limits, so that two figures can be compared by eye.
QUANTITIES: dict[str, Quantity] = {
    "rgb": Quantity("sRGB image", None),
    "linear_rgb": Quantity("linear RGB image, shown as sRGB", None),
    "albedo": Quantity("albedo, shown as sRGB", None),
    "normals": Quantity("normals", None),
    "coordinates": Quantity("coordinate map", None),
    "melanin": Quantity("melanin", "YlOrBr", 0.0, 0.43, "volume fraction"),  # up to the paper's highest
    "haemoglobin": Quantity("haemoglobin", "Reds", 0.0, 0.10, "volume fraction"),  # paper: up to 0.07
    "diffuse_shading": Quantity("diffuse shading", "gray", 0.0, 1.5),
    "specular_shading": Quantity("specular shading", "gray", 0.0, 0.5),
    "mask": Quantity("mask", "gray"),
    "residual": Quantity("residual", "viridis", 0.0, 0.02, "RMSE, radiance / white"),
    "diffuse_shading_error": Quantity("diffuse shading, error", "PuOr_r", -0.3, 0.3),
}


#: The project's style, upon matplotlib's own defaults: a user's ``matplotlibrc`` may turn pictures upside down.
STYLE = ("default", str(paths.PACKAGE / "bioface.mplstyle"))


def use_style() -> None:
    """Switch matplotlib to the project's style."""
    plt.style.use(STYLE)


def to_numpy(value: Any) -> np.ndarray:
    """A NumPy array from an array, a tensor (on any device, with or without gradient) or a number."""
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)


def known_quantity(quantity: str | Quantity, limits: Limits | None = None) -> Quantity:
    """The quantity of that name, with other limits if they are given; raises BiofaceError if there is none."""
    if isinstance(quantity, str):
        if quantity not in QUANTITIES:
            raise unknown_name("quantity", quantity, QUANTITIES)
        quantity = QUANTITIES[quantity]
    return replace(quantity, low=float(limits[0]), high=float(limits[1])) if limits else quantity


def _colours(image: np.ndarray, name: str | Quantity) -> np.ndarray:
    """What is shown of a colour image: (H, W, 3) in [0, 1]."""
    if name == "normals":
        image = (image + 1) / 2
    elif name in ("linear_rgb", "albedo"):
        image = srgb_encode(np.clip(image, 0, 1))
    return np.clip(image, 0, 1)  # for the eye only: a screen shows no more than white


def painted(image: Any, quantity: str | Quantity, *, mask: Any = None) -> np.ndarray:
    """The colours (..., H, W, 3) uint8 sRGB in which maps (..., H, W) or images (..., H, W, 3) are shown.

    Grey outside the mask and where a value is not finite.

    Parameters
    ----------
    image : maps, or images for "rgb" (sRGB), "linear_rgb", "albedo" (both linear) and "normals"
    quantity : a name in :data:`QUANTITIES`, or a :class:`Quantity` of one's own
    mask : (..., H, W), true where there is something to see

    Raises BiofaceError: an unknown quantity, or an image or mask of another shape.
    """
    shown = known_quantity(quantity)
    image = to_numpy(image)
    image = image.astype(np.float32) / (255 if image.dtype == np.uint8 and shown.cmap is None else 1)
    if shown.cmap is None and image.shape[-1:] != (3,):
        raise BiofaceError(f"{shown.label}: expected an image (H, W, 3), found {image.shape}")
    known = np.isfinite(image)
    if shown.cmap is None:
        known, colours = known.all(-1), _colours(image, quantity)
    else:
        levels = Normalize(shown.low, shown.high)(np.where(known, image, shown.low))
        colours = matplotlib.colormaps[shown.cmap](levels)[..., :3]
    if mask is not None:
        inside = to_numpy(mask).astype(float) >= 0.5
        if inside.shape != known.shape:
            raise BiofaceError(f"{shown.label}: expected a mask {known.shape}, found {inside.shape}")
        known = known & inside
    return np.rint(255 * np.where(np.expand_dims(known, -1), colours, BACKGROUND)).astype(np.uint8)


@matplotlib.rc_context({"text.usetex": False})  # of a user's matplotlibrc, and LaTeX may not be there
def panel_grid(
    rows: Sequence[Sequence[Any]],
    *,
    quantities: str | Sequence[str | Quantity],
    titles: Sequence[str] | None = None,
    row_labels: Sequence[str] = (),
    masks: Sequence[Any] | None = None,
    panel: int | float = 1.25,
) -> tuple[Figure, np.ndarray]:
    """A grid of images, with one colour bar for each column of maps.

    Parameters
    ----------
    rows : images by row, as :func:`painted` takes them
    quantities : of each column, or one for all
    titles : of the columns; left out, the names of the quantities
    row_labels : of the rows
    masks : one per row, None for no mask
    panel : width of a panel in inches

    Returns
    -------
    the figure, and its axes (rows, columns)

    Raises BiofaceError: an unknown quantity, or an image or mask of another shape.
    """
    n_rows, n_columns = len(rows), len(rows[0])
    quantities = [quantities] * n_columns if isinstance(quantities, str) else list(quantities)
    shown = [known_quantity(quantity) for quantity in quantities]

    # the bars have a row of their own, so that the panels stay in line
    bars = [q.cmap is not None and name != "mask" for q, name in zip(shown, quantities, strict=True)]
    extra = int(any(bars))
    height, width = to_numpy(rows[0][0]).shape[:2]
    size = panel * n_columns + 0.3, panel * (n_rows + 0.06 * extra) * height / width + 0.3 + 0.45 * extra
    ratios = [1.0] * n_rows + [0.06] * extra
    figure, grid = plt.subplots(
        n_rows + extra, n_columns, figsize=size, squeeze=False, layout="constrained", height_ratios=ratios
    )
    axes = grid[:n_rows]
    for line, row, mask in zip(axes, rows, masks or [None] * n_rows, strict=True):
        for ax, image, quantity in zip(line, row, quantities, strict=True):
            ax.imshow(painted(image, quantity, mask=mask), origin="upper")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    for ax, text in zip(axes[0], titles or [quantity.label for quantity in shown], strict=True):
        ax.set_title(text, wrap=True)
    for ax, text in zip(axes[:, 0], row_labels, strict=False):
        ax.set_ylabel(text)
    for place, has_bar, quantity in zip(grid[-1] if extra else [], bars, shown, strict=False):
        if not has_bar:
            place.axis("off")
            continue
        mappable = ScalarMappable(Normalize(quantity.low, quantity.high), quantity.cmap)
        bar = figure.colorbar(mappable, cax=place, orientation="horizontal", label=quantity.unit)  # without its name
        bar.outline.set_visible(False)
        ticks = [quantity.low, (quantity.low + quantity.high) / 2, quantity.high]  # three fit under one panel
        bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    return figure, axes
