"""Per-pixel fit of skin to a multispectral image: melanin, blood, diffuse and specular shading.

For every pixel: min over m, h, i_d ≥ 0, i_s ≥ 0 of ‖l − e ⊙ (i_d r(m, h) + i_s)‖². Four solvers, one call:

``varpro``
    variable projection: for given pigments the two shadings have a closed form, so a table of pigments is
    scanned in one matrix product and the best entry refined by projected Gauss–Newton steps in two unknowns.
``lm``
    scipy's bounded ``least_squares``, one pixel at a time: slow, independent, the reference.
``adam``, ``sgd``
    first-order descent on all pixels at once over raw, clamped parameters, as a first-time implementer writes
    it; ``sgd`` is what the report used.

References
----------
Alotaibi & Smith (2019), "Decomposing multispectral face images into diffuse and specular shading and
biophysical parameters", ICIP (arXiv 1902.06557): the problem; its equation is inferred from BioFaceNet's.
Golub & Pereyra (1973), "The differentiation of pseudo-inverses and nonlinear least squares problems whose
variables separate", SIAM J. Numer. Anal. 10; Kaufman (1975), BIT 15: the approximation of the Jacobian.
"""

from __future__ import annotations

import enum
import numbers
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor
from tqdm import tqdm

from bioface import identifiability, skin, spectra
from bioface.arrays import as_float64
from bioface.errors import BiofaceError, unknown_name

#: Bounds of (melanin, haemoglobin): any volume fraction, or those of the paper.
BOUNDS = {"free": ((0.0, 1.0), (0.0, 1.0)), "paper": (skin.MELANIN_RANGE, skin.HAEMOGLOBIN_RANGE)}

CHUNK = 4096  # pixels at a time: the working arrays stay in the processor's cache


class Status(enum.IntEnum):
    """How the fit of a pixel ended."""

    OUTSIDE = 0  #: not in the mask, not fitted
    CONVERGED = 1  #: no step improves it
    AT_BOUND = 2  #: converged with at least one map at a bound
    STOPPED = 3  #: the step limit was reached first
    NO_SKIN = 4  #: fitted without any diffuse light, so that the pigments mean nothing


