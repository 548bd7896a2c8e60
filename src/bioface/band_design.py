"""How many bands a camera needs to tell skin's maps, and which."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bioface import identifiability
from bioface.arrays import accepts_numpy
from bioface.errors import BiofaceError


def even(count: int) -> Float[Tensor, "count 33"]:
    """Sensitivity (count, 33) of a camera of 1–33 equally wide bands that share 400–720 nm, each of unit sum.

    Raises BiofaceError: a count outside 1–33.

    >>> even(11)[0, :4]
    tensor([0.3333, 0.3333, 0.3333, 0.0000], dtype=torch.float64)
    """
    if count not in range(1, 34):
        raise BiofaceError(f"expected 1 to 33 bands, found {count!r}")
    edges = torch.linspace(0, 33, int(count) + 1, dtype=torch.float64)
    points = torch.arange(33, dtype=torch.float64)
    inside = torch.minimum(points + 1, edges[1:, None]) - torch.maximum(points, edges[:-1, None])
    share = inside.clamp_min(0)
    return share / share.sum(1, keepdim=True)


@accepts_numpy
def best(J: Float[Tensor, "P D 4"], sigma: float, prior: Float[Tensor, "4 4"], count: int) -> Int[Tensor, "count"]:
    """Numbers (count,) of the single bands that tell melanin and haemoglobin best, chosen one after the other.

    Each time the band that makes the mean over pixels of log variance, melanin's and haemoglobin's together, smallest.
    ``J`` (P, D, 4) is the derivative of every band's radiance, ``sigma`` and ``prior`` are those of
    :func:`bioface.identifiability.posterior_deviation`. Raises BiofaceError: more bands than there are.
    """
    if count > J.shape[1]:
        raise BiofaceError(f"expected 1 to {J.shape[1]} bands, found {count!r}")
    J, covariance = J.double(), prior.double().expand(len(J), 4, 4)
    chosen: list[int] = []
    for _ in range(count):
        across = J @ covariance  # (P, D, 4): what each band says of each map
        power = (across * J).sum(-1) + sigma**2  # (P, D)
        left = covariance.diagonal(dim1=-2, dim2=-1)[:, None, :2] - across[..., :2].square() / power[..., None]
        cost = left.clamp_min(1e-300).log().sum(-1).mean(0)
        cost[chosen] = torch.inf
        band = int(cost.argmin())
        chosen.append(band)
        column = across[:, band]
        covariance = covariance - column[:, :, None] * column[:, None, :] / power[:, band, None, None]
    return torch.tensor(chosen)


@accepts_numpy
def curve(
    melanin: Float[Tensor, "P"],
    haemoglobin: Float[Tensor, "P"],
    diffuse: Float[Tensor, "P"],
    sigma: float,
    prior: Float[Tensor, "4 4"],
    counts: Iterable[int] | Int[Tensor, "n"],
    greedy: bool = False,
    constant_light: bool = False,
) -> Float[Tensor, "n 4"]:
    """Median deviation (n, 4) over pixels, in the order of MAPS, that cameras of each of n numbers of bands allow.

    White is 1 in every band (``layered`` skin, camera and light known), and noise is ``sigma`` in each, however narrow:
    the camera takes in more light the more bands it has.

    Parameters
    ----------
    melanin, haemoglobin, diffuse : (P,) maps of some pixels; pigments as volume fractions
    prior : (4, 4) covariance of the maps, pigments in table coordinates, as are the deviations
    greedy : of 10 nm each, the most telling ones (:func:`best`), instead of :func:`even` side by side
    constant_light : the light that three bands would share is shared by all, noise is σ √(count / 3)

    Raises
    ------
    BiofaceError : counts outside 1–33, a sigma that is not above 0, fractions outside 0–1
    """
    cameras = [even(count) for count in counts]
    maps = melanin.double(), haemoglobin.double()
    J = identifiability.jacobian(*maps, diffuse.double(), torch.ones(33, dtype=torch.float64))
    J = identifiability.in_table_coordinates(J, *maps)
    if greedy:
        order = best(J, sigma, prior, max(map(len, cameras)))
        cameras = [torch.eye(33, dtype=torch.float64)[order[: len(c)]] for c in cameras]
    noise = [sigma * (len(c) / 3) ** 0.5 if constant_light else sigma for c in cameras]
    deviations = [identifiability.posterior_deviation(c @ J, s, prior) for c, s in zip(cameras, noise, strict=True)]
    return torch.stack([d.median(0).values for d in deviations])
