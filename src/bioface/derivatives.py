"""Slopes of skin's reflectance by the pigments, by hand, in few passes over the bands: fits spend their time here."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bioface.skin import SkinModel


def of_skin(
    model: SkinModel, melanin: Float[Tensor, "*batch"], haemoglobin: Float[Tensor, "*batch"]
) -> tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch D"], Float[Tensor, "*batch D"]]:
    """Reflectance, ∂R/∂melanin and ∂R/∂haemoglobin, each (..., D), as :meth:`SkinModel.reflectance` has them.

    Not for autograd: tensors are worked on in place.
    """
    m, h = melanin[..., None], haemoglobin[..., None]
    dermis, of_dermis = _dermis(model, h)
    depth = torch.addcmul(model.offset, m, model.per_melanin)
    blood_above = bool(model.per_haemoglobin.any())
    if blood_above:
        depth.addcmul_(h, model.per_haemoglobin)
    T = torch.exp(-model.both_ways * depth)
    # slopes are by depth until the end
    T_slope = T * -model.both_ways
    if model.plain:
        R, by_depth = T * dermis, T_slope * dermis
        by_haemoglobin = of_dermis.mul_(R)
    else:
        E = torch.rsub(T, 1).div_(depth).mul_(model.backwards)
        E_slope = torch.addcmul(E, T_slope, model.backwards).div_(depth).neg_()
        r, r_slope, r_dermis = _over(E, E_slope, T, T_slope, dermis)
        returned, returned_slope, by_r = _over(E, E_slope, T, T_slope, r)
        gain = torch.rsub(returned.mul_(model.internal), 1).reciprocal_()
        R = r.mul_(model.leaving).mul_(gain)
        # R = leaving · r · gain, and the slope of gain is internal · gain² · that of returned
        by_r = by_r.mul_(R).mul_(model.internal).add_(model.leaving).mul_(gain)
        by_depth = r_slope.mul_(by_r).addcmul_(returned_slope, gain.mul_(R), value=model.internal)
        by_haemoglobin = r_dermis.mul_(by_r).mul_(of_dermis.mul_(dermis))
    if blood_above:
        by_haemoglobin = by_haemoglobin.addcmul_(by_depth, model.per_haemoglobin)
    return R, by_depth.mul_(model.per_melanin), by_haemoglobin


def _dermis(model: SkinModel, h: Tensor) -> tuple[Tensor, Tensor]:
    """Kubelka–Munk's R_d and ∂ log R_d/∂haemoglobin."""
    d, S = model.dermis_cm, model.scattering
    both = torch.addcmul(model.bloodless + S, h, model.per_blood)  # absorption + scattering
    K = torch.addcmul(-S * S, both, both).sqrt_()
    u = torch.rsub(torch.exp(-2 * d * K), 1).reciprocal_()
    coth = torch.add(-torch.ones_like(S), u, alpha=2)
    inverse = torch.addcmul(both, K, coth).reciprocal_()
    # d(K coth Kd)/da, with dK/da = (a + s) / K and d coth(Kd)/dK = d (1 − coth²) = 4 d u (1 − u)
    slope = both.mul_(coth.div_(K).add_(torch.addcmul(u, u, u, value=-1), alpha=4 * d))
    return inverse * S, slope.add_(1).mul_(inverse).mul_(-model.per_blood)


def _over(E: Tensor, E_slope: Tensor, T: Tensor, T_slope: Tensor, R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An epidermis over what reflects R, r = E + T R / (1 − E R): r, its slope with R held, and ∂r/∂R."""
    inner = torch.rsub(E * R, 1).reciprocal_()
    by_R = T * inner
    through = by_R * R
    r, by_R, seen = E + through, by_R.mul_(inner), inner.mul_(R)
    return r, torch.addcmul(E_slope, through.mul_(seen), E_slope).addcmul_(T_slope, seen), by_R
