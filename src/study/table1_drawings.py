"""Pictures of notebook 05: methods side by side, further from the training faces, and the published numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from bioface import metrics
from study import figures, table1
from study.table1 import Scores

_SEES_NOTHING = ("predict 0", "training mean", "image mean")


def methods(name: str, found: Scores, recorded: Sequence[str], data: str) -> None:
    """Each method's error in each column, ± two standard errors, with those on record (``recorded``) hollow; saved.

    ``found`` is of :func:`study.table1.scores`; "training mean" is among them and draws a line.
    """
    figure, axes = plt.subplots(1, 6, figsize=(10, 0.26 * len(found) + 1.1), layout="constrained", sharey=True)
    for ax, column in zip(axes, metrics.TABLE1, strict=True):
        constant = found["training mean"][column][0]
        for place, (method, of_method) in enumerate(found.items()):
            mean, error = of_method[column]
            if mean is None or np.isnan(mean):
                ax.text(0, place, "no such map", va="center", fontsize=8, color="0.4")
                continue
            if mean > 1.6 * constant:
                ax.text(1.72 * constant, place, f"{mean:.2f} →", ha="right", va="center", fontsize=8, color="0.4")
                continue
            trained = "0.5" if method in _SEES_NOTHING else "C3"
            colour = "C0" if method.startswith(("dens", "exp", "meas")) else trained
            face = "white" if method in recorded else colour
            ax.errorbar(mean, place, xerr=2 * error, fmt="o", color=colour, mfc=face, ms=5, lw=1.2)
        ax.axvline(constant, color="0.5", lw=0.8, ls=":")
        ax.set(
            title=column,
            xlim=(0, 1.75 * constant),
            yticks=range(len(found)),
            yticklabels=[table1.NAMES[m] for m in found],
        )
    axes[0].invert_yaxis()
    figure.supxlabel("RMSE ± 2 standard errors; dotted: the mean of the training faces; hollow: on record", fontsize=9)
    alt = "Errors of the methods in the six columns of Table 1, as dots: Bayes over the whole face, told the twin's "
    alt += (
        "skins, has nearly the smallest in every map, networks taught by true maps follow; that of the paper's losses"
    )
    alt += " lies beyond the mean training face in highlights, albedo and both pigments."
    figures.save(figure, name, numbers=found, data=data, alt=alt)


def beyond(name: str, shares: Mapping[str, Mapping[str, Mapping[str, float]]], data: str) -> None:
    """Errors as shares of a constant's, {method: {kind of faces: {column: share}}}, a panel a column; saved."""
    by_kind = next(iter(shares.values()))
    columns, kinds = list(by_kind[""]), [kind or "usual" for kind in by_kind]
    figure, axes = plt.subplots(1, len(columns), figsize=(9.5, 3.4), layout="constrained", sharey=True, sharex=True)
    for ax, column in zip(axes, columns, strict=True):
        for (method, of_method), marker in zip(shares.items(), "osD^v", strict=False):
            ax.plot(
                [s[column] for s in of_method.values()], range(len(of_method)), marker, ms=6, label=table1.NAMES[method]
            )
        ax.axvline(1, color="0.5", lw=0.8, ls=":")
        ax.set(title=column, yticks=range(len(kinds)), yticklabels=kinds)
    axes[0].invert_yaxis()
    axes[0].set_xlim(0)
    told = "error as a share of the mean training face's on the same faces; from 1 on there is no skill"
    figure.supxlabel(told, fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    alt = "Errors in melanin, haemoglobin and brightness as shares of a constant's, for several kinds of photos and"
    alt += " methods: the paper's losses lie beyond one in pigments, the network that ships below one wherever it "
    alt += "was trained; Bayes beyond one in dark melanin, and in haemoglobin after a tone curve or JPEG."
    figures.save(figure, name, numbers=shares, data=data, alt=alt)


def published(name: str, verdicts: Mapping[str, Mapping[str, Any]], data: str) -> None:
    """The published numbers, with what can be said of each; saved."""
    figure, ax = plt.subplots(figsize=(8, 2.9), layout="constrained")
    places = np.arange(len(verdicts))
    for k, (method, numbers) in enumerate(table1.AS_PUBLISHED.items()):
        heights = [numbers.get(column, np.nan) for column in verdicts]
        bars = ax.bar(places + 0.4 * k - 0.2, heights, 0.38, color=("0.7", "0.3")[k], label=f"{method}, as published")
        ax.bar_label(bars, ["" if np.isnan(h) else f"{h:.4f}" for h in heights], fontsize=8)
    ax.set_xticks(places, [f"{column}\n{v['verdict']}" for column, v in verdicts.items()], fontsize=8)
    ax.set(ylabel="RMSE on 25 ISET faces\n(pigments in [−1, 1], else linear RGB)")
    ax.legend()
    alt = "The published errors of SfSNet and BioFaceNet in six columns as bars, and the verdict on "
    alt += "BioFaceNet's numbers: none can be judged unless its faces are at hand."
    figures.save(figure, name, numbers=verdicts, data=data, alt=alt)
