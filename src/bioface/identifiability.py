"""What a measurement can tell: Jacobians of the four maps, and the standard deviations they allow.

References
----------
Kay (1993), "Fundamentals of Statistical Signal Processing: Estimation Theory": the Cramér–Rao bound (chapter 3).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bioface import skin, spectra
from bioface.arrays import accepts_numpy
from bioface.errors import BiofaceError

#: Order of the four unknowns wherever they are an axis.
MAPS = ("melanin", "haemoglobin", "diffuse_shading", "specular_shading")


@accepts_numpy
def jacobian(
    melanin: Float[Tensor, "*batch"],
    haemoglobin: Float[Tensor, "*batch"],
    diffuse: Float[Tensor, "*batch"],
    illuminant: Float[Tensor, "D"],
    model: str | skin.SkinConstants = "layered",
    wavelengths: object = spectra.WAVELENGTHS,
) -> Float[Tensor, "*batch D 4"]:
    """Derivative (..., D, 4) of radiance e ⊙ (i_d r(m, h) + i_s) by the four maps, in the order of MAPS.

    ``illuminant`` e is (D,). The specular shading, in which radiance is linear, plays no part.

    Raises BiofaceError: fractions outside 0–1, unknown model, wavelengths outside 400–720 nm.

    >>> J = jacobian(*torch.tensor([[0.1], [0.03], [1.0]]).double(), torch.ones(33).double())
    >>> tuple(J.shape)
    (1, 33, 4)
    """
    skin.check_fractions(melanin, haemoglobin)
    return columns(skin.SkinModel(model, wavelengths, melanin.dtype), melanin, haemoglobin, diffuse, illuminant)


def columns(model: skin.SkinModel, melanin: Tensor, haemoglobin: Tensor, diffuse: Tensor, illuminant: Tensor) -> Tensor:
    """:func:`jacobian` for a skin model that is there already, and without checks: what solvers call."""
    R, by_melanin, by_haemoglobin = model.derivatives(melanin, haemoglobin)
    illuminant = illuminant.to(R)
    light = diffuse[..., None] * illuminant
    # each column in one piece, which is what sums over wavelengths are quick with
    seen = [by_melanin * light, by_haemoglobin * light, R * illuminant, illuminant.expand(R.shape)]
    return torch.stack(seen, dim=-2).mT


_UNKNOWABLE = 1e12  # variance of a unit-length column beyond which double precision cannot tell it from infinity


@accepts_numpy
def standard_deviation(
    J: Float[Tensor, "*batch D 4"],
    sigma: Float[Tensor, "*#batch"] | float,
    free: Bool[Tensor, "*batch 4"] | None = None,
    noise: Float[Tensor, "D D"] | None = None,
) -> Float[Tensor, "*batch 4"]:
    """Standard deviation (..., 4) of the least-squares maps under noise: the Cramér–Rao bound where it is white.

    √diag(σ² G⁻¹ Jᵀ C J G⁻¹) with G = JᵀJ; infinite for a map that does not show in J or cannot be told from the others.

    Parameters
    ----------
    J : (..., D, 4) Jacobian of at least four bands
    sigma : (...) deviation of the noise
    free : (..., 4) a map that is not free (it sits at a bound) is taken as known; its own deviation is NaN
    noise : (D, D) covariance C of the noise in units of σ²; None is white

    Raises BiofaceError: fewer bands than maps.

    >>> standard_deviation(torch.eye(4).double()[None], 0.5)
    tensor([[0.5000, 0.5000, 0.5000, 0.5000]], dtype=torch.float64)
    """
    if J.shape[-2] < 4:
        raise BiofaceError(f"expected a Jacobian of at least four bands, found {J.shape[-2]}")
    J = J.to(torch.float64)
    return deviation_of(J.mT @ J, sigma, free, None if noise is None else J.mT @ noise.to(J) @ J)


def deviation_of(G: Tensor, sigma: Tensor | float, free: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
    """:func:`standard_deviation` from G = JᵀJ (..., 4, 4) and JᵀCJ, in double precision."""
    scale = G.diagonal(dim1=-2, dim2=-1).sqrt()
    seen = scale > 0
    use = seen if free is None else seen & free
    unit = torch.where(use, 1 / torch.where(seen, scale, 1.0), 0.0)
    units = unit[..., :, None] * unit[..., None, :]
    G = G * units
    G.diagonal(dim1=-2, dim2=-1).add_((~use).to(G) + 1e-14)  # a trace, so that every G has an inverse
    inverse = torch.linalg.inv_ex(G).inverse
    spread = inverse if noise is None else inverse @ (units * noise) @ inverse
    variance = spread.diagonal(dim1=-2, dim2=-1)
    told = (inverse.diagonal(dim1=-2, dim2=-1).abs() < _UNKNOWABLE) & (variance > 0)
    sigma = torch.as_tensor(sigma, dtype=G.dtype, device=G.device)[..., None]
    deviation = torch.where(told & use, variance.clamp_min(0).sqrt() / scale * sigma, torch.inf)
    return deviation if free is None else deviation.masked_fill(~free, torch.nan)


def shadings(aa: Tensor, ab: Tensor, bb: Tensor, ay: Tensor, by: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares of y = i_d a + i_s b with both ≥ 0, from inner products that broadcast: (i_d, i_s)."""
    det = aa * bb - ab * ab
    both = det > 1e-12 * aa * bb
    det = torch.where(both, det, torch.ones_like(det))
    diffuse, specular = (bb * ay - ab * by) / det, (aa * by - ab * ay) / det
    inner = both & (diffuse >= 0) & (specular >= 0)
    only_diffuse = (ay / aa.clamp_min(torch.finfo(aa.dtype).tiny)).clamp_min(0)
    only_specular = (by / bb).clamp_min(0)
    # with one shading at zero, the better of the two single fits
    diffuse_wins = only_diffuse * ay >= only_specular * by
    diffuse = torch.where(inner, diffuse, torch.where(diffuse_wins, only_diffuse, 0.0))
    return diffuse, torch.where(inner, specular, torch.where(diffuse_wins, 0.0, only_specular))


