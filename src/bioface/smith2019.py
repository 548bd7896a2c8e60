"""Per-pixel fit of skin to a multispectral image: melanin, blood, diffuse and specular shading.

For every pixel: min over m, h, i_d ≥ 0, i_s ≥ 0 of ‖l − e ⊙ (i_d r(m, h) + i_s)‖², by one of the solvers of
:mod:`bioface.solvers`: ``varpro``, the one to use, ``lm``, ``adam``, ``sgd``.

References
----------
Alotaibi & Smith (2019), "Decomposing multispectral face images into diffuse and specular shading and
biophysical parameters", ICIP (arXiv 1902.06557): the problem; its equation is inferred from BioFaceNet's.
"""

from __future__ import annotations

import numbers
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bioface import identifiability, skin, spectra, threads
from bioface.arrays import as_float64, as_mask, torch_as_it_starts
from bioface.errors import BiofaceError, unknown_name
from bioface.solvers import SOLVERS, Problem, Status

#: Bounds of (melanin, haemoglobin): any volume fraction, or those of the paper.
BOUNDS = {"free": ((0.0, 1.0), (0.0, 1.0)), "paper": (skin.MELANIN_RANGE, skin.HAEMOGLOBIN_RANGE)}

#: Median misfit above which a fit is not handed out in silence: 99 % of ISSA's face spectra are fitted closer.
UNLIKE_SKIN = 0.04

CHUNK = 32768  # pixels at a time, on one thread each: the last few of any number take the same time


@dataclass(frozen=True)
class FitResult:
    """Maps of a fit; NumPy arrays of the cube's leading shape (...), NaN outside the mask."""

    melanin: np.ndarray  #: (...) volume fraction, with the bias of the skin model: :data:`bioface.skin.BIAS`
    haemoglobin: np.ndarray  #: (...) likewise
    diffuse_shading: np.ndarray  #: (...) ≥ 0, in units of radiance / illuminant
    specular_shading: np.ndarray  #: (...) likewise
    residual: np.ndarray  #: (...) root mean square over bands of l − fit, in the unit of the cube
    misfit: np.ndarray  #: (...) residual, less the noise ``sigma`` where given, over the root mean square of l
    #: (..., 4) predicted for each map (order of ``identifiability.MAPS``) from the Jacobian and ``sigma`` or the own
    #: residual; NaN for a map at its bound, infinite where nothing can be told
    standard_deviation: np.ndarray
    status: np.ndarray  #: (...) :class:`Status` codes
    wavelengths: np.ndarray  #: (D,) nm, the bands that were fitted
    solver: str
    model: str | skin.SkinConstants
    seconds: float  #: wall time of the fit

    @property
    def maps(self) -> np.ndarray:
        """(..., 4) the four maps in the order of ``identifiability.MAPS``."""
        return np.stack([getattr(self, name) for name in identifiability.MAPS], axis=-1)

    @property
    def converged(self) -> np.ndarray:
        """(...) bool: fitted until no step improved it, at a bound or not, with some skin to see."""
        return (self.status == Status.CONVERGED) | (self.status == Status.AT_BOUND)

    @property
    def doubt(self) -> str:
        """What speaks against the maps, in one sentence; empty when half of the pixels fit as measured skin does."""
        misfit = float(np.nanmedian(self.misfit))
        if misfit <= UNLIKE_SKIN:
            return ""
        return (
            f"no skin fits: the median residual is {100 * misfit:.1f} % of the radiance, and of measured skin one"
            f" spectrum in a hundred leaves more than {100 * UNLIKE_SKIN:g} %; the pigments mean nothing, unless the"
            " cube is noisier than sigma says"
        )

    def __str__(self) -> str:
        """One line that says how it went."""
        status = self.status[self.status != Status.OUTSIDE]
        told = [s for s in Status if s in (Status.CONVERGED, Status.AT_BOUND, Status.STOPPED) or (status == s).any()]
        shares = [f"{100 * np.mean(status == s):.1f} % {s.name.lower().replace('_', ' ')}" for s in told]
        residual = f"median residual {np.nanmedian(self.residual):.3g}"
        return f"{self.solver}: {status.size} pixels, {', '.join(shares)}; {residual}"