@dataclass(frozen=True)
class FitResult:
    """Maps of a fit; NumPy arrays of the cube's leading shape (...), NaN outside the mask.

    Attributes
    ----------
    melanin, haemoglobin : (...) volume fractions
    diffuse_shading, specular_shading : (...) ≥ 0, in units of radiance / illuminant
    residual : (...) root mean square over bands of l − fit, in the unit of the cube
    standard_deviation : (..., 4) predicted for each map (order of ``identifiability.MAPS``) from the Jacobian and
        ``sigma`` or the pixel's own residual; NaN for a map at its bound, infinite where nothing can be told
    status : (...) :class:`Status` codes
    wavelengths : (D,) nm, the bands that were fitted
    solver, model : names
    seconds : wall time of the fit
    """

    melanin: np.ndarray
    haemoglobin: np.ndarray
    diffuse_shading: np.ndarray
    specular_shading: np.ndarray
    residual: np.ndarray
    standard_deviation: np.ndarray
    status: np.ndarray
    wavelengths: np.ndarray
    solver: str
    model: str | skin.SkinConstants
    seconds: float

    @property
    def maps(self) -> np.ndarray:
        """(..., 4) the four maps in the order of ``identifiability.MAPS``."""
        return np.stack([getattr(self, name) for name in identifiability.MAPS], axis=-1)

    @property
    def converged(self) -> np.ndarray:
        """(...) bool: fitted until no step improved it, at a bound or not, with some skin to see."""
        return (self.status == Status.CONVERGED) | (self.status == Status.AT_BOUND)

    @property
    def fitted(self) -> np.ndarray:
        """(...) bool: pixels inside the mask."""
        return self.status != Status.OUTSIDE

    def __str__(self) -> str:
        """One line that says how it went."""
        n = int(self.fitted.sum())
        shares = ", ".join(
            f"{100 * np.mean(self.status[self.fitted] == s):.1f} % {s.name.lower().replace('_', ' ')}"
            for s in (Status.CONVERGED, Status.AT_BOUND, Status.STOPPED, Status.NO_SKIN)
            if s != Status.NO_SKIN or (self.status == s).any()
        )
        return f"{self.solver}: {n} pixels, {shares}; median residual {np.nanmedian(self.residual):.3g}"


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
    starts: int = 1,
    seed: int = 0,
    progress: bool = False,
    callback: Callable[[int, np.ndarray], bool | None] | None = None,
) -> FitResult:
    """Fit skin to every pixel of a multispectral image, or to every row of a list of spectra.

    Parameters
    ----------
    cube : (..., S) radiance; array, tensor, or anything with ``shape`` that gives blocks when its first axis is
        sliced (an HDF5 data set, :class:`bioface.datasets.iset.Cube`), read block by block (adam and sgd, which move
        all pixels at once, read it whole)
    wavelengths : (S,) nm, rising. Bands at most 10 nm apart are brought to the points of 400:10:720 nm in their range,
        by linear interpolation of radiance / illuminant; wider ones are fitted where they are
    illuminant : (S,) spectrum of the light, > 0; None when the cube is reflectance already
    mask : (...) bool, or numbers above 0.5, pixels to fit; None fits all
    model : "layered", "published" or a :class:`bioface.skin.SkinConstants`
    solver : "varpro", "lm", "adam" or "sgd", see :data:`SOLVERS`
    bounds : "free" (fractions 0–1), "paper", or ((m_low, m_high), (h_low, h_high))
    sigma : deviation of the cube's noise, white over its own bands, for the predicted deviations; None estimates it
        from each pixel's residual
    steps : limit of iterations (varpro 80, lm 200 evaluations, adam and sgd 1 000)
    learning_rate : of adam (default 0.01) and sgd (default 0.001), which expect radiance of the size of the illuminant
    starts, seed : lm only: the best of so many random starts
    progress : show a progress bar
    callback : adam and sgd only: called with (step, maps (n, 4)) after every step; True ends the fit

    Returns
    -------
    FitResult

    Raises
    ------
    BiofaceError : wrong shapes, wavelengths that do not rise or miss 400–720 nm, an illuminant with a band ≤ 0, an
        empty mask, NaN or infinity inside the mask, numbers out of range, unknown names

    >>> R = skin.reflectance(torch.tensor([0.1]).double(), torch.tensor([0.03]).double())
    >>> found = fit(0.8 * R + 0.05)
    >>> [round(float(v), 6) for v in found.maps[0]]
    [0.1, 0.03, 0.8, 0.05]
    """
    if solver not in SOLVERS:
        raise unknown_name("solver", solver, SOLVERS)
    for name, value in (("sigma", sigma), ("steps", steps), ("learning_rate", learning_rate), ("starts", starts)):
        if value is not None and not (isinstance(value, numbers.Real) and np.isfinite(value) and value > 0):
            raise BiofaceError(f"expected {name} to be one number above 0, found {value!r}")
    for name, value in (("steps", steps), ("starts", starts)):
        if value is not None and value != int(value):
            raise BiofaceError(f"expected {name} to be a whole number, found {value!r}")
    cube = cube if hasattr(cube, "shape") else np.asarray(cube)
    problem = _problem(cube, wavelengths, illuminant, model, bounds)
    shape = tuple(cube.shape)
    where = _check_mask(mask, shape[:-1])
    options: dict[str, Any] = dict(steps=steps, rate=learning_rate, starts=starts, callback=callback, name=solver)
    options["rng"] = np.random.default_rng(seed)
    maps = np.full((*shape[:-1], 4), np.nan)
    residual = np.full(shape[:-1], np.nan)
    deviation = np.full((*shape[:-1], 4), np.nan)
    status = np.full(shape[:-1], Status.OUTSIDE, dtype=np.uint8)
    began = time.perf_counter()
    all_at_once = solver in ("adam", "sgd")
    per_row = int(np.prod(shape[1:-1], dtype=np.int64))
    rows = shape[0] if all_at_once else max(1, 16 * CHUNK // max(per_row, 1))
    with tqdm(total=int(where.sum()), unit="pixel", desc=f"fit ({solver})", disable=not progress) as bar:
        for first in range(0, shape[0], rows):
            part = slice(first, min(first + rows, shape[0]))
            inside = where[part]
            if not inside.any():
                continue
            found = []
            block = _checked_pixels(cube[part], inside)
            for pixels in [block] if all_at_once else block.split(CHUNK):
                y = problem.pixels(pixels)
                x, state = SOLVERS[solver](problem, y, options)
                found.append(_finish(problem, x, state, y, sigma))
                bar.update(len(y))
            x, state, rms, sd = (torch.cat(parts) for parts in zip(*found, strict=True))
            maps[part][inside], residual[part][inside] = x.numpy(), rms.numpy() * problem.unit
            deviation[part][inside], status[part][inside] = sd.numpy(), state.numpy().astype(np.uint8)
    melanin, haemoglobin, diffuse, specular = np.moveaxis(maps, -1, 0)
    return FitResult(
        melanin,
        haemoglobin,
        diffuse,
        specular,
        residual=residual,
        standard_deviation=deviation,
        status=status,
        wavelengths=problem.grid.numpy(),
        solver=solver,
        model=model,
        seconds=time.perf_counter() - began,
    )


def _problem(
    cube: Any, wavelengths: Any, illuminant: Any, model: str | skin.SkinConstants, bounds: str | tuple[Any, ...]
) -> _Problem:
    """The checked problem on the bands that can be fitted."""
    skin.constants(model)
    shape = tuple(cube.shape)
    nm = as_float64(wavelengths, "wavelengths")
    if len(shape) < 2 or 0 in shape or nm.ndim != 1 or shape[-1] != len(nm):
        raise BiofaceError(f"expected a cube (..., {nm.numel()}), one band per wavelength, found {shape}")
    grid = spectra.bands_to_fit(nm)
    source = _check_illuminant(illuminant, nm)
    resample = spectra.resampling_matrix(nm, grid)
    e = resample @ source
    # radiance / illuminant is what is smooth enough to interpolate: the light of a lamp has lines
    to_grid = e[:, None] * resample / source
    unit = float(e.mean())
    return _Problem(skin.SkinModel(model, grid), e / unit, _check_bounds(bounds), grid, to_grid / unit, unit)


def _checked_pixels(block: Any, inside: np.ndarray | slice = slice(None)) -> Tensor:
    """(n, S) float64 pixels of a block of a cube that lie inside the mask."""
    pixels = as_float64(np.asarray(block.detach() if isinstance(block, Tensor) else block)[inside], "a cube")
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
    inside = torch.ones(shape) if mask is None else as_float64(mask, "a mask")
    if bool(torch.isnan(inside).any()):
        raise BiofaceError("expected a mask of numbers, found NaN in it")
    where = (inside > 0.5).numpy()
    if where.shape != shape:
        raise BiofaceError(f"expected a mask of shape {shape}, found {where.shape}")
    if not where.any():
        raise BiofaceError("expected a mask with at least one pixel, found an empty one")
    return where


@dataclass(frozen=True)
class _Problem:
    """Skin model, illuminant (D,) of mean 1, box of the two pigments (2, 2), wavelengths (D,).

    ``to_grid`` (D, S) brings radiance in the cube's bands and unit to the wavelengths, in units of the
    illuminant's mean, ``unit``: whatever the cube is measured in, the numbers here are of order 1.
    """

    model: skin.SkinModel
    e: Tensor
    box: Tensor
    grid: Tensor
    to_grid: Tensor
    unit: float

    def pixels(self, radiance: Tensor) -> Tensor:
        """(n, S) radiance of the cube to (n, D)."""
        return radiance @ self.to_grid.T

    def radiance(self, x: Tensor) -> Tensor:
        """(n, 4) maps to (n, D) radiance."""
        return self.e * (x[:, 2:3] * self.model.reflectance(x[:, 0], x[:, 1]) + x[:, 3:4])

    def jacobian(self, x: Tensor) -> Tensor:
        """(n, 4) maps to (n, D, 4)."""
        melanin, haemoglobin, diffuse = x[:, :3].unbind(-1)
        return identifiability.columns(self.model, melanin, haemoglobin, diffuse, self.e)

    def shading(self, aa: Tensor, ab: Tensor, ay: Tensor, by: Tensor) -> tuple[Tensor, Tensor]:
        """Non-negative least squares of y on a = e r and b = e, from inner products (n,): (i_d, i_s)."""
        bb = self.e @ self.e
        det = aa * bb - ab * ab
        both = det > 1e-12 * aa * bb
        det = torch.where(both, det, torch.ones_like(det))
        diffuse = (bb * ay - ab * by) / det
        specular = (aa * by - ab * ay) / det
        inner = both & (diffuse >= 0) & (specular >= 0)
        only_diffuse = (ay / aa.clamp_min(1e-300)).clamp_min(0)
        only_specular = (by / bb).clamp_min(0)
        # with one shading at zero, the better of the two single fits
        diffuse_wins = only_diffuse * ay >= only_specular * by
        zero = torch.zeros_like(ay)
        return (
            torch.where(inner, diffuse, torch.where(diffuse_wins, only_diffuse, zero)),
            torch.where(inner, specular, torch.where(diffuse_wins, zero, only_specular)),
        )


def _finish(problem: _Problem, x: Tensor, state: Tensor, y: Tensor, sigma: float | None) -> tuple[Tensor, ...]:
    """Maps (n, 4), status (n,), RMS residual (n,) and predicted deviations (n, 4)."""
    rms = (y - problem.radiance(x)).square().mean(-1).sqrt()
    pigments, shadings = x[:, :2], x[:, 2:]
    brightness = y.norm(dim=-1, keepdim=True) / problem.e.norm()
    lit = (shadings > 1e-6 * brightness) & (brightness > 0)
    no_skin = ~lit[:, 0]
    inner = (pigments > problem.box[:, 0] + 1e-9) & (pigments < problem.box[:, 1] - 1e-9)
    free = torch.cat([inner | no_skin[:, None], lit], -1)  # pigments without light are not known from their bound
    at_bound = ~free.all(-1) & (state == Status.CONVERGED)
    state = torch.where(at_bound, int(Status.AT_BOUND), state)
    state = torch.where(no_skin, int(Status.NO_SKIN), state)
    # white noise in the cube's own bands is coloured, and less, where bands were interpolated
    noise = problem.unit**2 * problem.to_grid @ problem.to_grid.T
    D = y.shape[-1]
    if sigma is None:
        noise = noise / noise.diagonal().mean()
        level = rms * (D / max(D - 4, 1)) ** 0.5
    else:
        level = torch.full_like(rms, sigma / problem.unit)
    J = problem.jacobian(x) * torch.where(no_skin[:, None], torch.tensor([0.0, 0.0, 1.0, 1.0]), 1.0)[:, None]
    white = bool((noise - torch.eye(D)).abs().max() < 1e-9)
    return x, state, rms, identifiability.standard_deviation(J, level, free, None if white else noise)


def _unit_length(y: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (n, D) scaled to length 1, and their length (n, 1), 1 for a black one: solvers see no dim pixels."""
    length = y.norm(dim=-1, keepdim=True)
    length = torch.where(length > 0, length, 1.0)
    return y / length, length


# ---------------------------------------------------------------------------------------------------- varpro

_SCAN = (24, 20)  # melanin × haemoglobin entries of the scanned table


def _scan(problem: _Problem, y: Tensor) -> tuple[Tensor, Tensor]:
    """Best table entry of each pixel: the largest correlation with e r once e is projected out."""
    (m0, m1), (h0, h1) = problem.box.tolist()
    u = [torch.linspace(0, 1, k, dtype=torch.float64) ** 3 for k in _SCAN]
    m = (m0 + (m1 - m0) * u[0])[:, None].expand(_SCAN).reshape(-1)
    h = (h0 + (h1 - h0) * u[1])[None, :].expand(_SCAN).reshape(-1)
    a = problem.e * problem.model.reflectance(m, h)
    b = problem.e / problem.e.norm()
    a = a - (a @ b)[:, None] * b
    a = a / a.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    best = (y.float() @ a.float().T).argmax(-1)
    return m[best], h[best]


def _varpro(problem: _Problem, y: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Table scan, then damped Gauss–Newton steps in (m, h) with both shadings projected out."""
    y, length = _unit_length(y)
    limit = options["steps"] or 80
    low, high = problem.box[:, 0], problem.box[:, 1]
    e = problem.e
    yy, by, bb = y.square().sum(-1), y @ e, e @ e
    # log R has the slope k(λ) by melanin, the same for every pixel, so that inner products with ∂a/∂m = k a are
    # matrix products with powers of k
    k = -2 * problem.model.per_melanin
    powers, with_e = torch.stack([torch.ones_like(k), k, k * k], -1), torch.stack([e, k * e], -1)

    def evaluate(p: Tensor, pixel: Tensor) -> tuple[Tensor, ...]:
        """Cost, shadings, and the reduced 2 × 2 normal equations (g, H) at pigments p (n, 2).

        a = e r and its slopes ∂a/∂m = k a, ∂a/∂h = t a enter by their inner products alone, n numbers each.
        """
        R, t = problem.model.with_log_slope(p[:, 0], p[:, 1])
        a = R * e
        ay, at, aa_ = a * y[pixel], a * t, a * a
        atat = at * at
        aa, a_am, am_am = (aa_ @ powers).unbind(-1)
        a_ah, am_ah = ((at * a) @ powers[:, :2]).unbind(-1)
        ah_ah = atat.sum(-1)
        ab, am_b = (a @ with_e).unbind(-1)
        ah_b = at @ e
        y_a, y_am = (ay @ powers[:, :2]).unbind(-1)
        y_ah = (ay * t).sum(-1)
        i_d, i_s = problem.shading(aa, ab, y_a, by[pixel])
        cost = yy[pixel] - 2 * (i_d * y_a + i_s * by[pixel])
        cost = cost + i_d * i_d * aa + 2 * i_d * i_s * ab + i_s * i_s * bb
        # columns of the pigments are i_d ∂a; Kaufman: the active linear columns (a, and e when i_s > 0) projected out
        c = torch.stack([a_am, a_ah], -1) * i_d[:, None]
        d = torch.stack([am_b, ah_b], -1) * i_d[:, None]
        g = torch.stack([y_am, y_ah], -1) * i_d[:, None] - i_d[:, None] * c - i_s[:, None] * d
        H = torch.stack([am_am, am_ah, ah_ah], -1) * (i_d * i_d)[:, None]  # (mm, mh, hh)
        specular = i_s > 0
        det = torch.where(specular, aa * bb - ab * ab, aa)
        waa = torch.where(specular, bb, 1.0) / det
        wab = torch.where(specular, -ab, 0.0) / det
        wbb = torch.where(specular, aa, 0.0) / det
        ca, cb = c * waa[:, None] + d * wab[:, None], c * wab[:, None] + d * wbb[:, None]
        H = H - ca[:, [0, 0, 1]] * c[:, [0, 1, 1]] - cb[:, [0, 0, 1]] * d[:, [0, 1, 1]]
        return cost, torch.stack([i_d, i_s], -1), g, H

    pixel = torch.arange(len(y))
    p = torch.stack(_scan(problem, y), -1)
    cost, shading, g, H = evaluate(p, pixel)
    damping = torch.full_like(cost, 1e-3)
    out_p, out_s = p.clone(), shading.clone()
    status = torch.full((len(y),), int(Status.STOPPED))
    for _ in range(limit):
        # A pigment at its bound with the descent direction pointing outwards stays there.
        held = ((p <= low) & (g < 0)) | ((p >= high) & (g > 0))
        a = torch.where(held[:, 0], 1.0, H[:, 0] * (1 + damping) + 1e-30)
        d = torch.where(held[:, 1], 1.0, H[:, 2] * (1 + damping) + 1e-30)
        b = torch.where(held.any(-1), 0.0, H[:, 1])
        gm, gh = g.masked_fill(held, 0.0).unbind(-1)
        det = (a * d - b * b).clamp_min(1e-300)
        step = torch.stack([(d * gm - b * gh) / det, (a * gh - b * gm) / det], -1)
        trial = torch.minimum(torch.maximum(p + step, low), high)
        new = evaluate(trial, pixel)
        better = new[0] <= cost
        moved = ((trial - p).abs() / (p.abs() + 1e-4)).amax(-1)
        gained = cost - new[0]
        p = torch.where(better[:, None], trial, p)
        done = (better & ((gained <= 1e-9 * cost) | (moved < 1e-7))) | (~better & (moved < 1e-7))
        cost = torch.where(better, new[0], cost)
        shading = torch.where(better[:, None], new[1], shading)
        g = torch.where(better[:, None], new[2], g)
        H = torch.where(better[:, None], new[3], H)
        damping = torch.where(better, damping * 0.1, damping * 8).clamp(1e-12, 1e12)
        out_p[pixel], out_s[pixel] = p, shading
        status[pixel[done]] = int(Status.CONVERGED)
        if bool(done.all()):
            break
        keep = ~done
        pixel, p, cost, shading, g, H, damping = (t[keep] for t in (pixel, p, cost, shading, g, H, damping))
    return torch.cat([out_p, out_s * length], -1), status


# -------------------------------------------------------------------------------------------------------- lm


def _lm(problem: _Problem, y: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """scipy's bounded trust-region least squares for one pixel after the other, best of ``starts``."""
    y, length = _unit_length(y)
    found, status = [], []
    for pixel in y:
        results = [
            _lm_once(problem, pixel, options["rng"], k == 0, options["steps"]) for k in range(int(options["starts"]))
        ]
        best = min(results, key=lambda r: r.cost)
        found.append(best.x)
        status.append(int(Status.CONVERGED if best.status > 0 else Status.STOPPED))
    x = torch.from_numpy(np.stack(found))
    return torch.cat([x[:, :2], x[:, 2:] * length], -1), torch.tensor(status)


def _lm_once(
    problem: _Problem, y: Tensor, rng: np.random.Generator, from_middle: bool, steps: int | None
) -> scipy.optimize.OptimizeResult:
    """One run on one pixel (D,) of length 1, from the middle of the box or from anywhere in it."""
    low = np.array([*problem.box[:, 0], 0.0, 0.0])
    high = np.array([*problem.box[:, 1], np.inf, np.inf])
    target = y.numpy()
    brightness = max(float((y / problem.e).max()), 1e-3)
    u = np.full(4, 0.5) if from_middle else rng.random(4)
    pigments = low[:2] + (high[:2] - low[:2]) * u[:2] ** 3  # cubed: most skin has little of both
    start = np.concatenate([pigments, np.array([2.0, 0.5]) * brightness * (u[2:] + 1e-6)])

    def apart(x: np.ndarray) -> np.ndarray:
        return problem.radiance(torch.from_numpy(x[None]))[0].numpy() - target

    def slopes(x: np.ndarray) -> np.ndarray:
        return problem.jacobian(torch.from_numpy(x[None]))[0].numpy()

    return scipy.optimize.least_squares(
        apart,
        np.clip(start, low + 1e-9, high - 1e-9),
        slopes,
        bounds=(low, high),
        x_scale="jac",
        xtol=1e-10,
        ftol=1e-12,
        gtol=1e-12,
        max_nfev=steps or 200,
    )


def multistart(
    cube: Any,
    wavelengths: Any = spectra.WAVELENGTHS,
    illuminant: Any = None,
    model: str | skin.SkinConstants = "layered",
    bounds: str | tuple[Any, ...] = "free",
    starts: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Where bounded least squares ends up from random starts all over the box: are there other minima?

    Parameters
    ----------
    cube : (n, S) radiance of some pixels; the others as in :func:`fit`

    Returns
    -------
    maps (n, starts, 4) and residuals (n, starts), root mean square over bands

    Raises
    ------
    BiofaceError : as :func:`fit`
    """
    cube = cube if hasattr(cube, "shape") else np.asarray(cube)
    problem = _problem(cube, wavelengths, illuminant, model, bounds)
    y, length = _unit_length(problem.pixels(_checked_pixels(cube)))
    rng = np.random.default_rng(seed)
    maps, residual = [], []
    for pixel in tqdm(y, unit="pixel", disable=not progress):
        results = [_lm_once(problem, pixel, rng, False, None) for _ in range(starts)]
        maps.append([r.x for r in results])
        residual.append([np.sqrt(2 * r.cost / len(pixel)) for r in results])
    maps, length = np.array(maps), length.numpy()
    maps[..., 2:] *= length[..., None]
    return maps, np.array(residual) * length * problem.unit


class Recorder:
    """Callback for :func:`fit` that keeps the maps of a descent now and then, and ends it after some seconds.

    Attributes
    ----------
    kept : list of (seconds, step, maps (n, 4)), at steps 1, 2, 3, 4, 6, 9 … and at the end; the clock stands still
        while they are copied
    """

    def __init__(self, seconds: float):
        self.kept: list[tuple[float, int, np.ndarray]] = []
        self.budget, self._next = seconds, 1.0
        self._paused, self._began = 0.0, time.perf_counter()

    def __call__(self, step: int, maps: np.ndarray) -> bool:
        """Keep maps (n, 4), or not; True when the time is over."""
        now = time.perf_counter()
        seconds = now - self._began - self._paused
        over = seconds > self.budget
        if step >= self._next or over:
            self.kept.append((seconds, step, maps.copy()))
            self._next = max(step + 1, 1.5 * step)
        self._paused += time.perf_counter() - now
        return over


def loss_surface(
    pixel: Any,
    melanin: Any,
    haemoglobin: Any,
    wavelengths: Any = spectra.WAVELENGTHS,
    illuminant: Any = None,
    model: str | skin.SkinConstants = "layered",
) -> np.ndarray:
    """Root mean square residual (M, H) of one pixel over a grid of pigments, with the best shadings at each point.

    Parameters
    ----------
    pixel : (S,) radiance
    melanin, haemoglobin : (M,) and (H,) volume fractions; the others as in :func:`fit`
    """
    pixel = as_float64(pixel, "a pixel")[None]
    problem = _problem(pixel, wavelengths, illuminant, model, "free")
    y = problem.pixels(_checked_pixels(pixel))
    m, h = as_float64(melanin, "melanin"), as_float64(haemoglobin, "haemoglobin")
    skin.check_fractions(m, h)
    p = torch.cartesian_prod(m, h)
    a = problem.e * problem.model.reflectance(p[:, 0], p[:, 1])
    by = (y @ problem.e).expand(len(p))
    i_d, i_s = problem.shading(a.square().sum(-1), a @ problem.e, (a * y).sum(-1), by)
    fitted = i_d[:, None] * a + i_s[:, None] * problem.e
    return problem.unit * (y - fitted).square().mean(-1).sqrt().reshape(len(m), len(h)).numpy()


def hessian(
    maps: Any,
    cube: Any,
    wavelengths: Any = spectra.WAVELENGTHS,
    illuminant: Any = None,
    model: str | skin.SkinConstants = "layered",
) -> np.ndarray:
    """Hessian (n, 4, 4) of the squared error ½‖l − fit‖² by the four maps, at ``maps`` (n, 4) for pixels (n, S).

    Radiance is taken in units of the illuminant's mean.

    A convex problem has no negative eigenvalue anywhere.
    """
    problem = _problem(cube, wavelengths, illuminant, model, "free")
    y = problem.pixels(_checked_pixels(cube))

    def loss(x: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (target - problem.radiance(x[None])[0]).square().sum()

    x = as_float64(maps, "maps")
    return torch.func.vmap(torch.func.jacrev(torch.func.jacrev(loss)))(x, y).numpy()


# --------------------------------------------------------------------------------------------- adam and sgd


def _descend(problem: _Problem, y: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Plain gradient descent on the maps themselves, clamped into their box after every step."""
    low = torch.tensor([*problem.box[:, 0], 0.0, 0.0], dtype=torch.float64)
    high = torch.tensor([*problem.box[:, 1], torch.inf, torch.inf], dtype=torch.float64)
    # what one starts from without knowing better: the middle of the paper's pigments, shading 1, no highlight
    middle = [sum(r) / 2 for r in (skin.MELANIN_RANGE, skin.HAEMOGLOBIN_RANGE)]
    x = torch.tensor([*middle, 1.0, 0.0], dtype=torch.float64).repeat(len(y), 1)
    x = x.clamp(low, high).requires_grad_()
    kind = torch.optim.SGD if options["name"] == "sgd" else torch.optim.Adam
    optimiser = kind([x], lr=options["rate"] or {"sgd": 1e-3, "adam": 0.01}[options["name"]])
    for step in range(options["steps"] or 1000):
        optimiser.zero_grad()
        loss = (y - problem.radiance(x)).square().sum()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            x.clamp_(low, high)
        if options["callback"] is not None and options["callback"](step + 1, x.detach().numpy()):
            break
    gradient = x.grad
    assert gradient is not None  # there was a step
    # the first-order condition, with components that push against a bound taken out
    with torch.no_grad():
        blocked = ((x <= low) & (gradient > 0)) | ((x >= high) & (gradient < 0))
        flat = gradient.masked_fill(blocked, 0).abs().amax(-1) < 1e-6
    status = torch.where(flat, int(Status.CONVERGED), int(Status.STOPPED))
    return x.detach(), status


#: From pixels (n, D), in units of the illuminant's mean, and the options of :func:`fit`: maps (n, 4), inside the box,
#: and their :class:`Status` (n,).
SOLVERS: dict[str, Callable[[_Problem, Tensor, dict[str, Any]], tuple[Tensor, Tensor]]] = {
    "varpro": _varpro,
    "lm": _lm,
    "adam": _descend,
    "sgd": _descend,
}
