"""Pictures of overfitted faces: the report's Figures 2a and 2b, and recipes one change apart."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from bioface import objective, plotting
from bioface.network import Output
from bioface.objective import Batch
from bioface.recipes import Recipe
from study import figures

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
#: What was shown, which maps made it and by which recipe: a row of :func:`decompositions`.
Row = tuple[Any, Output, Recipe]


def decompositions(
    name: str, rows: Mapping[str, Row], batch: Batch, face: int, *, numbers: Any, data: str, alt: str
) -> None:
    """One face taken apart in several ways, in the report's columns, saved.

    A map has one range for all rows: up to the median, over the rows, of what 98 % of the face stay below.

    Parameters
    ----------
    rows : by label, the images (B, H, W, 3) in linear RGB, the maps that made them, and the recipe
    numbers, data, alt : as :func:`study.figures.save` takes them
    """
    panels, mask = [], batch.mask[face].numpy()
    for image, said, recipe in rows.values():
        maps = said.diffuse, said.specular, said.melanin_fraction, said.haemoglobin_fraction
        panels.append([batch.image, image, *maps, objective.albedo(said, recipe)])
    shown = [[plotting.to_numpy(values[face]) for values in row] for row in panels]
    tops = {
        kind: float(np.median([np.quantile(row[k][mask], 0.98) for row in shown]))
        for k, kind in enumerate(COLUMNS.values())
        if 2 <= k <= 5
    }
    figure, _ = plotting.panel_grid(
        shown,
        quantities=list(COLUMNS.values()),
        titles=list(COLUMNS),
        row_labels=list(rows),
        masks=[mask] * len(rows),
        limits={kind: (0.0, top) for kind, top in tops.items()},
        panel=1.5,
    )
    figures.save(figure, name, numbers=numbers, data=data, alt=alt)


def change(before: Recipe, after: Recipe) -> str:
    """What one recipe has that another has not.

    >>> from bioface import recipes
    >>> change(recipes.PAPER_LITERAL, recipes.get("scale_255"))
    'scale 1 → 255'
    """
    told = []
    for field in dataclasses.fields(before)[1:]:
        old, new = getattr(before, field.name), getattr(after, field.name)
        if isinstance(old, tuple) and old != new:
            told += [f"weight of {k} {a:g} → {b:g}" for k, a, b in zip(old._fields, old, new, strict=True) if a != b]
        elif old != new:
            shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in (old, new)]
            told.append(f"{field.name.replace('_', ' ')} {' → '.join(shown)}")
    return ", ".join(told)


def ladder(
    name: str,
    groups: Mapping[str, Sequence[tuple[Recipe, Recipe]]],
    score: Mapping[str, Any],
    flat: float,
    *,
    data: str,
    alt: str,
) -> None:
    """RMSE before and after training with each of some recipes, which are one change apart, saved.

    Parameters
    ----------
    groups : by title, pairs of a recipe and what it becomes; their first recipe is the first of all
    score : of :func:`study.experiments.summary`
    flat : RMSE of a constant colour for each face
    """
    (first, _), *_ = next(iter(groups.values()))
    lines = [(first.name.replace("_", " "), first, "k")]
    for k, pairs in enumerate(groups.values()):
        lines += [(change(before, after), after, f"C{k}") for before, after in pairs]
    figure, ax = plt.subplots(figsize=(8, 0.4 + 0.27 * len(lines)), layout="constrained")
    for y, (_, recipe, colour) in enumerate(lines):
        start, end = score[recipe.name]["start"], score[recipe.name]["rmse"]
        ax.plot([start.mean(), end.mean()], [y, y], color=colour, lw=1)
        ax.plot(start.mean(), y, "o", color=colour, mfc="w")
        ax.plot(end, np.full_like(end, y), "o", color=colour)
    for title, k in zip(groups, range(len(groups)), strict=True):
        ax.plot([], [], "o", color=f"C{k}", label=title)
    ax.axvline(flat, color="0.4", lw=0.8, ls=":", label="a constant colour")
    ax.set_yticks(range(len(lines)), [label for label, _, _ in lines], fontsize=10)
    ax.set(xscale="log", xlabel="RMSE in linear RGB: hollow before training, filled after it, a dot for each seed")
    ax.invert_yaxis()
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    kept = {
        recipe: {key: s[key] for key in s if key == "rmse" or key.endswith(("start", "luminance", "_correlation"))}
        for recipe, s in score.items()
    }
    figures.save(figure, name, numbers=kept, data=data, alt=alt)
