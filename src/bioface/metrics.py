"""How far a map is from the truth, and how well a score tells two kinds of faces apart.

Maps are (..., H, W), images (..., H, W, 3), with masks (..., H, W); there is one number for each map or image of
the batch, over the pixels of its mask only. What is outside the mask, NaN too, does not count.

References
----------
Hanley & McNeil (1982), "The meaning and use of the area under a receiver operating characteristic (ROC) curve",
Radiology 143: the area is the Mann–Whitney statistic.
Efron & Tibshirani (1993), "An introduction to the bootstrap", chapter 13: percentile intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats
import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Tensor

from bioface.arrays import accepts_numpy
from bioface.errors import BiofaceError
from bioface.maps import Decomposition

#: The columns of the paper's Table 1, of those that :func:`table1_row` gives.
TABLE1 = ("diffuse", "specular", "albedo", "melanin", "haemoglobin", "reconstruction")

# --- maps --------------------------------------------------------------------------------------------------


def _inside(mask: Tensor, *maps: Tensor) -> list[Tensor]:
    """The mask and the maps as (..., pixels [, channels]), the maps 0 outside the mask; checked."""
    for values in maps:
        if values.shape != maps[0].shape:
            raise BiofaceError(f"expected maps of one shape, found {tuple(maps[0].shape)}, {tuple(values.shape)}")
    has_channels = maps[0].ndim == mask.ndim + 1
    if tuple(maps[0].shape[: mask.ndim]) != tuple(mask.shape) or maps[0].ndim - mask.ndim not in (0, 1):
        raise BiofaceError(f"expected a mask for maps {tuple(maps[0].shape)}, found {tuple(mask.shape)}")
    if not bool(mask.flatten(-2).any(-1).all()):
        raise BiofaceError("expected at least one pixel in every mask, found an empty mask")
    full = mask[..., None].expand(maps[0].shape) if has_channels else mask
    inside = [torch.where(full, values, 0).flatten(mask.ndim - 2) for values in maps]
    if not all(bool(torch.isfinite(values).all()) for values in inside):
        raise BiofaceError("expected finite values inside the mask, found NaN or infinity")
    return [full.flatten(mask.ndim - 2), *inside]


@accepts_numpy
def rmse(
    prediction: Float[Tensor, "*image"], truth: Float[Tensor, "..."], mask: Bool[Tensor, "*batch H W"]
) -> Float[Tensor, "*batch"]:
    """Root-mean-square error of each map (or image, over its channels too) inside its mask.

    Parameters
    ----------
    prediction, truth : (..., H, W) or (..., H, W, channels)
    mask : (..., H, W) bool

    Returns
    -------
    (...) in the unit of the maps

    Raises BiofaceError: shapes that do not agree, an empty mask, NaN or infinity inside it.

    >>> truth = torch.tensor([[1.0, 2.0, 100.0]])
    >>> rmse(truth + torch.tensor([[3.0, -4.0, 50.0]]), truth, torch.tensor([[True, True, False]]))
    tensor(3.5355)
    """
    inside, prediction, truth = _inside(mask, prediction, truth)
    return ((prediction - truth).square().sum(-1) / inside.sum(-1)).sqrt()


@accepts_numpy
def scale_aligned_rmse(
    prediction: Float[Tensor, "*image"], truth: Float[Tensor, "..."], mask: Bool[Tensor, "*batch H W"]
) -> Float[Tensor, "*batch"]:
    """:func:`rmse` after each map's best scale (least squares): a factor of shading could as well be albedo's.

    >>> truth = torch.tensor([[1.0, 2.0]])
    >>> scale_aligned_rmse(7 * truth, truth, torch.ones(1, 2, dtype=torch.bool))
    tensor(0.)
    """
    inside, p, t = _inside(mask, prediction, truth)
    power = p.square().sum(-1, keepdim=True)
    scale = (p * t).sum(-1, keepdim=True) / torch.where(power > 0, power, 1)
    return ((p * scale - t).square().sum(-1) / inside.sum(-1)).sqrt()


@accepts_numpy
def correlation(
    prediction: Float[Tensor, "*image"], truth: Float[Tensor, "..."], mask: Bool[Tensor, "*batch H W"]
) -> Float[Tensor, "*batch"]:
    """Pearson's correlation inside each mask, −1 to 1; NaN where one of the two is constant.

    Parameters, errors: as :func:`rmse`.

    >>> truth = torch.tensor([[1.0, 2.0, 4.0]])
    >>> round(float(correlation(5 - 2 * truth, truth, torch.ones(1, 3, dtype=torch.bool))), 4)
    -1.0
    """
    inside, prediction, truth = _inside(mask, prediction, truth)
    count = inside.sum(-1, keepdim=True)

    def centred(values: Tensor) -> Tensor:
        deviation = torch.where(inside, values - values.sum(-1, keepdim=True) / count, 0)
        # what rounding leaves of a constant is not a deviation
        smallest = 4 * torch.finfo(values.dtype).eps * values.abs().amax(-1, keepdim=True)
        return torch.where(deviation.abs().amax(-1, keepdim=True) > smallest, deviation, torch.nan)

    a, b = centred(prediction), centred(truth)
    r = (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    return r.clamp(-1, 1)


# --- Table 1 -----------------------------------------------------------------------------------------------


def table1_row(
    prediction: Decomposition, truth: Decomposition, mask: np.ndarray | None = None
) -> dict[str, np.ndarray | float]:
    """How far one method's decompositions are from the truth: the columns of Table 1 and those that explain them.

    RMSE of ``specular``, ``albedo`` and ``reconstruction`` (linear RGB, the latter against the truth's image);
    ``diffuse`` shading after its best scale and ``diffuse_raw`` as it is; the pigments in table coordinates, [−1, 1],
    and as ``…_fraction`` of volume. ``…_correlation`` is Pearson's within the face, NaN for a constant.

    Parameters
    ----------
    prediction, truth : of the same faces, (..., H, W)
    mask : (..., H, W) bool, the pixels that count; None is the truth's mask

    Returns
    -------
    {column: (...)}, one number for each face, a float for a single one. A map that is NaN in all of the mask, of which
    a method says nothing, gives NaN.

    Raises
    ------
    BiofaceError : shapes that do not agree, an empty mask, maps that are NaN or infinite in some of the mask
    """
    mask = truth.mask if mask is None else np.asarray(mask, bool)

    def score(metric: Callable[..., Any], said: np.ndarray, true: np.ndarray) -> np.ndarray | float:
        if said.shape != true.shape or true.shape[: mask.ndim] != mask.shape:
            raise BiofaceError(f"expected maps {true.shape} for a mask {mask.shape}, found {said.shape}")
        outside = ~mask.reshape(*mask.shape, *(1,) * (true.ndim - mask.ndim))
        axes = tuple(range(mask.ndim - 2, true.ndim))
        silent = np.any([(np.isnan(values) | outside).all(axes, keepdims=True) for values in (said, true)], axis=0)
        said, true = (np.where(silent, 0, values).astype(float) for values in (said, true))
        found = np.where(silent.reshape(mask.shape[:-2]), np.nan, metric(said, true, mask))
        return found if found.ndim else float(found)

    def of(metric: Callable[..., Any], name: str) -> np.ndarray | float:
        return score(metric, getattr(prediction, name), getattr(truth, name))

    row = {
        "diffuse": of(scale_aligned_rmse, "diffuse_shading"),
        "diffuse_raw": of(rmse, "diffuse_shading"),
        "specular": of(rmse, "specular_shading"),
        "albedo": of(rmse, "albedo"),
        "reconstruction": score(rmse, prediction.reconstruction, truth.image),
    }
    for pigment in ("melanin", "haemoglobin"):
        row[pigment] = of(rmse, f"{pigment}_coordinate")
        row[f"{pigment}_fraction"] = of(rmse, pigment)
        row[f"{pigment}_correlation"] = of(correlation, f"{pigment}_coordinate")
    return row


def skill(error: float, reference: float) -> float:
    """1 − error / reference: 1 is perfect, 0 no better than the reference, below 0 worse.

    >>> skill(0.1, 0.4)
    0.75
    """
    return 1 - error / reference


# --- scores ------------------------------------------------------------------------------------------------


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve of ``scores`` (N,), higher for a positive, and ``labels`` (N,) bool: 0.5 is chance.

    Raises BiofaceError: shapes that do not agree, NaN or infinity, labels of one kind only.

    >>> auc([0.1, 0.4, 0.35, 0.8], np.array([False, False, True, True]))
    0.75
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels, bool)
    if scores.ndim != 1 or labels.shape != scores.shape or labels.all() or not labels.any():
        found = f"{scores.shape} and {labels.shape} with {labels.sum()} true"
        raise BiofaceError(f"expected as many scores as labels, and labels of both kinds, found {found}")
    if not np.isfinite(scores).all():
        raise BiofaceError("expected finite scores, found NaN or infinity")
    pairs = labels.sum() * (~labels).sum()
    return float(scipy.stats.mannwhitneyu(scores[labels], scores[~labels]).statistic / pairs)


def auc_interval(
    scores: ArrayLike, labels: ArrayLike, rng: np.random.Generator, draws: int = 2000
) -> tuple[float, float]:
    """95 % bootstrap interval of :func:`auc`: positives and negatives are drawn again, each as many as there are.

    >>> scores, labels = np.arange(40.0) % 25, np.arange(40) >= 20
    >>> low, high = auc_interval(scores, labels, np.random.default_rng(0))
    >>> low < auc(scores, labels) < high
    True
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels, bool)
    positives, negatives = labels.sum(), (~labels).sum()
    drawn = np.hstack([rng.choice(scores[kind], (draws, kind.sum())) for kind in (labels, ~labels)])
    ranks = scipy.stats.rankdata(drawn, axis=1)[:, :positives]
    return _interval((ranks.sum(1) - positives * (positives + 1) / 2) / (positives * negatives))


def mean_interval(values: ArrayLike, rng: np.random.Generator) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of ``values`` (N,).

    >>> low, high = mean_interval([0.0, 1.0, 2.0, 3.0], np.random.default_rng(0))
    >>> low < 1.5 < high
    True
    """
    values = np.asarray(values, float)
    return _interval(rng.choice(values, (2000, len(values))).mean(1))


def _interval(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
