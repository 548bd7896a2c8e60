"""Solvers of the per-pixel fit of :mod:`bioface.smith2019`: min ‖y − e ⊙ (i_d r(m, h) + i_s)‖² for many pixels y.

``varpro``
    variable projection: for given pigments the two shadings have a closed form, so a table of pigments is scanned in
    one matrix product and the best entry refined by projected Gauss–Newton steps in two unknowns.
``lm``
    scipy's bounded ``least_squares``, one pixel at a time: slow, independent, the reference.
``adam``, ``sgd``
    first-order descent on all pixels at once over raw, clamped parameters, as a first-time implementer writes it;
    ``sgd`` is what the report used.

References
----------
Golub & Pereyra (1973), "The differentiation of pseudo-inverses and nonlinear least squares problems whose
variables separate", SIAM J. Numer. Anal. 10; Kaufman (1975), BIT 15: the approximation of the Jacobian.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from bioface import identifiability, skin, slopes


class Status(enum.IntEnum):
    """How the fit of a pixel ended."""

    OUTSIDE = 0  #: not in the mask, not fitted
    CONVERGED = 1  #: no step improves it
    AT_BOUND = 2  #: converged with at least one map at a bound
    STOPPED = 3  #: the step limit was reached first
    NO_SKIN = 4  #: fitted without any diffuse light, so that the pigments mean nothing


@dataclass(frozen=True)
class Problem:
    """What is fitted to every pixel; whatever a cube is measured in, the numbers here are of order 1.

    Attributes
    ----------
    constants : of the skin
    e : (D,) illuminant of mean 1
    box : (2, 2) lowest and highest melanin, haemoglobin
    grid : (D,) nm
    to_grid : (D, S) brings radiance in the cube's bands and unit to the grid, in units of the illuminant's mean
    unit : the illuminant's mean
    """

    constants: str | skin.SkinConstants
    e: Tensor
    box: Tensor
    grid: Tensor
    to_grid: Tensor
    unit: float

    @functools.cached_property
    def model(self) -> skin.SkinModel:
        """The skin on the grid, in the precision of the illuminant."""
        return skin.SkinModel(self.constants, self.grid, self.e.dtype)

    @functools.cached_property
    def single(self) -> Problem:
        """The same in single precision."""
        return Problem(self.constants, self.e.float(), self.box.float(), self.grid, self.to_grid, self.unit)

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


def unit_length(y: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (n, D) scaled to length 1, and their length (n, 1), 1 for a black one: solvers see no dim pixels."""
    length = y.norm(dim=-1, keepdim=True)
    length = torch.where(length > 0, length, 1.0)
    return y / length, length


# ---------------------------------------------------------------------------------------------------- varpro

_SCAN = (24, 20)  # melanin × haemoglobin entries of the scanned table
_RANK = 12  # dimensions that hold all but a thousandth of its spectra
_SLICE = 2048  # pixels at a time where arrays have a number for each band


def _scan(problem: Problem, y: Tensor) -> Tensor:
    """Pigments (2, n) of each pixel's best table entry: the largest correlation with e r once e is projected out."""
    (m0, m1), (h0, h1) = problem.box.tolist()
    u = [torch.linspace(0, 1, k, dtype=torch.float64) ** 3 for k in _SCAN]
    table = torch.cartesian_prod(m0 + (m1 - m0) * u[0], h0 + (h1 - h0) * u[1])
    a = problem.e * problem.model.reflectance(*table.T)
    b = problem.e / problem.e.norm()
    a = a - (a @ b)[:, None] * b
    a = a / a.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    basis = torch.linalg.svd(a, full_matrices=False).Vh[:_RANK].T
    a, y = (a @ basis).float().T, y @ basis.float()
    # NumPy finds the largest ten times as fast as torch
    return table.T[:, np.concatenate([(some @ a).numpy().argmax(-1) for some in y.split(_SLICE)])]


def _products(problem: Problem, p: Tensor, y: Tensor) -> Tensor:
    """Inner products (13, n) of pixels y, a = e r at pigments p (2, n), a's slopes and e, from which all else follows.

    Some pixels at a time: the processor's cache is small.
    """
    e, one = problem.e, torch.ones_like(problem.e)
    white = bool((e == 1).all())
    rows = []
    for m, h, some in zip(*(part.split(_SLICE) for part in (*p, y)), strict=True):
        a, am, ah = slopes.of_skin(problem.model, m, h)
        if not white:
            a, am, ah = a * e, am * e, ah * e
        pairs = ((a, a), (a, am), (am, am), (a, ah), (am, ah), (ah, ah))
        sums = [(left * right) @ one for left, right in pairs]
        of_y = [(part * some) @ one for part in (a, am, ah)]
        rows.append(torch.stack([*sums, a @ e, am @ e, ah @ e, some @ e, *of_y]))
    return torch.cat(rows, 1)


