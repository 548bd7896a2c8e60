"""The figures of the audit (notebook 01): what files hold, what is taken for shading, shading that belies a photo."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import RocCurveDisplay

from bioface import plotting, shading
from bioface.datasets import nfe
from study import audit, figures

TWIN = "twin (synthetic)"
#: What stands above the shadings that are shown of :func:`study.audit.mistakes`.
MISTAKES = {
    audit.RIGHT: "right",
    "normals not decoded": "normals\nnot decoded",
    "light of another face": "another's\nlight",
    "min–max stretched": "stretched",
    "coordinate map as shading": "coordinates",
}


def channels(name: str, faces: nfe.Faces, stored: np.ndarray, *, data: str) -> None:
    """What the files hold of two faces, and their ``stored`` shading; ``name`` and ``data`` of the figure."""
    two = faces[[0, 1]]
    kinds = ["rgb", "normals", "mask", "coordinates", "diffuse_shading"]
    maps = (two.rgb, two.normals, two.mask, two.coordinates, stored[:2])
    titles = ["photo", "normals", "mask", "coordinates", "shading nᵀMn"]
    rows = list(zip(*maps, strict=True))
    limits = {"diffuse_shading": (0.0, float(stored[:2].max()))}
    figure, _ = plotting.panel_grid(rows, quantities=kinds, titles=titles, limits=limits, panel=1.8)
    alt = "Two faces: photo, normals, mask, coordinates as colours, and the shading of the normals under the light."
    figures.save(figure, name, numbers={"faces": list(two.names)}, data=data, alt=alt)


def mistakes(
    name: str,
    faces: nfe.Faces,
    shadings: Mapping[str, np.ndarray],
    costs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    data: str,
) -> None:
    """Two faces' right shading beside what was taken for it, with median correlation and error above."""
    show = np.argsort(costs["light of another face"][0])[len(faces) // 4 :][:2]
    rows = [
        [faces.rgb[i], *(shadings[n][i] / np.quantile(shadings[n][i][faces.mask[i]], 0.99) for n in MISTAKES)]
        for i in show
    ]
    told = {n: "r {:.2f}, error {:.2f}".format(*map(np.median, costs[n])) for n in MISTAKES}
    titles = ["photo", *(f"{text}\n{told[n]}" for n, text in MISTAKES.items())]
    each = plotting.Quantity("shading, each to its own maximum", "gray")
    kinds: list[str | plotting.Quantity] = ["rgb", *[each] * len(MISTAKES)]
    figure, _ = plotting.panel_grid(rows, quantities=kinds, titles=titles, masks=list(faces.mask[show]), panel=1.6)
    numbers = {n: {"correlation": r, "error": e} for n, (r, e) in costs.items()}
    alt = "Two faces: the right shading beside four things that were taken for it; another's light differs most."
    figures.save(figure, name, numbers=numbers, data=data, alt=alt)


def belied(name: str, faces: nfe.Faces, score: np.ndarray, *, data: str, count: int = 3) -> None:
    """The report's Figures 1a and 1b for the faces of highest score, with the photo's own shading and the residual."""
    some = np.argsort(score)[::-1][:count]
    c = shading.compare(faces[some])
    residual = plotting.Quantity("residual image", "PuOr_r", -0.4, 0.4, "log")
    shown = (faces.rgb[some], c.stored, np.exp(c.log_photo), np.where(c.window, c.residual, np.nan))
    figure, _ = plotting.panel_grid(
        list(zip(*shown, strict=True)),
        quantities=["rgb", "diffuse_shading", "diffuse_shading", residual],
        titles=["photo\n(Figure 1a)", "stored shading\n(Figure 1b)", "shading that\nthe photo shows", "residual image"],
        row_labels=[f"score {s:.2f}" for s in score[some]],
        masks=list(faces.mask[some]),
        limits={"diffuse_shading": (0.0, float(c.stored.max()))},
        panel=1.9,
    )
    numbers = {"face": [faces.names[i] for i in some], "score": score[some]}
    alt = "Faces: the photo, the stored shading with another mouth, and the shading that the photo itself shows."
    figures.save(figure, name, numbers=numbers, data=data, alt=alt)


def roc(name: str, scores: Mapping[str, np.ndarray], label: np.ndarray) -> None:
    """ROC curves of scores by name, pairs of them in the same two colours; ``label`` is true for mismatched faces."""
    figure, ax = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
    for k, (text, score) in enumerate(scores.items()):
        style = {"color": f"C{k % 2}", "linestyle": "-:"[k // 2]}
        RocCurveDisplay.from_predictions(label, score, ax=ax, name=text, curve_kwargs=style)
    ax.set(xlabel="matched faces flagged", ylabel="mismatched faces flagged")
    alt = "ROC curves on clean and on degraded faces: the score is nearly perfect and keeps most of it, plain is worse."
    figures.save(figure, name, numbers={**scores, "mismatch": label}, data=TWIN, alt=alt)


def bias(name: str, photo: np.ndarray, mean: np.ndarray, deviation: np.ndarray, rms: np.ndarray) -> None:
    """The mean shading error (H, W) over faces, as it is and in standard errors, beside the mean photo and the RMS."""
    ratio = np.divide(mean, deviation, out=np.full_like(mean, np.nan), where=np.nan_to_num(deviation) > 0)
    kinds = [plotting.Quantity(text, "PuOr_r", -v, v) for text, v in (("mean error", 0.1), ("standard errors", 6))]
    titles = ["mean photo", "stored − true,\nmean", "the same in\nstandard errors", "stored − true,\nRMS of faces"]
    quantities: list[str | plotting.Quantity] = ["rgb", *kinds, plotting.Quantity("RMS", "magma", 0, 0.3)]
    figure, _ = plotting.panel_grid([[photo, mean, ratio, rms]], quantities=quantities, titles=titles, panel=1.9)
    numbers = {"mean": mean, "standard_error": deviation, "rms": rms}
    alt = "Maps of the shading error over mismatched faces: largest around mouth and nose, its mean a small part."
    figures.save(figure, name, numbers=numbers, data=TWIN, alt=alt)
