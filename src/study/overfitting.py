"""Pictures of overfitted faces: the report's Figures 2a and 2b, recipes one change apart, ceilings."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from bioface import identifiability, losses, objective, skin
from bioface.network import Output
from bioface.objective import Batch
from bioface.recipes import Recipe
from study import drawings, figures

#: The columns of the report's figures 2a and 2b, in its order and words, and how each is drawn.
COLUMNS = {
    "original RGB": "linear_rgb",
    "reconstructed RGB": "linear_rgb",
    "shading": "diffuse_shading",
    "specularities": "specular_shading",
    "melanin": "melanin",
    "haemoglobin": "haemoglobin",
    "diffuse albedo": "albedo",
}
#: Images (B, H, W, 3) in linear RGB, the maps that made them, and the recipe: a row of :func:`decompositions`.
Row = tuple[Any, Output, Recipe]


def decompositions(name: str, rows: Mapping[str, Row], batch: Batch, face: int, *, numbers: Any, data: str) -> None:
    """One face taken apart in several ways, in the report's columns, saved."""
    shown = {}
    for label, (image, said, recipe) in rows.items():
        maps = said.diffuse, said.specular, said.melanin_fraction, said.haemoglobin_fraction
        shown[label] = [values[face] for values in (batch.image, image, *maps, objective.albedo(said, recipe))]
    drawings.by_row(
        name,
        shown,
        list(COLUMNS.values()),
        batch.mask[face],
        titles=list(COLUMNS),
        numbers=numbers,
        data=data,
        alt=f"A face as {', '.join(COLUMNS)}; from above: {'; '.join(label.replace(chr(10), ' ') for label in rows)}.",
    )


SAID = {"rows": "white scaling", "scale": "colour scale"}  #: fields of a recipe whose names do not say what they are


def change(before: Recipe, after: Recipe) -> str:
    """What one recipe has that another has not.

    >>> from bioface import recipes
    >>> change(recipes.PAPER_LITERAL, recipes.get("scale_255"))
    'colour scale 1 → 255'
    """
    told = []
    for field in dataclasses.fields(before)[1:]:
        old, new = getattr(before, field.name), getattr(after, field.name)
        if isinstance(old, losses.Weights) and old != new:
            told += [f"weight of {k} {a:g} → {b:g}" for k, a, b in zip(old._fields, old, new, strict=True) if a != b]
        elif old != new:
            shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in (old, new)]
            told.append(f"{SAID.get(field.name, field.name).replace('_', ' ')} {' → '.join(shown)}")
    return ", ".join(told)


def ladder(
    name: str,
    groups: Mapping[str, Sequence[tuple[Recipe, Recipe]]],
    score: Mapping[str, Any],
    flat: float,
    *,
    data: str,
) -> None:
    """RMSE before and after training with each of some recipes, which are one change apart, saved.

    Parameters
    ----------
    groups : by title, pairs of a recipe and what it becomes; their first recipe is the first of all
    score, flat : of :func:`study.experiments.summary`; the RMSE of a constant colour for each face
    """
    (first, _), *_ = next(iter(groups.values()))
    lines = [(first.name.replace("_", " "), first, "k")]
    for k, pairs in enumerate(groups.values()):
        added = ("+ " * (before is not first) for before, _ in pairs)  # to the row above
        lines += [(plus + change(*pair), pair[1], f"C{k}") for plus, pair in zip(added, pairs, strict=True)]
    figure, ax = plt.subplots(figsize=(8, 0.4 + 0.27 * len(lines)), layout="constrained")
    for y, (_, recipe, colour) in enumerate(lines):
        both = np.stack([score[recipe.name][when] for when in ("start", "rmse")])  # (2, seeds)
        for at, (start, end) in zip(y + np.linspace(-0.2, 0.2, both.shape[1]), both.T, strict=True):
            ax.plot([start, end], [at, at], "-", color=colour, lw=1)
            ax.plot(start, at, "o", color=colour, mfc="w", ms=5)
            ax.plot(end, at, "o", color=colour, ms=3)
    for k, title in enumerate(groups):
        ax.plot([], [], "o", color=f"C{k}", label=title)
    ax.axvline(flat, color="0.4", lw=0.8, ls=":", label="a constant colour")
    ax.set_yticks(range(len(lines)), [label for label, _, _ in lines], fontsize=10)
    ax.set(xscale="log", xlabel="RMSE in linear RGB: a line for each seed, from hollow (before) to filled (after)")
    ax.invert_yaxis()
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    alt = f"RMSE before and after training, by group: {', '.join(groups)}. With the paper's step size dots stay "
    alt += "where they start; Adam at a higher rate, or the code's three factors together, move them far."
    figures.save(figure, name, numbers={recipe: dict(s) for recipe, s in score.items()}, data=data, alt=alt)