# --- three numbers for four unknowns ------------------------------------------------------------------------


@accepts_numpy
def explain(
    colour: Float[Tensor, "P C"],
    table: Float[Tensor, "C K L"],
    white: Float[Tensor, "C"],
    diffuse: Float[Tensor, "P"] | None = None,
    specular: bool = True,
) -> tuple[Float[Tensor, "P K L"], Float[Tensor, "P K L"], Float[Tensor, "P K L"]]:
    """How well each skin of a table explains each colour or spectrum, with the best shadings: without a network.

    Parameters
    ----------
    colour, white : (P, C) and (C,) linear RGB or radiance, of pixels and of highlights
    table : (C, K, L) the same over (melanin, haemoglobin), such as :func:`bioface.image_formation.colour_table`
    diffuse : (P,) the diffuse shading where it is given; left out, the best one ≥ 0
    specular : whether there may be a highlight ≥ 0

    Returns
    -------
    (P, K, L) root-mean-square error of the colour, diffuse shading, specular shading
    """
    skin_colour = table.to(colour).permute(1, 2, 0)  # (K, L, C)
    y, w = colour[:, None, None, :], white.to(colour)
    ty, wy = torch.einsum("pc,khc->pkh", colour, skin_colour), (colour @ w)[:, None, None]
    tt, tw = skin_colour.square().sum(-1), skin_colour @ w  # (K, L)
    if diffuse is None and specular:
        d, s = shadings(tt, tw, w @ w, ty, wy)
    else:
        d = (ty / tt).clamp_min(0) if diffuse is None else diffuse.to(colour)[:, None, None].expand(ty.shape)
        s = ((wy - d * tw) / (w @ w)).clamp_min(0) if specular else torch.zeros_like(d)
    error = y - d[..., None] * skin_colour - s[..., None] * w
    return error.square().mean(-1).sqrt(), d, s


@accepts_numpy
def feasible_range(
    error: Float[Tensor, "P K L"], values: Float[Tensor, "K"], tolerance: float
) -> tuple[Float[Tensor, "P"], Float[Tensor, "P"]]:
    """Lowest and highest melanin (the first pigment of :func:`explain`) that explain each colour.

    ``error`` (P, K, L) is :func:`explain`'s, ``values`` (K,) the melanin along its axis, and ``tolerance`` the largest
    error that counts as explained. Where nothing explains the colour both are NaN.
    """
    inside, values = error.amin(2) <= tolerance, values.to(error)  # with the best of the other pigment
    low, high = torch.where(inside, values, torch.inf).amin(1), torch.where(inside, values, -torch.inf).amax(1)
    return low.masked_fill(~inside.any(1), torch.nan), high.masked_fill(~inside.any(1), torch.nan)


@accepts_numpy
def same_colour(
    maps: Float[Tensor, "*batch 4"],
    melanin: Float[Tensor, "*batch"],
    to_rgb: Float[Tensor, "3 33"],
) -> Float[Tensor, "*batch 4"]:
    """Other maps (..., 4), in the order of MAPS, of the same colour and a given melanin: as good an answer to a photo.

    ``layered`` skin; Newton's method on the three that are left, each step at most 0.02 in haemoglobin. NaN where there
    is no such answer with shadings ≥ 0 and a haemoglobin of 0 to 0.07.
    """
    maps, to_rgb, physics = maps.double(), to_rgb.double(), skin.SkinModel()
    white = torch.ones_like(to_rgb[0])

    def seen(x: Tensor) -> tuple[Tensor, Tensor]:
        J = to_rgb @ columns(physics, x[..., 0], x[..., 1], x[..., 2], white)
        return J, (J[..., 2:] @ x[..., 2:, None])[..., 0]

    goal, x = seen(maps)[1], maps.clone()
    x[..., 0] = melanin
    for _ in range(20):
        J, colour = seen(x)
        step = torch.linalg.lstsq(J[..., 1:], (goal - colour)[..., None]).solution[..., 0]
        shorten = (0.02 / step[..., :1].abs().clamp_min(1e-12)).clamp_max(1)
        x[..., 1:] += shorten * step
        x[..., 1] = x[..., 1].clamp(0, skin.HAEMOGLOBIN_RANGE[1])
    wrong = (goal - seen(x)[1]).abs().amax(-1) > 1e-4
    wrong |= (x[..., 2:] < 0).any(-1)
    return x.masked_fill(wrong[..., None], torch.nan)