@torch_as_it_starts()
def fit(
    cube: Any,
    wavelengths: Any = spectra.WAVELENGTHS,
    illuminant: Any = None,
    mask: Any = None,
    model: str | skin.SkinConstants = "layered",
    solver: str = "varpro",
    bounds: str | tuple[Any, ...] = "free",
    sigma: float | None = None,
    steps: int | None = None,
    learning_rate: float | None = None,
    progress: bool = False,
) -> FitResult:
    """Fit skin to every pixel of a multispectral image, or to every row of a list of spectra.

    Parameters
    ----------
    cube : (..., S) radiance; array, tensor, or anything with ``shape`` that gives blocks when its first axis is
        sliced (an HDF5 data set, :class:`bioface.datasets.cubes.Cube`), read block by block
    wavelengths : (S,) nm, in any order. Bands at most 10 nm apart are brought to the points of 400:10:720 nm in range,
        by linear interpolation of radiance / illuminant; wider ones are fitted where they are
    illuminant : (S,) spectrum of the light, > 0; None when the cube is reflectance already
    mask : (...), pixels to fit, see :func:`bioface.arrays.as_mask`; None fits all
    model : "layered", "published" or a :class:`bioface.skin.SkinConstants`
    solver : "varpro", "lm", "adam" or "sgd", see :data:`SOLVERS`
    bounds : "free" (fractions 0–1), "paper", or ((m_low, m_high), (h_low, h_high))
    sigma : deviation of the cube's noise, white over its own bands, for the predicted deviations; None estimates it
        from each pixel's residual
    steps : of adam and sgd (default 1 000); the others end by themselves
    learning_rate : of adam (default 0.01) and sgd (default 0.001), which expect radiance of the size of the illuminant
    progress : show a progress bar

    Warns
    -----
    UserWarning : :attr:`FitResult.doubt`, when with free bounds the residual is far above that of measured skin

    Raises
    ------
    BiofaceError : wrong shapes, wavelengths that are doubled or miss 400–720 nm, an illuminant with a band ≤ 0, an
        empty mask, NaN or infinity inside the mask, numbers out of range, unknown names

    >>> R = skin.reflectance(torch.tensor([0.1]).double(), torch.tensor([0.03]).double())
    >>> found = fit(0.8 * R + 0.05)
    >>> [round(float(v), 6) for v in found.maps[0]]
    [0.1, 0.03, 0.8, 0.05]
    """
    if solver not in SOLVERS:
        raise unknown_name("solver", solver, SOLVERS)
    for name, value in (("sigma", sigma), ("steps", steps), ("learning_rate", learning_rate)):
        if value is not None and not (isinstance(value, numbers.Real) and np.isfinite(value) and value > 0):
            raise BiofaceError(f"expected {name} to be one number above 0, found {value!r}")
    if steps is not None and steps != int(steps):
        raise BiofaceError(f"expected steps to be a whole number, found {steps!r}")
    cube = cube if hasattr(cube, "shape") else np.asarray(cube)
    began = time.perf_counter()
    with threads.number(1):
        problem = problem_of(cube, wavelengths, illuminant, model, bounds)
        where = _check_mask(mask, tuple(cube.shape[:-1]))
    options: dict[str, Any] = dict(steps=steps, rate=learning_rate, name=solver)
    maps, deviation = np.full((2, where.size, 4), np.nan)
    residual, misfit = np.full((2, where.size), np.nan)
    status = np.full(where.size, Status.OUTSIDE, dtype=np.uint8)

    def work(piece: tuple[np.ndarray, np.ndarray]) -> int:
        index, radiance = piece
        y = problem.pixels(finite(radiance))
        found = _finish(problem, *SOLVERS[solver](problem, y, options), y, sigma)
        for answer, values in zip((maps, status, residual, misfit, deviation), found, strict=True):
            answer[index] = values.numpy()
        return len(index)

    with tqdm(total=int(where.sum()), unit="pixel", desc=f"fit ({solver})", disable=not progress) as bar:
        for done in threads.blocks(work, _pieces(cube, where)):
            bar.update(done)
    shape = where.shape
    m, h, diffuse, specular = maps.T.reshape(4, *shape)
    of_pixels = residual.reshape(shape), misfit.reshape(shape), deviation.reshape(*shape, 4), status.reshape(shape)
    of_fit = problem.grid.numpy(), solver, model, time.perf_counter() - began
    result = FitResult(m, h, diffuse, specular, *of_pixels, *of_fit)
    # the descents are not expected to arrive, and bounds may be what the residual comes from
    if result.doubt and solver in ("varpro", "lm") and bounds == "free":
        warnings.warn(result.doubt, stacklevel=2)
    return result


