"""Minima of the per-pixel fit of :mod:`bioface.smith2019`: whether there is one, and how descents come to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bioface import identifiability, skin, smith2019, solvers, spectra
from bioface.arrays import as_float64


def multistart(
    cube: Any,
    wavelengths: Any = spectra.WAVELENGTHS,
    illuminant: Any = None,
    starts: int = 32,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Where bounded least squares ends up from random starts all over the box: are there other minima?

    ``cube`` (n, S) is the radiance of some pixels; the others, and errors, as in :func:`bioface.smith2019.fit`.

    Returns
    -------
    maps (n, starts, 4) and residuals (n, starts), root mean square over bands
    """
    problem = smith2019.problem_of(cube, wavelengths, illuminant)
    y, length = solvers.unit_length(problem.pixels(smith2019.finite(cube)))
    rng = np.random.default_rng(seed)
    runs = [[solvers.bounded_least_squares(problem, pixel, rng.random(4)) for _ in range(starts)] for pixel in y]
    maps = np.array([[r.x for r in of_pixel] for of_pixel in runs])
    maps[..., 2:] *= length.numpy()[..., None]
    residual = np.sqrt([[2 * r.cost / y.shape[1] for r in of_pixel] for of_pixel in runs])
    return maps, residual * length.numpy() * problem.unit


def loss_surface(
    pixel: Any, melanin: Any, haemoglobin: Any, wavelengths: Any = spectra.WAVELENGTHS, illuminant: Any = None
) -> np.ndarray:
    """Root mean square residual (M, H) of a pixel (S,) over a grid of pigments, with the best shadings at each point.

    ``melanin`` (M,) and ``haemoglobin`` (H,) are volume fractions; the others as in :func:`bioface.smith2019.fit`.
    """
    pixel = as_float64(pixel, "a pixel")[None]
    problem = smith2019.problem_of(pixel, wavelengths, illuminant)
    y = problem.pixels(smith2019.finite(pixel))
    m, h = as_float64(melanin, "melanin"), as_float64(haemoglobin, "haemoglobin")
    skin.check_fractions(m, h)
    b = problem.e
    a = b * problem.model.reflectance(*torch.cartesian_prod(m, h).T)
    i_d, i_s = identifiability.shadings(a.square().sum(-1), a @ b, b @ b, a @ y[0], (y @ b).expand(len(a)))
    fitted = i_d[:, None] * a + i_s[:, None] * b
    return problem.unit * (y - fitted).square().mean(-1).sqrt().reshape(len(m), len(h)).numpy()


def hessian(maps: Any, cube: Any, wavelengths: Any = spectra.WAVELENGTHS, illuminant: Any = None) -> np.ndarray:
    """Hessian (n, 4, 4) of the squared error ½‖l − fit‖² by the four maps, at ``maps`` (n, 4) for pixels (n, S).

    Radiance is taken in units of the illuminant's mean. A convex problem has no negative eigenvalue anywhere.
    """
    problem = smith2019.problem_of(cube, wavelengths, illuminant)
    y = problem.pixels(smith2019.finite(cube))

    def loss(x: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (target - problem.radiance(x[None])[0]).square().sum()

    x = as_float64(maps, "maps")
    return torch.func.vmap(torch.func.jacrev(torch.func.jacrev(loss)))(x, y).numpy()
