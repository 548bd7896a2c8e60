"""Pictures in one style: maps with fixed colours and limits per quantity, and grids of panels.

Images and maps may be NumPy arrays or torch tensors, channels last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

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
    "correlation": Quantity("correlation", "PuOr_r", -1.0, 1.0),
    "score": Quantity("mismatch score", "magma"),
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
    if limits is None:
        return quantity
    if not limits[0] < limits[1]:
        raise BiofaceError(f"limits of {quantity.label}: expected (low, high), found {tuple(limits)}")
    return replace(quantity, low=float(limits[0]), high=float(limits[1]))


def _colours(image: np.ndarray, name: str | Quantity) -> np.ndarray:
    """What is shown of a colour image: (H, W, 3) in [0, 1]."""
    if name == "normals":
        image = (image + 1) / 2
    elif name in ("linear_rgb", "albedo"):
        image = srgb_encode(np.clip(image, 0, 1))
    return np.clip(image, 0, 1)  # for the eye only: a screen shows no more than white


def painted(image: Any, quantity: str | Quantity, *, mask: Any = None) -> np.ndarray:
    """The colours (..., H, W, 3) uint8 sRGB in which :func:`show_map` shows maps (..., H, W) or images (..., H, W, 3).

    Grey outside the mask (..., H, W) and where a value is not finite; errors are not checked.
    """
    shown = known_quantity(quantity)
    image = to_numpy(image).astype(np.float32)
    if shown.cmap is None:
        known, colours = np.isfinite(image).all(-1), _colours(image, quantity)
    else:
        known = np.isfinite(image)
        levels = Normalize(shown.low, shown.high)(np.where(known, image, shown.low))
        colours = matplotlib.colormaps[shown.cmap](levels)[..., :3]
    if mask is not None:
        known = known & (to_numpy(mask).astype(float) >= 0.5)
    return np.rint(255 * np.where(known[..., None], colours, BACKGROUND)).astype(np.uint8)


def show_map(
    ax: Axes, image: Any, quantity: str | Quantity, *, mask: Any = None, limits: Limits | None = None
) -> AxesImage:
    """Draw one image or map with the colours and limits of its quantity; outside the mask it is grey.

    Parameters
    ----------
    image : (H, W), or (H, W, 3) for "rgb" (sRGB), "linear_rgb", "albedo" (both linear) and "normals"
    quantity : a name in :data:`QUANTITIES`, or a :class:`Quantity` of one's own
    mask : (H, W), true where there is something to see
    limits : instead of the quantity's own

    Raises
    ------
    BiofaceError : an unknown quantity, or an image or mask of another shape
    """
    shown = known_quantity(quantity, limits)
    image = to_numpy(image)
    image = image.astype(float) if image.dtype != np.uint8 or shown.cmap else image / 255.0
    expected = "(H, W, 3)" if shown.cmap is None else "(H, W)"
    if image.ndim != len(expected.split(",")) or (shown.cmap is None and image.shape[-1] != 3):
        raise BiofaceError(f"{shown.label}: expected an image {expected}, found {image.shape}")
    outside = np.zeros(image.shape[:2], bool) if mask is None else to_numpy(mask).astype(float) < 0.5
    if outside.shape != image.shape[:2]:
        raise BiofaceError(f"{shown.label}: expected a mask {image.shape[:2]}, found {outside.shape}")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    if shown.cmap is None:
        colours = _colours(image, quantity)
        colours[outside | ~np.isfinite(colours).all(-1)] = BACKGROUND
        return ax.imshow(colours, origin="upper")
    cmap = matplotlib.colormaps[shown.cmap].with_extremes(bad=str(BACKGROUND))
    return ax.imshow(np.where(outside, np.nan, image), cmap=cmap, vmin=shown.low, vmax=shown.high, origin="upper")


@matplotlib.rc_context({"text.usetex": False})  # of a user's matplotlibrc, and LaTeX may not be there
def panel_grid(
    rows: Sequence[Sequence[Any]],
    *,
    quantities: str | Sequence[str | Quantity],
    titles: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    masks: Sequence[Any] | None = None,
    limits: Mapping[str, Limits] | None = None,
    by: str = "column",
    panel: int | float = 1.25,
) -> tuple[Figure, np.ndarray]:
    """A grid of images, with one colour bar for each column (or row) of maps.

    Parameters
    ----------
    rows : images by row; None leaves a panel empty
    quantities : of each column (of each row when ``by="row"``), or one for all
    titles : of the columns; left out, the names of the quantities when they go by column
    row_labels : of the rows; left out, the names of the quantities when they go by row
    masks : one per row, or one per column when ``by="row"``; None for no mask
    limits : by name of quantity, instead of its own
    by : whether the quantities go by "column" or by "row"
    panel : width of a panel in inches

    Returns
    -------
    the figure, and its axes (rows, columns)

    Raises
    ------
    BiofaceError : lengths that do not agree, an unknown quantity or limit, no image at all
    """
    if by not in ("column", "row"):
        raise unknown_name("direction", by, ["column", "row"])
    n_rows, n_columns = len(rows), max((len(row) for row in rows), default=0)
    if n_columns == 0 or any(len(row) != n_columns for row in rows):
        raise BiofaceError(f"rows of images: expected equally many in each, found {[len(row) for row in rows]}")
    n_quantities, n_masks = (n_columns, n_rows) if by == "column" else (n_rows, n_columns)
    quantities = [quantities] * n_quantities if isinstance(quantities, str) else list(quantities)
    lengths = {"quantities": n_quantities, "masks": n_masks, "titles": n_columns, "row_labels": n_rows}
    for (name, expected), given in zip(lengths.items(), (quantities, masks, titles, row_labels), strict=True):
        if given is not None and len(given) != expected:
            raise BiofaceError(f"{name}: expected {expected} for {n_rows} × {n_columns}, found {len(given)}")
    own = dict(limits or {})
    for name in own:
        if name not in quantities:
            raise unknown_name("quantity in limits", name, [q for q in quantities if isinstance(q, str)])
    limit = [own.get(q) if isinstance(q, str) else None for q in quantities]
    shown = [known_quantity(q, pair) for q, pair in zip(quantities, limit, strict=True)]
    labels = [q.label for q in shown]
    titles = labels if by == "column" and titles is None else titles or []
    row_labels = labels if by == "row" and row_labels is None else row_labels or []

    first = next((image for row in rows for image in row if image is not None), None)
    if first is None:
        raise BiofaceError("rows of images: expected at least one image, found none")
    height, width = to_numpy(first).shape[:2]
    # the bars have a row (or column) of their own, so that the panels stay in line
    bars = [q.cmap is not None and name != "mask" for q, name in zip(shown, quantities, strict=True)]
    extra_row, extra_column = (int(any(bars)), 0) if by == "column" else (0, int(any(bars)))
    size = (
        panel * (n_columns + 0.08 * extra_column) + 0.3 + 0.5 * extra_column,
        panel * (n_rows + 0.06 * extra_row) * height / width + 0.3 + 0.45 * extra_row,
    )
    figure, grid = plt.subplots(
        n_rows + extra_row,
        n_columns + extra_column,
        figsize=size,
        squeeze=False,
        layout="constrained",
        height_ratios=[1.0] * n_rows + [0.06] * extra_row,
        width_ratios=[1.0] * n_columns + [0.08] * extra_column,
    )
    axes = grid[:n_rows, :n_columns]
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            if image is None:
                axes[r, c].axis("off")
                continue
            k, m = (c, r) if by == "column" else (r, c)
            show_map(axes[r, c], image, quantities[k], mask=None if masks is None else masks[m], limits=limit[k])
    for ax, text in zip(axes[0], titles, strict=False):
        ax.set_title(text, wrap=True)
    for ax, text in zip(axes[:, 0], row_labels, strict=False):
        ax.set_axis_on()
        ax.set_ylabel(text)
    places = grid[-1] if extra_row else grid[:, -1]
    for place, has_bar, quantity in zip(places if any(bars) else [], bars, shown, strict=False):
        if not has_bar:
            place.axis("off")
            continue
        mappable = ScalarMappable(Normalize(quantity.low, quantity.high), quantity.cmap)
        orientation = "horizontal" if extra_row else "vertical"
        bar = figure.colorbar(mappable, cax=place, orientation=orientation, label=quantity.unit)  # without its name
        bar.outline.set_visible(False)
        ticks = [quantity.low, (quantity.low + quantity.high) / 2, quantity.high]  # three fit under one panel
        bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    return figure, axes
