"""Light: its spectrum e(λ) as a mixture of CIE illuminants, and diffuse shading from spherical harmonics.

References
----------
CIE 015:2004 "Colorimetry": daylight locus and components.
Ramamoorthi & Hanrahan (2001), "An efficient representation for irradiance environment maps", SIGGRAPH.
"""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor

from bioface import spectra
from bioface.arrays import accepts_numpy, as_float, torch_as_it_starts
from bioface.errors import BiofaceError

CCT_RANGE = (4000.0, 25000.0)  #: K, where the CIE's daylight formula holds


def _unit_sum(e: Tensor) -> Tensor:
    return e / e.sum(-1, keepdim=True)


@functools.lru_cache(maxsize=32)
def _fixed_illuminants(dtype: torch.dtype, device: str) -> Tensor:
    """(13, 33) A, F1 … F12, each of unit sum."""
    names = (name for name in spectra.ILLUMINANTS if name != "D")
    return _unit_sum(torch.stack([spectra.cie_illuminant(n) for n in names])).to(dtype=dtype, device=device)


@accepts_numpy
def daylight(cct: Tensor | float) -> Tensor:
    """Daylight (..., 33) of unit sum at correlated colour temperatures ``cct`` (...) in K; differentiable.

    Raises BiofaceError: for a temperature outside 4 000–25 000 K.

    >>> e = daylight(torch.tensor([6504.0]))
    >>> bool((e - standard("D65")).abs().max() < 2e-5)
    True
    """
    cct = as_float(cct)
    low, high = CCT_RANGE
    if not bool(((cct >= low) & (cct <= high)).all()):
        found = f"{float(cct.min()):g} to {float(cct.max()):g}"
        raise BiofaceError(f"expected a daylight temperature within {low:g}–{high:g} K, found {found}")
    t = 1000 / cct
    # CIE 015:2004, eq. 3.3 and 3.4: chromaticity of daylight, then the weights of its two components
    warm = 0.244063 + t * (0.09911 + t * (2.9678 - t * 4.6070))
    cool = 0.237040 + t * (0.24748 + t * (1.9018 - t * 2.0064))
    x = torch.where(cct <= 7000, warm, cool)
    y = -3.0 * x**2 + 2.870 * x - 0.275
    M = 0.0241 + 0.2562 * x - 0.7341 * y
    M1 = (-1.3515 - 1.7703 * x + 5.9114 * y) / M
    M2 = (0.0300 - 31.4424 * x + 30.0717 * y) / M
    S0, S1, S2 = spectra.daylight_basis().to(cct)
    return _unit_sum(S0 + M1[..., None] * S1 + M2[..., None] * S2)


@torch_as_it_starts()
def standard(illuminant: str | float) -> Float[Tensor, "33"]:
    """A standard illuminant (33,) of unit sum, float64: "A", "D65", "F1" … "F12", or daylight of so many K.

    >>> round(float(standard("A")[-1] / standard("A")[0]), 1)  # tungsten: 14 times more at 720 than 400 nm
    14.3
    """
    if isinstance(illuminant, str):
        return _unit_sum(spectra.cie_illuminant(illuminant))
    return daylight(torch.tensor(float(illuminant), dtype=torch.float64))


@accepts_numpy
def mix(weights: Float[Tensor, "*batch 14"], cct: Tensor | float) -> Float[Tensor, "*batch 33"]:
    """Spectrum (..., 33) of unit sum of a mixed light; differentiable.

    ``weights`` (..., 14) are the shares ≥ 0 of A, D, F1 … F12, ``cct`` (...) the temperature of the daylight D in K.

    Raises BiofaceError: a negative weight, weights without any light, a temperature outside 4 000–25 000 K.

    >>> e = mix(torch.eye(14)[1], torch.tensor(6504.0))
    >>> round(float(e.sum()), 5)
    1.0
    """
    if not bool(((weights >= 0).all(-1) & (weights.sum(-1) > 0)).all()):
        raise BiofaceError("expected 14 weights ≥ 0 with a sum above 0, found others")
    fixed = _fixed_illuminants(weights.dtype, str(weights.device))
    day = daylight(torch.as_tensor(cct).to(weights))
    total = weights[..., :1] * fixed[0] + weights[..., 1:2] * day + weights[..., 2:] @ fixed[1:]
    return _unit_sum(total)


@accepts_numpy
def sh_basis(normals: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 9"]:
    """What each of nine lighting coefficients gives on unit normals: the columns of :func:`sh_shading`'s sum.

    >>> sh_basis(torch.tensor([0.0, 0.0, 1.0]))[:3]
    tensor([0.8862, 0.0000, 1.0233])
    """
    x, y, z = normals.unbind(-1)
    c1, c2, c3, c4, c5 = 0.429043, 0.511664, 0.743125, 0.886227, 0.247708  # Ramamoorthi & Hanrahan, eq. 12
    linear = [torch.full_like(x, c4), 2 * c2 * y, 2 * c2 * z, 2 * c2 * x]
    quadratic = [2 * c1 * x * y, 2 * c1 * y * z, c3 * z**2 - c5, 2 * c1 * x * z, c1 * (x**2 - y**2)]
    return torch.stack([*linear, *quadratic], dim=-1)


@accepts_numpy
def sh_shading(
    normals: Float[Tensor, "*batch H W 3"], lighting: Float[Tensor, "*batch 9"]
) -> Float[Tensor, "*batch H W"]:
    """Diffuse shading nᵀMn of second-order spherical-harmonic light, negative values cut to 0.

    Parameters
    ----------
    normals : (..., H, W, 3) unit normals, x right, y up, z to the viewer
    lighting : (..., 9) coefficients in the order 1, y, z, x, xy, yz, 3z²−1, xz, x²−y²

    >>> sh_shading(torch.tensor([[[0.0, 0.0, 1.0]]]), torch.eye(9)[0])
    tensor([[0.8862]])
    """
    basis = sh_basis(normals)
    return (basis * lighting[..., None, None, :].to(basis)).sum(-1).clamp_min(0)
