"""What a measurement can tell: Jacobians of the four maps, and the standard deviations they allow.

References
----------
Kay (1993), "Fundamentals of Statistical Signal Processing: Estimation Theory", chapter 3: the Cramér–Rao bound.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bioface import skin, spectra
from bioface.arrays import accepts_numpy

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
    """Derivative (..., D, 4) of the radiance e ⊙ (i_d r(m, h) + i_s) by the four maps, in the order of MAPS.

    It does not depend on the specular shading, in which the radiance is linear with a fixed spectrum.

    Raises
    ------
    BiofaceError : fractions outside 0–1, unknown model, wavelengths outside 400–720 nm

    >>> J = jacobian(*torch.tensor([[0.1], [0.03], [1.0]]).double(), torch.ones(33).double())
    >>> tuple(J.shape)
    (1, 33, 4)
    """
    skin.check_fractions(melanin, haemoglobin)
    return columns(skin.SkinModel(model, wavelengths, melanin.dtype), melanin, haemoglobin, diffuse, illuminant)


def columns(model: skin.SkinModel, melanin: Tensor, haemoglobin: Tensor, diffuse: Tensor, illuminant: Tensor) -> Tensor:
    """:func:`jacobian` for a skin model that is there already, and without checks: what solvers call."""
    R, dm, dh = model.with_derivatives(melanin, haemoglobin)
    shade = diffuse[..., None]
    return illuminant.to(R)[:, None] * torch.stack([shade * dm, shade * dh, R, torch.ones_like(R)], dim=-1)


_UNKNOWABLE = 1e12  #: variance of a unit-length column beyond which double precision cannot tell it from infinity


@accepts_numpy
def standard_deviation(
    J: Float[Tensor, "*batch D 4"],
    sigma: Float[Tensor, "*#batch"] | float,
    free: Bool[Tensor, "*batch 4"] | None = None,
    noise: Float[Tensor, "D D"] | None = None,
) -> Float[Tensor, "*batch 4"]:
    """Standard deviation (..., 4) of the least-squares maps under noise: the Cramér–Rao bound where it is white.

    √diag(σ² G⁻¹ Jᵀ C J G⁻¹) with G = JᵀJ, in double precision on columns scaled to unit length.

    Parameters
    ----------
    J : (..., D, 4) Jacobian
    sigma : (...) deviation of the noise
    free : (..., 4) a map that is not free (it sits at a bound) is taken as known; its own deviation is NaN
    noise : (D, D) covariance C of the noise in units of σ²; None is white

    Returns
    -------
    (..., 4); infinite for a map that does not show in J or cannot be told from the others

    >>> standard_deviation(torch.eye(4).double()[None], 0.5)
    tensor([[0.5000, 0.5000, 0.5000, 0.5000]], dtype=torch.float64)
    """
    J = J.to(torch.float64)
    scale = J.norm(dim=-2)
    seen = scale > 0
    use = seen if free is None else seen & free
    J = torch.where(use[..., None, :], J / torch.where(seen, scale, 1.0)[..., None, :], 0.0)
    G = J.transpose(-1, -2) @ J + torch.diag_embed((~use).to(J) + 1e-14)  # a trace, so that every G has an inverse
    inverse = torch.linalg.inv_ex(G).inverse
    spread = inverse if noise is None else inverse @ (J.transpose(-1, -2) @ noise.to(J) @ J) @ inverse
    variance = spread.diagonal(dim1=-2, dim2=-1)
    told = (inverse.diagonal(dim1=-2, dim2=-1).abs() < _UNKNOWABLE) & (variance > 0)
    sigma = torch.as_tensor(sigma, dtype=J.dtype, device=J.device)[..., None]
    deviation = torch.where(told & use, variance.clamp_min(0).sqrt() / scale * sigma, torch.inf)
    return deviation if free is None else deviation.masked_fill(~free, torch.nan)