def _evaluate(problem: Problem, p: Tensor, y: Tensor) -> Tensor:
    """Rows (12, n) at pigments p (2, n), for y of length 1, of which the next step is made.

    Cost, both shadings, reduced normal equations g (2) and H (mm, mh, hh), and how each shading follows the pigments.
    """
    products = _products(problem, p, y)
    aa, a_am, am_am, a_ah, am_ah, ah_ah, ab, am_b, ah_b, by, y_a, y_am, y_ah = products
    bb = problem.e @ problem.e
    i_d, i_s = identifiability.shadings(aa, ab, bb, y_a, by)
    cost = 1 - 2 * (i_d * y_a + i_s * by) + i_d * i_d * aa + 2 * i_d * i_s * ab + i_s * i_s * bb
    # columns of the pigments are i_d ∂a; Kaufman: the active linear columns (a, and e when i_s > 0) projected out
    specular = i_s > 0
    det = torch.where(specular, aa * bb - ab * ab, aa)
    w_aa, w_ab, w_bb = torch.where(specular, bb, 1.0) / det, specular * -ab / det, specular * aa / det
    c, d = products[[1, 3]], products[[7, 8]]  # of ∂a/∂m and ∂a/∂h: with a, with e
    g = i_d * (products[11:] - i_d * c - i_s * d)
    ca, cb = c * w_aa + d * w_ab, c * w_ab + d * w_bb
    H = i_d * i_d * (products[[2, 4, 5]] - ca[[0, 0, 1]] * c[[0, 1, 1]] - cb[[0, 0, 1]] * d[[0, 1, 1]])
    return torch.cat([torch.stack([cost, i_d, i_s]), g, H, -i_d * ca, -i_d * cb])


def _gauss_newton(problem: Problem, p: Tensor, y: Tensor, steps: int, gain: float) -> tuple[Tensor, Tensor]:
    """Damped steps in pigments p (2, n), until one promises or gave no more than a share ``gain`` of the cost.

    That one is taken without another look. Returns maps (4, n) and status (n,).
    """
    tiny, (low, high) = torch.finfo(y.dtype).tiny, problem.box.T[:, :, None]
    now = _evaluate(problem, p, y)
    damping = torch.full_like(now[0], 1e-3)
    found, status = torch.cat([p, now[1:3]]), torch.full(now[0].shape, int(Status.STOPPED))
    pixel, settled = torch.arange(len(y)), torch.zeros(len(y), dtype=torch.bool)
    for _ in range(steps):
        g, (mm, mh, hh) = now[3:5], now[5:8]
        # A pigment at its bound with the descent direction pointing outwards stays there.
        held = ((p <= low) & (g < 0)) | ((p >= high) & (g > 0))
        a, d = torch.where(held, 1.0, torch.stack([mm, hh]) * (1 + damping) + 1e-30)
        b = torch.where(held[0] | held[1], 0.0, mh)
        gm, gh = g.masked_fill(held, 0.0)
        step = torch.stack([d * gm - b * gh, a * gh - b * gm]) / (a * d - b * b).clamp_min(tiny)
        trial = torch.minimum(torch.maximum(p + step, low), high)
        moved = ((trial - p).abs() / (p.abs() + 1e-4)).amax(0)
        done = settled | (moved < 1e-7) | (gm * step[0] + gh * step[1] <= gain * now[0])
        status[pixel[done]] = int(Status.CONVERGED)
        step = trial - p
        shadings = now[1:3] + now[8::2] * step[0] + now[9::2] * step[1]
        found[:, pixel[done]] = torch.cat([trial, shadings.clamp_min(0)])[:, done]
        left = (~done).nonzero()[:, 0]
        if len(left) == 0:
            break
        if len(left) < len(pixel):
            pixel, y, damping = pixel[left], y[left], damping[left]
            p, trial, now = p[:, left], trial[:, left], now[:, left]
        new = _evaluate(problem, trial, y)
        better, settled = new[0] <= (1 + gain) * now[0], (new[0] - now[0]).abs() <= gain * now[0]
        p, now = torch.where(better, trial, p), torch.where(better, new, now)
        damping = torch.where(better, damping * 0.1, damping * 8).clamp(1e-12, 1e12)
        found[:, pixel] = torch.cat([p, now[1:3]])
    return found, status


def _varpro(problem: Problem, y: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Table scan, then steps in (m, h) with both shadings projected out: the first few in single precision."""
    y, length = unit_length(y)
    single = y.float()
    p, steps = _scan(problem, single), options["steps"] or 80
    rough = min(4, steps - 2)
    if rough > 0:
        p = _gauss_newton(problem.single, p.float(), single, rough, 1e-4)[0][:2].double()
        p = torch.minimum(torch.maximum(p, problem.box[:, :1]), problem.box[:, 1:])
        steps -= rough
    found, status = _gauss_newton(problem, p, y, steps, 1e-7)
    found[2:] *= length[:, 0]
    return found.T, status


# -------------------------------------------------------------------------------------------------------- lm


def _lm(problem: Problem, y: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """scipy's bounded trust-region least squares for one pixel after the other, best of ``starts``."""
    y, length = unit_length(y)
    found, status = [], []
    for pixel in y:
        results = [
            lm_once(problem, pixel, options["rng"], k == 0, options["steps"]) for k in range(int(options["starts"]))
        ]
        best = min(results, key=lambda r: r.cost)
        found.append(best.x)
        status.append(int(Status.CONVERGED if best.status > 0 else Status.STOPPED))
    x = torch.from_numpy(np.stack(found))
    return torch.cat([x[:, :2], x[:, 2:] * length], -1), torch.tensor(status)


def lm_once(
    problem: Problem, y: Tensor, rng: np.random.Generator, from_middle: bool, steps: int | None
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


# --------------------------------------------------------------------------------------------- adam and sgd


def _descend(problem: Problem, y: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
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
SOLVERS: dict[str, Callable[[Problem, Tensor, dict[str, Any]], tuple[Tensor, Tensor]]] = {
    "varpro": _varpro,
    "lm": _lm,
    "adam": _descend,
    "sgd": _descend,
}
