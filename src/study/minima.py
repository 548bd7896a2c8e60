"""Minima of the per-pixel fit of :mod:`bioface.smith2019`: whether there is one, and whether the loss is convex."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bioface import smith2019, solvers, spectra
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
