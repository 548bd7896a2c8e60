"""How the constants of ``layered`` were chosen: six of them fitted to the even subject numbers of ISSA's face spectra.

Each spectrum is fitted twice: with both shadings free, and as a contact instrument sees it, with diffuse shading 1 and
the surface's 2.8 %. The objective is the mean over groups of the mean residual, with the second at :data:`WEIGHT` of
the first: enough to settle what the first leaves open. It is minimised by Gauss–Newton with the pigments and shadings
of every spectrum projected out; a spectrum weighs one over its residual, so that sums of squares become sums of
residuals. What radiative transfer gives (path and scattering of the epidermis, internal reflection) is not touched.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from bioface import skin, smith2019
from bioface.datasets import skin_spectra

FITTED = ("oxygen_saturation", "vessel_radius_cm", "melanin_power", "band_cm", "band_nm", "band_width_nm")
SURFACE = 0.0278  #: what skin's surface reflects of light at 8°, n = 1.4
WEIGHT = 0.01


def held(spectra: np.ndarray, wavelengths: np.ndarray, model: str | skin.SkinConstants = "layered") -> np.ndarray:
    """(N, 4) maps of spectra (N, D) with diffuse shading 1 and the surface's specular shading."""
    physics, y = skin.SkinModel(model, wavelengths), torch.from_numpy(spectra) - SURFACE
    axes = [torch.linspace(np.log(low), np.log(high), 24).double() for low, high in ((0.002, 0.9), (0.0005, 0.3))]
    grid = torch.cartesian_prod(*axes)
    table = physics.reflectance(*grid.T.exp())
    x = grid[(table.square().sum(-1) - 2 * y @ table.T).argmin(-1)]

    def at(x: Tensor) -> tuple[Tensor, Tensor]:
        R, *by = physics.derivatives(*x.T.exp())
        return y - R, torch.stack(by, -1) * x.exp()[:, None]

    (r, J), damping = at(x), torch.full((len(y), 1), 1e-3).double()
    for _ in range(20):
        H, g = J.mT @ J, (J.mT @ r[..., None])[..., 0]
        H = H + torch.diag_embed(damping * H.diagonal(dim1=1, dim2=2) + 1e-12)
        trial = (x + torch.linalg.solve(H, g).clamp(-0.7, 0.7)).clamp(-9, 0)
        new, new_J = at(trial)
        better = new.square().sum(-1, keepdim=True) < r.square().sum(-1, keepdim=True)
        x, r, J = torch.where(better, trial, x), torch.where(better, new, r), torch.where(better[..., None], new_J, J)
        damping = torch.where(better, damping * 0.3, damping * 5).clamp(1e-9, 1e9)
    shadings = torch.tensor([1.0, SURFACE], dtype=torch.float64).expand(len(x), 2)
    return torch.cat([x.exp(), shadings], -1).numpy()


def residuals(maps: np.ndarray, issa: skin_spectra.SkinSpectra, model: str | skin.SkinConstants) -> np.ndarray:
    """(N, D) measured less what maps (N, 4) make."""
    return issa.reflectance - maps[:, 2:3] * skin.reflectance(*maps[:, :2].T, model, issa.wavelengths) - maps[:, 3:]


def both(issa: skin_spectra.SkinSpectra, model: str | skin.SkinConstants) -> tuple[np.ndarray, np.ndarray]:
    """Maps (N, 4) with free shadings, and those of :func:`held`."""
    free = smith2019.fit(issa.reflectance, issa.wavelengths, model=model).maps
    return free, held(issa.reflectance, issa.wavelengths, model)


def judged(issa: skin_spectra.SkinSpectra, model: str | skin.SkinConstants) -> tuple[float, float]:
    """Residual with free shadings and with those of :func:`held`: the median over groups of its medians."""
    rms = [np.sqrt((residuals(maps, issa, model) ** 2).mean(-1)) for maps in both(issa, model)]
    free, restrained = (np.median([np.median(r[issa.group == g]) for g in np.unique(issa.group)]) for r in rms)
    return float(free), float(restrained)


def step(issa: skin_spectra.SkinSpectra, model: skin.SkinConstants) -> dict[str, float]:
    """The next constants: one Gauss–Newton step in :data:`FITTED` from those of ``model``."""
    values = np.array([getattr(model, name) for name in FITTED])
    _, index, count = np.unique(issa.group, return_inverse=True, return_counts=True)
    H, g = np.zeros((len(FITTED),) * 2), np.zeros(len(FITTED))
    physics = skin.SkinModel(model, issa.wavelengths)
    for maps, weight, free in zip(both(issa, model), (1.0, WEIGHT), (True, False), strict=True):
        r = residuals(maps, issa, model)
        moved = [
            residuals(maps, issa, dataclasses.replace(model, **{n: 1.001 * v}))
            for n, v in zip(FITTED, values, strict=True)
        ]
        C = np.stack([(r - other) / (1e-3 * v) for other, v in zip(moved, values, strict=True)], -1)
        R, *by = (t.numpy() for t in physics.derivatives(*torch.from_numpy(maps[:, :2].T)))
        specular = np.ones_like(R) * (maps[:, 3:] > 0)
        local = np.stack([*(maps[:, 2:3] * b for b in by), *([R, specular] if free else [])], -1)
        C = C - local @ (np.linalg.pinv(local, rcond=1e-9) @ C)
        rms = np.sqrt(np.mean(r**2, -1))
        w = weight / count[index] / np.maximum(rms, 1e-3) * (rms < (0.02 if free else 0.06))
        H += np.einsum("n,ndi,ndj->ij", w, C, C)
        g += np.einsum("n,ndi,nd->i", w, C, r)
    return dict(zip(FITTED, values + np.linalg.solve(H, g), strict=True))
