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
    diffuse_shading: Float[Tensor, "*batch"],
    illuminant: Float[Tensor, "D"],
    model: str | skin.SkinConstants = "layered",
    wavelengths: object = spectra.WAVELENGTHS,
) -> Float[Tensor, "*batch D 4"]:
    """Derivative (..., D, 4) of the radiance e ⊙ (i_d r(m, h) + i_s) by the four maps, in the order of MAPS.

    It does not depend on the specular shading, in which the radiance is linear with a fixed spectrum.

    >>> J = jacobian(*torch.tensor([[0.1], [0.03], [1.0]]).double(), torch.ones(33).double())
    >>> tuple(J.shape)
    (1, 33, 4)
    """
    R, dm, dh = skin.SkinModel(model, wavelengths, melanin.dtype).with_derivatives(melanin, haemoglobin)
    shade = diffuse_shading[..., None]
    columns = torch.stack([shade * dm, shade * dh, R, torch.ones_like(R)], dim=-1)
    return columns * illuminant.to(columns)[:, None]


@accepts_numpy
def standard_deviation(
    J: Float[Tensor, "*batch D 4"],
    sigma: Float[Tensor, "*#batch"] | float,
    free: Bool[Tensor, "*batch 4"] | None = None,
) -> Float[Tensor, "*batch 4"]:
    """Cramér–Rao standard deviation (..., 4) of the maps under white noise of deviation ``sigma``.

    √diag(σ² (JᵀJ)⁻¹), computed on columns scaled to unit length. A map that is not ``free`` (it sits at a
    bound) is taken as known: its own deviation is NaN. A Jacobian without full rank gives infinity.

    >>> standard_deviation(torch.eye(4).double()[None], 0.5)
    tensor([[0.5000, 0.5000, 0.5000, 0.5000]], dtype=torch.float64)
    """
    G = J.transpose(-1, -2) @ J
    scale = G.diagonal(dim1=-2, dim2=-1).clamp_min(torch.finfo(G.dtype).tiny).sqrt()
    G = G / scale[..., None] / scale[..., None, :]
    identity = torch.eye(4, dtype=G.dtype, device=G.device)
    if free is not None:
        pair = free[..., None] & free[..., None, :]
        G = torch.where(pair, G, identity)
    inverse, info = torch.linalg.inv_ex(G)
    variance = inverse.diagonal(dim1=-2, dim2=-1)
    variance = torch.where((info == 0)[..., None] & (variance > 0), variance, torch.inf)
    sigma = torch.as_tensor(sigma, dtype=G.dtype, device=G.device)
    deviation = variance.sqrt() / scale * sigma[..., None]
    return deviation if free is None else deviation.masked_fill(~free, torch.nan)
