"""Three numbers for four unknowns: which other maps of skin and shading give a pixel the same colour."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bioface import skin, spectra
from bioface.arrays import accepts_numpy
from bioface.identifiability import columns, jacobian


@accepts_numpy
def rgb_jacobian(
    melanin: Float[Tensor, "*batch"],
    haemoglobin: Float[Tensor, "*batch"],
    diffuse: Float[Tensor, "*batch"],
    to_rgb: Float[Tensor, "3 33"],
    model: str | skin.SkinConstants = "layered",
) -> Float[Tensor, "*batch 3 4"]:
    """Derivative (..., 3, 4) of linear RGB by the four maps, in the order of MAPS; errors as :func:`jacobian`.

    ``to_rgb`` is camera and light in one, :func:`bioface.camera.reflectance_to_rgb`.
    """
    flat = torch.ones(to_rgb.shape[-1], dtype=melanin.dtype)
    return to_rgb.to(melanin) @ jacobian(melanin, haemoglobin, diffuse, flat, model)


@accepts_numpy
def null_direction(J: Float[Tensor, "*batch 3 4"], unit: Float[Tensor, "4"] | None = None) -> Float[Tensor, "*batch 4"]:
    """The change (..., 4) of the maps that leaves the colour as it is: three numbers cannot see it.

    Of unit length when each map is measured in ``unit`` (4,), with a melanin that rises.

    >>> J = torch.tensor([[[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]]])
    >>> null_direction(J)
    tensor([[ 0.7071,  0.0000,  0.0000, -0.7071]])
    """
    scale = torch.ones(4).to(J) if unit is None else unit.to(J)
    direction = torch.linalg.svd(J * scale, full_matrices=True).Vh[..., -1, :] * scale
    return direction * torch.where(direction[..., :1] < 0, -1.0, 1.0) + 0.0


@accepts_numpy
def explain(
    colour: Float[Tensor, "P 3"],
    table: Float[Tensor, "3 K K"],
    white: Float[Tensor, "3"],
    diffuse: Float[Tensor, "P"] | None = None,
    specular: bool = True,
) -> tuple[Float[Tensor, "P K K"], Float[Tensor, "P K K"], Float[Tensor, "P K K"]]:
    """How well each skin of a table explains each colour, with the best shadings: an oracle without a network.

    Parameters
    ----------
    colour : (P, 3) linear RGB
    table : (3, K, K) linear RGB of all skin over (melanin, haemoglobin), :func:`bioface.image_formation.colour_table`
    white : (3,) linear RGB of a white surface, the colour of highlights
    diffuse : (P,) the diffuse shading where it is given; left out, the best one ≥ 0
    specular : whether there may be a highlight ≥ 0

    Returns
    -------
    (P, K, K) root-mean-square error of the colour, diffuse shading, specular shading
    """
    skin_colour = table.to(colour).permute(1, 2, 0)  # (K, K, 3)
    y, w = colour[:, None, None, :], white.to(colour)
    shape = (len(colour), *table.shape[1:])
    ww = w @ w
    if diffuse is None:
        tt, tw = skin_colour.square().sum(-1), skin_colour @ w  # (K, K)
        ty, wy = torch.einsum("pc,khc->pkh", colour, skin_colour), (colour @ w)[:, None, None]
        alone = (ty / tt).clamp_min(0)
        d, s = alone, torch.zeros(shape).to(colour)
        if specular:
            determinant = (tt * ww - tw.square()).clamp_min(1e-12)
            both_d, both_s = (ww * ty - tw * wy) / determinant, (tt * wy - tw * ty) / determinant
            d = torch.where(both_s < 0, alone, torch.where(both_d < 0, 0.0, both_d))
            s = torch.where(both_s < 0, 0.0, torch.where(both_d < 0, wy / ww, both_s)).clamp_min(0)
    else:
        d = diffuse.to(colour)[:, None, None].expand(shape)
        left = y - d[..., None] * skin_colour
        s = (left @ w / ww).clamp_min(0) if specular else torch.zeros(shape).to(colour)
    error = y - d[..., None] * skin_colour - s[..., None] * w
    return error.square().mean(-1).sqrt(), d, s


@accepts_numpy
def feasible_range(
    error: Float[Tensor, "P K L"], values: Float[Tensor, "K"], tolerance: float
) -> tuple[Float[Tensor, "P"], Float[Tensor, "P"]]:
    """Lowest and highest melanin (the first pigment of :func:`explain`) that explain each colour.

    Parameters
    ----------
    error : (P, K, L) from :func:`explain`, set to infinity where another prior forbids
    values : (K,) of the melanin along the axis
    tolerance : largest error that counts as explained

    Returns
    -------
    (P,) and (P,); NaN where nothing explains the colour
    """
    best = error.amin(2)  # over the other pigment
    inside = best <= tolerance
    values = values.to(error)
    low = torch.where(inside, values, torch.inf).amin(1)
    high = torch.where(inside, values, -torch.inf).amax(1)
    nothing = ~inside.any(1)
    return low.masked_fill(nothing, torch.nan), high.masked_fill(nothing, torch.nan)


@accepts_numpy
def same_colour(
    maps: Float[Tensor, "*batch 4"],
    melanin: Float[Tensor, "*batch"],
    to_rgb: Float[Tensor, "3 33"],
    model: str | skin.SkinConstants = "layered",
    steps: int = 20,
) -> Float[Tensor, "*batch 4"]:
    """Other maps (..., 4) of the same colour, with a melanin that is given: another answer to the same photo.

    Newton's method on the three that are left, each step at most 0.02 in haemoglobin.

    Parameters
    ----------
    maps : (..., 4) in the order of MAPS
    melanin : (...) that of the other answer

    Returns
    -------
    (..., 4); NaN where there is no such answer with shadings ≥ 0 and a haemoglobin of 0 to 0.07
    """
    maps = maps.to(torch.float64)
    physics, to_rgb = skin.SkinModel(model, spectra.WAVELENGTHS, torch.float64), to_rgb.to(torch.float64)

    def colour(x: Tensor) -> Tensor:
        R = physics.reflectance(x[..., 0], x[..., 1])
        return (x[..., 2:3] * R + x[..., 3:]) @ to_rgb.T

    goal, x = colour(maps), maps.clone()
    x[..., 0] = melanin
    flat = torch.ones(to_rgb.shape[-1], dtype=torch.float64)
    for _ in range(steps):
        J = to_rgb @ columns(physics, x[..., 0], x[..., 1], x[..., 2], flat)[..., 1:]
        step = torch.linalg.lstsq(J, (goal - colour(x))[..., None]).solution[..., 0]
        shorten = (0.02 / step[..., :1].abs().clamp_min(1e-12)).clamp_max(1)
        x[..., 1:] += shorten * step
        x[..., 1] = x[..., 1].clamp(0, skin.HAEMOGLOBIN_RANGE[1])
    wrong = (goal - colour(x)).abs().amax(-1) > 1e-4
    wrong |= (x[..., 2:] < 0).any(-1)
    return x.masked_fill(wrong[..., None], torch.nan)