def _pieces(cube: Any, where: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pixels inside the mask, :data:`CHUNK` at a time: their numbers (n,) among all, and radiance (n, S)."""
    per_row = where[0].size
    rows = max(1, 2 * CHUNK // per_row)
    for first in range(0, len(where), rows):
        inside = where[first : first + rows]
        index = first * per_row + np.flatnonzero(inside)
        if len(index):
            block = cube[first : first + len(inside)]
            radiance = np.asarray(block.detach() if isinstance(block, Tensor) else block)[inside]
            for k in range(0, len(index), CHUNK):
                yield index[k : k + CHUNK], radiance[k : k + CHUNK]


def problem_of(
    cube: Any,
    wavelengths: Any,
    illuminant: Any,
    model: str | skin.SkinConstants = "layered",
    bounds: str | tuple[Any, ...] = "free",
) -> Problem:
    """The checked problem on the bands that can be fitted; parameters as in :func:`fit`."""
    skin.constants(model)
    shape = tuple(np.shape(cube))
    nm = as_float64(wavelengths, "wavelengths")
    if len(shape) < 2 or 0 in shape or nm.ndim != 1 or shape[-1] != len(nm):
        raise BiofaceError(f"expected a cube (..., {nm.numel()}), one band per wavelength, found {shape}")
    rising = torch.argsort(nm)
    grid = spectra.bands_to_fit(nm[rising])
    source = _check_illuminant(illuminant, nm)
    resample = torch.empty(len(grid), len(nm), dtype=torch.float64)
    resample[:, rising] = spectra.resampling_matrix(nm[rising], grid)
    e = resample @ source
    # radiance / illuminant is what is smooth enough to interpolate: the light of a lamp has lines
    to_grid = e[:, None] * resample / source
    unit = float(e.mean())
    return Problem(model, e / unit, _check_bounds(bounds), grid, to_grid / unit, unit)


def finite(radiance: Any) -> Tensor:
    """(n, S) float64 radiance, which is checked."""
    pixels = as_float64(radiance, "a cube")
    if not torch.isfinite(pixels.sum()):
        bad = int((~torch.isfinite(pixels)).any(-1).sum())
        if bad:
            raise BiofaceError(f"expected finite radiance inside the mask, found NaN or infinity in {bad} pixels")
    return pixels


def _check_bounds(bounds: str | tuple[Any, ...]) -> Tensor:
    if isinstance(bounds, str):
        if bounds not in BOUNDS:
            raise unknown_name("bounds", bounds, BOUNDS)
        bounds = BOUNDS[bounds]
    box = torch.as_tensor(bounds, dtype=torch.float64)
    if box.shape != (2, 2) or not bool(((box >= 0) & (box <= 1)).all() and (box[:, 0] < box[:, 1]).all()):
        raise BiofaceError(f"expected bounds ((m_low, m_high), (h_low, h_high)) within 0–1, found {bounds}")
    return box


def _check_illuminant(illuminant: Any, nm: Tensor) -> Tensor:
    if illuminant is None:
        return torch.ones_like(nm)
    e = as_float64(illuminant, "an illuminant")
    if e.shape != nm.shape:
        raise BiofaceError(f"expected an illuminant of {len(nm)} bands, found shape {tuple(e.shape)}")
    dark = ~(torch.isfinite(e) & (e > 0))
    if bool(dark.any()):
        at = ", ".join(f"{w:g}" for w in nm[dark][:5])
        raise BiofaceError(f"expected an illuminant > 0 in every band, found zero, negative or NaN at {at} nm")
    return e


def _check_mask(mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    where = np.ones(shape, bool)
    if mask is not None:
        mask = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
        if mask.dtype.kind == "f" and np.isnan(mask).any():
            raise BiofaceError("expected a mask of numbers, found NaN in it")
        where = as_mask(mask)
    if where.shape != shape:
        raise BiofaceError(f"expected a mask of shape {shape}, found {where.shape}")
    if not where.any():
        raise BiofaceError("expected a mask with at least one pixel, found an empty one")
    return where


def _finish(
    problem: Problem, x: Tensor, state: Tensor, seen: Tensor, y: Tensor, sigma: float | None
) -> tuple[Tensor, ...]:
    """Maps (n, 4), status (n,), RMS residual (n,) in the cube's unit, misfit (n,) and predicted deviations (n, 4)."""
    pigments, shadings = x[:, :2], x[:, 2:]
    D = y.shape[-1]
    rms, whole = (seen[0].clamp_min(0) / D).sqrt(), y.norm(dim=-1)
    brightness = whole[:, None] / problem.e.norm()
    lit = (shadings > 1e-6 * brightness) & (brightness > 0)
    no_skin = ~lit[:, 0]
    inner = (pigments > problem.box[:, 0] + 1e-9) & (pigments < problem.box[:, 1] - 1e-9)
    free = torch.cat([inner | no_skin[:, None], lit], -1)  # pigments without light are not known from their bound
    state = state.masked_fill(~free.all(-1) & (state == Status.CONVERGED), int(Status.AT_BOUND))
    state = state.masked_fill(no_skin, int(Status.NO_SKIN))
    # white noise in the cube's own bands is coloured, and less, where bands were interpolated
    noise = problem.unit**2 * problem.to_grid @ problem.to_grid.T
    if sigma is None:
        noise = noise / noise.diagonal().mean()
        level = rms * (D / max(D - 4, 1)) ** 0.5
    else:
        level = torch.full_like(rms, sigma / problem.unit)
    unexplained = rms if sigma is None else (rms**2 - level**2).clamp_min(0).sqrt()
    misfit = unexplained / (whole / D**0.5).clamp_min(torch.finfo(y.dtype).tiny)
    diffuse = shadings[:, 0].masked_fill(no_skin, 0)
    if (noise - torch.eye(D)).abs().max() < 1e-9:  # JᵀJ is made of what was looked at
        one, ee = torch.ones_like(diffuse), (problem.e @ problem.e).expand(len(x))
        aa, am, mm, ah, mh, hh, ae, me, he = seen[1:]
        G = torch.stack([mm, mh, am, me, mh, hh, ah, he, am, ah, aa, ae, me, he, ae, ee], -1).unflatten(-1, (4, 4))
        scale = torch.stack([diffuse, diffuse, one, one], -1)
        deviation = identifiability.deviation_of(G * scale[:, :, None] * scale[:, None], level, free)
    else:
        J = identifiability.columns(problem.model, x[:, 0], x[:, 1], diffuse, problem.e)
        deviation = identifiability.standard_deviation(J, level, free, noise)
    return x, state, rms * problem.unit, misfit, deviation