def same_photo(name: str, rows: Mapping[str, np.ndarray], to_rgb: np.ndarray, mask: np.ndarray) -> None:
    """One photo made of several maps (H, W, 4) in the order of ``identifiability.MAPS``, each beside them, saved.

    ``to_rgb``, (3, 33), goes from spectra to linear RGB; ``mask`` (H, W) is the face.
    """
    shown = {}
    for label, maps in rows.items():
        spectra = maps[..., 2:3] * skin.reflectance(*np.nan_to_num(np.moveaxis(maps[..., :2], -1, 0))) + maps[..., 3:]
        shown[label] = [spectra @ to_rgb.T, *np.moveaxis(maps, -1, 0)]
    drawings.by_row(
        name,
        shown,
        ["linear_rgb", *identifiability.MAPS],
        mask,
        titles=["photo", "melanin", "haemoglobin", "shading", "specularities"],
        numbers={"highest": np.nanquantile(np.stack([*rows.values()])[:, mask], 0.95, (0, 1))},
        data="twin, 1 face (synthetic)",
        alt=f"The same photo, made of other maps in each row: {', '.join(rows)}. With more melanin the shading is "
        "brighter.",
    )


def copies(
    name: str,
    grid: Mapping[tuple[str, str], Recipe],
    runs: Mapping[str, Any],
    score: Mapping[str, Any],
    batch: Batch,
    *,
    data: str,
) -> None:
    """The second face by recipe (rows) and way of copying (columns), with the mean RMSE of all faces and seeds, saved.

    ``grid`` has the recipe as it was trained; ``runs`` and ``score`` are of :func:`study.experiments.run_all` and
    ``summary``.
    """
    names, kinds = (list(dict.fromkeys(key[k] for key in grid)) for k in (0, 1))
    shown, below = {}, []
    for name_of_row in names:
        trained = [grid[name_of_row, kind].name for kind in kinds]
        shown[name_of_row.replace("_", " ")] = [batch.image[1], *(runs[recipe][0].image[1] for recipe in trained)]
        below.append(["", *(f"{score[recipe]['rmse'].mean():.3f}" for recipe in trained)])
    alt = (
        f"One face by {', '.join(shown)} (rows) and copy of the shading ({', '.join(kinds)}): noise in the first row, "
    )
    alt += "grey faces with the copy × 1, the best picture with a fitted copy in the last."
    how: dict[str, Any] = {
        "titles": ["photo", *kinds],
        "below": below,
        "numbers": {r: s["rmse"] for r, s in score.items()},
    }
    drawings.by_row(name, shown, ["linear_rgb"] * (1 + len(kinds)), batch.mask[1], **how, data=data, alt=alt)


def floors(name: str, factors: np.ndarray, floor: Mapping[str, Sequence[float]], flat: float) -> None:
    """Least possible RMSE against the factor of a copied luminance, without highlights, saved.

    ``floor`` has, by scaling of white, the RMSE for each factor, then with free shading; ``flat`` is that of a constant
    colour.
    """
    figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for rows, curve in floor.items():
        (line,) = ax.loglog(factors, curve[:-1], label=rows)
        ax.axhline(curve[-1], color=line.get_color(), lw=0.8, ls=":")
    ax.axhline(flat, color="k", lw=0.8)
    ax.set(xlabel="factor of the copied luminance", ylabel="least possible RMSE")
    ax.legend(title="white as in", fontsize=10)
    alt = "Least possible error against the factor of the copy, for three scalings of white: high at 1 for the code's, "
    alt += "lowest at a factor of several; dotted lines far below where the shading is free."
    data = "twin, 150 pixels, D65, mean camera (synthetic)"
    curves = {f"{rows}, none": curve for rows, curve in floor.items()}
    figures.save(figure, name, numbers={"factor": factors} | curves, data=data, alt=alt)
